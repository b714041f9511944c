"""Accepted events as rows: one each for the table `events`, and increments for the table `signals`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from analytics.evidence.histogram import BIN_COUNT, bin_of
from analytics.lake.table_schemas import COLUMNS, DROPPED, EVENTS, SIGNALS, TABLES
from analytics.lake.tables import SourcePartition
from analytics.signals.aftermath import COUNTS_OF_FACTS, FACT_BITS
from analytics.signals.cells import MINUTE_US
from analytics.signals.definitions import COUNTED_ONCE, COUNTERS
from analytics.signals.event_kinds import INCREMENTS
from analytics.signals.event_structs import CellEpoch
from streams.ingest.decode import micros_of
from streams.ingest.event_columns import NO_CELL, UNDATED, UNKNOWN, EventColumns, Longs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from streams.ingest.known_facts import FactChanges

NO_TIMESTAMP: Final = -1  # stands for a record without a timestamp of its broker, in a column of milliseconds

_SCHEMA: Final = TABLES[EVENTS]
_COST: Final = COUNTERS.index("cost_microusd")
_ONCE: Final = [COUNTERS.index(name) for name in COUNTED_ONCE]


class Accepted(NamedTuple):
    """Accepted events, with what else their rows hold; a position for each of them throughout."""

    events: EventColumns
    values: pa.ChunkedArray  # the bytes of each
    partitions: Sequence[tuple[SourcePartition, int]]  # the partitions in turn, with the number of events of each
    offsets: Longs
    broker_at_ms: Longs  # timestamp of each record, milliseconds since 1970 UTC, or `NO_TIMESTAMP`


def event_rows(accepted: Accepted, *, ingested_at: datetime) -> pa.Table:
    """Rows for the table `events`, with exactly its columns."""
    events, partitions, broker_at_ms = accepted.events, accepted.partitions, accepted.broker_at_ms
    heights = [height for _, height in partitions]
    partition_of = pa.array(np.repeat(np.arange(len(partitions)), heights))
    # What repeats is made once for each different value and then gathered.
    columns: dict[str, Any] = {
        name: pa.array([partition[index] for partition, _ in partitions], _SCHEMA.field(name).type).take(partition_of)
        for index, name in enumerate(SourcePartition._fields)
    }
    cells = pa.array(events.cell_of, mask=events.cell_of == NO_CELL)
    for index, name in enumerate(CellEpoch._fields):
        columns[name] = pa.array([cell[index] for cell in events.cells], pa.string()).take(cells)
    columns |= {
        "offset": pa.array(accepted.offsets),
        "id": events.ids,
        "type": events.types,
        "source": events.sources,
        "subject": events.subjects,
        "kind": pa.array(events.kinds),
        "user": events.users,
        "latency_us": _amounts(events.latency_us),
        "cost_microusd": _amounts(events.cost_microusd),
        **_numbered(events.record_numbers),
        "value": accepted.values,
        "time": _timestamps(events.time_us),
        "decided_at": _timestamps(events.decided_at_us, unknown=UNDATED),
        "broker_at": _timestamps(
            np.where(broker_at_ms == NO_TIMESTAMP, UNDATED, broker_at_ms * 1_000), unknown=UNDATED
        ),
        "ingested_at": _timestamps(np.full(len(events), micros_of(ingested_at))),
    }
    return pa.table([columns[field.name] for field in _SCHEMA], schema=_SCHEMA)


def dropped_rows(
    repeats: Sequence[tuple[SourcePartition, EventColumns, Longs]],
    gaps: Sequence[tuple[SourcePartition, int, int]],
    *,
    dropped_at: datetime,
) -> pl.DataFrame:
    """Rows for the table `dropped`: repeats with their offsets, and first and last of offsets without a record."""
    schema = COLUMNS[DROPPED]
    frames = [pl.DataFrame(schema=schema)]
    for partition, events, offsets in repeats:
        columns = {"id": events.ids, "source": events.sources, **_numbered(events.record_numbers)}
        told = pl.DataFrame({name: pl.Series(name, column) for name, column in columns.items()})
        frames.append(_dropped(told.with_columns(offset=offsets, through=offsets), partition, "repeat", dropped_at))
    for partition, first, last in gaps:
        told = pl.DataFrame({"offset": [first], "through": [last]})
        frames.append(_dropped(told, partition, "no_record", dropped_at))
    return pl.concat(frames)


def _dropped(told: pl.DataFrame, partition: SourcePartition, reason: str, at: datetime) -> pl.DataFrame:
    shared = {**partition._asdict(), "reason": reason, "dropped_at": at}
    rows = told.with_columns(pl.lit(value).alias(name) for name, value in shared.items())
    lacking = [name for name in COLUMNS[DROPPED] if name not in rows.columns]
    rows = rows.with_columns(pl.lit(None).alias(name) for name in lacking)
    return rows.select(pl.col(name).cast(kind) for name, kind in COLUMNS[DROPPED].items())


def _numbered(record_numbers: pa.StringArray) -> dict[str, pa.Array]:
    """Record numbers as the columns `incarnation` and `sequence`."""
    parts = pc.extract_regex(record_numbers, r"(?P<incarnation>\w+)\.(?P<sequence>\d+)")
    incarnations, sequences = parts.flatten()
    return {"incarnation": incarnations, "sequence": sequences.cast(pa.int64())}


def _amounts(micro: Longs) -> pa.Array:
    return pa.array(micro, mask=micro == UNKNOWN)


def _timestamps(us: Longs, unknown: int | None = None) -> pa.Array:
    timestamps = pa.array(us, pa.timestamp("us"), mask=None if unknown is None else us == unknown)
    return timestamps.cast(pa.timestamp("us", tz="UTC"))


def count(events: EventColumns, changes: FactChanges, ingested_us: Longs | int) -> pl.DataFrame:
    """Count accepted events, and what they change about what is known of their decisions, by cell, epoch and minute.

    Those without a receipt count nothing. `ingested_us` is when each was read, or all were.

    They are rows for the table `signals`, in the order in which their first event came.
    """
    counted = (events.cell_of != NO_CELL) & (events.decided_at_us != UNDATED)
    cell_of, minutes = events.cell_of[counted], events.decided_at_us[counted] // MINUTE_US
    rows, row_of = _rows(cell_of, minutes)
    height = len(rows)
    by_kind = np.bincount(row_of * len(INCREMENTS) + events.kinds[counted], minlength=height * len(INCREMENTS))
    counters: Longs = by_kind.reshape(height, len(INCREMENTS)).astype(np.int64) @ INCREMENTS
    counters[:, _ONCE] = _counted_once(
        changes, row_of[np.searchsorted(np.flatnonzero(counted), changes.places)], height
    )
    costs = events.cost_microusd[counted]
    priced = costs != UNKNOWN
    np.add.at(counters[:, _COST], row_of[priced], costs[priced])
    risks = _highest(row_of, events.risk_ranks[counted], height, UNKNOWN)
    last_event, last_ingested = (
        _highest(row_of, np.broadcast_to(moments, len(events))[counted], height, np.iinfo(np.int64).min)
        for moments in (events.time_us, ingested_us)
    )
    cells = [events.cells[number] for number in cell_of[rows].tolist()]
    columns: dict[str, pl.Series] = {
        name: pl.Series(name, [getattr(cell, name) for cell in cells], dtype=pl.String) for name in CellEpoch._fields
    }
    columns["bucket"] = pl.Series("bucket", minutes[rows] * MINUTE_US)
    columns["risk_rank"] = pl.Series("risk_rank", [None if risk == UNKNOWN else risk for risk in risks.tolist()])
    columns["last_event_at"] = pl.Series("last_event_at", last_event)
    columns["last_ingested_at"] = pl.Series("last_ingested_at", last_ingested)
    columns |= {name: pl.Series(name, counters[:, index]) for index, name in enumerate(COUNTERS)}
    columns["latency_bins"], columns["latency_counts"] = _histogram(row_of, events.latency_us[counted], height)
    columns["cost_bins"], columns["cost_counts"] = _histogram(row_of, costs, height)
    return pl.DataFrame(columns).select(pl.col(name).cast(kind) for name, kind in COLUMNS[SIGNALS].items())


def _counted_once(changes: FactChanges, row_of: Longs, height: int) -> Longs:
    """What changes add to `COUNTED_ONCE` of their rows. Shape (rows, `COUNTED_ONCE`)."""
    # Of a batch few different changes are to be expected: each is looked up once.
    different, which = np.unique(changes.before << FACT_BITS | changes.after, return_inverse=True)
    added = COUNTS_OF_FACTS[different & (1 << FACT_BITS) - 1] - COUNTS_OF_FACTS[different >> FACT_BITS]
    by_change = np.bincount(row_of * different.size + which, minlength=height * different.size)
    return np.asarray(by_change.reshape(height, different.size) @ added)


def _rows(cell_of: Longs, minutes: Longs) -> tuple[Longs, Longs]:
    """The first event of each pair of cell and minute, and for each event the row of its pair."""
    if not len(cell_of):
        return cell_of, cell_of
    # The minutes of all years together are fewer than 2^33, and a batch has fewer than 2^30 cells.
    pairs = cell_of * (1 << 33) + (minutes - minutes.min())
    _, first, pair_of = np.unique(pairs, return_index=True, return_inverse=True)
    order = np.argsort(first)
    row_of_pair = np.empty_like(order)
    row_of_pair[order] = np.arange(len(order))
    return first[order], row_of_pair[pair_of]


def _highest(row_of: Longs, values: Longs, height: int, floor: int) -> Longs:
    highest = np.full(height, floor, dtype=np.int64)
    np.maximum.at(highest, row_of, values)
    return highest


def _histogram(row_of: Longs, micro: Longs, height: int) -> tuple[pl.Series, pl.Series]:
    """The sparse histogram of each row: bins that hold something, rising, and the counts in them."""
    given = micro != UNKNOWN
    row_bins, counts = np.unique(row_of[given] * BIN_COUNT + bin_of(micro[given]), return_counts=True)
    bounds = pa.array(np.searchsorted(row_bins, np.arange(height + 1) * BIN_COUNT), type=pa.int32())
    bins = pa.array(row_bins % BIN_COUNT, type=pa.int16())
    return (
        pl.Series(pa.ListArray.from_arrays(bounds, bins)),
        pl.Series(pa.ListArray.from_arrays(bounds, pa.array(counts, type=pa.int64()))),
    )
