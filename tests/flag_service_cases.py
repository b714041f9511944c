"""What every store of stages in a flag service does: tests that each service runs with its own server."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import pytest

from producers.boundary.flagd_overlays import DENIED, EMERGENCIES, OverlayScope
from producers.boundary.policy_flags import ATTEMPT, DENYLIST, GOVERNANCE_ENABLED, MODE
from producers.boundary.stage_store import ActionName, StageChange, StageConflictError, StageStoreError
from producers.flag_services.served_flags import RuleKind
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from producers.boundary.policy_flags import Flag, FlagValue
    from producers.boundary.stage_store import StageSetting
    from producers.flag_services.service_stages import ServiceStages

REFUND = ActionName("production", "refunds", "issue_refund")
CLOSE = ActionName("production", "refunds", "close_account")


def ignore(_version: str) -> None: ...


def put(
    store: ServiceStages,
    action: ActionName,
    mode: Mode,
    *,
    share: int | None = None,
    record: Callable[[str], None] = ignore,
) -> StageSetting:
    return store.change(StageChange(action, mode, store.read(action).version, share), before_write=record)


def ruled_by_hand(store: ServiceStages, flag: Flag, scope: Mapping[str, str], value: FlagValue) -> None:
    """A rule as a person makes it in the service's own pages."""
    served = store.service.load(flag)
    assert served is not None
    rule = store.service.rule(served, RuleKind.ACTION, scope, {value: 100})
    native = {name: "mine" if name in {"title", "name"} and text == RuleKind.ACTION.value else text for name, text in rule.native.items()}  # fmt: skip  # noqa: E501
    store.service.put(served, None, replace(rule, kind=RuleKind.ACTION, native=native))


class StoreLaws:
    """The fixture `store` is one whose flags are as `stagekeeper flags init` makes them."""

    def test_an_action_without_an_entry_has_what_everybody_has(self, store: ServiceStages) -> None:
        setting = store.read(REFUND)
        assert (setting.mode, setting.modes, setting.attempt) == (Mode.SEARCH_ONLY, (Mode.SEARCH_ONLY,), 1)
        assert (setting.by_entry, setting.emergency, setting.denied) == (False, False, False)
        assert store.settings() == []

    def test_a_change_has_the_version_that_was_recorded_before_it(self, store: ServiceStages) -> None:
        before, replaced, recorded = store.read(REFUND), store.newest_replaced(), list[str]()
        after = put(store, REFUND, Mode.DRAFT_WRITE, record=recorded.append)
        assert (after.mode, after.by_entry, recorded) == (Mode.DRAFT_WRITE, True, [after.version])
        assert store.read(REFUND) == after
        assert store.had(before.version)
        assert not store.had(before.version, after=store.newest_replaced())
        assert not store.had(after.version, after=replaced)
        again = put(store, REFUND, Mode.AUTONOMOUS, record=recorded.append)
        assert recorded == [after.version, again.version]
        assert store.read(CLOSE).mode is Mode.SEARCH_ONLY

    def test_what_is_there_already_is_neither_recorded_nor_written(self, store: ServiceStages) -> None:
        after = put(store, REFUND, Mode.DRAFT_WRITE)
        assert store.preview(StageChange(REFUND, Mode.DRAFT_WRITE, after.version)) == ""
        assert put(store, REFUND, Mode.DRAFT_WRITE, record=lambda _: pytest.fail("recorded")) == after

    def test_a_preview_shows_the_rules_before_and_after(self, store: ServiceStages) -> None:
        diff = store.preview(StageChange(REFUND, Mode.DRAFT_WRITE, store.read(REFUND).version))
        assert "+" in diff
        assert MODE.key in diff
        assert "issue_refund" in diff
        assert store.settings() == []

    def test_a_change_for_another_version_is_a_conflict(self, store: ServiceStages) -> None:
        stale = store.read(REFUND).version
        there = put(store, CLOSE, Mode.DRAFT_WRITE)
        with pytest.raises(StageConflictError, match="changed meanwhile"):
            store.change(StageChange(REFUND, Mode.AUTONOMOUS, stale), before_write=lambda _: pytest.fail("recorded"))
        assert [one.action for one in store.settings()] == [CLOSE]
        assert store.read(CLOSE) == there

    def test_what_cannot_be_recorded_is_not_made(self, store: ServiceStages) -> None:
        def fail(_version: str) -> NoReturn:
            raise StageStoreError("no record")

        with pytest.raises(StageStoreError, match="no record"):
            put(store, REFUND, Mode.AUTONOMOUS, record=fail)
        assert store.settings() == []

    def test_where_the_account_decides_there_is_no_one_stage_until_there_is_an_entry(
        self, store: ServiceStages
    ) -> None:
        ruled_by_hand(store, MODE, {"account": "acct-1"}, Mode.AUTONOMOUS.value)
        setting = store.read(REFUND)
        assert (setting.mode, set(setting.modes)) == (None, {Mode.AUTONOMOUS, Mode.SEARCH_ONLY})
        ruled_by_hand(store, MODE, {"tool": "close_account"}, Mode.OBSERVE.value)
        assert set(store.read(CLOSE).modes) <= {Mode.OBSERVE, Mode.AUTONOMOUS}
        assert put(store, REFUND, Mode.DRAFT_WRITE).modes == (Mode.DRAFT_WRITE,)
        served = store.service.load(MODE)
        assert served is not None
        assert len([rule for rule in served.rules if rule.kind is RuleKind.OTHER]) >= 2

    def test_an_emergency_lies_above_the_stages(self, store: ServiceStages) -> None:
        put(store, REFUND, Mode.AUTONOMOUS)
        scope, recorded = OverlayScope(tool="issue_refund"), list[str]()
        assert store.cover(EMERGENCIES, scope).changed
        assert not store.cover(EMERGENCIES, scope).changed
        during = store.read(REFUND)
        assert (during.mode, during.emergency, store.read(CLOSE).emergency) == (Mode.AUTONOMOUS, True, False)
        put(store, REFUND, Mode.SEARCH_ONLY)
        put(store, CLOSE, Mode.DRAFT_WRITE)
        served = store.service.load(MODE)
        assert served is not None
        assert [rule.kind for rule in served.rules][:3] == [RuleKind.SWITCH, RuleKind.ACTION, RuleKind.ACTION]
        edit = store.uncover(EMERGENCIES, scope, before_write=recorded.append)
        assert (edit.changed, recorded) == (True, [edit.version])
        assert not store.uncover(EMERGENCIES, scope, before_write=ignore).changed
        assert (store.read(REFUND).mode, store.read(REFUND).emergency) == (Mode.SEARCH_ONLY, False)

    def test_an_emergency_of_everything_covers_everything(self, store: ServiceStages) -> None:
        store.cover(EMERGENCIES, OverlayScope())
        assert store.read(REFUND).emergency
        assert store.read(CLOSE).emergency
        store.uncover(EMERGENCIES, OverlayScope(), before_write=ignore)
        assert not store.read(REFUND).emergency

    def test_the_denylist_and_the_master_switch_deny(self, store: ServiceStages) -> None:
        store.cover(DENIED, OverlayScope(tool="issue_refund"))
        assert (store.read(REFUND).denied, store.read(CLOSE).denied) == (True, False)
        store.uncover(DENIED, OverlayScope(tool="issue_refund"), before_write=ignore)
        store.cover(DENIED, OverlayScope(tool="issue_refund", account="acct-1"))
        assert not store.read(REFUND).denied, "for one account only"
        assert store.service.load(DENYLIST) is not None
        assert store.service.load(GOVERNANCE_ENABLED) is not None

    def test_attempts_count_for_each_action_alone(self, store: ServiceStages) -> None:
        begun: list[tuple[int, int]] = []
        number = store.start_attempt(
            REFUND, earlier=1, before_write=lambda before, after, _version: begun.append((before, after))
        )
        assert (number, begun) == (2, [(1, 2)])
        assert store.start_attempt(REFUND, earlier=6, before_write=lambda *_: None) == 7
        assert (store.read(REFUND).attempt, store.read(CLOSE).attempt) == (7, 1)

    def test_history_tells_the_newest_change_first(self, store: ServiceStages) -> None:
        put(store, REFUND, Mode.DRAFT_WRITE)
        put(store, CLOSE, Mode.OBSERVE)
        put(store, REFUND, Mode.AUTONOMOUS)
        steps = [(step.after.action, step.before.mode, step.after.mode) for step in store.steps()]
        assert steps[:3] == [
            (REFUND, Mode.DRAFT_WRITE, Mode.AUTONOMOUS),
            (CLOSE, Mode.SEARCH_ONLY, Mode.OBSERVE),
            (REFUND, Mode.SEARCH_ONLY, Mode.DRAFT_WRITE),
        ]
        moments = [step.at for step in store.steps()]
        assert moments == sorted(moments, reverse=True)
        assert all(moment.tzinfo is not None for moment in moments)

    def test_an_entry_that_was_written_twice_is_one_after_the_next_change(self, store: ServiceStages) -> None:
        put(store, REFUND, Mode.DRAFT_WRITE)
        served = store.service.load(MODE)
        assert served is not None
        rule = store.service.rule(served, RuleKind.ACTION, REFUND._asdict(), {Mode.DRAFT_WRITE.value: 100})
        store.service.put(served, None, rule)
        assert put(store, REFUND, Mode.AUTONOMOUS).modes == (Mode.AUTONOMOUS,)
        served = store.service.load(MODE)
        assert served is not None
        assert [rule.action for rule in served.rules].count(REFUND) == 1
        assert store.service.load(ATTEMPT) is not None
