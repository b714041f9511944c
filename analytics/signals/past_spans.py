"""The past as the change detector needs it: counters by ten minutes, by hour and by day, as they grow older.

Minutes leave the state once nothing asks for them. What the detector asks for it gets from here: sums of the same
increments, whatever their order, which are the same before and after minutes were rolled up in the lake.
"""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.signals.cells import ROW
from analytics.signals.definitions import RATES, UNREPORTED

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MINUTE_US: Final = 60_000_000
SPAN_US: Final = 10 * MINUTE_US
HOUR_US: Final = 60 * MINUTE_US
_HOUR: Final = HOUR_US // SPAN_US  # spans
_DAY: Final = 24 * _HOUR
SPANS_KEPT_S: Final = 36 * 3_600.0
"""Seconds for which spans of ten minutes are kept, before they are taken by hours."""
_BY_SPANS: Final = round(SPANS_KEPT_S * 1_000_000) // SPAN_US
_BY_HOURS: Final = 4 * _DAY  # for so long hours are kept, before they are taken by days of UTC
_BY_DAYS: Final = 28 * _DAY
PAST_COUNTERS: Final = tuple(
    sorted(
        {
            name
            for rate in RATES.values()
            if rate.name != "missing_outcome"
            for name in (*rate.failures, *rate.trials, *itertools.chain(*UNREPORTED.get(rate.awaits, ())))
        }
    )
)
"""The counters of every rate that the detector can watch."""
_PAST: Final = pl.Schema({ROW: pl.UInt32, "span": pl.Int32, **dict.fromkeys(PAST_COUNTERS, pl.Int32)})
_SUM_AGAIN_AT: Final = 50_000
_SETTLE_EVERY: Final = timedelta(seconds=60)


class PastSpans:
    """Counters of epochs by the ten minutes of the decision, counted since 1970."""

    def __init__(self) -> None:
        self._rows = pl.DataFrame(schema=_PAST)
        self._summed = 0
        self._hours = 0  # the span up to which hours have been made

    def add(self, minutes: pl.DataFrame) -> None:
        """Add minutes: `row`, `bucket` in microseconds, and the counters."""
        span = (pl.col("bucket") // SPAN_US).cast(pl.Int32).alias("span")
        more = _summed(minutes.select(ROW, span, *(pl.col(name).cast(pl.Int32) for name in PAST_COUNTERS)))
        self._rows = pl.concat([self._rows, more], rechunk=False)
        if self._rows.height > 2 * self._summed + _SUM_AGAIN_AT:
            self._rows = _summed(self._rows)
            self._summed = self._rows.height

    def settle(self, before_us: int) -> None:
        """Take by hours and days, and let go of, what no detector asks for by spans up to a moment or later."""
        hours, days = _ends(before_us)
        if hours <= self._hours:
            return
        self._hours = hours
        kept = self._rows.filter(pl.col("span") >= days - _BY_DAYS)
        self._rows = _summed(kept.with_columns(_batch(hours, days)))
        self._summed = self._rows.height

    def forget(self) -> None:
        """Let go of everything, to take it once more."""
        self._rows, self._summed, self._hours = self._rows.clear(), 0, 0

    def batches(self, epochs: npt.NDArray[np.bool_], before_us: int) -> pl.DataFrame:
        """The batches of the epochs that are flagged, up to the beginning of an hour: `row`, `span`, the counters.

        A span stands for itself, or for the hour or the day that it begins; by epoch and in their order.
        """
        hours, days = _ends(before_us)
        within = (pl.col("span") >= days - _BY_DAYS) & (pl.col("span") < before_us // SPAN_US)
        rows = self._rows.filter(within & pl.Series(epochs[self._rows[ROW].to_numpy()]))
        return _summed(rows.with_columns(_batch(hours, days))).sort(ROW, "span")


def may_settle(settled_at: datetime | None, watermark: datetime) -> bool:
    """Whether it is time, by event time, for `CellState.settle`."""
    return settled_at is None or watermark >= settled_at + _SETTLE_EVERY


def _ends(before_us: int) -> tuple[int, int]:
    """Up to which span hours are taken, and days, where spans are taken up to the beginning of an hour or later."""
    hours = (before_us // HOUR_US) * _HOUR - _BY_SPANS
    return hours, (hours - _BY_HOURS) // _DAY * _DAY


def _batch(hours: int, days: int) -> pl.Expr:
    span = pl.col("span")
    by_hour = pl.when(span < hours).then(span // _HOUR * _HOUR).otherwise(span)
    return pl.when(span < days).then(span // _DAY * _DAY).otherwise(by_hour).cast(pl.Int32).alias("span")


def _summed(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by(ROW, "span").agg(pl.col(PAST_COUNTERS).sum())
