"""Gaps in the numbers that routers give to their events: what was recorded, and never came.

Every recorder numbers its events 1, 2, … within its incarnation. Topics, partitions and an outbox bring them in any
order, so a number is missing only once a higher one of its incarnation was read a while ago. Numbers of records that
were dropped as repeats or rejected did come. What is not seen: the end of an incarnation, whose highest number nobody
knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from analytics.lake.table_schemas import DROPPED, EVENTS, REJECTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from analytics.lake.tables import Lake

Numbers = npt.NDArray[np.int64]

COLUMNS: Final = ["source", "incarnation", "sequence", "ingested_at"]
_IN_BYTES: Final = r'"recordnumber":\s*"([0-9a-z]{1,32})\.([1-9][0-9]{0,17})"'
_NO_RANGES: Final = np.empty((0, 2), dtype=np.int64)


class NumberGap(NamedTuple):
    """Numbers of one incarnation that are missing."""

    source: str
    incarnation: str
    missing: int
    ranges: tuple[tuple[int, int], ...]  # the first of them, each from one number to another
    since: datetime  # when the newest event of the incarnation was read


@dataclass
class _Incarnation:
    source: str
    newest: datetime
    seen: Numbers = field(default_factory=lambda: _NO_RANGES)  # shape (ranges, 2): first and last, rising, apart
    waiting: list[tuple[datetime, int]] = field(default_factory=list)  # highest numbers, by when they were read
    due: int = 0  # the highest number that was read long enough ago


class EventNumbers:
    """Which numbers came, of every incarnation; sums up in any order, whatever is taken twice.

    Of what was read at `forgotten` or before, retention may have taken any part: all numbers up to there count as come.
    """

    def __init__(self, forgotten: datetime | None = None) -> None:
        self._incarnations: dict[str, _Incarnation] = {}
        self._forgotten = forgotten

    def take(self, rows: pl.DataFrame) -> None:
        """Take rows with the `COLUMNS`; those without a number tell nothing, and a source may be unknown."""
        numbered = rows.filter(pl.col("incarnation").is_not_null() & pl.col("sequence").is_not_null())
        for (name,), own in numbered.partition_by("incarnation", as_dict=True).items():
            source = str(next(iter(own["source"].drop_nulls()), ""))
            highest = own.group_by("ingested_at").agg(pl.col("sequence").max()).sort("ingested_at").rows()
            known = self._incarnations.setdefault(str(name), _Incarnation(source, highest[-1][0]))
            known.source, known.newest = known.source or source, max(known.newest, highest[-1][0])
            known.waiting += highest
            known.seen = _joined(known.seen, own["sequence"].to_numpy())
            if self._forgotten is not None:
                old = own.filter(pl.col("ingested_at") <= self._forgotten)["sequence"].max()
                known.seen = known.seen if old is None else _merged(known.seen, np.array([[1, old]]))

    def gaps(self, read_before: datetime, *, most_ranges: int = 5) -> list[NumberGap]:
        """What is missing below the highest numbers that were read before a moment, by source."""
        found = []
        for name, known in self._incarnations.items():
            known.due = max([known.due, *(number for at, number in known.waiting if at < read_before)])
            known.waiting = [entry for entry in known.waiting if entry[0] >= read_before]
            missing = _between(known.seen, known.due)
            if len(missing):
                count = int((missing[:, 1] - missing[:, 0] + 1).sum())
                first = tuple((int(begin), int(end)) for begin, end in missing[:most_ranges])
                found.append(NumberGap(known.source, name, count, first, known.newest))
        return sorted(found)

    @property
    def sources(self) -> set[str]:
        """Who numbers events."""
        return {known.source for known in self._incarnations.values()}


def numbers_of(lake: Lake, version: int, forgotten: datetime | None = None) -> EventNumbers:
    """The numbers of everything that the lake knows to have come, with a version of `events`. Raises `LakeError`."""
    numbers = EventNumbers(forgotten)
    for rows in _all(lake, version):
        numbers.take(rows)
    return numbers


def numbers_outside(lake: Lake) -> Iterator[pl.DataFrame]:
    """The numbers of records that came and are no events of the lake: repeats, and what was rejected."""
    at = pl.col("dropped_at").alias("ingested_at")
    yield lake.scan(DROPPED).filter(pl.col("incarnation").is_not_null()).select(*COLUMNS[:3], at).collect()
    rejected = lake.scan(REJECTS).select("first_bytes", pl.col("rejected_at").alias("ingested_at")).collect()
    texts = rejected.with_columns(_text(value) for value in ("first_bytes",)) if rejected.height else rejected
    if texts.height:
        parts = pl.col("first_bytes").str.extract_groups(_IN_BYTES)
        yield texts.select(
            pl.lit(None, pl.String).alias("source"),
            parts.struct[0].alias("incarnation"),
            parts.struct[1].cast(pl.Int64).alias("sequence"),
            "ingested_at",
        )


def _text(column: str) -> pl.Expr:
    """Bytes that may be no text, as text."""
    return pl.col(column).map_elements(lambda value: value.decode("utf-8", "replace"), return_dtype=pl.String)


def _all(lake: Lake, version: int) -> Iterator[pl.DataFrame]:
    numbered = lake.scan(EVENTS, version=version).filter(pl.col("incarnation").is_not_null())
    yield from numbered.select(COLUMNS).collect_batches(chunk_size=500_000, maintain_order=False)
    yield from numbers_outside(lake)


def _joined(ranges: Numbers, numbers: Numbers) -> Numbers:
    """Ranges and single numbers as the fewest ranges."""
    single = np.unique(numbers)
    starts = np.append([True], np.diff(single) > 1)
    more = np.column_stack([single[starts], single[np.append(starts[1:], [True])]])
    return _merged(ranges, more) if len(ranges) else more


def _merged(ranges: Numbers, more: Numbers) -> Numbers:
    """Ranges that may overlap as the fewest that do not."""
    every = np.concatenate([ranges, more])
    every = every[np.argsort(every[:, 0], kind="stable")]
    reached = np.maximum.accumulate(every[:, 1])
    starts = np.append([True], every[1:, 0] > reached[:-1] + 1)
    return np.column_stack([every[starts, 0], reached[np.append(starts[1:], [True])]])


def _between(seen: Numbers, highest: int) -> Numbers:
    """The ranges of numbers from 1 to the highest that are in no range."""
    begins, ends = np.append([1], seen[:, 1] + 1), np.append(seen[:, 0] - 1, [highest])
    ends = np.minimum(ends, highest)
    between: Numbers = np.column_stack([begins, ends])[begins <= ends]
    return between
