from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from boundary_cases import KEYS, Permit, Shelf, contract, evaluated, flag_evaluator, flagd_file
from openfeature.event import ProviderEventDetails
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

from producers.boundary.errors import ActionDeniedError
from producers.boundary.flagd_file import FlagFile, Ruleset
from producers.boundary.flagd_overlays import DENIED, OverlayScope
from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import APPROVAL_REQUIRED, CONFIDENCE_THRESHOLD, MODE, flag_context
from producers.boundary.router import Router
from producers.delivery.recorder import Recorder
from producers.errors import SettingsError
from producers.wire.decision import FlagReason

if TYPE_CHECKING:
    from pathlib import Path

    from producers.boundary.policy_flags import Flag

TOOLS = ("update_ticket", "pay", "look")
CONTEXT = flag_context(contract(account="acct-1"))


def _await_change(held: FlagEvaluator, before: str | None) -> None:
    changed = threading.Event()
    deadline = 5.0
    step = 0.01
    waited = 0.0
    while held.sha256 == before and waited < deadline:
        changed.wait(step)
        waited += step
    assert held.sha256 != before, "the changed file was never noticed"


def test_a_changed_file_is_in_force_and_no_old_answer_outlives_it(tmp_path: Path) -> None:
    path = flagd_file(tmp_path / "flags.json", mode="autonomous")
    held = FlagEvaluator.from_file(path)
    try:
        assert evaluated(held, MODE, CONTEXT)[0] == "autonomous"
        before = held.sha256
        flagd_file(path, mode="search_only")
        _await_change(held, before)
        assert evaluated(held, MODE, CONTEXT)[0] == "search_only"
    finally:
        held.close()


def test_a_router_decides_by_the_new_rules_from_the_moment_they_are_named(tmp_path: Path) -> None:
    path = flagd_file(tmp_path / "flags.json", mode="autonomous")
    provider = FlagFile(path, poll_s=0.002)
    held, shelf, ran = FlagEvaluator(provider), Shelf(), []
    router = Router(
        authorizer=Permit(), flags=held, recorder=Recorder(shelf, source="/t"), environment="production", agent="bot"
    )

    @router.action(workflow="w", system="s", risk_class="reversible_write", reversibility="automatic")
    def write() -> None:
        ran.append(held.sha256)

    try:
        for _ in range(20):
            write()  # decided by what is remembered of the first
            before = held.sha256
            flagd_file(tmp_path / "next.json", mode="off", threshold=len(ran) / 100).replace(path)
            _await_change(held, before)
            with pytest.raises(ActionDeniedError, match="mode_off"):
                write()
            before = held.sha256
            flagd_file(tmp_path / "next.json", mode="autonomous", threshold=len(ran) / 100).replace(path)
            _await_change(held, before)
    finally:
        held.close()
    assert len(ran) == 20


def test_a_file_that_breaks_falls_to_the_safe_values_and_recovers(tmp_path: Path) -> None:
    path = flagd_file(tmp_path / "flags.json")
    held = FlagEvaluator.from_file(path)
    try:
        before = held.sha256
        path.write_text("{")
        _await_change(held, before)
        value, record = evaluated(held, MODE, CONTEXT)
        assert (value, record.reason) == ("search_only", FlagReason.ERROR)
        broken = held.sha256
        flagd_file(path, mode="expanded")
        _await_change(held, broken)
        assert evaluated(held, MODE, CONTEXT)[0] == "expanded"
    finally:
        held.close()


def test_an_equal_question_is_answered_from_memory(tmp_path: Path) -> None:
    held = flag_evaluator()
    assert evaluated(held, MODE, CONTEXT)[1] is evaluated(held, MODE, CONTEXT)[1]


@pytest.mark.parametrize(("name", "flag"), [("mode", MODE), ("approval", APPROVAL_REQUIRED)])
def test_a_value_of_another_type_is_not_believed(name: str, flag: Flag) -> None:
    value, record = evaluated(flag_evaluator(**{name: 7}), flag, CONTEXT)
    assert value == flag.safe
    assert record.reason is FlagReason.ERROR


def test_a_disabled_flag_holds_its_safe_value(tmp_path: Path) -> None:
    path = flagd_file(tmp_path / "flags.json", threshold=0.1)
    stated = json.loads(path.read_text())
    stated["flags"][KEYS["threshold"]]["state"] = "DISABLED"
    path.write_text(json.dumps(stated))
    held = FlagEvaluator.from_file(path)
    try:
        value, record = evaluated(held, CONFIDENCE_THRESHOLD, CONTEXT)
        assert (value, record.reason) == (CONFIDENCE_THRESHOLD.safe, FlagReason.DISABLED)
    finally:
        held.close()


def test_one_account_can_be_switched_off_without_touching_others(tmp_path: Path) -> None:
    path = flagd_file(tmp_path / "flags.json")
    stated = json.loads(path.read_text())
    denylist = stated["flags"][KEYS["denylist"]]
    denylist["variants"] = {"denied": True, "clear": False}
    denylist["defaultVariant"] = "clear"
    denylist["targeting"] = {"if": [{"==": [{"var": "account"}, "acct-1"]}, "denied", None]}
    path.write_text(json.dumps(stated))
    held = FlagEvaluator.from_file(path)
    try:
        from producers.boundary.policy_flags import DENYLIST  # noqa: PLC0415 - only here

        assert evaluated(held, DENYLIST, CONTEXT)[0] is True
        assert evaluated(held, DENYLIST, flag_context(contract(account="acct-2")))[0] is False
    finally:
        held.close()


@pytest.mark.parametrize(
    ("value", "denied"),
    [
        (["update_ticket", "pay"], True),
        (["pay"], False),
        ([], False),
        (["update_ticket "], False),
        (["pay", 7], True),
        ([["pay"]], True),
        ({"update_ticket": True}, True),
        ("update_ticket", True),
        (None, True),
    ],
)
def test_the_denylist_is_a_boolean_or_a_list_of_tools(tmp_path: Path, value: object, denied: bool) -> None:
    path = flagd_file(tmp_path / "flags.json", denylist=value)
    held = FlagEvaluator.from_file(path)
    try:
        for evaluator in (held, flag_evaluator(denylist=value)):
            assert evaluator.evaluate(CONTEXT).denied is denied
    finally:
        held.close()


def test_a_list_of_tools_that_is_switched_off_denies_everything(tmp_path: Path) -> None:
    path = flagd_file(tmp_path / "flags.json", denylist=["pay"])
    document = json.loads(path.read_text())
    document["flags"][KEYS["denylist"]]["state"] = "DISABLED"
    path.write_text(json.dumps(document))
    held = FlagEvaluator.from_file(path)
    try:
        assert held.evaluate(CONTEXT).denied is True
    finally:
        held.close()


def test_one_tool_more_is_switched_off_beside_a_list_of_them(tmp_path: Path) -> None:
    path = flagd_file(tmp_path / "flags.json", denylist=["pay"])
    document = json.loads(path.read_text())
    document["flags"][KEYS["denylist"]]["variants"]["denied"] = True
    path.write_text(json.dumps(document))
    DENIED.add(path, OverlayScope(tool="update_ticket"))
    held = FlagEvaluator.from_file(path)
    try:
        denied = {tool: held.evaluate(flag_context(contract(tool=tool))).denied for tool in TOOLS}
    finally:
        held.close()
    assert denied == {"update_ticket": True, "pay": True, "look": False}


def test_a_missing_flag_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        FlagEvaluator.from_file(tmp_path / "none.json")


def test_a_file_that_is_put_back_with_an_older_date_is_noticed(tmp_path: Path) -> None:
    path = flagd_file(tmp_path / "flags.json", mode="autonomous")
    held = FlagEvaluator.from_file(path)
    try:
        before = held.sha256
        flagd_file(tmp_path / "backup.json", mode="search_only")
        os.utime(tmp_path / "backup.json", (1, 1))
        (tmp_path / "backup.json").replace(path)
        _await_change(held, before)
        assert evaluated(held, MODE, CONTEXT)[0] == "search_only"
    finally:
        held.close()


def test_a_file_that_is_broken_from_the_start_gives_safe_values_until_it_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    path.write_text("{")
    held = FlagEvaluator.from_file(path)
    try:
        broken = held.sha256
        assert evaluated(held, MODE, CONTEXT)[0] == "search_only"
        flagd_file(path, mode="expanded")
        _await_change(held, broken)
        assert evaluated(held, MODE, CONTEXT)[0] == "expanded"
    finally:
        held.close()


@pytest.mark.parametrize(
    "text",
    [
        '{"flags": {"%s": {"state": "ENABLED", "variants": {"v": NaN}, "defaultVariant": "v"}}}',
        '{"flags": {"%s": {"state": "ENABLED", "variants": {"v": 0.0, "v": 0.9}, "defaultVariant": "v"}}}',
        "[1]",
        '{"flags": []}',
    ],
)
def test_an_ambiguous_or_meaningless_file_decides_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "flags.json"
    path.write_text(text % KEYS["threshold"] if "%s" in text else text)
    held = FlagEvaluator.from_file(path)
    try:
        value, record = evaluated(held, CONFIDENCE_THRESHOLD, CONTEXT)
        assert (value, record.reason) == (CONFIDENCE_THRESHOLD.safe, FlagReason.ERROR)
    finally:
        held.close()


@pytest.mark.parametrize(
    ("name", "flag", "value"),
    [
        ("mode", MODE, "whatever"),
        ("threshold", CONFIDENCE_THRESHOLD, float("nan")),
        ("threshold", CONFIDENCE_THRESHOLD, -0.5),
        ("threshold", CONFIDENCE_THRESHOLD, float("inf")),
    ],
)
def test_a_value_that_cannot_decide_falls_to_the_safe_one_and_says_so(name: str, flag: Flag, value: object) -> None:
    answered, record = evaluated(flag_evaluator(**{name: value}), flag, CONTEXT)
    assert answered == flag.safe
    assert record.reason is FlagReason.ERROR
    assert "no value of this flag" in (record.error or "")


def test_a_variant_that_cannot_be_recorded_falls_to_the_safe_value() -> None:
    flags = {KEYS["mode"]: InMemoryFlag("x" * 300, {"x" * 300: "expanded"})}
    value, record = evaluated(FlagEvaluator(InMemoryProvider(flags)), MODE, CONTEXT)
    assert (value, record.reason) == ("search_only", FlagReason.ERROR)


@pytest.mark.slow
def test_from_the_moment_new_rules_are_named_no_decision_follows_the_old_ones(tmp_path: Path) -> None:
    """Eight threads ask without pause while the rules change; what the file said when a question began is the oldest
    answer that it may get."""
    path = tmp_path / "flags.json"
    provider = FlagFile(flagd_file(path, mode="autonomous"), poll_s=0.002)
    held = FlagEvaluator(provider)
    mode_of = {held.sha256: "autonomous"}
    stale: list[tuple[str, str]] = []
    mixed: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            named = held.sha256
            values = held.evaluate(CONTEXT)
            expected = mode_of.get(values.ruleset_sha256)
            if expected is not None and values.mode != expected:
                mixed.append(values.mode)
            if {named, values.ruleset_sha256} <= set(mode_of) and order.index(values.ruleset_sha256) < order.index(
                named
            ):
                stale.append((named, values.mode))

    order = [held.sha256]
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for number in range(30):
            mode = ("search_only", "autonomous", "draft_write")[number % 3]
            text = json.dumps({**json.loads(flagd_file(tmp_path / "next.json", mode=mode).read_text()), "n": number})
            sha256 = hashlib.sha256(text.encode()).hexdigest()
            order.append(sha256)
            mode_of[sha256] = mode
            before = held.sha256
            (tmp_path / "next.json").write_text(text)
            (tmp_path / "next.json").replace(path)
            _await_change(held, before)
            assert held.evaluate(CONTEXT).mode == mode
    finally:
        done.set()
        for thread in threads:
            thread.join()
        held.close()
    assert (stale, mixed) == ([], [])


def test_rules_that_change_under_every_question_give_the_safe_values() -> None:
    held = FlagEvaluator(InMemoryProvider({}), ruleset=lambda: Ruleset("0" * 64))
    values = held.evaluate(CONTEXT)
    assert (values.enabled, values.denied, values.mode) == (False, True, "search_only")
    assert all("faster" in (record.error or "") for record in values.evaluations)


def test_a_provider_that_announces_a_change_is_asked_anew() -> None:
    provider = InMemoryProvider({KEYS["mode"]: InMemoryFlag("v", {"v": "autonomous"})})
    held = FlagEvaluator(provider)
    before = held.evaluate(CONTEXT)
    assert before.mode == "autonomous"
    provider._flags = {KEYS["mode"]: InMemoryFlag("w", {"w": "off"})}  # noqa: SLF001 - as its server would
    provider.emit_provider_configuration_changed(ProviderEventDetails())
    waited = threading.Event()
    for _ in range(500):
        if held.evaluate(CONTEXT) is not before:
            break
        waited.wait(0.01)
    assert held.evaluate(CONTEXT).mode == "off"
    assert held.evaluate(CONTEXT).ruleset_sha256 != before.ruleset_sha256


def test_equal_answers_of_a_provider_without_a_version_have_equal_digests_in_every_process() -> None:
    flags = {KEYS["mode"]: InMemoryFlag("v", {"v": "autonomous"})}
    first, second = FlagEvaluator(InMemoryProvider(flags)), FlagEvaluator(InMemoryProvider(flags))
    assert first.evaluate(CONTEXT).ruleset_sha256 == second.evaluate(CONTEXT).ruleset_sha256


@pytest.mark.parametrize(
    "variable",
    [
        {"var": "$flagd.timestamp"},
        {"var": ["$flagd.timestamp", 0]},
        {"var": {"cat": ["$flagd.", "timestamp"]}},
    ],
)
def test_rules_that_look_at_the_clock_are_asked_again_as_time_goes_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: object
) -> None:
    clock = SimpleNamespace(now=100.0)
    evaluation = sys.modules["openfeature.contrib.tools.flagd.core.targeting.targeting"]
    monkeypatch.setattr(evaluation, "time", SimpleNamespace(time=lambda: clock.now))
    path = flagd_file(tmp_path / "flags.json", mode="autonomous")
    document = json.loads(path.read_text())
    flag = document["flags"][KEYS["mode"]]
    flag["variants"]["later"] = "off"
    flag["targeting"] = {"if": [{">": [variable, 200]}, "later", flag["defaultVariant"]]}
    path.write_text(json.dumps(document))
    provider = FlagFile(path, poll_s=0.002)
    held = FlagEvaluator(provider)
    try:
        assert held.evaluate(CONTEXT).mode == "autonomous"
        clock.now = 300.0
        waited = threading.Event()
        for _ in range(500):
            if held.evaluate(CONTEXT).mode == "off":
                break
            waited.wait(0.01)
        assert held.evaluate(CONTEXT).mode == "off"
    finally:
        held.close()


def test_rules_that_do_not_look_at_the_clock_are_asked_once(tmp_path: Path) -> None:
    provider = FlagFile(flagd_file(tmp_path / "flags.json", mode="autonomous"), poll_s=0.002)
    held = FlagEvaluator(provider)
    try:
        before = held.evaluate(CONTEXT)
        for _ in range(20):
            provider._look()  # noqa: SLF001 - time goes by
        assert held.evaluate(CONTEXT) is before
    finally:
        held.close()


def test_equal_values_of_one_ruleset_are_one_object(tmp_path: Path) -> None:
    path = flagd_file(tmp_path / "flags.json", mode="autonomous")
    document = json.loads(path.read_text())
    document["flags"][KEYS["denylist"]]["targeting"] = {"if": [{"in": [{"var": "account"}, ["b"]]}, "set", None]}
    path.write_text(json.dumps(document))
    held = FlagEvaluator.from_file(path)
    try:
        first, second, barred = (held.evaluate(flag_context(contract(account=account))) for account in "acb")
        assert second is first, "what follows from them is shared, too"
        assert barred is not first
    finally:
        held.close()
