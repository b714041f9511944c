"""Forecasts: how many trials pass until evidence is there, computed and not drawn.

The evidence of a rate grows only with a failure where it speaks of harm. So the trials up to which x failures are harm
(`last_trials_of_harm`) are a boundary, and harm is not yet evident exactly while the failures stay below it. Their
distribution is carried from one step of the boundary to the next, and what reaches it is taken out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.evidence.sequential import CROSSING_SLACK, BoolArray, CellArray, FloatArray, log_e_value, smallest_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

_MOST_FAILURES: Final = 400
_HALF: Final = 0.5
_FAILURES_AHEAD: Final = 100.0  # as many as the limit allows within a horizon, at the most
_NEGLIGIBLE: Final = 1e-7
_NOTHING: Final = 1e-10


def last_trials_of_harm(failures: npt.ArrayLike, threshold: float, *, alpha: float) -> FloatArray:
    """The most trials among which so many failures are evident harm; one less than the failures where none are."""
    x = np.asarray(failures, dtype=np.float64)
    bar = -np.log(alpha) - CROSSING_SLACK

    def is_over(cells: CellArray, trials: FloatArray) -> BoolArray:
        return np.asarray(log_e_value(x[cells], trials, threshold, direction="above") < bar)

    # With as many failures as the threshold means, nothing speaks of harm; it holds for fewer trials, and never again.
    return smallest_whole(is_over, x - 1.0, np.ceil(x / threshold)) - 1.0


def least_growth(decides: Callable[[float], bool], *, longest: float, precision: float = 1e-12) -> float:
    """The factor by which counts must grow to decide: 1 where they do already, infinity where `longest` is too short.

    `decides` says whether counts that have grown by a factor do; the factor is found to a relative precision.
    """
    if decides(1.0):
        return 1.0
    if not decides(longest):
        return math.inf
    low, high = 1.0, longest
    while high / low > 1.0 + precision:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


def median_trials_to_harm(rate: float, threshold: float, *, alpha: float) -> int | None:
    """The trials by which half of all streams of independent trials that fail at a rate have shown harm.

    Exact but for rounding; `tests/unit/test_forecast.py` checks it against drawn streams. None where that takes more
    than 400 failures, or the rate is within the threshold.
    """
    if rate <= threshold:
        return None
    alive, seen, at = np.ones((1, 1)), 0, np.array([rate])
    for x, last in enumerate(last_trials_of_harm(np.arange(1, _MOST_FAILURES + 1), threshold, alpha=alpha), start=1):
        if last < x:
            alive = np.append(alive, [[0.0]], axis=1)
            continue
        # Up to this trial x failures are harm, so those with fewer are left.
        low, high = seen, int(last)
        left = _after(alive, high - seen, at)[:, :x]
        if left.sum() > _HALF:
            alive, seen = np.append(left, [[0.0]], axis=1), high
            continue
        while high - low > 1:
            middle = (low + high) // 2
            is_over = _after(alive, middle - seen, at)[:, :x].sum() <= _HALF
            low, high = (low, middle) if is_over else (middle, high)
        return high
    return None


@dataclass(frozen=True)
class SafetyForecast:
    """When safety may be shown, over the rates that what was seen leaves likely; the rate itself is not known."""

    horizon: int  # more trials that it looks ahead
    within: float  # the probability that safety is shown by then
    early: int | None  # more trials by which one in ten such actions has shown it; None beyond the horizon
    late: int | None  # and nine in ten


def first_trials_of_safety(failures: npt.ArrayLike, threshold: float, *, beta: float, most: int) -> FloatArray:
    """The fewest trials among which so many failures are evident safety; infinity where that takes more than a most."""
    x = np.asarray(failures, dtype=np.float64)
    bar = -np.log(beta) - CROSSING_SLACK

    def is_safe(cells: CellArray, trials: FloatArray) -> BoolArray:
        return np.asarray(log_e_value(x[cells], trials, threshold, direction="below") >= bar)

    least = smallest_whole(is_safe, x - 1.0, np.full_like(x, most + 1.0))
    return np.where(least > most, np.inf, least)


@lru_cache(maxsize=4_096)
def forecast_safety(failures: int, trials: int, threshold: float, *, beta: float) -> SafetyForecast:
    """Say when so many failures among so many trials may turn into evident safety.

    Section 9 of the design, without random numbers: rates p = threshold * 10^((i - 80) / 40) for i from 0 to 120 have
    weights p^(x + 1/2) (1 - p)^(n - x + 1/threshold - 1). For each the failures are carried by a binomial from one
    least number of trials (`first_trials_of_safety`) to the next; those that are few enough there are safe. The golden
    numbers stand in `tests/unit/test_forecast.py`. By user, trials are user-windows and failures their shares added up.
    """
    far = _FAILURES_AHEAD / threshold
    tens = 10 ** int(np.floor(np.log10(far)))
    horizon = max(leading * tens for leading in (1, 2, 5) if leading * tens <= far * (1 + 1e-9))
    rates = threshold * 10.0 ** ((np.arange(121) - 80.0) / 40.0)
    rates = rates[rates < 1.0]
    log_weights = (failures + 0.5) * np.log(rates) + (trials - failures + 1.0 / threshold - 1.0) * np.log1p(-rates)
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    rates, weights = rates[weights > _NEGLIGIBLE], weights[weights > _NEGLIGIBLE]
    ahead = np.arange(failures, int(threshold * (trials + horizon)) + 1)
    firsts = first_trials_of_safety(ahead, threshold, beta=beta, most=trials + horizon)
    firsts = firsts[np.isfinite(firsts)]
    # One row a rate: how likely each number of further failures is, of those that are not safe yet.
    alive = np.zeros((rates.size, firsts.size))
    alive[:, :1] = weights[:, np.newaxis]
    shown, seen, passed = [], trials, 0.0
    for first in firsts:
        step, seen = max(int(first) - seen, 0), max(int(first), seen)
        alive = _after(alive, step, rates)
        # The first column is of those with as many failures as are safe now, since fewer have left before.
        passed += float(alive[:, 0].sum())
        alive = alive[:, 1:]
        shown.append((seen - trials, passed))
    quantiles = (next((ahead for ahead, share in shown if share >= level), None) for level in (0.1, 0.9))
    return SafetyForecast(horizon, passed, *quantiles)


def _after(distributions: FloatArray, trials: int, rates: FloatArray) -> FloatArray:
    """The distribution of failures at each rate (rows) after more trials, as far as it went before."""
    size = distributions.shape[1]
    if not trials:
        return distributions
    gains, odds = np.arange(size - 1), (rates / (1.0 - rates))[:, np.newaxis]
    ratios = np.maximum(trials - gains, 0) / (gains + 1.0) * odds
    start = np.exp(trials * np.log1p(-rates))[:, np.newaxis]
    chances = start * np.hstack([np.ones_like(start), np.cumprod(ratios, axis=1)])
    after = np.zeros_like(distributions)
    for gain in np.flatnonzero(chances.max(axis=0) > _NOTHING):
        after[:, gain:] += chances[:, gain, np.newaxis] * distributions[:, : size - gain]
    return after
