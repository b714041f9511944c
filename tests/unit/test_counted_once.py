"""What comes of one action counts once, however often it is told: undos, incidents, support signals, evaluations."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from lakes_of_events import NOON, EventLake
from verdict_cases import latest_documents

from analytics.judging.judge import Judge
from producers.wire.events import ExecutionStatus, Incident, Quality, Support, UndoResult

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from producers.wire.receipt import Receipt

    Told = Callable[["EventLake", "Receipt", float], None]

pytestmark = pytest.mark.slow  # they judge lakes of their own, which takes some tenths of a second each

CANCELLED, REFUSED = ExecutionStatus.CANCELLED, ExecutionStatus.REFUSED


@pytest.fixture
def history(tmp_path: Path) -> EventLake:
    return EventLake.at(tmp_path)


def judged(history: EventLake, folder: Path, *signals: str, unit: str = "action") -> tuple[str, dict[str, Any]]:
    """The verdict on what a lake holds, and its signals by name."""
    listed = "".join(f"\n      - {{{signal}}}" for signal in signals)
    (folder / "gates.yaml").write_text(
        f"version: 1\nuser_window: 10m\nfreshness: 30d\noutcome_deadline: 10m\ngates:\n  - name: g\n    unit: {unit}\n"
        f"    ladder: [draft_write, approval_gated]\n    signals:{listed}\n"
    )
    history.act(300, "the last")
    history.store()
    Judge(history.lake, folder / "gates.yaml", settle_s=0).tick(NOON + timedelta(hours=5, minutes=1))
    (document,) = latest_documents(history.lake)
    return document["verdict"], {part["signal"]: part for part in document["signals"]}


def undo(result: UndoResult) -> Told:
    return lambda history, receipt, minute: history.undo(receipt, minute, result)


def impact(told: Any) -> Told:
    return lambda history, receipt, minute: history.impact(receipt, told, minute)


@pytest.mark.parametrize("unit", ["action", "user"])
@pytest.mark.parametrize(
    ("signal", "told"),
    [
        ("undo", undo(UndoResult.UNDONE)),
        ("undo", undo(UndoResult.FAILED)),
        ("incident", impact(Incident(severity=3))),
        ("incident", impact(Incident(severity=1))),
        ("support", impact(Support())),
        ("bad_outcome", undo(UndoResult.UNDONE)),
    ],
)
def test_twenty_reports_about_one_of_many_actions_are_one(
    history: EventLake, tmp_path: Path, signal: str, told: Told, unit: str
) -> None:
    receipts = [history.act(n / 20, f"user-{n}") for n in range(150)]
    for retry in range(20):
        told(history, receipts[0], 60 + retry)
        if retry == 7:
            history.store()
    verdict, signals = judged(
        history, tmp_path, f"signal: {signal}, role: guardrail, limit: 0.05, maturity: 30m", unit=unit
    )
    assert (verdict, signals[signal]["failures"]) == ("PROMOTE", 1)


def test_an_action_that_is_evaluated_again_and_again_is_one(history: EventLake, tmp_path: Path) -> None:
    receipts = [history.act(n / 2, f"user-{n}") for n in range(20)]
    for place, receipt in enumerate(receipts):
        history.impact(receipt, Quality(passed=place % 2 == 0, evaluator="rubric"), 60)
    for again in range(200):
        history.impact(receipts[0], Quality(passed=True, evaluator="rubric"), 61 + again / 100)
    verdict, signals = judged(history, tmp_path, "signal: quality_failure, role: guardrail, limit: 0.1, maturity: 30m")
    assert verdict == "ROLL_BACK"
    assert (signals["quality_failure"]["failures"], signals["quality_failure"]["trials"]) == (10, 20)


@pytest.mark.parametrize("unit", ["action", "user"])
@pytest.mark.parametrize("status", [CANCELLED, REFUSED])
@pytest.mark.parametrize("batches", ["one", "two", "undone first"])
def test_what_was_called_off_is_no_outcome_of_an_execution(
    history: EventLake, tmp_path: Path, unit: str, status: ExecutionStatus, batches: str
) -> None:
    for n in range(150):
        history.act(n / 20, f"user-{n}")
    receipts = [history.act(n / 3, f"other-{n}", reported=False) for n in range(20)]

    def call_off() -> None:
        for receipt in receipts:
            history.recorder.executed(receipt, status, at=NOON + timedelta(minutes=20))

    if batches != "undone first":
        call_off()
    if batches == "two":
        history.store()
    for receipt in receipts:
        history.undo(receipt, 40)
        history.impact(receipt, Incident(severity=4), 50)
        history.impact(receipt, Support(), 51)
    if batches == "undone first":
        history.store()
        call_off()
    rates = ("undo", "incident", "support", "bad_outcome")
    signals = [f"signal: {name}, role: guardrail, limit: 0.05, maturity: 30m" for name in rates]
    verdict, found = judged(history, tmp_path, *signals, unit=unit)
    assert {name: (found[name]["failures"], found[name]["trials"]) for name in rates} == dict.fromkeys(rates, (0, 151))
    assert verdict == "PROMOTE"


def test_compensating_what_was_called_off_contradicts_nothing(history: EventLake, tmp_path: Path) -> None:
    for n in range(30):
        receipt = history.act(n, f"user-{n}", status=CANCELLED if n else None)
        history.undo(receipt, 60)
    assert judged(history, tmp_path, "signal: execution_error, role: guardrail, limit: 0.05")[0] == "HOLD"


def test_undoing_what_nobody_reported_contradicts_nothing(history: EventLake, tmp_path: Path) -> None:
    for n in range(30):
        history.undo(history.act(n, f"user-{n}", reported=False), 60)
    verdict, found = judged(history, tmp_path, "signal: undo, role: guardrail, limit: 0.05, maturity: 30m")
    assert (verdict, found["undo"]["failures"], found["undo"]["trials"]) == ("HOLD", 30, 1)
    assert (
        judged(history, tmp_path, "signal: bad_outcome, role: guardrail, limit: 0.05, maturity: 30m")[0] == "ROLL_BACK"
    )


def test_a_severe_incident_trips_whatever_the_execution_said_of_itself(history: EventLake, tmp_path: Path) -> None:
    receipt = history.act(0, "ada", status=CANCELLED)
    history.severe_incident(receipt, 1)
    history.severe_incident(receipt, 2)
    verdict, found = judged(history, tmp_path, "signal: severe_incident, role: trip")
    assert (verdict, found["severe_incident"]["failures"]) == ("ROLL_BACK", 1)
