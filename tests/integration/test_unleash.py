"""Stages in Unleash, and routers that read them there: the real server, and OpenFeature's provider for it."""

from __future__ import annotations

import contextlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import Permit, contract, evaluated, in_child
from flag_service_cases import CLOSE, REFUND, StoreLaws, put
from openfeature.contrib.provider.unleash import UnleashProvider
from unleash_server import ADMIN_TOKEN, ROUTER_TOKEN, unleash_server
from UnleashClient.cache import FileCache

from producers.boundary.decision_rules import decide
from producers.boundary.flagd_overlays import DENIED, EMERGENCIES, OverlayScope
from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import ATTEMPT, FLAGS, MODE, flag_context
from producers.boundary.stage_store import StageChange, StageConflictError, StageStoreError
from producers.flag_services.flag_service import first_flags, metadata_of
from producers.flag_services.flag_webhooks import UnleashWebhook
from producers.flag_services.management_api import ManagementApi
from producers.flag_services.served_flags import RuleKind
from producers.flag_services.service_stages import ServiceStages
from producers.flag_services.unleash_flags import UnleashFlags
from producers.wire.decision import FlagReason
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from unleash_server import UnleashServer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

NEW = first_flags(owner="ada@example.org", review_date=date(2027, 3, 1), cleanup_condition="all are expanded")
FEATURES = "/api/admin/projects/default/features"
BARRED = "acct-1"
ROUTED = REFUND._replace(workflow="support")
"""The action that `by` asks for."""


def flags_of(server: UnleashServer, token: str = ADMIN_TOKEN, *, deadline_s: float = 60.0) -> UnleashFlags:
    return UnleashFlags(ManagementApi("Unleash", server.url, token, deadline_s), "default", "production")


@pytest.fixture(scope="session")
def server() -> Iterator[UnleashServer]:
    """With flags as `stagekeeper flags init` makes them."""
    with unleash_server() as running, contextlib.closing(flags_of(running).api) as api:
        flags = UnleashFlags(api, "default", "production")
        flags.prepare()
        for new in NEW:
            flags.create(new)
        yield running


@pytest.fixture
def store(server: UnleashServer) -> Iterator[ServiceStages]:
    """One whose flags are put back after the test. (Unleash 8.2.0 dies where a flag is deleted.)"""
    flags = flags_of(server)
    before = {new.flag: flags.load(new.flag) for new in NEW}
    yield ServiceStages(flags)
    for flag, served in before.items():
        now = flags.load(flag)
        assert served is not None
        assert now is not None
        for rule in now.rules:
            if rule.id not in {one.id for one in served.rules}:
                flags.put(now, rule, None)
    flags.api.close()


class TestUnleashStages(StoreLaws):
    """Everything that a store does, on the real server."""


def _wait_until(what: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(500):
        if what():
            return
        pause.wait(0.01)
    raise AssertionError("it never came to be")


@pytest.fixture
def router(server: UnleashServer, store: ServiceStages, tmp_path: Path) -> Iterator[FlagEvaluator]:
    """The flags of a router, which asks the server every second."""
    cache = FileCache("stagekeeper", directory=str(tmp_path))
    provider = UnleashProvider(url=f"{server.url}/api", app_name="router", api_token=ROUTER_TOKEN, cache=cache)
    provider.client.unleash_refresh_interval = 1
    evaluator = FlagEvaluator(provider)

    def is_served() -> bool:
        values = evaluator.evaluate(flag_context(contract()))
        # The server answers for a moment as before the flags were put back.
        return values.enabled and not any(flag.error for flag in values.evaluations)

    _wait_until(is_served)
    yield evaluator
    evaluator.close()


def by(account: str, **more: Any) -> Any:
    return contract(account=account, tool="issue_refund", **more)


def test_flags_say_who_owns_them_and_when_they_go(server: UnleashServer, store: ServiceStages) -> None:
    with server.admin as admin:
        stated = admin.get(f"{FEATURES}/{MODE.key}").json()
    assert metadata_of(stated["description"]) == {
        "owner": "ada@example.org",
        "kind": "temporary",
        "review_date": "2027-03-01",
        "cleanup_condition": "all are expanded",
    }
    assert not any(store.service.create(new) for new in NEW), "what is there is left alone"


def test_a_share_of_accounts_grows_and_mode_and_rung_are_of_the_same_accounts(
    store: ServiceStages, router: FlagEvaluator
) -> None:
    put(store, ROUTED, Mode.AUTONOMOUS)
    accounts = [f"acct-{number}" for number in range(200)]

    def at_the_rung(share: int) -> set[str]:
        assert put(store, ROUTED, Mode.EXPANDED, share=share).share == share
        rung = f"1.{(1, 5, 25, 50, 100).index(share) + 1}"

        def with_rung() -> set[str]:
            values = {one: router.evaluate(flag_context(by(one))) for one in accounts}
            return {one for one in accounts if rung in {flag.value for flag in values[one].evaluations}}

        def expanded() -> set[str]:
            return {one for one in accounts if router.evaluate(flag_context(by(one))).mode is Mode.EXPANDED}

        # A poll may fall between two accounts, or between the writes of mode and rung.
        _wait_until(lambda: bool(with_rung()) and expanded() == with_rung())
        return expanded()

    few, more = at_the_rung(25), at_the_rung(50)
    assert few < more
    assert 0.1 < len(few) / len(accounts) < 0.4
    assert put(store, ROUTED, Mode.SEARCH_ONLY).share is None
    attempt = store.service.load(ATTEMPT)
    assert attempt is not None
    assert attempt.values(ATTEMPT, ROUTED) == ("1",), "whoever has left the roll-out is at none of its rungs"


def test_routers_see_a_change_and_an_emergency(store: ServiceStages, router: FlagEvaluator) -> None:
    context = flag_context(by("acct-2"))
    decision = decide(by("acct-2"), Permit(), router).decision
    assert [flag.key for flag in decision.flags] == [flag.key for flag in FLAGS]
    assert [flag.error for flag in decision.flags] == [None] * 5
    assert (decision.result.outcome, router.evaluate(context).confidence_threshold) == ("constrain", 0.8)
    put(store, ROUTED, Mode.AUTONOMOUS)
    _wait_until(lambda: router.evaluate(context).mode is Mode.AUTONOMOUS)
    assert router.evaluate(flag_context(by("acct-2", environment="staging"))).mode is Mode.SEARCH_ONLY
    store.cover(EMERGENCIES, OverlayScope(tool="issue_refund"))
    store.cover(DENIED, OverlayScope(account=BARRED))
    _wait_until(lambda: router.evaluate(context).mode is Mode.FALLBACK)
    _wait_until(lambda: router.evaluate(flag_context(by(BARRED))).denied)
    assert not router.evaluate(context).denied
    barred = decide(by(BARRED), Permit(), router).decision
    assert (barred.result.outcome, barred.result.reason) == ("deny", "on_denylist")
    assert barred.ruleset_sha256 != decision.ruleset_sha256, "it covers the answers, since no rules are shown"


def test_a_child_after_fork_does_not_decide_by_what_its_parent_was_sent(router: FlagEvaluator) -> None:
    context = flag_context(by("acct-2"))
    assert in_child(lambda: f"{router.evaluate(context).enabled} {router.ready}") == "False False"
    assert router.evaluate(context).enabled


def test_a_value_that_cannot_decide_falls_to_the_safe_one(store: ServiceStages, router: FlagEvaluator) -> None:
    served = store.service.load(MODE)
    assert served is not None
    rule = store.service.rule(served, RuleKind.SWITCH, {}, {"everything": 100})
    store.service.put(served, None, rule)
    context = flag_context(by("acct-2"))
    _wait_until(lambda: router.evaluate(context).evaluations[2].reason is FlagReason.ERROR)
    answers = router.evaluate(context)
    assert answers.mode == "search_only"
    assert "everything" in (answers.evaluations[2].error or "")
    assert store.read(REFUND).modes == (Mode.SEARCH_ONLY,)


def test_flags_that_are_missing_have_their_safe_values(
    server: UnleashServer, store: ServiceStages, router: FlagEvaluator
) -> None:
    with server.admin as admin:
        for flag in FLAGS:
            admin.delete(f"{FEATURES}/{flag.key}").raise_for_status()
        try:
            context = flag_context(by("acct-2"))
            _wait_until(lambda: all(evaluated(router, flag, context)[0] == flag.safe for flag in FLAGS))
            with pytest.raises(StageStoreError, match="stagekeeper flags init"):
                put(store, REFUND, Mode.AUTONOMOUS)
        finally:
            for flag in FLAGS:
                admin.post(f"/api/admin/archive/revive/{flag.key}").raise_for_status()
                path = f"{FEATURES}/{flag.key}/environments/production/on"
                admin.post(path).raise_for_status()


def test_a_flag_that_is_off_is_refused_by_name(server: UnleashServer, store: ServiceStages) -> None:
    path = f"{FEATURES}/{MODE.key}/environments/production"
    with server.admin as admin:
        admin.post(f"{path}/off").raise_for_status()
        with pytest.raises(StageStoreError, match="is off in Unleash"):
            put(store, REFUND, Mode.AUTONOMOUS)
        admin.post(f"{path}/on").raise_for_status()


def test_of_writers_at_the_same_moment_one_wins_and_the_others_know(
    server: UnleashServer, store: ServiceStages
) -> None:
    put(store, REFUND, Mode.SEARCH_ONLY)
    version = store.read(REFUND).version
    modes = [Mode.DRAFT_WRITE, Mode.AUTONOMOUS, Mode.APPROVED_EXTERNAL]
    gate = threading.Barrier(len(modes))

    def write(mode: Mode) -> Mode | None:
        flags = flags_of(server)
        try:
            change = StageChange(REFUND, mode, version)
            return ServiceStages(flags).change(change, before_write=lambda _: gate.wait() and None).mode
        except StageConflictError:
            return None
        finally:
            flags.api.close()

    with ThreadPoolExecutor(len(modes)) as pool:
        results = [result for result in pool.map(write, modes) if result is not None]
    assert len(results) <= 1
    assert store.read(REFUND).mode in {*results, Mode.SEARCH_ONLY}
    served = store.service.load(MODE)
    assert served is not None
    assert [rule.action for rule in served.rules].count(REFUND) == 1


class Interrupted(UnleashFlags):
    """Where somebody does something in the moment after our write."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def put(self, flag: Any, old: Any, new: Any) -> None:
        super().put(flag, old, new)
        meanwhile, type(self).meanwhile = type(self).meanwhile, staticmethod(lambda: None)
        meanwhile()


@pytest.fixture
def interrupted(store: ServiceStages) -> ServiceStages:
    assert isinstance(store.service, UnleashFlags)
    return ServiceStages(Interrupted(store.service.api, "default", "production"))


def test_what_somebody_writes_over_ours_stays_and_we_know(store: ServiceStages, interrupted: ServiceStages) -> None:
    put(store, REFUND, Mode.AUTONOMOUS)
    Interrupted.meanwhile = staticmethod(lambda: put(store, REFUND, Mode.DRAFT_WRITE))
    with pytest.raises(StageConflictError, match="in the same moment"):
        put(interrupted, REFUND, Mode.EXPANDED)
    assert store.read(REFUND).mode is Mode.DRAFT_WRITE


def test_a_change_is_taken_back_where_a_denial_came_in_the_same_moment(
    store: ServiceStages, interrupted: ServiceStages
) -> None:
    put(store, REFUND, Mode.DRAFT_WRITE)
    Interrupted.meanwhile = staticmethod(lambda: store.cover(DENIED, OverlayScope(tool="issue_refund")))
    with pytest.raises(StageConflictError):
        put(interrupted, REFUND, Mode.AUTONOMOUS)
    assert (store.read(REFUND).mode, store.read(REFUND).denied) == (Mode.DRAFT_WRITE, True)


def test_what_somebody_changes_of_another_action_takes_nothing_back(
    store: ServiceStages, interrupted: ServiceStages
) -> None:
    Interrupted.meanwhile = staticmethod(lambda: put(store, CLOSE, Mode.OBSERVE))
    assert put(interrupted, REFUND, Mode.DRAFT_WRITE).mode is Mode.DRAFT_WRITE
    assert store.read(CLOSE).mode is Mode.OBSERVE


def test_strategies_that_somebody_sorts_anew_leave_an_emergency_first(
    server: UnleashServer, store: ServiceStages
) -> None:
    store.cover(EMERGENCIES, OverlayScope())
    served = store.service.load(MODE)
    assert served is not None
    order = [{"id": rule.id, "sortOrder": place} for place, rule in enumerate(served.rules)]
    with server.admin as admin:
        path = f"{FEATURES}/{MODE.key}/environments/production/strategies/set-sort-order"
        admin.post(path, json=order).raise_for_status()

    def is_sorted() -> bool:
        now = store.service.load(MODE)
        return now is not None and [rule.place for rule in now.rules] == list(range(len(order)))

    _wait_until(is_sorted)  # Unleash answers before each strategy has its new place
    put(store, REFUND, Mode.AUTONOMOUS)
    served = store.service.load(MODE)
    assert served is not None
    assert [rule.kind for rule in served.rules][:2] == [RuleKind.SWITCH, RuleKind.ACTION]


def test_a_token_that_may_not_is_refused_and_not_shown(server: UnleashServer) -> None:
    secret = "*:*.a-token-of-nobody"  # noqa: S105 - of nobody
    flags = flags_of(server, secret)
    with pytest.raises(StageStoreError, match="STAGEKEEPER_STAGE_STORE_TOKEN") as refused:
        ServiceStages(flags).read(REFUND)
    assert secret not in f"{refused.value!r} {flags!r}"
    flags.api.close()


def test_a_project_or_an_environment_that_is_not_there_is_no_missing_flag(
    server: UnleashServer, store: ServiceStages
) -> None:
    assert isinstance(store.service, UnleashFlags)
    for project, environment in (("nowhere", "production"), ("default", "nowhere")):
        with pytest.raises(StageStoreError, match="Name its project and environment"):
            UnleashFlags(store.service.api, project, environment).load(MODE)


def test_an_event_of_the_server_which_its_webhooks_carry_is_a_policy_change(
    server: UnleashServer, store: ServiceStages
) -> None:
    put(store, REFUND, Mode.DRAFT_WRITE)
    put(store, REFUND, Mode.AUTONOMOUS)
    with server.admin as admin:
        newest = admin.get("/api/admin/search/events", params={"feature": f"IS:{MODE.key}", "limit": 2}).json()[
            "events"
        ]
    secret = "a secret of the add-on"  # noqa: S105 - of a test
    webhook = UnleashWebhook(secret, "default", "production")
    deliveries = [json.dumps(event).encode() for event in reversed(newest)]
    events = [event for body in deliveries for event in webhook.events({"authorization": secret}, body)]
    changes = [(event.data.before, event.data.after, event.data.tool) for event in events]
    assert changes == [(None, "draft_write", "issue_refund"), ("draft_write", "autonomous", "issue_refund")]
    assert {event.data.changed_by for event in events} == {"admin"}
