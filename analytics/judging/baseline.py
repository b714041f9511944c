"""Comparisons between arms: the minutes of cells of one action side by side, and a cell beside its baseline."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.evidence import histogram
from analytics.evidence.quantile_ratio import Observed
from analytics.evidence.rate_difference import CountedRate, WindowedRate
from analytics.evidence.rate_ratio import Batches, Comparison, history_blocks, match_history
from analytics.evidence.window_ratio import ArmWindows
from analytics.judging.compared import (
    Compared,
    ComparedArms,
    CountedRatio,
    PooledArms,
    QuantileRatio,
    RateDifference,
    WindowedRatio,
)
from analytics.judging.user_windows import WindowCount, measure
from analytics.signals.cells import MINUTE_US, NEVER, ROW
from analytics.signals.definitions import QUANTILES
from analytics.signals.missing_outcomes import MissingOutcomes
from analytics.signals.trials import counted, counters_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from analytics.gates.gate_file import Claim, Gate, GateFile
    from analytics.gates.gate_signal import GateSignal
    from analytics.judging.user_evidence import UserEvidence
    from analytics.signals.state import CellState, EpochRows, Flags
    from producers.wire.receipt import Cell

_Matched = Batches | ArmWindows
_NOTHING: Final = Batches.of(*(np.zeros((0, 1), dtype=np.int64) for _ in range(4)))
_COMPARISONS: Final[Mapping[str, Comparison]] = {"concurrent": "hold_back", "historic": "history"}


class Arms:
    """The cells of some actions, their current epochs and their closed minutes.

    Minutes that are not over by the watermark are left out; the state must hold all minutes of the actions of `epochs`.
    """

    def __init__(
        self, state: CellState, current: EpochRows, epochs: EpochRows, watermark_us: int, gates: GateFile
    ) -> None:
        self.state = state
        self.current = current
        self.watermark_us = watermark_us
        self.deadline_s = gates.outcome_deadline_s
        beside = state.epochs_of_actions(state.cell_of[epochs])
        self._minutes = state.minutes(beside, since_us=NEVER, until_us=watermark_us - MINUTE_US)
        self._of = self._minutes[ROW].to_numpy()
        self._cells: dict[int, list[int]] = defaultdict(list)
        self._epochs: dict[int, list[int]] = defaultdict(list)
        action_of = state.action_of
        for epoch in beside.tolist():
            cell = int(state.cell_of[epoch])
            if cell not in self._epochs:
                self._cells[int(action_of[cell])].append(cell)
            self._epochs[cell].append(epoch)
        self._action_of = action_of

    def cells_beside(self, cell: int) -> list[int]:
        """The cells of a cell's action, itself among them."""
        return self._cells[int(self._action_of[cell])]

    def epochs_of(self, cell: int) -> list[int]:
        """Every epoch of a cell."""
        return self._epochs[cell]

    def are_baselines(self, epochs: EpochRows, gate: Gate) -> Flags:
        """Which of some epochs are of cells that others are compared with."""
        cells = (self.state.cells[cell] for cell in self.state.cell_of[epochs].tolist())
        return np.array([is_baseline(gate, cell) for cell in cells], dtype=np.bool_)

    def minutes(self, epochs: Sequence[int]) -> pl.DataFrame:
        """The closed minutes of some epochs, one row an epoch and minute, by epoch and minute."""
        spans = ((np.searchsorted(self._of, epoch), np.searchsorted(self._of, epoch, "right")) for epoch in epochs)
        return pl.concat([self._minutes.clear(), *(self._minutes[first:last] for first, last in spans)])


def compare(
    arms: Arms, epoch: int, gate: Gate, part: GateSignal, *, users: UserEvidence | None, claim: Claim | None
) -> Compared:
    """Match a cell with its baseline, for a signal of its gate that is held against one.

    By user-windows where `users` are given, else by actions, minute by minute.
    """
    others = _baseline_epochs(arms, epoch, gate)
    comparison = _COMPARISONS[gate.baseline.kind]
    if part.signal in QUANTILES:
        return _compared_quantiles(arms, epoch, others, part, comparison)
    matched: Callable[..., _Matched]
    if users is None:
        matched = _minutes_matched(arms, epoch, others, part, comparison)
    else:
        matched = _windows_matched(users, [epoch], others, part, comparison=comparison, claim=claim)
    ages_s = part.promotion_ages_s(arms.deadline_s)
    # The arms may report at different speeds: only where an execution is overdue does neither seem better for it. Then
    # it is a bad outcome in both, and only what is not known besides is fine or failed by whose it is.
    age_s = max(ages_s) if part.awaits in {"execution", "evaluation", "everything"} and ages_s else 0.0
    seen = matched(age_s, mine_failed=False, theirs_failed=False)
    harm = matched(age_s, mine_failed=False, theirs_failed=True)
    safe = matched(max(ages_s), mine_failed=True, theirs_failed=False, is_promotion=True) if ages_s else _NOTHING
    pooled: PooledArms | None = None
    if (
        users is not None
        and ages_s
        and isinstance(every := matched(max(ages_s), mine_failed=True, theirs_failed=False), ArmWindows)
    ):
        pooled = PooledArms.from_windows(every, gate.correlation, ratio=part.ratio, delta=part.delta)
    return Compared(
        comparison,
        "action" if users is None else "user",
        _arms(harm, part),
        _arms(safe, part),
        _value(seen, part),
        0 if isinstance(seen, Batches) else int(seen.arm(new=True).windows[0]),
        pooled,
    )


def is_baseline(gate: Gate, cell: Cell) -> bool:
    """Whether a cell is what its gate compares others with, and so is compared with nothing itself."""
    if gate.baseline.kind == "none" or cell.stage not in gate.ladder:
        return False
    return gate.below(cell.stage) is None if gate.baseline.cohort is None else cell.cohort == gate.baseline.cohort


def _baseline_epochs(arms: Arms, epoch: int, gate: Gate) -> list[int]:
    """The current epochs of the cells that a cell's gate compares it with."""
    state = arms.state
    own = int(state.cell_of[epoch])
    cell, cohort = state.cells[own], gate.baseline.cohort
    if is_baseline(gate, cell):
        return []
    below = gate.below(cell.stage)
    beside = [
        other
        for other in arms.cells_beside(own)
        if other != own
        and (
            state.cells[other].cohort == cohort
            if cohort is not None
            else (state.cells[other].stage, state.cells[other].cohort) == (below, cell.cohort)
        )
    ]
    return [int(row) for row in arms.current[np.array(beside, dtype=np.intp)]]


def _minutes_matched(
    arms: Arms, epoch: int, others: list[int], part: GateSignal, comparison: Comparison
) -> Callable[..., _Matched]:
    mine, theirs = _summed(arms, [epoch], part), _summed(arms, others, part)
    # The cell's minutes from where on each is known by itself. Actions with a baseline are not rolled up; where the
    # baseline came into the gate file later, failures that came late would lie apart from their rolled hour.
    rolled = mine.filter(pl.col("bucket") % MINUTE_US != 0)["bucket"].max()
    if rolled is not None:
        mine = mine.filter(pl.col("bucket") > rolled)

    def matched(age_s: float, *, mine_failed: bool, theirs_failed: bool, is_promotion: bool = False) -> _Matched:
        """The minutes of an age, and whether what is not reported counts as failed on either side."""
        del is_promotion  # minutes are the same for both
        old = pl.col("bucket") <= arms.watermark_us - round(age_s * 1_000_000) - MINUTE_US
        arm, base = (
            minutes.filter(old).select(
                "bucket", *counted(part.signal, unreported_failed=failed, overdue=pl.col("overdue"))
            )
            for minutes, failed in ((mine, mine_failed), (theirs, theirs_failed))
        )
        return _matched(arm, base, comparison)

    return matched


def _windows_matched(
    users: UserEvidence,
    own: list[int],
    others: list[int],
    part: GateSignal,
    *,
    comparison: Comparison,
    claim: Claim | None,
) -> Callable[..., _Matched]:
    def matched(age_s: float, *, mine_failed: bool, theirs_failed: bool, is_promotion: bool = False) -> _Matched:
        """The user-windows of an age, those of users to come by their first one alone."""
        first_only = is_promotion and claim == "users_to_come"
        arm, base = (
            users.arm(measure(part), WindowCount(age_s, unreported_failed=failed, first_only=first_only), rows)
            for rows, failed in ((own, mine_failed), (others, theirs_failed))
        )
        return match_windows(arm, base, comparison)

    return matched


def match_windows(new: pl.DataFrame, base: pl.DataFrame, comparison: Comparison) -> ArmWindows:
    """Match user-windows (`closed_at`, `m`, `y`, `count`) of two arms: by when they closed, or block by block."""
    periods = [frame.group_by("closed_at").agg(pl.col("count").sum()).sort("closed_at") for frame in (new, base)]
    if comparison == "hold_back":
        closed = pl.concat([period["closed_at"] for period in periods]).unique().sort()
        tables = [pl.DataFrame({"closed_at": closed, "batch": np.arange(closed.len())})] * 2
    else:
        began = periods[0]["closed_at"].min()
        earlier = pl.lit(value=False) if began is None else pl.col("closed_at") < began
        periods[1] = periods[1].filter(earlier)
        trials = [period["count"].to_numpy() for period in periods]
        ends = history_blocks(*trials, share=1.0)
        # What comes after the last whole block, or history that is not needed, is in no batch.
        tables = [
            period.select("closed_at")
            .with_columns(batch=np.searchsorted(end, np.arange(period.height), side="right"))
            .filter(pl.col("batch") < end.size)
            for period, end in zip(periods, ends, strict=True)
        ]
    placed = [frame.join(table, on="closed_at") for frame, table in zip((new, base), tables, strict=True)]
    both = pl.concat(
        [
            frame.select("batch", "m", "y", "count").with_columns(new=arm)
            for arm, frame in zip((1, 0), placed, strict=True)
        ]
    )
    return ArmWindows.of(*(both[name].to_numpy() for name in ("batch", "new", "m", "y", "count")))


def _arms(matched: _Matched, part: GateSignal) -> ComparedArms:
    if part.delta is not None:
        new, base = _rates(matched)
        return RateDifference(new, base, part.delta)
    ratio = part.ratio or 1.0
    return CountedRatio(matched, ratio) if isinstance(matched, Batches) else WindowedRatio(matched, ratio)


def _rates(matched: _Matched) -> tuple[CountedRate, CountedRate] | tuple[WindowedRate, WindowedRate]:
    """The rates of both arms over what is matched."""
    if isinstance(matched, Batches):
        x1, n1, x0, n0 = (
            float(counts.sum())
            for counts in (matched.failures, matched.trials, matched.base_failures, matched.base_trials)
        )
        return CountedRate(x1, n1), CountedRate(x0, n0)
    return WindowedRate(matched.arm(new=True)), WindowedRate(matched.arm(new=False))


def _value(matched: _Matched, part: GateSignal) -> float | None:
    """The ratio, or the difference, of the rates as seen."""
    new, base = (rate.counted if isinstance(rate, WindowedRate) else rate for rate in _rates(matched))
    if not new.trials or not base.trials:
        return None
    if part.delta is not None:
        return new.failures / new.trials - base.failures / base.trials
    return (new.failures / new.trials) / (base.failures / base.trials) if base.failures else None


def _compared_quantiles(
    arms: Arms, epoch: int, others: list[int], part: GateSignal, comparison: Comparison
) -> Compared:
    """The histograms of both arms' current epochs: they are not kept by minute, so nothing is matched in time."""
    state, quantile = arms.state, QUANTILES[part.signal]
    rows = np.array([epoch, *others], dtype=np.intp)
    bins = state.histograms(quantile.source, rows)
    executed, expected = state.counter("executed"), state.counter("expected")

    def observed(of: list[int]) -> Observed:
        counts = np.zeros(histogram.BIN_COUNT, dtype=np.int64)
        for row in of:
            if row in bins:
                np.add.at(counts, bins[row][0], bins[row][1])
        due = int(np.maximum(expected[of], executed[of]).sum()) if of else 0
        return Observed(counts, max(due - int(counts.sum()), 0))

    new, base = observed([epoch]), observed(others)
    both = QuantileRatio(new, base, part.ratio or 1.0, quantile.tail)
    values = [
        histogram.quantile(np.flatnonzero(arm.counts), arm.counts[arm.counts > 0], quantile.q) for arm in (new, base)
    ]
    value = None if values[0] is None or values[1] is None else values[0] / values[1]
    return Compared(comparison, "action", both, both, value, remark="compares whole epochs, not minute by minute")


def _summed(arms: Arms, epochs: list[int], part: GateSignal) -> pl.DataFrame:
    """The minutes of some epochs together: `bucket`, the counters of a rate, and the executions that are `overdue`."""
    minutes = arms.minutes(epochs)
    each, nothing = np.arange(minutes.height, dtype=np.uint32), np.zeros(minutes.height, dtype=np.int64)
    numbered = minutes.with_columns(pl.Series(ROW, each))
    deadline_us = round(arms.deadline_s * 1_000_000)
    overdue = MissingOutcomes.from_minutes(numbered, nothing, arms.watermark_us, deadline_us).missing
    columns = pl.col(*counters_of(part.signal), "overdue").sum()
    return minutes.with_columns(pl.Series("overdue", overdue)).group_by("bucket").agg(columns).sort("bucket")


def _matched(new: pl.DataFrame, base: pl.DataFrame, comparison: Comparison) -> Batches:
    if comparison == "history":
        # What was decided before this epoch began; a minute may be the cell's or its history's, never both.
        began = new["bucket"].min()
        earlier = base.filter(pl.col("bucket") < began) if began is not None else base.clear()
        return match_history(*(frame[name].to_numpy() for frame in (new, earlier) for name in ("x", "n")), share=1.0)
    both = new.join(base, on="bucket", how="inner", suffix="0").sort("bucket")
    return Batches.of(*(both[name].to_numpy()[:, np.newaxis] for name in ("x", "n", "x0", "n0")))
