from __future__ import annotations

import math
import re
from datetime import timedelta
from pathlib import Path

import pytest
from verdict_cases import (
    CELL,
    NOON,
    a_row,
    codes,
    document_of,
    executions,
    gate_file,
    increments,
    verdict_on,
    verdicts_on,
)

from analytics.gates.gate_file import GateFile
from analytics.judging.engine import judge
from analytics.judging.latches import Latches
from analytics.judging.verdict_rules import rollback_stage
from analytics.signals.state import CellState
from analytics.verdicts import gate_check
from analytics.verdicts.verdict import REASON_CODES, Latch, Verdict
from producers.wire.events import VerdictName

ERRORS = gate_file("signal: execution_error, role: guardrail, limit: 0.1")


def said(verdict: Verdict) -> str:
    return " | ".join(reason.message for reason in verdict.result.reasons)


@pytest.mark.parametrize(
    ("executed", "failed", "verdict", "to_stage"),
    [
        (377, 0, "PROMOTE", "approval_gated"),
        (104, 42, "ROLL_BACK", "search_only"),
        (53, 30, "ROLL_BACK", "search_only"),
        (2, 0, "HOLD", None),
        (14, 1, "HOLD", None),
        (36, 0, "HOLD", None),
        (37, 0, "PROMOTE", "approval_gated"),
    ],
)
def test_an_error_limit_of_ten_percent(executed: int, failed: int, verdict: str, to_stage: str | None) -> None:
    found = verdict_on(ERRORS, a_row(**executions(executed, failed)))
    assert (found.result.verdict, found.result.to_stage) == (verdict, to_stage)


def test_a_hold_says_how_many_more_are_needed() -> None:
    found = verdict_on(ERRORS, a_row(**executions(2)))
    assert found.inputs.signals[0].more_needed == 35
    assert codes(found) == ["more_evidence_needed"]
    assert said(found) == (
        "execution_error 0 % (0 of 2), limit 10 %, upper bound 88.1 %: 35 more executions needed without a failure"
    )


def test_a_hold_says_when_the_present_rate_never_decides() -> None:
    found = verdict_on(ERRORS, a_row(**executions(10, 1)))
    assert found.result.verdict == "HOLD"
    assert found.inputs.signals[0].more_needed is None
    assert "not shown safe while the rate stays as it is" in said(found)


def test_harm_is_said_with_its_numbers() -> None:
    gates = gate_file("signal: undo, role: guardrail, limit: 0.02")
    found = verdict_on(gates, a_row(**executions(291), undone=12, undo_failed=2, not_undoable=2))
    assert said(found) == "undo 5.5 % (16 of 291), limit 2 %, lower bound 2.38 %: roll back"
    assert document_of(found)["summary"] == (
        "Roll back to search_only: undo 5.5 % (16 of 291), limit 2 %, lower bound 2.38 %."
    )


@pytest.mark.parametrize(
    ("stage", "target"),
    [
        ("progressive_expansion", "search_only"),
        ("draft_write", "search_only"),
        ("search_only", "observe_only"),
        ("observe_only", "observe_only"),
    ],
)
def test_a_rollback_goes_to_search_only_or_below(stage: str, target: str) -> None:
    assert rollback_stage(stage) == target
    found = verdict_on(ERRORS, a_row(CELL._replace(stage=stage), **executions(50, 40)))
    assert found.result.to_stage == target


def test_no_gate_is_no_verdict() -> None:
    gates = GateFile.parse(b"version: 1\ngates: [{name: other, match: {tool: other}}]")
    found = verdict_on(gates, a_row(**executions(377)))
    assert (found.result.verdict, codes(found)) == ("INVALID", ["no_gate"])
    assert document_of(found)["gate"] is None


def test_two_gates_that_fit_equally_are_no_verdict_on_that_cell_only() -> None:
    gates = GateFile.parse(
        b"version: 1\ngates: [{name: a, match: {tool: issue_refund}}, {name: b, match: {workflow: refunds}},"
        b"{name: c, match: {tool: x}, signals: [{signal: timeout, role: guardrail, limit: 0.1}]}]"
    )
    tied, fine = verdicts_on(
        gates, a_row(**executions(400)), a_row(CELL._replace(tool="x", workflow="w"), **executions(400))
    )
    assert codes(tied) == ["ambiguous_gate"]
    assert fine.result.verdict == "PROMOTE"


@pytest.mark.parametrize(
    "signals",
    [
        (),
        ("signal: execution_error, role: watch, limit: 0.1", "signal: support, role: watch"),
        ("signal: execution_error, role: guardrail, limit: 0.1, stages: [narrow_autonomy]",),
    ],
)
def test_a_gate_that_decides_nothing_never_promotes(signals: tuple[str, ...]) -> None:
    found = verdict_on(gate_file(*signals), a_row(**executions(100_000)))
    assert (found.result.verdict, codes(found)) == ("INVALID", ["no_signals"])


def test_a_gate_that_only_trips_never_promotes() -> None:
    gates = gate_file("signal: severe_incident, role: trip")
    assert codes(verdict_on(gates, a_row(**executions(100_000)))) == ["no_promotion_signals"]
    tripped = verdict_on(gates, a_row(**executions(100_000), incidents=1, severe_incidents=1))
    assert (tripped.result.verdict, codes(tripped)) == ("ROLL_BACK", ["trip"])


def test_impossible_counts_are_no_verdict() -> None:
    found = verdict_on(ERRORS, a_row(decisions=9, executed=3, failed=4))
    assert (found.result.verdict, codes(found)) == ("INVALID", ["contradictory_counts"])
    assert "failed + timed_out is 4, more than the 3 executed" in said(found)


def test_more_incidents_than_executions_are_harm_and_no_contradiction() -> None:
    gates = gate_file("signal: incident, role: guardrail, limit: 0.01")
    found = verdict_on(gates, a_row(**executions(4), incidents=9))
    assert found.result.verdict == "ROLL_BACK"
    assert found.inputs.signals[0].failures == 9


def test_a_promotion_signal_blocks_and_never_rolls_back() -> None:
    gates = gate_file(
        "signal: denial, role: promote, limit: 0.1", "signal: execution_error, role: guardrail, limit: 0.1"
    )
    row = a_row(decisions=1_000, denied=600, allowed=400, expected=400, executed=400)
    found = verdict_on(gates, row)
    assert (found.result.verdict, codes(found)) == ("HOLD", ["over_limit"])
    assert [part.state for part in found.inputs.signals] == ["fail", "pass"]
    assert "no promotion" in said(found)


def test_a_watched_signal_decides_nothing() -> None:
    gates = gate_file(
        "signal: quality_failure, role: watch, limit: 0.1",
        "signal: support, role: watch",
        "signal: execution_error, role: guardrail, limit: 0.1",
    )
    found = verdict_on(gates, a_row(**executions(400), quality_checks=100, quality_failures=100, support=400))
    assert found.result.verdict == "PROMOTE"
    assert [part.state for part in found.inputs.signals] == ["fail", "not_applicable", "pass"]


@pytest.mark.parametrize(("severe", "verdict"), [(2, "PROMOTE"), (3, "ROLL_BACK")])
def test_a_trip_acts_above_its_maximum(severe: int, verdict: str) -> None:
    gates = gate_file(
        "signal: severe_incident, role: trip, max_count: 2", "signal: execution_error, role: guardrail, limit: 0.1"
    )
    found = verdict_on(gates, a_row(**executions(400), incidents=severe, severe_incidents=severe))
    assert found.result.verdict == verdict


def test_a_rate_can_trip_by_its_failures() -> None:
    gates = gate_file("signal: undo_failed, role: trip", "signal: undo, role: guardrail, limit: 0.1")
    found = verdict_on(gates, a_row(**executions(400), undone=1, undo_failed=1))
    assert (found.result.verdict, codes(found)) == ("ROLL_BACK", ["trip"])
    assert found.inputs.signals[0].limit == 0


def test_minimum_exposure_holds_up_a_promotion_and_never_a_rollback() -> None:
    gates = gate_file("signal: execution_error, role: guardrail, limit: 0.1", minimum_exposure="{actions: 1000}")
    assert codes(verdict_on(gates, a_row(**executions(999)))) == ["below_minimum_exposure"]
    assert verdict_on(gates, a_row(**executions(1_000))).result.verdict == "PROMOTE"
    assert verdict_on(gates, a_row(**executions(10, 10))).result.verdict == "ROLL_BACK"
    shown = document_of(verdict_on(gates, a_row(**executions(10))))["exposure"]
    assert (shown["actions"], shown["minimum"]) == (10, 1000)


@pytest.mark.parametrize(
    "signal",
    [
        "signal: latency_p95, role: guardrail, limit_ms: 1500",
        "signal: cost_p95, role: promote, limit_usd: 1",
        "signal: undo_failed, role: guardrail, limit: 0.1",
        "signal: missing_outcome, role: guardrail, limit: 0.05",
    ],
)
def test_what_is_not_known_never_promotes(signal: str) -> None:
    gates = gate_file("signal: execution_error, role: guardrail, limit: 0.1", signal)
    found = verdict_on(gates, a_row(**executions(10_000)))
    assert (found.result.verdict, codes(found)) == ("HOLD", ["missing_data"])
    assert found.inputs.signals[1].value is None


def test_a_promotion_needs_every_signal() -> None:
    gates = gate_file(
        "signal: execution_error, role: guardrail, limit: 0.1", "signal: timeout, role: promote, limit: 0.01"
    )
    assert verdict_on(gates, a_row(**executions(378))).result.verdict == "HOLD"
    promoted = verdict_on(gates, a_row(**executions(379)))
    assert (promoted.result.verdict, promoted.result.to_stage) == ("PROMOTE", "approval_gated")
    # The tightest signal is said first.
    assert [reason.signal for reason in promoted.result.reasons] == ["timeout", "execution_error"]


def test_the_top_of_the_ladder_is_held_and_still_guarded() -> None:
    top = CELL._replace(stage="progressive_expansion")
    assert codes(verdict_on(ERRORS, a_row(top, **executions(377)))) == ["top_of_ladder"]
    assert verdict_on(ERRORS, a_row(top, **executions(104, 42))).result.verdict == "ROLL_BACK"


def test_a_promotion_follows_the_gate_s_own_ladder() -> None:
    gates = gate_file(
        "signal: execution_error, role: guardrail, limit: 0.1", ladder="[draft_write, progressive_expansion]"
    )
    assert verdict_on(gates, a_row(**executions(377))).result.to_stage == "progressive_expansion"
    beside = CELL._replace(stage="approval_gated")
    assert codes(verdict_on(gates, a_row(beside, **executions(377)))) == ["not_on_ladder"]


def test_stale_evidence_promotes_nothing_and_still_rolls_back() -> None:
    fresh = CELL._replace(tool="fresh")
    later = a_row(fresh, minute=16, **executions(1))
    quiet, _ = verdicts_on(ERRORS, later, a_row(**executions(377)))[::-1]
    assert (quiet.result.verdict, codes(quiet)) == ("INVALID", ["stale_evidence"])
    harmful, _ = verdicts_on(ERRORS, later, a_row(**executions(104, 42)))[::-1]
    assert harmful.result.verdict == "ROLL_BACK"
    on_time = a_row(fresh, minute=15, **executions(1))
    assert verdicts_on(ERRORS, on_time, a_row(**executions(377)))[1].result.verdict == "PROMOTE"


def test_only_the_current_epoch_is_judged() -> None:
    old = a_row(epoch="old", minute=0, **executions(104, 42))
    new = a_row(epoch="new", minute=1, **executions(377))
    found = verdict_on(ERRORS, old, new)
    assert (found.inputs.epoch, found.result.verdict) == ("new", "PROMOTE")
    straggler = a_row(epoch="old", minute=0, last_event_at=NOON + timedelta(minutes=9), **executions(10, 10))
    assert verdict_on(ERRORS, old, new, straggler).inputs.epoch == "new"


def test_a_tie_of_epochs_is_broken_by_the_newest_event_and_then_by_name() -> None:
    at = NOON + timedelta(seconds=30)
    rows = [a_row(epoch=name, last_event_at=at, **executions(5)) for name in ("b", "a")]
    assert verdict_on(ERRORS, *rows).inputs.epoch == "b"
    newer = a_row(epoch="a", last_event_at=at + timedelta(seconds=1), **executions(5))
    assert verdict_on(ERRORS, *rows, newer).inputs.epoch == "a"


def test_an_execution_is_missing_only_after_its_deadline() -> None:
    gates = gate_file("signal: missing_outcome, role: guardrail, limit: 0.05")
    silent = a_row(minute=0, last_event_at=NOON + timedelta(seconds=10), decisions=50, allowed=50, expected=50)
    just_before = NOON + timedelta(minutes=3) - timedelta(microseconds=1)
    assert codes(verdict_on(gates, silent, watermark=just_before)) == ["missing_data"]
    overdue = verdict_on(gates, silent, watermark=NOON + timedelta(minutes=3))
    assert (overdue.result.verdict, codes(overdue)) == ("ROLL_BACK", ["harm"])
    assert "50 of 50" in said(overdue)


def test_an_approval_that_comes_late_gives_its_execution_the_full_deadline() -> None:
    gates = gate_file("signal: missing_outcome, role: guardrail, limit: 0.05")
    queued = a_row(minute=0, decisions=9, queued=9)
    approved = a_row(minute=0, last_event_at=NOON + timedelta(hours=1), expected=9, reviews_approved=9)
    soon = NOON + timedelta(hours=1, minutes=1)
    assert codes(verdict_on(gates, queued, approved, watermark=soon)) == ["missing_data"]
    late = NOON + timedelta(hours=1, minutes=2)
    assert verdict_on(gates, queued, approved, watermark=late).result.verdict == "ROLL_BACK"


def test_an_execution_nobody_expected_makes_up_for_none_that_is_missing() -> None:
    gates = gate_file("signal: missing_outcome, role: guardrail, limit: 0.05")
    found = verdict_on(
        gates,
        a_row(minute=0, decisions=10, allowed=10, expected=10),
        a_row(minute=1, decisions=10, fell_back=10, executed=10),
        watermark=NOON + timedelta(hours=1) - timedelta(minutes=50),
    )
    assert (found.inputs.signals[0].failures, found.inputs.signals[0].trials) == (10, 10)


def test_many_weak_signs_of_harm_add_up() -> None:
    signals = [
        f"signal: {name}, role: guardrail, limit: 0.05" for name in ("execution_error", "timeout", "undo", "incident")
    ]
    counts = {"failed": 13, "timed_out": 13, "undone": 13, "incidents": 13}
    found = verdict_on(gate_file(*signals), a_row(**{**executions(100), **counts}))
    assert all(part.state == "undecided" for part in found.inputs.signals)
    assert (found.result.verdict, codes(found)) == ("ROLL_BACK", ["combined_harm"])
    assert "together weigh" in said(found)
    one = verdict_on(gate_file(*signals), a_row(**{**executions(100), "failed": 13}))
    assert one.result.verdict == "HOLD"


def test_weights_share_alpha_and_set_the_bound_that_is_shown() -> None:
    gates = gate_file(
        "signal: execution_error, role: guardrail, limit: 0.05, weight: 3",
        "signal: undo, role: guardrail, limit: 0.05",
        "signal: timeout, role: guardrail, limit: 0.05, stages: [narrow_autonomy]",
    )
    heavy, light, elsewhere = verdict_on(gates, a_row(**executions(100, 11), undone=11)).inputs.signals
    assert (heavy.weight, light.weight, elsewhere.weight) == (0.75, 0.25, None)
    assert heavy.harm_threshold == pytest.approx(math.log(1 / (0.05 * 0.75)))
    assert heavy.lower is not None
    assert light.lower is not None
    assert heavy.lower > light.lower
    assert elsewhere.state == "not_applicable"


@pytest.mark.parametrize(("slow", "verdict"), [(0, "PROMOTE"), (20, "HOLD"), (120, "ROLL_BACK")])
def test_a_latency_limit_counts_what_lies_above_it(slow: int, verdict: str) -> None:
    gates = gate_file("signal: latency_p95, role: guardrail, limit_ms: 1500")
    latencies = [200.0] * (400 - slow) + [4_000.0] * slow
    found = verdict_on(gates, a_row(**executions(400), latencies_ms=latencies))
    (part,) = found.inputs.signals
    assert found.result.verdict == verdict
    assert (part.failures, part.trials, part.unit) == (slow, 400, "ms")
    assert part.limit == pytest.approx(1_500, rel=0.011)
    assert part.value == pytest.approx(200 if slow <= 20 else 4_000, rel=0.01)
    assert part.limit is not None
    assert part.lower is not None
    assert (part.lower >= part.limit) == (part.state == "fail")
    assert (part.upper is not None and part.upper <= part.limit) == (part.state == "pass")


def test_unknown_latencies_are_neither_fast_nor_slow() -> None:
    gates = gate_file("signal: latency_p95, role: guardrail, limit_ms: 1500")
    found = verdict_on(gates, a_row(**executions(10_000), latencies_ms=[100.0] * 20))
    assert (found.result.verdict, found.inputs.signals[0].trials) == ("HOLD", 20)


def latched(verdict: VerdictName, to_stage: str) -> dict[str, object]:
    content = ERRORS.contents["everything"]
    key = (CELL, "e1", content if verdict is VerdictName.PROMOTE else None)
    return {"latches": Latches({key: {verdict: Latch(verdict, to_stage, "first", content)}})}


def test_a_rollback_stands_although_better_numbers_follow() -> None:
    found = verdict_on(ERRORS, a_row(**executions(10_000)), **latched(VerdictName.ROLL_BACK, "search_only"))
    assert (found.result.verdict, found.result.to_stage, codes(found)) == ("ROLL_BACK", "search_only", ["latched"])
    assert document_of(found)["latched_by"] == "first"
    assert "verdict first decided ROLL_BACK on this epoch under this gate; it stands" in said(found)


def test_a_promotion_stands_until_there_is_harm_or_silence() -> None:
    promoted = latched(VerdictName.PROMOTE, "approval_gated")
    found = verdict_on(ERRORS, a_row(**executions(50, 4)), **promoted)
    assert (found.result.verdict, found.result.to_stage, codes(found)) == ("PROMOTE", "approval_gated", ["latched"])
    assert verdict_on(ERRORS, a_row(**executions(104, 42)), **promoted).result.verdict == "ROLL_BACK"
    silent = verdict_on(ERRORS, a_row(**executions(377)), watermark=NOON + timedelta(hours=1), **promoted)
    assert codes(silent) == ["stale_evidence"]


def test_a_latch_of_another_epoch_holds_nothing() -> None:
    crossed = {VerdictName.ROLL_BACK: Latch(VerdictName.ROLL_BACK, "x", "v")}
    other = Latches({(CELL, "e0", None): crossed})
    assert verdict_on(ERRORS, a_row(**executions(377)), latches=other).result.verdict == "PROMOTE"


def test_a_promotion_stands_under_its_gate_alone_and_a_rollback_under_any() -> None:
    other = gate_file("signal: execution_error, role: guardrail, limit: 0.2")
    promoted = latched(VerdictName.PROMOTE, "approval_gated")
    assert verdict_on(other, a_row(**executions(5)), **promoted).result.verdict == "HOLD"
    rolled_back = latched(VerdictName.ROLL_BACK, "search_only")
    found = verdict_on(other, a_row(**executions(10_000)), **rolled_back)
    assert (found.result.verdict, codes(found)) == ("ROLL_BACK", ["latched"])
    assert f"under gate content {ERRORS.contents['everything'][:12]}, not that of now" in said(found)


def test_a_verdict_is_named_by_what_it_follows_from() -> None:
    row = a_row(**executions(377))
    state = CellState.from_increments(increments(row))
    mark = NOON + timedelta(minutes=1)

    def verdict_id(version: int = 1, gates: GateFile = ERRORS, watermark_s: int = 0, judged_s: int = 0) -> str:
        (found,) = judge(
            state,
            gates,
            watermark=mark + timedelta(seconds=watermark_s),
            lake_version=version,
            judged_at=mark + timedelta(seconds=judged_s),
        )
        return found.verdict_id

    other_gates = gate_file("signal: execution_error, role: guardrail, limit: 0.2")
    assert verdict_id() == verdict_id(judged_s=99)
    assert len({verdict_id(), verdict_id(version=2), verdict_id(watermark_s=1), verdict_id(gates=other_gates)}) == 4


def test_every_reason_code_is_described_where_people_look() -> None:
    described = (Path(__file__).parents[2] / "docs" / "gates.md").read_text()
    for code, meaning in {**REASON_CODES, **gate_check.REASON_CODES}.items():
        assert f"| `{code}` |" in described
        assert meaning in described, code


def test_the_example_in_the_documentation_is_a_gate_file() -> None:
    described = (Path(__file__).parents[2] / "docs" / "gates.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", described, flags=re.DOTALL)
    assert GateFile.parse(example.encode()).gate_for("production", "refunds", "issue_refund", None) is not None
