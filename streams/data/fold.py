"""One micro-batch into rows: decode, reject, drop repeats, count. No input or output; the clock is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING

import polars as pl

from analytics.lake.schemas import COLUMNS, EVENTS
from analytics.lake.tables import SourcePartition
from streams.broker import EMBEDDED_PREFIX
from streams.data.decode import EventDecoder, Fault, latest_possible
from streams.data.errors import LogMismatchError
from streams.data.rejects import Reject, reject
from streams.data.rollup import roll_up
from streams.data.wire import CellEpoch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from streams.data.batch import Batch, PartitionRecords
    from streams.data.decode import Decoded
    from streams.data.dedupe import SeenIds


@dataclass
class PartitionState:
    """What the fold knows of a partition.

    Attributes:
        reached: The last offset that was folded; the one before the log's beginning when nothing was.
        settled_through: Up to here the table `rejects` says what was rejected; nothing is decided anew.
        rejected: What was rejected above `reached`, by offset.
        seen: The ids that were accepted.
    """

    reached: int
    settled_through: int
    rejected: Mapping[int, Reject]
    seen: SeenIds


@dataclass
class Tally:
    """What became of a batch's records.

    Attributes:
        accepted: Events stored.
        repeats: Events dropped because their id was accepted before.
        rejected: Records rejected for the first time.
        known_rejects: Records met again that had been rejected before a restart.
        skipped: Offsets without a record on a log where that is normal (transactions, compaction).
    """

    accepted: int = 0
    repeats: int = 0
    rejected: int = 0
    known_rejects: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Folded:
    """A batch, ready to be committed.

    Attributes:
        number: The batch's number.
        events: Rows for the table `events`.
        signals: Rows for the table `signals`.
        rejects: What was rejected for the first time.
        letters: All that was rejected, also what the table `rejects` holds already: a worker that died may not have
            published it.
        reached: The last offset of each partition in the batch.
        tally: What became of the records.
    """

    number: int
    events: pl.DataFrame
    signals: pl.DataFrame
    rejects: tuple[Reject, ...]
    letters: tuple[Reject, ...]
    reached: Mapping[SourcePartition, int]
    tally: Tally


@dataclass
class _Outcome:
    """What comes of the records of one batch; the lists about accepted events are columns of equal length."""

    now: datetime
    events: list[Decoded] = field(default_factory=list)
    places: list[SourcePartition] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    broker_at_ms: list[int | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    known_rejects: list[Reject] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)


class Folder:
    """Folds batches, in order, from where the states begin.

    Args:
        states: State of each assigned partition; it is moved by `fold`.
        key: The receipt key.
    """

    def __init__(self, states: dict[SourcePartition, PartitionState], key: bytes | None) -> None:
        self._states = states
        self._fresh = EventDecoder(key)
        self._settled = EventDecoder(None)

    def fold(self, batch: Batch, now: datetime) -> Folded:
        """Fold a batch.

        Args:
            batch: Records that continue where the last batch ended.
            now: The clock, for what lies impossibly far ahead.

        Raises:
            LogMismatchError: The records do not continue where the last ones ended.
        """
        outcome = _Outcome(now)
        for partition, records in batch.partitions.items():
            if partition not in self._states:
                raise LogMismatchError(f"a record of {partition.app_id} came, which is not assigned to this worker.")
            self._fold_partition(partition, records, outcome)
        tally = outcome.tally
        tally.accepted, tally.rejected = len(outcome.events), len(outcome.rejects)
        tally.known_rejects = len(outcome.known_rejects)
        return Folded(
            number=batch.number,
            events=_event_rows(outcome),
            signals=roll_up(outcome.events),
            rejects=tuple(outcome.rejects),
            letters=(*outcome.known_rejects, *outcome.rejects),
            reached={partition: self._states[partition].reached for partition in batch.partitions},
            tally=tally,
        )

    def _fold_partition(self, partition: SourcePartition, records: PartitionRecords, outcome: _Outcome) -> None:
        state = self._states[partition]
        latest_us = latest_possible(outcome.now)
        next_offset = state.reached + 1
        fresh, settled_through = self._fresh.decode, state.settled_through
        usable: list[int] = []
        events: list[Decoded] = []
        for index, (offset, value) in enumerate(zip(records.offsets, records.values, strict=True)):
            if offset != next_offset:
                self._fold_gap(partition, next_offset, offset, outcome)
            next_offset = offset + 1
            settled = offset <= settled_through
            if settled and offset in state.rejected:
                outcome.known_rejects.append(state.rejected[offset])
                continue
            event = self._settled.decode(value, None) if settled else fresh(value, latest_us)
            if isinstance(event, Fault):
                outcome.rejects.append(
                    reject(
                        partition,
                        offset,
                        reason=event.reason,
                        detail=event.detail,
                        now=outcome.now,
                        key=records.keys[index],
                        value=value,
                        broker_at_ms=records.broker_at_ms[index],
                    )
                )
            else:
                usable.append(index)
                events.append(event)
        accepted = state.seen.accept_all([event.id for event in events], [event.time_us for event in events])
        usable, events = list(compress(usable, accepted)), list(compress(events, accepted))
        outcome.tally.repeats += len(accepted) - len(events)
        outcome.events += events
        outcome.places += [partition] * len(events)
        outcome.offsets += [records.offsets[index] for index in usable]
        outcome.broker_at_ms += [records.broker_at_ms[index] for index in usable]
        outcome.values += [records.values[index] for index in usable]
        if records.end is not None and records.end > next_offset:
            self._fold_gap(partition, next_offset, records.end, outcome)
            next_offset = records.end
        state.reached = next_offset - 1

    def _fold_gap(self, partition: SourcePartition, first: int, end: int, outcome: _Outcome) -> None:
        """Account for the offsets from `first` to `end` (exclusive), at which no record was read."""
        if end < first:
            raise LogMismatchError(
                f"{partition.app_id} went backwards: offset {end} came after offset {first - 1}. "
                "Start the worker again; it resumes from the lake."
            )
        if not partition.log_id.startswith(EMBEDDED_PREFIX):
            outcome.tally.skipped += end - first
            return
        state = self._states[partition]
        # The embedded broker keeps null values but never hands them out.
        for offset in range(first, end):
            if offset in state.rejected:
                outcome.known_rejects.append(state.rejected[offset])
            else:
                detail = "the record has no value"
                outcome.rejects.append(reject(partition, offset, reason="null_value", detail=detail, now=outcome.now))


def _event_rows(outcome: _Outcome) -> pl.DataFrame:
    """Rows for the table `events`."""
    events, places = outcome.events, outcome.places
    schema = COLUMNS[EVENTS]
    cells: dict[CellEpoch | None, int] = {}
    cell_of = pl.Series([cells.setdefault(event.cell, len(cells)) for event in events], dtype=pl.UInt32)
    partitions: dict[SourcePartition, int] = {}
    partition_of = pl.Series([partitions.setdefault(place, len(partitions)) for place in places], dtype=pl.UInt32)
    # What repeats is made once for each different value and then gathered.
    repeated: dict[str, tuple[pl.Series, list[object]]] = {
        **{
            name: (partition_of, [place[index] for place in partitions])
            for index, name in enumerate(SourcePartition._fields)
        },
        **{
            name: (cell_of, [None if cell is None else cell[index] for cell in cells])
            for index, name in enumerate(CellEpoch._fields)
        },
    }
    columns: dict[str, list[object]] = {
        "offset": [*outcome.offsets],
        "id": [event.id for event in events],
        "type": [event.type for event in events],
        "source": [event.source for event in events],
        "subject": [event.subject for event in events],
        "value": [*outcome.values],
    }
    moments: dict[str, list[int | None]] = {
        "time": [event.time_us for event in events],
        "decided_at": [event.decided_at_us for event in events],
        "broker_at": [None if at_ms is None else at_ms * 1_000 for at_ms in outcome.broker_at_ms],
    }
    frame = pl.DataFrame(
        [pl.Series(name, values, dtype=schema[name]).gather(rows) for name, (rows, values) in repeated.items()]
        + [pl.Series(name, values, dtype=schema[name]) for name, values in columns.items()]
        + [pl.Series(name, values, dtype=pl.Int64).cast(schema[name]) for name, values in moments.items()]
    )
    ingested_at = pl.lit(outcome.now, dtype=schema["ingested_at"]).alias("ingested_at")
    return frame.with_columns(ingested_at).select(schema.names())
