"""Comparisons between arms: the minutes of cells of one action side by side, and a cell beside its baseline."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.evidence.rate_ratio import Batches, Comparison, match_history
from analytics.signals.cells import ROW
from analytics.signals.state import MINUTE_US, NEVER, CellState, EpochRows
from analytics.signals.trials import counted, counters_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from analytics.gates.gate_file import Gate
    from analytics.gates.gate_signal import GateSignal

_NOTHING: Final = Batches.of(*(np.zeros((0, 1), dtype=np.int64) for _ in range(4)))
_COMPARISONS: Final[Mapping[str, Comparison]] = {"concurrent": "hold_back", "historic": "history"}


class Arms:
    """The cells of some actions, their current epochs and their closed minutes.

    Minutes that are not over by the watermark are left out; the state must hold all minutes of the actions of `epochs`.
    """

    def __init__(
        self, state: CellState, current: EpochRows, epochs: EpochRows, watermark_us: int, deadline_s: float
    ) -> None:
        self.state = state
        self.current = current
        self.watermark_us = watermark_us
        self.deadline_s = deadline_s
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
    mine, theirs = _summed(arms.minutes([epoch]), part), _summed(arms.minutes(others), part)
    # The cell's minutes from where on each is known by itself. Actions with a baseline are not rolled up; where the
    # baseline came into the gate file later, failures that came late would lie apart from their rolled hour.
    rolled = mine.filter(pl.col("bucket") % MINUTE_US != 0)["bucket"].max()
    if rolled is not None:
        mine = mine.filter(pl.col("bucket") > rolled)
    comparison = _COMPARISONS[gate.baseline.kind]
    ages_s = part.promotion_ages_s(arms.deadline_s)

    def matched(age_s: float, *, mine_failed: bool, theirs_failed: bool) -> Batches:
        """The minutes of an age, and whether what is overdue counts as failed on either side."""
        old = pl.col("bucket") <= arms.watermark_us - round(age_s * 1_000_000) - MINUTE_US
        arm, base = (
            minutes.filter(old).select("bucket", *counted(part.signal, unreported_failed=failed))
            for minutes, failed in ((mine, mine_failed), (theirs, theirs_failed))
        )
        return _matched(arm, base, comparison)

    # The arms may report at different speeds: only where an execution is overdue does neither seem better for it.
    age_s = max(ages_s) if part.awaits in {"execution", "evaluation"} and ages_s else 0.0
    return Compared(
        comparison,
        matched(age_s, mine_failed=False, theirs_failed=True),
        matched(max(ages_s), mine_failed=True, theirs_failed=False) if ages_s else _NOTHING,
        _value(matched(age_s, mine_failed=False, theirs_failed=False)),
    )


def _summed(minutes: pl.DataFrame, part: GateSignal) -> pl.DataFrame:
    return minutes.group_by("bucket").agg(pl.col(counters_of(part.signal)).sum()).sort("bucket")


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
