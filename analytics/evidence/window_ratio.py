"""A new arm against a baseline by user: is the average user-window's failed share more, or less, than a multiple?

As in `rate_ratio`, with user-windows for actions. A batch is a stretch of time in which both arms had user-windows: n1
of the new arm with failed shares Z, n0 of the baseline. With q = r n1 / (r n1 + n0) and D = 1 + (omega - 1) q a bet
multiplies the evidence by prod_new (1 + (omega / D - 1) Z) prod_base (1 + (1 / D - 1) Z).

With a mean share of p0 in the baseline and p1 = r p0 its expectation is at most
exp(p0 (omega - 1) (r n1 (1 - q) - n0 q) / D) = 1, and it only falls as p1 moves to the side that makes the claim false.
Inside a window actions may depend on each other in any way, and the base rate may drift from batch to batch. With one
action a window it is the evidence of `rate_ratio`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.evidence.clustered_rate import UserWindows
from analytics.evidence.errors import EvidenceError
from analytics.evidence.forecast import least_growth
from analytics.evidence.mixture import IntArray, average, bets, failures_among, whole
from analytics.evidence.rate_ratio import Batches
from analytics.evidence.sequential import crosses

if TYPE_CHECKING:
    import numpy.typing as npt

    from analytics.evidence.sequential import BoolArray, Direction, FloatArray

_WIDEST: Final = 2.0**20
_HALVINGS: Final = 40
_GROWTH: Final = 2.0**40


@dataclass(frozen=True, eq=False)
class ArmWindows:
    """User-windows of both arms of one cell, those of batches in which both arms acted. Arrays of shape (rows,)."""

    batch: IntArray  # the batch of each row, counted from 0
    is_new: BoolArray  # whether it is of the new arm
    actions: IntArray  # m, at least 1
    failures: IntArray  # y
    count: IntArray  # how many windows have that m and y

    @classmethod
    def of(
        cls,
        batch: npt.ArrayLike,
        is_new: npt.ArrayLike,
        actions: npt.ArrayLike,
        failures: npt.ArrayLike,
        count: npt.ArrayLike = 1,
    ) -> ArmWindows:
        """Windows in any order; those of batches with one arm alone say nothing and are left out.

        Raises `EvidenceError` where counts are impossible.
        """
        y, m = failures_among(failures, actions)
        if np.any(m == 0):
            raise EvidenceError("a user-window holds at least one action")
        rows = np.broadcast_arrays(
            *np.atleast_1d(whole(batch, "batches"), np.asarray(is_new, dtype=np.int64), m, y, count)
        )
        where, new, m, y, times = (row.astype(np.int64) for row in rows)
        both = np.intersect1d(where[new == 1], where[new == 0])
        kept = np.isin(where, both) & (times > 0)
        order = np.lexsort((y[kept], m[kept], new[kept], where[kept]))
        where, new, m, y, times = (row[kept][order] for row in (where, new, m, y, times))
        return cls(np.searchsorted(both, where), new == 1, m, y, times)

    def arm(self, *, new: bool) -> UserWindows:
        """The windows of one arm, as those of one cell."""
        own = self.is_new == new
        columns = {"actions": self.actions[own], "failures": self.failures[own], "count": self.count[own]}
        return UserWindows.of(1, cell=np.zeros(int(own.sum()), dtype=np.int64), **columns)

    def pooled(self) -> Batches:
        """All actions of both arms together, batch by batch."""
        own = [(side, counts * self.count) for side in self._arms for counts in (self.failures, self.actions)]
        batches = int(self.batch.max(initial=-1)) + 1
        sums = (np.bincount(self.batch[side], weights=counts[side], minlength=batches) for side, counts in own)
        return Batches.of(*(total.astype(np.int64)[:, np.newaxis] for total in sums))

    def log_e(self, ratio: float, direction: Direction) -> float:
        """Weigh the windows as evidence that the new arm's rate is above, or below, a multiple of the baseline's.

        Gives the natural logarithm of the e-value; 0 where no batch has both arms.
        """
        return float(average(self._log_wealth(ratio, direction))[0])

    def growth_to_decision(self, ratio: float, direction: Direction, *, alpha: float) -> float:
        """Forecast by which factor the windows must grow to decide; infinity where these rates never do."""
        wealth = self._log_wealth(ratio, direction)
        return least_growth(lambda factor: bool(crosses(average(wealth * factor), alpha).all()), longest=_GROWTH)

    def bounds(self, *, alpha: float, beta: float) -> tuple[float, float]:
        """Bound the ratio of the rates from below at alpha, and from above at beta: the evidence turned around."""
        return self._last_excluded("above", alpha), self._last_excluded("below", beta)

    def _last_excluded(self, direction: Direction, level: float) -> float:
        """The excluded ratio nearest to the data; 0 or infinity where nothing within a factor of a million is."""
        end = -1.0 if direction == "above" else 1.0
        inside, outside = end * np.log2(_WIDEST), -end * np.log2(_WIDEST)
        if not crosses(self.log_e(float(np.exp2(inside)), direction), level):
            return 0.0 if direction == "above" else float("inf")
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            hit = bool(crosses(self.log_e(float(np.exp2(middle)), direction), level))
            inside, outside = (middle, outside) if hit else (inside, middle)
        return float(np.exp2(inside))

    def _log_wealth(self, ratio: float, direction: Direction) -> FloatArray:
        """Of each bet. Shape (8, 1)."""
        if not self.batch.size:
            return np.zeros((len(bets(direction)), 1))
        batches = int(self.batch.max()) + 1
        new, base = (np.bincount(self.batch, weights=self.count * own, minlength=batches) for own in self._arms)
        q = (ratio * new / (ratio * new + base))[self.batch]
        total = 1.0 + (bets(direction) - 1.0) * q
        gain = np.where(self.is_new, bets(direction), 1.0) / total - 1.0
        won = np.log1p(gain * (self.failures / self.actions)) * self.count
        # Row by row in the table's order, which is what makes the sum reproducible.
        return np.asarray([[np.add.accumulate(row)[-1]] for row in won])

    @property
    def _arms(self) -> tuple[BoolArray, BoolArray]:
        return self.is_new, ~self.is_new
