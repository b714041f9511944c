"""Limits that compare with a baseline: ratios, deltas, and quantiles beside those of another arm."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from verdict_cases import CELL, NOON, a_row, codes, executions, gate_file, refused, verdicts_on

from analytics.verdicts.document import VerdictDocument
from dashboard.data.outlook import forecasts

if TYPE_CHECKING:
    from analytics.gates.gate_file import GateFile
    from analytics.verdicts.evidence_models import SignalEvidence
    from analytics.verdicts.verdict import Verdict
    from producers.wire.receipt import Cell

pytestmark = pytest.mark.slow  # they judge lakes of their own, which takes some tenths of a second each

BESIDE = CELL._replace(cohort="held-back")
CONCURRENT = {"baseline": "{kind: concurrent, cohort: held-back}"}
LIMIT = "signal: execution_error, role: guardrail, limit: 0.1"
RATIO = "signal: execution_error, role: guardrail, ratio: 1.5"


class TestTheBaselineItself:
    """What others are compared with is compared with nothing: it is held, and nothing is forecast of it."""

    LADDER: ClassVar = {"ladder": "[draft_write, approval_gated]", "hold_expires": "1h", "owner": "someone"}

    def of(self, cell: Cell, *signals: str, failed: int = 0, **gate: str) -> Verdict:
        here, there = CELL._replace(cohort="new", stage="approval_gated"), BESIDE
        rows = [
            a_row(one, minute=at, **executions(20, failed if one == cell else 0))
            for at in range(120)
            for one in {here, there, cell}
        ]
        found = verdicts_on(gate_file(*(signals or [RATIO]), **{**CONCURRENT, **self.LADDER, **gate}), *rows)
        return next(verdict for verdict in found if verdict.inputs.cell == cell)

    @pytest.mark.parametrize("failed", [0, 2])
    def test_the_cohort_that_is_held_back(self, failed: int) -> None:
        found = self.of(BESIDE, failed=failed)
        assert (found.result.verdict, codes(found)) == ("HOLD", ["is_baseline"])
        assert found.result.reasons[0].message.startswith("the cohort `held-back` is what others are compared with")
        (part,) = found.inputs.signals
        assert (part.state, part.more_needed, part.more_to_harm) == ("not_applicable", None, None)
        document = VerdictDocument.from_verdict(found)
        assert [text.text for text in forecasts(document)] == [
            "Nothing: others are compared with this one, and it with nothing."
        ]

    def test_the_stage_that_nothing_is_below(self) -> None:
        foot = CELL._replace(cohort="new")
        for kind in ("concurrent", "historic"):
            found = self.of(foot, baseline=f"{{kind: {kind}}}")
            assert (found.result.verdict, codes(found)) == ("HOLD", ["is_baseline"])
            assert "draft_write is the foot of the ladder" in found.result.reasons[0].message
        limited = self.of(foot, f"{RATIO}, stages: [approval_gated]", LIMIT, baseline="{kind: concurrent}")
        assert limited.result.verdict == "PROMOTE", "by signals that are not compared there"

    def test_its_limits_count_as_ever(self) -> None:
        assert codes(self.of(BESIDE, RATIO, LIMIT)) == ["is_baseline"]
        held = self.of(BESIDE, RATIO, LIMIT, failed=2)
        assert codes(held) == ["is_baseline", "more_evidence_needed"]
        assert self.of(BESIDE, RATIO, LIMIT, failed=15).result.verdict == "ROLL_BACK"
        unseen = self.of(BESIDE, RATIO, "signal: quality_failure, role: promote, limit: 0.1, maturity: 1h")
        assert codes(unseen) == ["is_baseline", "missing_data"]

    def test_what_is_compared_is_judged_by_it(self) -> None:
        assert codes(self.of(CELL._replace(cohort="new"))) == ["hold_expired", "more_evidence_needed"]
        alone = CELL._replace(cohort="new")
        (found,) = verdicts_on(
            gate_file(RATIO, **CONCURRENT, **self.LADDER),
            *(a_row(alone, minute=at, **executions(20, 1)) for at in range(9)),
        )
        assert "its baseline has no executions beside it yet" in found.result.reasons[0].message


class TestBaseline:
    def arms(self, failed: int, base_failed: int, minutes: int = 120) -> list[dict[str, Any]]:
        new = [a_row(minute=minute, **executions(20, failed)) for minute in range(minutes)]
        return new + [a_row(BESIDE, minute=minute, **executions(20, base_failed)) for minute in range(minutes)]

    def of(self, *rows: dict[str, Any], watermark_minute: int = 121, **gate: str) -> Verdict:
        mark = NOON + timedelta(minutes=watermark_minute)
        found = verdicts_on(gate_file(RATIO, **{**CONCURRENT, **gate}), *rows, watermark=mark)
        return next(verdict for verdict in found if verdict.inputs.cell == CELL)

    def test_a_worse_arm_rolls_back_whatever_the_base_rate(self) -> None:
        found = self.of(*self.arms(failed=12, base_failed=4))
        assert (found.result.verdict, codes(found)) == ("ROLL_BACK", ["harm"])
        (part,) = found.inputs.signals
        assert (part.unit, part.limit, part.value) == ("times", 1.5, pytest.approx(3.0))
        assert part.lower is not None
        assert part.lower > 1.5
        assert "concurrent hold-back" in (part.assumes or "")

    def test_an_arm_as_good_as_the_other_is_promoted_at_a_rate_no_limit_would_allow(self) -> None:
        assert self.of(*self.arms(failed=10, base_failed=10)).result.verdict == "PROMOTE"

    def test_it_says_how_many_more_would_decide(self) -> None:
        found = self.of(*self.arms(failed=1, base_failed=1, minutes=8), watermark_minute=9)
        (part,) = found.inputs.signals
        assert part.more_needed is not None
        assert "more executions needed at this rate" in found.result.reasons[0].message
        minutes = 8 + -(-part.more_needed // 20)
        assert self.of(*self.arms(1, 1, minutes=minutes), watermark_minute=minutes + 1).result.verdict == "PROMOTE"
        less = self.of(*self.arms(1, 1, minutes=minutes - 1), watermark_minute=minutes)
        assert less.result.verdict == "HOLD"

    def test_minutes_of_one_arm_alone_say_nothing(self) -> None:
        new = [a_row(minute=minute, **executions(20, 20)) for minute in range(50)]
        found = self.of(*new, a_row(BESIDE, minute=60, **executions(20)), watermark_minute=61)
        assert found.inputs.signals[0].log_e_harm == 0.0

    def test_without_a_cohort_the_stage_below_is_the_baseline(self) -> None:
        below = CELL._replace(stage="search_only")
        rows = [a_row(minute=minute, **executions(20, 12)) for minute in range(120)]
        rows += [a_row(below, minute=minute, **executions(20, 4)) for minute in range(120)]
        assert self.of(*rows, baseline="{kind: concurrent}").result.verdict == "ROLL_BACK"

    def test_history_is_labelled_as_such(self) -> None:
        below = CELL._replace(stage="search_only")
        old = [a_row(below, minute=minute, **executions(20, 2)) for minute in range(120)]
        new = [a_row(minute=minute, **executions(20, 9)) for minute in range(130, 190)]
        found = self.of(*old, *new, baseline="{kind: historic}", watermark_minute=191)
        assert found.result.verdict == "ROLL_BACK"
        assert "non-concurrent" in (found.inputs.signals[0].assumes or "")

    def test_a_ratio_needs_a_baseline(self) -> None:
        assert "needs a `baseline`" in refused(RATIO)
        assert "`delta` of `execution_error` needs a `baseline`" in refused(RATIO.replace("ratio: 1.5", "delta: 0.01"))
        missing = "signal: missing_outcome, role: guardrail, "
        assert "takes no `ratio`" in refused(f"{missing}ratio: 1.5", **CONCURRENT)
        assert "takes no `delta`" in refused(f"{missing}delta: 0.1", **CONCURRENT)
        assert "takes no `delta`" in refused("signal: latency_p95, role: guardrail, delta: 0.1", **CONCURRENT)
        assert "not for watch" in refused("signal: undo, role: watch, ratio: 1.5", **CONCURRENT)
        assert "needs `limit`" in refused("signal: undo, role: guardrail", **CONCURRENT)

    def judged(self, gates: GateFile, rows: list[dict[str, Any]]) -> Verdict:
        found = verdicts_on(gates, *rows, watermark=NOON + timedelta(days=2))
        (new,) = (verdict for verdict in found if verdict.inputs.cell.cohort == CELL.cohort)
        return new

    @pytest.mark.slow
    def test_a_limit_and_a_ratio_hold_together(self) -> None:
        both = f"{RATIO}, limit: 0.3, weight: 4"
        gates = gate_file(both, **CONCURRENT)
        assert [(part.bound, part.weight) for part in gates.gates[0].signals] == [("limit", 2.0), ("ratio", 2.0)]
        found = self.judged(gates, self.arms(failed=6, base_failed=2, minutes=60))
        # 30 % keeps no limit of 30 % for certain, and is three times the baseline's 10 %.
        limit, ratio = found.inputs.signals
        assert (limit.unit, limit.state) == ("ratio", "undecided")
        assert (ratio.unit, ratio.state) == ("times", "fail")
        assert found.result.verdict == "ROLL_BACK"
        found = self.judged(gates, self.arms(failed=2, base_failed=2, minutes=999))
        assert [part.state for part in found.inputs.signals] == ["pass", "pass"]

    def test_a_difference_needs_no_failure_in_the_baseline(self) -> None:
        delta = RATIO.replace("ratio: 1.5", "delta: 0.05")
        gates = gate_file(delta, **CONCURRENT)
        found = self.judged(gates, self.arms(failed=3, base_failed=0))
        (part,) = found.inputs.signals
        assert (part.unit, part.limit, part.value, part.state) == ("points", 0.05, pytest.approx(0.15), "fail")
        assert part.lower is not None
        assert part.lower > 0.05
        assert "15 points above the baseline" in found.result.reasons[0].message
        (part,) = self.judged(gates, self.arms(failed=1, base_failed=1)).inputs.signals
        assert part.state == "pass"
        assert part.upper is not None
        assert part.upper < 0.05

    def test_a_quantile_may_be_held_to_a_multiple_of_the_baselines(self) -> None:
        gates = gate_file("signal: latency_p95, role: guardrail, ratio: 1.5", **CONCURRENT)
        slow, quick = np.full(600, 300.0), np.full(600, 100.0)

        def of(latencies: object) -> SignalEvidence:
            rows = [
                a_row(latencies_ms=latencies, **executions(600)),
                a_row(BESIDE, latencies_ms=quick, **executions(600)),
            ]
            (part,) = self.judged(gates, rows).inputs.signals
            return part

        broken, kept = of(slow), of(quick)
        assert (broken.state, broken.unit, broken.limit) == ("fail", "times", 1.5)
        assert broken.value == pytest.approx(3.0, rel=0.03)
        assert broken.lower is not None
        assert 2.9 < broken.lower <= 3.0
        assert (kept.state, kept.value) == ("pass", pytest.approx(1.0, rel=0.03))
        assert "not minute by minute" in (kept.assumes or "")
