"""Counts that contradict each other block a promotion, with their numbers, and never a rollback."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from fakes import a_decided, an_executed
from verdict_cases import NOON, a_row, executions, increments, verdict_on

from analytics.gates.gate_file import GateFile
from analytics.judging.engine import judge
from analytics.judging.window_sums import WindowSums
from analytics.signals.definitions import COUNTERS
from analytics.signals.event_kinds import INCREMENTS
from analytics.signals.state import CellState
from producers.wire.decision import Allow, Deny, Provenance
from producers.wire.events import ExecutionStatus, event_to_bytes
from streams.ingest.decode import EventDecoder

if TYPE_CHECKING:
    from analytics.verdicts.verdict import Verdict
    from producers.wire.events import Event

GATES = GateFile.parse(b"""\
version: 1
freshness: 30d
outcome_deadline: 10m
gates:
  - name: everything
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.1, unit: action}
      - {signal: undo, role: guardrail, limit: 0.1, unit: action, maturity: 1m, must_have_data: false}
""")
LATER = NOON + timedelta(hours=1)


def tripping(*counts: str) -> GateFile:
    """Gates that trip on counts, beside a guardrail."""
    trips = "".join(f"\n      - {{signal: {count}, role: trip}}" for count in counts)
    return GateFile.parse(
        f"""\
version: 1
freshness: 30d
gates:
  - name: everything
    signals:
      - {{signal: execution_error, role: guardrail, limit: 0.1, unit: action}}{trips}
""".encode()
    )


TRIPPING = tripping("unpermitted_execution", "severe_incident")


def codes(verdict: Verdict) -> set[str]:
    return {reason.code for reason in verdict.result.reasons}


def said(verdict: Verdict, code: str) -> str:
    (message,) = (reason.message for reason in verdict.result.reasons if reason.code == code)
    return message


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"executed": 301}, ["1 of the 301 executions", "no decision or approval"]),
        ({"executed": 600}, ["300 of the 600 executions"]),
        ({"undone": 301}, ["undone + undo_failed + not_undoable is 301", "300 executed + mature_missing"]),
        ({"expected": 320, "executed": 320}, ["mature_expected is 320", "300 decisions"]),
        ({"allowed": 301}, ["is 301, more than the 300 decisions"]),
        ({"denied": 1}, ["is 301, more than the 300 decisions"]),
        ({"incidents": 1, "severe_incidents": 2}, ["severe_incidents is 2, more than the 1 incidents"]),
        ({"support": -1}, ["support is -1"]),
    ],
)
def test_a_violation_makes_the_evidence_invalid_with_its_numbers(counts: dict[str, int], words: list[str]) -> None:
    verdict = verdict_on(GATES, a_row(**{**executions(300), **counts}), watermark=LATER)
    assert verdict.result.verdict == "INVALID"
    assert codes(verdict) == {"contradictory_counts"}
    assert all(word in said(verdict, "contradictory_counts") for word in words), said(verdict, "contradictory_counts")
    assert verdict_on(GATES, a_row(**executions(300)), watermark=LATER).result.verdict == "PROMOTE"


def test_it_is_looked_at_minute_by_minute() -> None:
    """What never came in one minute does not make up for what nobody had permitted in another."""
    rows = [a_row(**executions(300)), a_row(minute=1, decisions=5, allowed=5, expected=5, executed=2)]
    rows.append(a_row(minute=2, decisions=3, denied=3, executed=3))
    verdict = verdict_on(GATES, *rows, watermark=LATER)
    assert verdict.result.verdict == "INVALID"
    assert "3 of the 305 executions" in said(verdict, "contradictory_counts")


@pytest.mark.parametrize("watermark_s", [59, 600, 659])
def test_what_is_read_before_its_decision_contradicts_nothing(watermark_s: int) -> None:
    """Decisions, approvals and executions travel on three topics."""
    rows = [a_row(**executions(300)), a_row(executed=40)]
    verdict = verdict_on(GATES, *rows, watermark=NOON + timedelta(seconds=watermark_s))
    assert "contradictory_counts" not in codes(verdict)


def test_an_execution_after_a_late_approval_waits_for_it() -> None:
    """The approval came hours after the decision, and is read after the execution."""
    rows = [a_row(**executions(300)), a_row(decisions=1, queued=1)]
    late = a_row(executed=1, last_event_at=NOON + timedelta(hours=3))
    after = NOON + timedelta(hours=3, minutes=5)
    assert "contradictory_counts" not in codes(verdict_on(GATES, *rows, late, watermark=after))
    approved = a_row(reviews_approved=1, expected=1, last_event_at=NOON + timedelta(hours=3))
    much_later = NOON + timedelta(hours=4)
    assert "contradictory_counts" not in codes(verdict_on(GATES, *rows, late, approved, watermark=much_later))
    assert "contradictory_counts" in codes(verdict_on(GATES, *rows, late, watermark=much_later))


def test_one_bad_event_does_not_stop_a_rollback() -> None:
    harmed = executions(300, 200)
    for counts in ({"executed": 301}, {"undone": 301}, {"denied": 1}, {"support": -1}):
        verdict = verdict_on(GATES, a_row(**{**harmed, **counts}), watermark=LATER)
        assert verdict.result.verdict == "ROLL_BACK", counts
        assert {"harm", "contradictory_counts"} <= codes(verdict), counts


def test_harm_that_rests_on_what_cannot_be_is_none() -> None:
    """Failures of executions that nobody permitted, and undos of executions that never were."""
    for counts in ({"executed": 500, "failed": 200}, {"executed": 2, "expected": 2, "undone": 90}):
        verdict = verdict_on(GATES, a_row(**{**executions(300), **counts}), watermark=LATER)
        assert verdict.result.verdict == "INVALID", counts


def test_an_execution_that_nobody_permitted_trips() -> None:
    verdict = verdict_on(TRIPPING, a_row(**{**executions(300), "executed": 301}), watermark=LATER)
    assert verdict.result.verdict == "ROLL_BACK"
    assert codes(verdict) == {"trip", "contradictory_counts"}
    assert "unpermitted_execution 1 (among 301 executions), at most 0 allowed" in said(verdict, "trip")


def test_another_trip_works_beside_a_contradiction() -> None:
    bad = {"executed": 301, "incidents": 1, "severe_incidents": 1, "denied": 1}
    gates = tripping("severe_incident")
    assert verdict_on(gates, a_row(**{**executions(300), **bad}), watermark=LATER).result.verdict == "ROLL_BACK"


def test_time_alone_brings_the_look_at_which_it_is_seen() -> None:
    """A judge that is told of what changed must be told of an epoch whose surplus has become certain."""
    state = CellState.from_increments(increments(a_row(**{**executions(300), "executed": 301})))
    sums = WindowSums(state, GATES, NOON + timedelta(seconds=59))
    assert not sums.missing().unpermitted.any()
    assert sums.advance(None, NOON + timedelta(minutes=10, seconds=59)).any()
    assert not sums.missing().unpermitted.any()
    assert sums.advance(None, NOON + timedelta(minutes=11)).any()
    assert sums.missing().unpermitted.tolist() == [1]
    (verdict,) = judge(state, GATES, watermark=LATER, lake_version=1, judged_at=LATER)
    assert verdict.result.verdict == "INVALID"


def counted(*events: Event) -> dict[str, int]:
    """The counters that events move."""
    kinds = EventDecoder(None).decode([event_to_bytes(event) for event in events], None).events.kinds
    return dict(zip(COUNTERS, INCREMENTS[kinds].sum(axis=0).tolist(), strict=True))


@pytest.mark.parametrize("status", [*ExecutionStatus])
def test_what_was_only_observed_needs_no_decision_that_lets_it_run(status: ExecutionStatus) -> None:
    """A router that only watches denies, or allows, and the action runs all the same."""
    for result in (Deny(reason="no"), Allow()):
        decided = a_decided(result=result)
        decision = decided.data.decision.model_copy(update={"provenance": Provenance.OBSERVED})
        decided = decided.model_copy(update={"data": decided.data.model_copy(update={"decision": decision})})
        executed = an_executed(status=status)
        data = executed.data.model_copy(update={"provenance": Provenance.OBSERVED})
        counts = counted(decided, executed.model_copy(update={"data": data}))
        assert counts["expected"] == counts["executed"] <= counts["decisions"] == 1
        assert counts["executed"] == (status not in {ExecutionStatus.CANCELLED, ExecutionStatus.REFUSED})
        assert counts["failed"] == (status is ExecutionStatus.FAILED)
        assert counts["timed_out"] == (status is ExecutionStatus.TIMED_OUT)
        verdict = verdict_on(TRIPPING, a_row(**executions(300)), a_row(**counts), watermark=LATER)
        assert not {"trip", "contradictory_counts"} & codes(verdict)
    assert counted(a_decided(result=Deny(reason="no")), an_executed())["expected"] == 0
