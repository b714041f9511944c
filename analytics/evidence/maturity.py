"""Outcomes that arrive late: which counts may speak for a promotion, and which for a rollback.

An undo comes hours after its execution. Until the maturity window of a signal has passed, "not failed yet" is not
"did not fail". Two rules keep both decisions honest, and there is no third:

* **Promote on mature counts only.** A minute is mature when the watermark has passed its end by the whole window. Its
  failures are all that are known by now; one that came after the window only makes promotion harder.
* **Roll back on all counts, with what is pending counted as fine.** The failures known so far can only understate the
  final ones, and the evidence grows with failures, so it never exceeds what the final counts will give: the error
  level holds, and only the delay suffers.

Counting pending outcomes as fine for a promotion promotes a third of the actions that are exactly at their limit.
Counting failures at once and successes at maturity rolls back every action in the end: for a whole window it sees
failures without the successes of the same age.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from analytics.evidence.errors import EvidenceError
from analytics.evidence.mixture import failures_among

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.evidence.mixture import IntArray
    from analytics.evidence.sequential import BoolArray

TimeArray: TypeAlias = "npt.NDArray[np.datetime64]"

BUCKET: Final = timedelta(minutes=1)


@dataclass(frozen=True)
class MatureCounts:
    """The counts of one cell, as each decision may use them.

    Attributes:
        promote_failures: Failures in mature minutes.
        promote_trials: Trials in mature minutes.
        rollback_failures: Failures known so far, of any age.
        rollback_trials: Trials of any age; the pending ones count as fine.
    """

    promote_failures: int
    promote_trials: int
    rollback_failures: int
    rollback_trials: int

    @property
    def immature_trials(self) -> int:
        """Trials that no promotion may use yet."""
        return self.rollback_trials - self.promote_trials


def mature(buckets: TimeArray, *, watermark: datetime, window: timedelta) -> BoolArray:
    """Say which minutes are mature.

    Args:
        buckets: Start of each minute of decisions, in UTC, as datetime64. Any shape; in any order.
        watermark: Event time up to which everything has been seen; timezone-aware.
        window: How long after an execution its outcome may still come.

    Returns:
        Whether the watermark is at least a whole window past the end of the minute. The shape of `buckets`.

    Raises:
        EvidenceError: The window is negative, the watermark has no timezone, or a minute is not a time.
    """
    if window < timedelta(0):
        raise EvidenceError(f"a maturity window cannot be negative, but {window} was given")
    if watermark.tzinfo is None:
        raise EvidenceError("a watermark needs its timezone")
    starts = np.asarray(buckets)
    if not np.issubdtype(starts.dtype, np.datetime64) or np.any(np.isnat(starts)):
        raise EvidenceError("the minutes must be datetime64, and none of them missing")
    newest = np.datetime64((watermark.astimezone(UTC) - window - BUCKET).replace(tzinfo=None), "us")
    return np.asarray(starts.astype("datetime64[us]") <= newest)


def split_by_maturity(
    failures: npt.ArrayLike, trials: npt.ArrayLike, buckets: TimeArray, *, watermark: datetime, window: timedelta
) -> MatureCounts:
    """Sum the counts of a cell's minutes as each decision may use them.

    Args:
        failures: Failures known by the watermark, by the minute of their decision. Shape (minutes,).
        trials: Trials of those minutes. Shape (minutes,).
        buckets: Start of each minute, in UTC. Shape (minutes,); the same minute may appear more than once.
        watermark: Event time up to which everything has been seen; timezone-aware.
        window: The signal's maturity window.

    Raises:
        EvidenceError: As in `mature`, or a count is impossible.
    """
    x, n = failures_among(failures, trials)
    old = mature(buckets, watermark=watermark, window=window)
    return MatureCounts(_total(x[old]), _total(n[old]), _total(x), _total(n))


def _total(counts: IntArray) -> int:
    return int(counts.sum())
