"""One micro-batch into rows: decode, reject, drop repeats, count. No input or output; the clock is an argument."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import pyarrow as pa

from streams.broker import EMBEDDED_PREFIX
from streams.ingest.decode import EventDecoder, latest_possible
from streams.ingest.errors import LogMismatchError
from streams.ingest.event_columns import chained, joined, longs
from streams.ingest.rejects import Reject, reject
from streams.ingest.rows import NO_TIMESTAMP, Accepted, count, event_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    import polars as pl

    from analytics.lake.tables import SourcePartition
    from streams.ingest.dedupe import SeenIds
    from streams.ingest.event_columns import EventColumns, Flags, Longs
    from streams.ingest.faults import Fault
    from streams.ingest.records import Batch, PartitionRecords

Column = TypeVar("Column")

_AT_A_TIME: Final = 2_000
"""Records that are decoded together: few enough for what is made of them to stay in the processor's cache."""


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
class FoldedBatch:
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
    events: pa.Table
    signals: pl.DataFrame
    rejects: tuple[Reject, ...]
    letters: tuple[Reject, ...]
    reached: Mapping[SourcePartition, int]
    tally: Tally


@dataclass(frozen=True)
class _Piece:
    """Consecutive records of one partition that are decoded under the same rules.

    Attributes:
        partition: Where they were read.
        records: All records of the partition in this batch.
        places: Which of them these are.
    """

    partition: SourcePartition
    records: PartitionRecords
    places: Sequence[int]

    def of(self, column: list[Column]) -> list[Column]:
        """This piece of one column of the records."""
        if isinstance(self.places, range):
            return column[self.places.start : self.places.stop]
        return [column[place] for place in self.places]


@dataclass
class _Outcome:
    """What comes of the records of one batch; the lists about records that were decoded are in the same order.

    Attributes:
        now: The clock.
        events: What they hold.
        usable: Which of them are events.
        ids: The events' ids.
        values: The records' bytes.
        offsets: Their offsets.
        broker_at_ms: Their timestamps, or `NO_TIMESTAMP`.
        partitions: The partitions in turn, and how many of the records come from each.
        rejects: What was rejected for the first time.
        known_rejects: What had been rejected before a restart.
        tally: What became of all records.
    """

    now: datetime
    events: list[EventColumns] = field(default_factory=list)
    usable: list[Flags] = field(default_factory=list)
    ids: list[pa.Array] = field(default_factory=list)
    values: list[pa.Array] = field(default_factory=list)
    offsets: list[Longs] = field(default_factory=list)
    broker_at_ms: list[Longs] = field(default_factory=list)
    partitions: list[tuple[SourcePartition, int]] = field(default_factory=list)
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

    def fold(self, batch: Batch, now: datetime) -> FoldedBatch:
        """Fold a batch.

        Args:
            batch: Records that continue where the last batch ended.
            now: The clock, for what lies impossibly far ahead.

        Raises:
            LogMismatchError: The records do not continue where the last ones ended.
        """
        outcome = _Outcome(now)
        self._settled.begin_batch()
        self._fresh.begin_batch()
        for partition, records in batch.partitions.items():
            if partition not in self._states:
                raise LogMismatchError(f"a record of {partition.app_id} came, which is not assigned to this worker.")
            known, unknown = self._account(partition, records, outcome)
            for places in _cut(known):
                self._decode(self._settled, _Piece(partition, records, places), None, outcome)
            for places in _cut(unknown):
                self._decode(self._fresh, _Piece(partition, records, places), latest_possible(now), outcome)
            outcome.partitions.append((partition, len(known) + len(unknown)))
        accepted = self._accept(outcome)
        order = {partition: place for place, partition in enumerate(batch.partitions)}
        outcome.rejects.sort(key=lambda each: (order[each.partition], each.offset))
        tally = outcome.tally
        tally.accepted, tally.rejected = len(accepted.events), len(outcome.rejects)
        tally.known_rejects = len(outcome.known_rejects)
        return FoldedBatch(
            number=batch.number,
            events=event_rows(accepted, ingested_at=now),
            signals=count(accepted.events),
            rejects=tuple(outcome.rejects),
            letters=(*outcome.known_rejects, *outcome.rejects),
            reached={partition: self._states[partition].reached for partition in batch.partitions},
            tally=tally,
        )

    def _account(
        self, partition: SourcePartition, records: PartitionRecords, outcome: _Outcome
    ) -> tuple[Sequence[int], Sequence[int]]:
        """Account for every offset up to the end of the records.

        Returns:
            The positions of the records to decode: first of those that no rule may reject any more but the bytes
            themselves, then of all others.
        """
        state = self._states[partition]
        offsets, next_offset = records.offsets, state.reached + 1
        unbroken = bool(offsets) and offsets == list(range(next_offset, next_offset + len(offsets)))
        if not unbroken:
            for offset in offsets:
                if offset != next_offset:
                    self._fold_gap(partition, next_offset, offset, outcome)
                next_offset = offset + 1
        elif offsets:
            next_offset = offsets[-1] + 1
        cut = bisect_right(offsets, state.settled_through)
        known: Sequence[int] = range(cut)
        if cut and state.rejected:
            outcome.known_rejects += [state.rejected[offset] for offset in offsets[:cut] if offset in state.rejected]
            known = [place for place in known if offsets[place] not in state.rejected]
        if records.end is not None and records.end > next_offset:
            self._fold_gap(partition, next_offset, records.end, outcome)
            next_offset = records.end
        state.reached = next_offset - 1
        return known, range(cut, len(offsets))

    def _decode(self, decoder: EventDecoder, piece: _Piece, latest_us: int | None, outcome: _Outcome) -> None:
        """Decode records."""
        read = decoder.decode(piece.of(piece.records.values), latest_us)
        self._reject(piece, read.faults, outcome)
        timestamps = [NO_TIMESTAMP if at_ms is None else at_ms for at_ms in piece.of(piece.records.broker_at_ms)]
        outcome.events.append(read.events)
        outcome.usable.append(read.usable)
        outcome.ids.append(pa.array(read.events.ids, pa.string()))  # now, since they are in the processor's cache
        outcome.values.append(read.values)
        outcome.offsets.append(longs(piece.of(piece.records.offsets)))
        outcome.broker_at_ms.append(longs(timestamps))

    def _accept(self, outcome: _Outcome) -> Accepted:
        """Of all that were decoded, those that are neither unusable nor a repeat."""
        events = joined(outcome.events)
        ids = pa.concat_arrays(outcome.ids) if outcome.ids else pa.array([], pa.string())
        values = pa.chunked_array(outcome.values, pa.binary())
        offsets, broker_at_ms = chained(outcome.offsets), chained(outcome.broker_at_ms)
        keep = np.concatenate([np.empty(0, dtype=np.bool_), *outcome.usable])
        places, end = [], 0
        for partition, decoded in outcome.partitions:
            begin, end = end, end + decoded
            kept, its_ids = keep[begin:end], ids.slice(begin, decoded)
            usable = its_ids if kept.all() else its_ids.filter(pa.array(kept))
            new = self._states[partition].seen.accept_all(usable, events.time_us[begin:end][kept])
            kept[kept] = new  # of `keep`
            outcome.tally.repeats += len(new) - int(new.sum())
            places.append((partition, int(kept.sum())))
        if not keep.all():
            mask = pa.array(keep)
            events, ids, values = events.kept(keep), ids.filter(mask), values.filter(mask)
            offsets, broker_at_ms = offsets[keep], broker_at_ms[keep]
        return Accepted(events, ids, values, places, offsets, broker_at_ms)

    @staticmethod
    def _reject(piece: _Piece, faults: Mapping[int, Fault], outcome: _Outcome) -> None:
        for place, fault in faults.items():
            index, records = piece.places[place], piece.records
            outcome.rejects.append(
                reject(
                    piece.partition,
                    records.offsets[index],
                    reason=fault.reason,
                    detail=fault.detail,
                    now=outcome.now,
                    key=records.keys[index],
                    value=records.values[index],
                    broker_at_ms=records.broker_at_ms[index],
                )
            )

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


def _cut(places: Sequence[int]) -> Iterator[Sequence[int]]:
    """Positions in their order, some at a time."""
    for start in range(0, len(places), _AT_A_TIME):
        yield places[start : start + _AT_A_TIME]
