"""Accepted events as rows for the table `events`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from analytics.lake.schemas import EVENTS, TABLES
from analytics.lake.tables import SourcePartition
from streams.data.columns import NO_CELL, UNDATED, Longs
from streams.data.decode import micros_of
from streams.data.wire import CellEpoch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from streams.data.columns import EventColumns

NO_TIMESTAMP: Final = -1
"""Stands for a record without a timestamp of its broker, in a column of milliseconds."""

_SCHEMA: Final = TABLES[EVENTS]


class Accepted(NamedTuple):
    """Accepted events, with what else their rows hold; a position for each of them throughout.

    Attributes:
        events: The events.
        ids: The id of each.
        values: The bytes of each.
        places: The partitions in turn, and how many of the events come from each.
        offsets: Offset of each.
        broker_at_ms: Timestamp of each record, milliseconds since 1970 UTC, or `NO_TIMESTAMP`.
    """

    events: EventColumns
    ids: pa.Array
    values: pa.ChunkedArray
    places: Sequence[tuple[SourcePartition, int]]
    offsets: Longs
    broker_at_ms: Longs


def event_rows(accepted: Accepted, *, ingested_at: datetime) -> pa.Table:
    """Rows for the table `events`, with exactly its columns.

    Args:
        accepted: The events.
        ingested_at: When they were folded.
    """
    events, places, broker_at_ms = accepted.events, accepted.places, accepted.broker_at_ms
    repeats = [count for _, count in places]
    partition_of = pa.array(np.repeat(np.arange(len(places)), repeats))
    # What repeats is made once for each different value and then gathered.
    columns: dict[str, Any] = {
        name: pa.array([partition[index] for partition, _ in places], _SCHEMA.field(name).type).take(partition_of)
        for index, name in enumerate(SourcePartition._fields)
    }
    cells = pa.array(events.cell_of, mask=events.cell_of == NO_CELL)
    for index, name in enumerate(CellEpoch._fields):
        columns[name] = pa.array([cell[index] for cell in events.cells], pa.string()).take(cells)
    now_us = micros_of(ingested_at)
    columns |= {
        "offset": pa.array(accepted.offsets),
        "id": accepted.ids,
        "type": _gathered(events.types),
        "source": _gathered(events.sources),
        "subject": pa.array(events.subjects, pa.string()),
        "value": accepted.values,
        "time": _moments(events.time_us),
        "decided_at": _moments(events.decided_at_us, unknown=UNDATED),
        "broker_at": _moments(np.where(broker_at_ms == NO_TIMESTAMP, UNDATED, broker_at_ms * 1_000), unknown=UNDATED),
        "ingested_at": _moments(np.full(len(events), now_us)),
    }
    return pa.table([columns[field.name] for field in _SCHEMA], schema=_SCHEMA)


def _gathered(texts: list[str]) -> pa.Array:
    """A column of few different texts."""
    different = list(dict.fromkeys(texts))
    if len(different) == 1:
        return pa.repeat(pa.scalar(different[0], pa.string()), len(texts))
    number_of = {text: number for number, text in enumerate(different)}
    places = np.fromiter(map(number_of.__getitem__, texts), dtype=np.int64, count=len(texts))
    return pa.array(different, pa.string()).take(pa.array(places))


def _moments(us: Longs, unknown: int | None = None) -> pa.Array:
    moments = pa.array(us, pa.timestamp("us"), mask=None if unknown is None else us == unknown)
    return moments.cast(pa.timestamp("us", tz="UTC"))
