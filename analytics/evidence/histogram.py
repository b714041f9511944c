"""A log histogram of durations and costs: one relative error over seven decades, merged by adding counts.

DDSketch's idea (Masson, Rim & Lee, VLDB 2019), with the bin bounds as whole micro-units (microseconds of latency, or
millionths of a dollar of cost) grown by integer arithmetic alone. A bin holds the whole numbers low..high with
high / low <= (1 + a) / (1 - a) for a = 1 %, so its value 2 low high / (low + high) is within a of all of them, also
near the smallest bound, where bounds placed by rounding powers would miss that. No logarithm decides a bin, so every
machine agrees on it, and a limit that lies on a bound is counted exactly.

Bin i > 0 holds BOUNDS[i-1] < micro <= BOUNDS[i]. Two bins promise no relative error: the first holds everything up to
100 micro-units, zero included, and the last (`OVERFLOW_BIN`) everything above 3 600 000 000 (an hour, or $ 3600).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from analytics.evidence.errors import EvidenceError

IntArray: TypeAlias = npt.NDArray[np.int64]
BinArray: TypeAlias = npt.NDArray[np.int16]
FloatArray: TypeAlias = npt.NDArray[np.float64]

SMALLEST_BOUND: Final = 100
LARGEST_BOUND: Final = 3_600_000_000
RELATIVE_ERROR: Final = Fraction(1, 100)


def _grow_bounds() -> IntArray:
    """Take each bound as far from the one before as the relative error allows."""
    growth = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
    bounds = [SMALLEST_BOUND]
    while bounds[-1] < LARGEST_BOUND:
        bounds.append(min(int((bounds[-1] + 1) * growth), LARGEST_BOUND))
    grown = np.array(bounds, dtype=np.int64)
    grown.setflags(write=False)
    return grown


def _place_values(bounds: IntArray) -> FloatArray:
    """Give each bin the value with the smallest relative error over the whole numbers it holds."""
    low, high = bounds[:-1] + 1.0, bounds[1:].astype(np.float64)
    values = np.concatenate(([float(SMALLEST_BOUND)], 2.0 * low * high / (low + high), [LARGEST_BOUND + 1.0]))
    values.setflags(write=False)
    return values


BOUNDS: Final[IntArray] = _grow_bounds()
OVERFLOW_BIN: Final[int] = len(BOUNDS)
BIN_COUNT: Final[int] = OVERFLOW_BIN + 1
_VALUES: Final[FloatArray] = _place_values(BOUNDS)


def bin_of(micro: IntArray | int) -> BinArray:
    """Sort observations, in whole micro-units and of any shape, into bins from 0 to `OVERFLOW_BIN`.

    Raises `EvidenceError` where an observation is negative, or not a whole number of micro-units.
    """
    observed = np.asarray(micro)
    if observed.size and not np.issubdtype(observed.dtype, np.integer):
        raise EvidenceError(f"observations must be whole micro-units, but came as {observed.dtype}")
    if observed.size and observed.min() < 0:
        raise EvidenceError(f"an observation must be at least 0 micro-units, but {observed.min()} was given")
    # Side "left" puts an observation equal to a bound below it: a limit T asks for "strictly above T".
    return np.asarray(np.searchsorted(BOUNDS, observed, side="left"), dtype=np.int16)


def quantile(bins: npt.ArrayLike, counts: npt.ArrayLike, q: float) -> float | None:
    """Read a quantile off a sparse histogram, in micro-units, for display; decisions use the count above a limit.

    It is the value of the smallest bin whose cumulative count reaches ceil(q * n), and never less than the first
    observation; None where there are none. q is taken as the decimal it is written as: the 0.07 quantile of 100 is the
    7th observation, although the product is above 7 in floating point. Bins may come in any order, and repeat. Raises
    `EvidenceError` where q is not in [0, 1], a bin does not exist, a count is negative, or the shapes differ.
    """
    if not 0.0 <= q <= 1.0:
        raise EvidenceError(f"a quantile's ratio must lie between 0 and 1, but {q:g} was given")
    entries, observed = _sparse(bins, counts)
    total = int(observed.sum())
    if total == 0:
        return None
    rank = max(1, -int(-Fraction(repr(float(q))) * total // 1))
    order = np.argsort(entries, kind="stable")
    reached = np.searchsorted(np.cumsum(observed[order]), rank, side="left")
    return float(_VALUES[entries[order][reached]])


def snap(limit_micro: int) -> int:
    """Move a limit, in micro-units, to the nearest bound, where exceedances can be counted exactly.

    A limit that is a bound stays; of two bounds equally near, the lower, stricter one is taken. The result is the limit
    in force: show it instead of what was asked for. The move is at most 1.01 % from 10 ms (or 1 cent) on, and at most
    1.4 % near the smallest bound, where whole numbers are coarse. Raises `EvidenceError` where the limit lies outside
    the bounds, where moving it would change what was asked for.
    """
    if not SMALLEST_BOUND <= limit_micro <= LARGEST_BOUND:
        raise EvidenceError(
            f"a limit of {limit_micro} micro-units cannot be counted:"
            f" it must lie between {SMALLEST_BOUND} and {LARGEST_BOUND}"
        )
    above = int(np.searchsorted(BOUNDS, limit_micro, side="left"))
    high = int(BOUNDS[above])
    low = int(BOUNDS[max(above - 1, 0)])
    return low if limit_micro - low <= high - limit_micro else high


def _sparse(bins: npt.ArrayLike, counts: npt.ArrayLike) -> tuple[npt.NDArray[np.intp], IntArray]:
    entries, observed = _existing(bins), np.asarray(counts, dtype=np.int64)
    if entries.ndim != 1 or entries.shape != observed.shape:
        raise EvidenceError(
            f"bins and counts must be two equally long lists, but are {entries.shape}, {observed.shape}"
        )
    if observed.size and observed.min() < 0:
        raise EvidenceError(f"a count must be at least 0, but {observed.min()} was given")
    return entries, observed


def _existing(bins: npt.ArrayLike) -> npt.NDArray[np.intp]:
    entries = np.asarray(bins, dtype=np.intp)
    if entries.size and (entries.min() < 0 or entries.max() > OVERFLOW_BIN):
        wrong = entries.min() if entries.min() < 0 else entries.max()
        raise EvidenceError(f"bin {wrong} does not exist: bins run from 0 to {OVERFLOW_BIN}")
    return entries
