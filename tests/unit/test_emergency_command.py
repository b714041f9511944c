"""`stagekeeper emergency`, and that a router obeys it and every other change of a stage; `stagekeeper flags init`."""

from __future__ import annotations

import json
import threading
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from boundary_cases import Permit, Shelf
from documents import ROOT
from stage_cases import ACTION, NAMED, WHO, changes, make_home, run, set_to

from producers.boundary.errors import RefusedError
from producers.boundary.flagd_stages import FlagdStages
from producers.boundary.flags import FlagEvaluator
from producers.boundary.router import Router
from producers.boundary.stage_store import StageChange
from producers.delivery.recorder import Recorder
from producers.errors import UsageError
from producers.wire.stage import Mode
from stagekeeper.stage_moves import OffTheRecordError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_home(tmp_path, monkeypatch)


@pytest.mark.parametrize("words", [(), ("--everything", "--tool", "t")])
def test_an_emergency_says_what_it_is_about(home: Path, words: tuple[str, ...]) -> None:
    for verb in ("fallback", "resume"):
        assert isinstance(run("emergency", verb, *words, *WHO).exception, UsageError)
    assert (home / "flags.json").read_bytes() == (ROOT / "examples" / "flags.json").read_bytes()


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "x" * 201, "\udcff"])
@pytest.mark.parametrize("option", ["--environment", "--workflow", "--tool"])
def test_a_name_that_no_event_can_have_is_refused_before_anything_is_written(
    home: Path, option: str, name: str
) -> None:
    action = [name if before == option else word for before, word in zip(("", *NAMED), NAMED, strict=False)]
    commands = [("stage", "set", *action, "--to", "observe_only", "--yes"), ("stage", "attempt", *action)]
    if option != "--environment":
        commands += [
            (*verb, option, name)
            for verb in [("emergency", "fallback"), ("emergency", "resume"), ("flags", "disable"), ("flags", "enable")]
        ]
    for words in commands:
        result = run(*words, *WHO)
        assert (result.exit_code, "Traceback" in result.output) == (2, False), words
        assert option in result.output
    assert (home / "flags.json").read_bytes() == (ROOT / "examples" / "flags.json").read_bytes()


def test_an_emergency_is_on_record_and_in_force_also_where_it_cannot_be_recorded(home: Path) -> None:
    assert "falls back." in run("emergency", "fallback", "--everything", *WHO).output
    assert "already" in run("emergency", "fallback", "--everything", *WHO).output
    assert json.loads(run("emergency", "resume", "--everything", *WHO, "--json").stdout)["changed"] is True
    assert "is in no such emergency" in run("emergency", "resume", "--everything", *WHO).output
    assert (home / "flags.json").read_bytes() == (ROOT / "examples" / "flags.json").read_bytes()
    steps = [(one.before, one.after) for one in changes(home)]
    on, off = "fallback for everything", "no emergency"
    assert steps == [(off, on), (on, on), (on, off)], "a repetition is on record: that of the first may be missing"
    (home / "outbox.db").unlink()
    (home / "outbox.db").mkdir()
    assert isinstance(run("emergency", "fallback", "--tool", "t", *WHO).exception, OffTheRecordError)
    before = (home / "flags.json").read_bytes()
    assert b"emergency" in before
    assert run("emergency", "resume", "--tool", "t", *WHO).exit_code == 1, "nothing is released off the record"
    assert (home / "flags.json").read_bytes() == before


def test_a_rollback_during_an_emergency_stands_when_that_is_over(home: Path) -> None:
    set_to("draft_write")
    run("emergency", "fallback", "--tool", "issue_refund", *WHO)
    result = set_to("search_only")
    assert "is covered by an emergency" in result.output
    run("emergency", "resume", "--tool", "issue_refund", *WHO)
    setting = FlagdStages(home / "flags.json").read(ACTION)
    assert (setting.mode, setting.emergency) == (Mode.SEARCH_ONLY, False)


def test_a_router_obeys_each_change_within_the_lease(home: Path) -> None:
    held = FlagEvaluator.from_file(home / "flags.json")
    router = Router(
        authorizer=Permit(), flags=held, recorder=Recorder(Shelf(), source="/t"), environment="production", agent="bot"
    )

    @router.action(
        workflow="refunds",
        system="s",
        risk_class="reversible_write",
        reversibility="automatic",
        draft=lambda: "drafted",
        search_only=lambda: "looked",
    )
    def issue_refund() -> str:
        return "refunded"

    def obeyed(expected: str) -> bool:
        waited = threading.Event()
        for _ in range(1_000):
            try:
                answer = issue_refund()
            except RefusedError as refused:
                answer = type(refused).__name__
            if answer == expected:
                return True
            waited.wait(0.01)
        return False

    store = FlagdStages(home / "flags.json")
    try:
        store.change(StageChange(ACTION, Mode.AUTONOMOUS, store.read(ACTION).version), before_write=lambda _: None)
        assert obeyed("refunded")
        set_to("draft_write")
        assert obeyed("drafted")
        run("emergency", "fallback", "--everything", *WHO)
        assert obeyed("ActionFellBackError")
        set_to("search_only")
        run("emergency", "resume", "--everything", *WHO)
        assert obeyed("looked")
        set_to("observe_only")
        assert obeyed("ActionObservedError")
    finally:
        held.close()


def test_flags_are_written_for_who_has_none_and_never_over_any(home: Path) -> None:
    path = home / "new.json"
    words = ("flags", "init", "--provider", "flagd", "--out", str(path), "--owner", "ada@example.org")
    assert run(*words).exit_code == 0
    before = path.read_bytes()
    assert "stays as it is" in str(run(*words).exception)
    assert path.read_bytes() == before
    held = FlagEvaluator.from_file(path)
    try:
        values = held.evaluate(("anybody", ()))
    finally:
        held.close()
    assert (values.enabled, values.denied, values.mode) == (True, False, Mode.SEARCH_ONLY)
    assert (values.approval_required, values.confidence_threshold) == (True, 0.8)
    for flag in json.loads(before)["flags"].values():
        assert flag["metadata"]["owner"] == "ada@example.org"
        assert flag["metadata"]["cleanup_condition"]
        assert datetime.fromisoformat(flag["metadata"]["review_date"])
    result = run("stage", "set", *NAMED, "--to", "observe_only", *WHO, "--yes", "--flags", str(path))
    assert result.exit_code == 0, result.output
