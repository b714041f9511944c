"""The difference of two arms' rates: is the new arm's failure rate more than a margin above the baseline's?

Each arm is bounded by itself at half the level, and the difference of the bounds is one of the rates: harm where
L1 - U0 reaches the margin, safety where U1 - L0 is within it. As evidence, with E the e-values of `sequential`, or of
`clustered_rate` by user,

    E_harm = min over p of max(E_new(above p + margin), E_base(below p)) / 2,

which is at most the mean of two e-values where p is the baseline's own rate, and crosses where the bounds do. It speaks
of both arms' running averages over the same stretch of time; unlike a ratio it needs no failure in the baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.evidence.forecast import least_growth
from analytics.evidence.sequential import crosses, log_e_value, lower_bound, upper_bound

if TYPE_CHECKING:
    from analytics.evidence.clustered_rate import UserWindows
    from analytics.evidence.sequential import Direction

_HALVINGS: Final = 45
_LONGEST: Final = 2.0**30


@dataclass(frozen=True)
class CountedRate:
    """Failures among actions of one arm; fractions are allowed."""

    failures: float
    trials: float

    def log_e(self, threshold: float, direction: Direction) -> float:
        """The evidence that the rate is above, or below, a threshold."""
        return float(log_e_value(self.failures, self.trials, threshold, direction=direction))

    def lower(self, alpha: float) -> float:
        """The lower bound of the rate."""
        return float(lower_bound(self.failures, self.trials, alpha=alpha))

    def upper(self, alpha: float) -> float:
        """The upper bound of the rate."""
        return float(upper_bound(self.failures, self.trials, alpha=alpha))


@dataclass(frozen=True)
class WindowedRate:
    """User-windows of one arm, as those of one cell."""

    windows: UserWindows

    def log_e(self, threshold: float, direction: Direction) -> float:
        """The evidence that the rate is above, or below, a threshold."""
        return float(self.windows.log_e_value(threshold, direction=direction)[0])

    def lower(self, alpha: float) -> float:
        """The lower bound of the rate."""
        return float(self.windows.lower_bound(alpha=alpha)[0])

    def upper(self, alpha: float) -> float:
        """The upper bound of the rate."""
        return float(self.windows.upper_bound(alpha=alpha)[0])

    @property
    def counted(self) -> CountedRate:
        """As many trials as windows, that fail at the average share."""
        count = float(self.windows.windows[0])
        share = float(self.windows.value[0]) if count else 0.0
        return CountedRate(min(share * count, count), count)


ArmRate = CountedRate | WindowedRate


def difference_log_e(new: ArmRate, base: ArmRate, margin: float, direction: Direction) -> float:
    """Weigh two arms as evidence that the difference of their rates is above, or below, a margin in [0, 1).

    Gives a natural logarithm.
    """
    other: Direction = "below" if direction == "above" else "above"
    low, high = 0.0, 1.0 - margin
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        of_new, of_base = new.log_e(middle + margin, direction), base.log_e(middle, other)
        # The new arm's evidence "above" falls with the base rate, and its evidence "below" rises.
        falls = of_new if direction == "above" else of_base
        low, high = (middle, high) if falls >= max(of_new, of_base) else (low, middle)
    middle = (low + high) / 2
    return max(new.log_e(middle + margin, direction), base.log_e(middle, other)) - float(np.log(2.0))


def difference_bounds(new: ArmRate, base: ArmRate, *, alpha: float, beta: float) -> tuple[float, float]:
    """Bound the difference of the rates from below at alpha and from above at beta, each arm at half of it."""
    return new.lower(alpha / 2) - base.upper(alpha / 2), new.upper(beta / 2) - base.lower(beta / 2)


def growth_to_decision(
    new: CountedRate, base: CountedRate, margin: float, direction: Direction, *, alpha: float
) -> float:
    """Forecast by which factor all counts must grow, at the rates seen so far, to decide; infinity where never."""

    def decides(factor: float) -> bool:
        ours, theirs = (CountedRate(rate.failures * factor, rate.trials * factor) for rate in (new, base))
        return bool(crosses(difference_log_e(ours, theirs, margin, direction), alpha))

    return least_growth(decides, longest=_LONGEST) if new.trials and base.trials else float("inf")
