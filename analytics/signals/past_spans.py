"""The past as the change detector needs it: counters by ten minutes, by hour and by day, as they grow older.

Minutes leave the state once nothing asks for them. What the detector asks for it gets from here: sums of the same
increments, whatever their order, which are the same before and after minutes were rolled up in the lake.
"""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.signals.cells import MINUTE_US, ROW
from analytics.signals.definitions import RATES, UNREPORTED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    import numpy.typing as npt

    Keys = npt.NDArray[np.int64]
    Counts = npt.NDArray[np.int32]
    _Part = tuple[Keys, Counts]

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
_ROW_BITS: Final = 32
_MERGE_AT: Final = 50_000
_PARTS: Final = 64
_SETTLE_EVERY: Final = timedelta(seconds=60)


class PastSpans:
    """Some counters of epochs by the ten minutes of the decision, counted since 1970."""

    def __init__(self, counters: Collection[str]) -> None:
        self._counters = sorted(counters)
        # Of each column of counts the span and the epoch's row as one number, ascending, so that what is appended
        # moves little of what is there.
        self._known: _Part = (np.zeros(0, dtype=np.int64), np.zeros((len(self._counters), 0), dtype=np.int32))
        self._more: list[_Part] = []  # what came since, to be merged once there is as much of it
        self._hours, self._days = 0, 0  # the spans up to which hours and days have been made

    @property
    def counters(self) -> frozenset[str]:
        """Those that are kept."""
        return frozenset(self._counters)

    def add(self, minutes: pl.DataFrame) -> None:
        """Add minutes: `row`, `bucket` in microseconds, and the counters."""
        if not self._counters:
            return
        spans = _batches(minutes["bucket"].to_numpy() // SPAN_US, self._hours, self._days)
        keys = spans << _ROW_BITS | minutes[ROW].to_numpy()
        self._more.append((keys, minutes.select(pl.col(self._counters).cast(pl.Int32)).to_numpy().T))
        if sum(keys.size for keys, _ in self._more) > self._known[0].size + _MERGE_AT:
            self._merge()
        elif len(self._more) > _PARTS:
            self._more = [_merged(self._more)]

    def settle(self, before_us: int) -> None:
        """Take by hours and days, and let go of, what no detector asks for by spans up to a moment or later."""
        hours, days = _ends(before_us)
        if hours <= self._hours or not self._counters:
            return
        self._merge()
        self._hours, self._days = hours, days
        keys, counts = self._known
        kept = np.searchsorted(keys, (days - _BY_DAYS) << _ROW_BITS)
        self._known = _summed(_aged(keys[kept:], hours, days), counts[:, kept:])

    def batches(self, epochs: npt.NDArray[np.bool_], before_us: int, counters: Sequence[str]) -> pl.DataFrame:
        """The batches of the epochs that are flagged, up to the beginning of an hour: `row`, `span`, some counters.

        A span stands for itself, or for the hour or the day that it begins; in their order, and by epoch in each.
        """
        hours, days = _ends(before_us)
        since, until = (span << _ROW_BITS for span in (days - _BY_DAYS, before_us // SPAN_US))
        places = [self._counters.index(name) for name in counters]
        parts: list[_Part] = []
        for keys, counts in (self._known, *self._more):
            at = np.flatnonzero((keys >= since) & (keys < until) & epochs[_rows(keys)])
            parts.append((_aged(keys[at], hours, days), np.stack([counts[place][at] for place in places])))
        keys, counts = _merged(parts)
        return pl.DataFrame({ROW: _rows(keys), "span": keys >> _ROW_BITS, **dict(zip(counters, counts, strict=True))})

    def _merge(self) -> None:
        self._known, self._more = _merged([self._known, *self._more]), []


def may_settle(settled_at: datetime | None, watermark: datetime) -> bool:
    """Whether it is time, by event time, for `CellState.settle`."""
    return settled_at is None or watermark >= settled_at + _SETTLE_EVERY


def _ends(before_us: int) -> tuple[int, int]:
    """Up to which span hours are taken, and days, where spans are taken up to the beginning of an hour or later."""
    hours = (before_us // HOUR_US) * _HOUR - _BY_SPANS
    return hours, (hours - _BY_HOURS) // _DAY * _DAY


def _batches(spans: Keys, hours: int, days: int) -> Keys:
    """The hour or the day that each span belongs to, where it is old enough for it."""
    by_hour = np.where(spans < hours, spans // _HOUR * _HOUR, spans)
    return np.where(spans < days, spans // _DAY * _DAY, by_hour)


def _aged(keys: Keys, hours: int, days: int) -> Keys:
    return _batches(keys >> _ROW_BITS, hours, days) << _ROW_BITS | _rows(keys)


def _rows(keys: Keys) -> Keys:
    return keys & ((1 << _ROW_BITS) - 1)


def _merged(parts: Sequence[_Part]) -> _Part:
    keys, counts = zip(*parts, strict=True)
    return _summed(np.concatenate(keys), map(np.concatenate, zip(*counts, strict=True)))


def _summed(keys: Keys, counts: Iterable[Counts]) -> _Part:
    """Columns of counts, added up by key, in the order of keys."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.flatnonzero(np.diff(ordered, prepend=-1))
    if first.size == order.size:
        return ordered, np.stack([counter[order] for counter in counts])
    return ordered[first], np.stack([np.add.reduceat(counter[order], first, dtype=np.int32) for counter in counts])
