"""A new arm's quantile of latency or cost against a multiple of the baseline's, from the histograms of both.

A quantile is at most T if and only if at most the share `tail` lies above T. So each arm is bounded by rates, at half
the level each, on the bounds B of the histogram. With E the e-values of `sequential` for the share above a bound,

    E_harm = min over j of max(E_new(above; over the first bound from r B[j] on), E_base(below; over B[j - 1])) / 2

where the baseline's quantile is taken to lie in bin j: if the new one is at most r times that, either evidence is at
most one on average. A bin is at most 2 % wide, and always rounded against the claim. Safety likewise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.evidence.histogram import BIN_COUNT, BOUNDS
from analytics.evidence.sequential import crosses, log_e_value

if TYPE_CHECKING:
    from analytics.evidence.histogram import IntArray
    from analytics.evidence.sequential import Direction, FloatArray

_NOTHING: Final = np.array([-np.inf])
_LEAST: Final = -1e6  # of evidence: where a multiple lies outside the histogram nothing is shown


@dataclass(frozen=True, eq=False)
class Observed:
    """A histogram of one arm, and how many values are not known."""

    counts: IntArray  # how many values lie in each bin. Shape (BIN_COUNT,)
    unreported: int = 0

    def over_bounds(self, tail: float, direction: Direction) -> FloatArray:
        """Evidence that more, or less, than a share lies above each bound; what is not known is against it."""
        above = self.counts[::-1].cumsum()[::-1][1:]
        trials = int(self.counts.sum()) + self.unreported
        over = above if direction == "above" else above + self.unreported
        return log_e_value(over, np.full(over.shape, trials), tail, direction=direction)

    def grown(self, factor: float) -> Observed:
        """As many times the values."""
        return Observed(np.round(self.counts * factor).astype(np.int64), round(self.unreported * factor))


def quantile_ratio_log_e(new: Observed, base: Observed, ratio: float, tail: float, direction: Direction) -> float:
    """Weigh two arms as evidence that the new one's quantile is above, or below, `ratio` times the baseline's."""
    other: Direction = "below" if direction == "above" else "above"
    of_new = np.concatenate([_NOTHING, new.over_bounds(tail, direction), _NOTHING])
    of_base = np.concatenate([_NOTHING, base.over_bounds(tail, other), _NOTHING])
    # The baseline's quantile lies in bin j, from B[j - 1] (exclusive) to B[j]; index j is B[j - 1] in these arrays.
    edges = BOUNDS * ratio
    if direction == "above":
        first = np.searchsorted(BOUNDS, edges, side="left") + 1
        worst = np.maximum(of_new[np.append(first, BIN_COUNT)], of_base[:BIN_COUNT])
    else:
        last = np.searchsorted(BOUNDS, edges, side="right")
        worst = np.maximum(of_new[np.append(0, last)], of_base[1:])
    return max(float(worst.min()), _LEAST) - float(np.log(2.0))


def quantile_ratio_bounds(
    new: Observed, base: Observed, tail: float, *, alpha: float, beta: float
) -> tuple[float | None, float | None]:
    """Bound the ratio of the quantiles from below at alpha and from above at beta; None where nothing is known."""
    return (
        _over(_largest(new, tail, alpha / 2), _smallest(base, tail, alpha / 2)),
        _over(_smallest(new, tail, beta / 2), _largest(base, tail, beta / 2)),
    )


def _largest(arm: Observed, tail: float, level: float) -> float | None:
    """The largest bound that the quantile evidently lies above."""
    broken = np.flatnonzero(crosses(arm.over_bounds(tail, "above"), level))
    return float(BOUNDS[broken[-1]]) if broken.size else None


def _smallest(arm: Observed, tail: float, level: float) -> float | None:
    """The smallest bound that the quantile evidently is within."""
    kept = np.flatnonzero(crosses(arm.over_bounds(tail, "below"), level))
    return float(BOUNDS[kept[0]]) if kept.size else None


def _over(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one / other
