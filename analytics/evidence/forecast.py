"""Forecasts: how many trials pass until evidence is there, computed and not drawn.

The evidence of a rate grows only with a failure where it speaks of harm. So the trials up to which x failures are harm
(`last_trials_of_harm`) are a boundary, and harm is not yet evident exactly while the failures stay below it. Their
distribution is carried from one step of the boundary to the next, and what reaches it is taken out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.evidence.sequential import CROSSING_SLACK, FloatArray, log_e_value

if TYPE_CHECKING:
    import numpy.typing as npt

_MOST_FAILURES: Final = 400
_HALF: Final = 0.5


def last_trials_of_harm(failures: npt.ArrayLike, threshold: float, *, alpha: float) -> FloatArray:
    """The most trials among which so many failures are evident harm; one less than the failures where none are."""
    x = np.asarray(failures, dtype=np.float64)
    # With as many failures as the threshold means, nothing speaks of harm; it holds for fewer trials, and never again.
    low, high = x - 1.0, np.ceil(x / threshold)
    bar = -np.log(alpha) - CROSSING_SLACK
    while np.any(high - low > 1.0):
        probe = np.floor((low + high) / 2.0)
        held = log_e_value(x, np.maximum(probe, x), threshold, direction="above") >= bar
        low, high = np.where(held & (high - low > 1.0), probe, low), np.where(held, high, probe)
    return low


def median_trials_to_harm(rate: float, threshold: float, *, alpha: float) -> int | None:
    """The trials by which half of all streams of independent trials that fail at a rate have shown harm.

    Exact but for rounding; `tests/unit/test_forecast.py` checks it against drawn streams. None where that takes more
    than 400 failures, or the rate is within the threshold.
    """
    if rate <= threshold:
        return None
    alive, seen = np.ones(1), 0
    for x, last in enumerate(last_trials_of_harm(np.arange(1, _MOST_FAILURES + 1), threshold, alpha=alpha), start=1):
        if last < x:
            alive = np.append(alive, 0.0)
            continue
        # Up to this trial x failures are harm, so those with fewer are left.
        low, high = seen, int(last)
        if _after(alive, high - seen, rate)[:x].sum() > _HALF:
            alive, seen = np.append(_after(alive, high - seen, rate)[:x], 0.0), high
            continue
        while high - low > 1:
            middle = (low + high) // 2
            is_over = _after(alive, middle - seen, rate)[:x].sum() <= _HALF
            low, high = (low, middle) if is_over else (middle, high)
        return high
    return None


def _after(distribution: FloatArray, trials: int, rate: float) -> FloatArray:
    """The distribution of failures after more trials, as far as it went before."""
    size = distribution.size
    if not trials:
        return distribution
    step = np.arange(size - 1)
    factors = np.maximum(trials - step, 0) / (step + 1.0) * (rate / (1.0 - rate))
    chances = np.exp(trials * np.log1p(-rate)) * np.append(1.0, np.cumprod(factors))
    return np.asarray(np.convolve(distribution, chances)[:size])
