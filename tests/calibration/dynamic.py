"""Exact crossing probabilities of a sequential rule on independent trials: no simulation, no tolerance for luck.

A rule that looks at the counts after every trial stops at trial n exactly when the failures reach a critical number
(or fall to it). So the law of the failures among runs still going is a vector that one trial shifts and one look
truncates, and what the looks cut off is the crossing probability.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Callable

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Side: TypeAlias = Literal["many", "few"]

# The failures of a run outside this tail are pooled in one last state: an error far below any figure checked here.
_TAIL = 1e-18


def critical_failures(stops: Callable[[IntArray, IntArray], BoolArray], looks: int, *, side: Side) -> IntArray:
    """Find, for every look, the failures at which a rule stops.

    Args:
        stops: The rule: failures and trials, equally shaped, to whether it stops. It must be monotone in failures.
        looks: The last trial, counted from 1.
        side: "many" if more failures stop it, "few" if fewer do.

    Returns:
        Shape (looks,): the smallest number of failures that stops ("many", n + 1 if none), or the largest ("few", -1
        if none).
    """
    n = np.arange(1, looks + 1, dtype=np.int64)
    low, high = np.full_like(n, -1), n + 1
    while np.any(high - low > 1):
        middle = (low + high) // 2
        inside = np.clip(middle, 0, n)
        upper_half = stops(inside, n) if side == "many" else ~stops(inside, n)
        open_ = high - low > 1
        high = np.where(open_ & upper_half, middle, high)
        low = np.where(open_ & ~upper_half, middle, low)
    return high if side == "many" else low


def crossing_curve(critical: IntArray, rate: float, *, side: Side) -> FloatArray:
    """Propagate the law of the failures, absorbing whatever a look stops.

    Args:
        critical: The failures that stop each look, as `critical_failures` gives them. Shape (looks,).
        rate: The true failure rate, a ratio.
        side: As in `critical_failures`.

    Returns:
        The probability of having stopped by each look. Shape (looks,).
    """
    looks = critical.size
    going = np.zeros(int(stats.binom.isf(_TAIL, looks, rate)) + 2)
    going[0] = 1.0
    stopped = np.empty(looks)
    for look, limit in enumerate(critical):
        failed = going * rate
        going -= failed
        going[1:] += failed[:-1]
        going[-1] += failed[-1]
        cut = slice(int(limit), None) if side == "many" else slice(0, int(limit) + 1)
        stopped[look] = going[cut].sum()
        going[cut] = 0.0
    return np.cumsum(stopped)


def median_look(curve: FloatArray) -> int:
    """Give the first look by which at least half of the runs have stopped, counted from 1."""
    if curve[-1] < 0.5:
        raise ValueError(f"only {curve[-1]:.3f} of the runs stop within {curve.size} looks")
    return int(np.searchsorted(curve, 0.5)) + 1
