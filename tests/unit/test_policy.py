from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest
from boundary_cases import KEYS, OPEN, contract, flagd_file, policy

from producers.boundary.flags import APPROVAL_REQUIRED, CONFIDENCE_THRESHOLD, MODE, context_of
from producers.boundary.policy import Policy, missing_flags
from producers.errors import SettingsError
from producers.wire.decision import FlagReason

if TYPE_CHECKING:
    from pathlib import Path

CONTEXT = context_of(contract(account="acct-1"))


def _await_change(held: Policy, before: str) -> None:
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
    held = Policy.from_file(path)
    try:
        assert held.evaluate(MODE, CONTEXT)[0] == "autonomous"
        before = held.sha256
        flagd_file(path, mode="search_only")
        _await_change(held, before)
        assert held.evaluate(MODE, CONTEXT)[0] == "search_only"
    finally:
        held.close()


def test_a_file_that_breaks_falls_to_the_safe_values_and_recovers(tmp_path: Path) -> None:
    path = flagd_file(tmp_path / "flags.json")
    held = Policy.from_file(path)
    try:
        before = held.sha256
        path.write_text("{")
        _await_change(held, before)
        value, record = held.evaluate(MODE, CONTEXT)
        assert (value, record.reason) == ("search_only", FlagReason.ERROR)
        broken = held.sha256
        flagd_file(path, mode="expanded")
        _await_change(held, broken)
        assert held.evaluate(MODE, CONTEXT)[0] == "expanded"
    finally:
        held.close()


def test_an_equal_question_is_answered_from_memory(tmp_path: Path) -> None:
    held = policy()
    assert held.evaluate(MODE, CONTEXT)[1] is held.evaluate(MODE, CONTEXT)[1]


@pytest.mark.parametrize(("name", "flag"), [("mode", MODE), ("approval", APPROVAL_REQUIRED)])
def test_a_value_of_another_type_is_not_believed(name: str, flag: object) -> None:
    value, record = policy(**{name: 7}).evaluate(flag, CONTEXT)  # type: ignore[arg-type]
    assert value == flag.safe  # type: ignore[attr-defined]
    assert record.reason is FlagReason.ERROR


def test_a_disabled_flag_holds_its_safe_value(tmp_path: Path) -> None:
    path = flagd_file(tmp_path / "flags.json", threshold=0.1)
    stated = json.loads(path.read_text())
    stated["flags"][KEYS["threshold"]]["state"] = "DISABLED"
    path.write_text(json.dumps(stated))
    held = Policy.from_file(path)
    try:
        value, record = held.evaluate(CONFIDENCE_THRESHOLD, CONTEXT)
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
    held = Policy.from_file(path)
    try:
        from producers.boundary.flags import DENYLIST  # noqa: PLC0415 - only here

        assert held.evaluate(DENYLIST, CONTEXT)[0] is True
        assert held.evaluate(DENYLIST, context_of(contract(account="acct-2")))[0] is False
    finally:
        held.close()


def test_missing_flags_are_listed() -> None:
    assert missing_flags(policy(mode=None, denylist=None), CONTEXT) == [KEYS["denylist"], KEYS["mode"]]
    assert missing_flags(policy(**OPEN), CONTEXT) == []


def test_a_missing_flag_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        Policy.from_file(tmp_path / "none.json")
