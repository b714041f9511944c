"""What every kind of evidence shares: the eight bets, their average, and the checks of counts.

Wealth is kept in logarithms, one row a bet and one column a cell. The average is taken in the order of the bets, so
that a cell's evidence does not depend on which other cells are computed with it.
"""

from __future__ import annotations

from functools import reduce
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from analytics.evidence.errors import EvidenceError
from analytics.evidence.sequential import BET_COUNT, BETS, Direction, FloatArray

IntArray: TypeAlias = npt.NDArray[np.int64]


def bets(direction: Direction) -> FloatArray:
    """The bets of a direction as a column of shape (8, 1). Raises `EvidenceError` where the direction is unknown."""
    if direction not in BETS:
        raise EvidenceError(f"direction is {direction!r}; it must be 'above' or 'below'")
    return np.array(BETS[direction])[:, np.newaxis]


def average(log_wealth: FloatArray) -> FloatArray:
    """The log of the average wealth of the bets, whose shape is (8, cells); minus infinity stands for none."""
    peak = reduce(np.maximum, log_wealth)
    # Where nobody holds anything, the shift must not make a NaN of it.
    shift = np.where(np.isneginf(peak), 0.0, peak)
    total = reduce(np.add, np.exp(log_wealth - shift))
    return np.asarray(shift + np.log(total, out=np.full_like(total, -np.inf), where=total > 0) - np.log(BET_COUNT))


def whole(counts: npt.ArrayLike, name: str) -> IntArray:
    """Give counts as integers. Raises `EvidenceError` unless they are whole numbers of at least 0."""
    given = np.asarray(counts)
    if given.size == 0:
        return np.zeros(given.shape, dtype=np.int64)
    if not np.issubdtype(given.dtype, np.integer) or given.min() < 0:
        wrong = given.min() if np.issubdtype(given.dtype, np.integer) else f"an array of {given.dtype}"
        raise EvidenceError(f"{name} must be whole numbers of at least 0, but {wrong} was given")
    return given.astype(np.int64)


def failures_among(failures: npt.ArrayLike, trials: npt.ArrayLike, name: str = "failures") -> tuple[IntArray, IntArray]:
    """Give counts as integers. Raises `EvidenceError` unless they are whole and failures never exceed trials."""
    x, n = whole(failures, name), whole(trials, "trials")
    if np.any(x > n):
        seen, of = np.broadcast_arrays(x, n)
        raise EvidenceError(
            f"{name} must not exceed trials, but {seen[x > n].flat[0]} of {of[x > n].flat[0]} were given"
        )
    return x, n
