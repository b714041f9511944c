"""Comparisons between arms: the minutes of cells of one action side by side, and a cell beside its baseline."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.evidence.rate_ratio import Batches, Comparison, match_history
from analytics.signals.definitions import RATES
from analytics.signals.state import MINUTE_US, NEVER, ROW

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from analytics.gates.gate_file import Gate
    from analytics.gates.gate_signal import GateSignal
    from analytics.signals.state import CellState, EpochRows

_COMPARISONS: Final[Mapping[str, Comparison]] = {"concurrent": "hold_back", "historic": "history"}


class Arms:
    """The cells of some actions, their current epochs and their closed minutes.

    Minutes that are not over by the watermark are left out; the state must hold all minutes of the actions of `epochs`.
    """

    def __init__(self, state: CellState, current: EpochRows, epochs: EpochRows, watermark_us: int) -> None:
        self.state = state
        self.current = current
        self.watermark_us = watermark_us
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

    def minutes(self, epochs: Sequence[int]) -> pl.DataFrame:
        """The closed minutes of some epochs, one row an epoch and minute, by epoch and minute."""
        spans = ((np.searchsorted(self._of, epoch), np.searchsorted(self._of, epoch, "right")) for epoch in epochs)
        return pl.concat([self._minutes.clear(), *(self._minutes[first:last] for first, last in spans)])


@dataclass(frozen=True, slots=True)
class Compared:
    """The counts of a cell and of its baseline in one signal."""

    comparison: Comparison  # what the baseline is
    batches: Batches  # every closed batch
    mature: Batches  # those that a promotion may count
    value: float | None  # the cell's rate as a multiple of the baseline's; None where the baseline has no failure


def compare(arms: Arms, epoch: int, gate: Gate, part: GateSignal) -> Compared:
    """Match a cell's minutes with those of its baseline, for a signal of its gate that states a ratio."""
    state = arms.state
    own = int(state.cell_of[epoch])
    cell, cohort = state.cells[own], gate.baseline.cohort
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
    others = arms.current[np.array(beside, dtype=np.intp)].tolist()
    mine, theirs = _counted(arms.minutes([epoch]), part), _counted(arms.minutes(others), part)
    # The cell's minutes from where on each is known by itself. Actions with a baseline are not rolled up; where the
    # baseline came into the gate file later, failures that came late would lie apart from their rolled hour.
    rolled = mine.filter(pl.col("bucket") % MINUTE_US != 0)["bucket"].max()
    if rolled is not None:
        mine = mine.filter(pl.col("bucket") > rolled)
    comparison = _COMPARISONS[gate.baseline.kind]
    old = pl.col("bucket") <= arms.watermark_us - round((part.maturity or 0.0) * 1_000_000) - MINUTE_US
    batches = _matched(mine, theirs, comparison)
    return Compared(comparison, batches, _matched(mine.filter(old), theirs.filter(old), comparison), _value(batches))


def _counted(minutes: pl.DataFrame, part: GateSignal) -> pl.DataFrame:
    """Failures `x` and trials `n` by `bucket`."""
    rate = RATES[part.signal]
    return (
        minutes.group_by("bucket")
        .agg(pl.col(sorted({*rate.failures, *rate.trials})).sum())
        .sort("bucket")
        .select(
            "bucket",
            pl.min_horizontal(pl.sum_horizontal(rate.failures), pl.sum_horizontal(rate.trials)).alias("x"),
            pl.sum_horizontal(rate.trials).alias("n"),
        )
    )


def _matched(new: pl.DataFrame, base: pl.DataFrame, comparison: Comparison) -> Batches:
    if comparison == "history":
        # What was decided before this epoch began; a minute may be the cell's or its history's, never both.
        began = new["bucket"].min()
        earlier = base.filter(pl.col("bucket") < began) if began is not None else base.clear()
        return match_history(*(frame[name].to_numpy() for frame in (new, earlier) for name in ("x", "n")), share=1.0)
    both = new.join(base, on="bucket", how="inner", suffix="0").sort("bucket")
    return Batches.of(*(both[name].to_numpy()[:, np.newaxis] for name in ("x", "n", "x0", "n0")))


def _value(batches: Batches) -> float | None:
    x1, n1, x0, n0 = (
        int(counts.sum()) for counts in (batches.failures, batches.trials, batches.base_failures, batches.base_trials)
    )
    return (x1 / n1) / (x0 / n0) if n1 and x0 else None
