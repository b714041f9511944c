"""Recover after a restart: make the tables agree on offsets, and rebuild the fold's state there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.lake.table_schemas import COLUMNS, EVENTS, REJECTS, SIGNALS
from analytics.lake.tables import Advance, Lake, SourcePartition
from analytics.signals.aftermath import TELLING
from streams.ingest.decode import EARLIEST_US, EventDecoder
from streams.ingest.dedupe import HORIZON, SeenIds
from streams.ingest.earlier_events import READ, EarlierEvents, identities_of_rows
from streams.ingest.errors import LakeOrderError, LogMismatchError
from streams.ingest.fold import PartitionState
from streams.ingest.id_store import NEVER, words_of
from streams.ingest.known_facts import KnownFacts
from streams.ingest.rejects import Reject, from_rows
from streams.ingest.rows import count

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta


_CATCH_UP_OFFSETS: Final = 100_000  # how many offsets are folded into `signals` at a time when it is behind `events`
_PARTITION: Final = SourcePartition._fields


@dataclass(frozen=True)
class Resumed:
    """A partition, ready to be read on."""

    rejects: int | None  # last offset covered by the table `rejects`; None where nothing is stored
    events: int | None  # last offset covered by `events`, and now by `signals`; None where nothing is stored
    start: int  # the first offset to read
    state: PartitionState  # the fold's state just before it


def resume(
    lake: Lake, bounds: dict[SourcePartition, tuple[int, int]], *, horizon: timedelta = HORIZON
) -> dict[SourcePartition, Resumed]:
    """Bring the tables to one offset for each partition and rebuild what the fold must know there.

    `signals` is written where it is behind `events`. The bounds are the log's first offset and its end (exclusive).

    Raises:
        LakeOrderError: The tables cannot come from one worker's commits.
        LogMismatchError: The log does not reach from the stored offset on.
        FencedError: Another worker commits to the same partitions.
    """
    partitions = list(bounds)
    rejects, events, signals = (lake.stored_offsets(table, partitions) for table in (REJECTS, EVENTS, SIGNALS))
    for partition in partitions:
        _check_order(partition, rejects.get(partition), events.get(partition), signals.get(partition))
    starts = {
        partition: _start(partition, events.get(partition), rejects.get(partition), low, end)
        for partition, (low, end) in bounds.items()
    }
    for partition, reached in events.items():
        if signals.get(partition, -1) < reached:
            _catch_up(lake, partition, signals.get(partition), reached)
    seen, known = _accepted(lake, partitions, horizon)
    rejected = _rejects_from(lake, starts)
    resumed = {}
    for partition, start in starts.items():
        reached, settled_through = start - 1, rejects.get(partition, -1)
        state = PartitionState(reached, settled_through, rejected[partition], seen[partition], known[partition])
        resumed[partition] = Resumed(rejects.get(partition), events.get(partition), start, state)
    return resumed


def _check_order(partition: SourcePartition, rejects: int | None, events: int | None, signals: int | None) -> None:
    covered = {"rejects": rejects, "events": events, "signals": signals}
    if (-1 if events is None else events) < (-1 if signals is None else signals):
        extents = {name: "nothing" if offset is None else f"up to {offset}" for name, offset in covered.items()}
        stated = ", ".join(f"{name} {extent}" for name, extent in extents.items())
        raise LakeOrderError(
            f"the tables contradict each other about {partition.app_id}: they cover {stated}, but `events` must cover "
            "at least what `signals` does. Restore all tables from the same moment, or set STAGEKEEPER_LAKE_ROOT to a "
            "new folder and let the worker read the topics again. `signals` alone may be moved away: it is rebuilt."
        )


def _start(partition: SourcePartition, events: int | None, rejects: int | None, low: int, end: int) -> int:
    furthest = max(-1 if events is None else events, -1 if rejects is None else rejects)
    if furthest >= end:
        raise LogMismatchError(
            f"{partition.app_id} ends before offset {end}, but the lake already covers offset {furthest}: this is not "
            "the log that was read, or it was cut. Point the worker at the right brokers, or at a new lake."
        )
    if events is None:
        return low
    if events + 1 < low:
        raise LogMismatchError(
            f"{partition.app_id} begins at offset {low}, but the lake covers it only up to offset {events}: the "
            "records between were deleted before they were read. Raise the topic's retention.ms; to go on without "
            f"these {low - events - 1} offsets, set STAGEKEEPER_LAKE_ROOT to a new folder."
        )
    return events + 1


def _catch_up(lake: Lake, partition: SourcePartition, stored: int | None, reached: int) -> None:
    """Fold the stored events above `stored` into `signals`: the worker died between the two commits."""
    decoder = EventDecoder(None)  # what is stored was accepted; its receipts were checked then
    events = _rows_of(lake, EVENTS, partition).select("offset", "value", "kind", "subject", "decided_at", "ingested_at")
    # The table tells of what is only counted here: nothing but what was counted before may be known.
    known, counted = KnownFacts(), events.filter(pl.col("offset") <= (-1 if stored is None else stored))
    _remember(known, counted.filter(pl.col("kind").is_in(TELLING)).select("kind", "subject", "decided_at").collect())
    previous, done = stored, -1 if stored is None else stored
    while done < reached:
        last = min(done + _CATCH_UP_OFFSETS, reached)
        stored_events = events.filter(pl.col("offset").is_between(done + 1, last)).sort("offset").collect()
        decoded = decoder.decode(stored_events["value"].to_list(), None)
        if decoded.faults:
            raise LakeOrderError(
                f"the table events holds events of {partition.app_id} that this version cannot read. "
                "Use the version of Stagekeeper that stored them."
            )
        changes = known.take(decoded.events, words_of(decoded.events.subjects))
        signals = count(decoded.events, changes, stored_events["ingested_at"].cast(pl.Int64).to_numpy())
        lake.append(SIGNALS, signals, advances={partition: Advance(previous, last)})
        previous = done = last


def _accepted(
    lake: Lake, partitions: Sequence[SourcePartition], horizon: timedelta
) -> tuple[dict[SourcePartition, SeenIds], dict[SourcePartition, KnownFacts]]:
    """What was accepted within the horizon, read in one pass and in chunks, so memory does not grow with partitions."""
    earlier = EarlierEvents(lake.root)
    of_log = pl.col("log_id").is_in(sorted({partition.log_id for partition in partitions}))
    events = lake.scan(EVENTS).filter(of_log)
    latest = events.group_by(_PARTITION).agg(pl.col("time").max().cast(pl.Int64)).collect()
    latest_us = {SourcePartition(*row[:-1]): int(row[-1]) for row in latest.iter_rows()}
    seen = {
        partition: SeenIds(
            horizon, earlier=partial(earlier.marks_of, partition), latest_us=latest_us.get(partition, NEVER)
        )
        for partition in partitions
    }
    known = {
        partition: KnownFacts(
            horizon, earlier=partial(earlier.facts_of, partition), latest_us=latest_us.get(partition, NEVER)
        )
        for partition in partitions
    }
    # In whole microseconds, since the horizon may reach beyond the first moment of year 1.
    oldest_us = [max(seen[partition].held_since_us, EARLIEST_US) for partition in partitions]
    schema = {name: COLUMNS[EVENTS][name] for name in _PARTITION}
    wanted = pl.DataFrame(list(partitions), schema=schema, orient="row").with_row_index("number")
    wanted = wanted.with_columns(oldest=pl.Series(oldest_us, dtype=pl.Int64).cast(pl.Datetime("us", "UTC")))
    wanted = wanted.filter(pl.Series([partition in latest_us for partition in partitions], dtype=pl.Boolean))
    if wanted.is_empty():
        return seen, known
    is_recent = (pl.col("time") >= pl.col("oldest")) | (pl.col("decided_at") >= pl.col("oldest"))
    oldest = wanted["oldest"].min()
    recent = (
        events.filter((pl.col("time") >= oldest) | (pl.col("decided_at") >= oldest))
        .join(wanted.lazy(), on=_PARTITION)
        .filter(is_recent)
        .select("number", *READ)
    )
    for chunk in recent.collect_batches(chunk_size=200_000, maintain_order=False):
        for (number,), rows in chunk.partition_by("number", as_dict=True).items():
            seen[partitions[number]].remember(identities_of_rows(rows))
            # Of an older decision only some of what was told of it was read: the table is asked for all of it.
            recent_enough = pl.col("decided_at").cast(pl.Int64) >= oldest_us[number]
            _remember(known[partitions[number]], rows.filter(recent_enough))
    return seen, known


def _remember(known: KnownFacts, rows: pl.DataFrame) -> None:
    """Take rows of the table `events` that tell what came of decisions."""
    told = rows.filter(pl.col("kind").is_in(TELLING), pl.col("decided_at").is_not_null())
    decided_at_us = told["decided_at"].cast(pl.Int64).to_numpy()
    known.remember(told["subject"].to_arrow(), decided_at_us, told["kind"].to_numpy())


def _rejects_from(lake: Lake, starts: dict[SourcePartition, int]) -> dict[SourcePartition, dict[int, Reject]]:
    return {
        partition: {
            reject.offset: reject
            for reject in from_rows(_rows_of(lake, REJECTS, partition).filter(pl.col("offset") >= start).collect())
        }
        for partition, start in starts.items()
    }


def _rows_of(lake: Lake, table: str, partition: SourcePartition) -> pl.LazyFrame:
    return lake.scan(table).filter(
        pl.col("log_id") == partition.log_id,
        pl.col("topic") == partition.topic,
        pl.col("partition") == partition.partition,
    )
