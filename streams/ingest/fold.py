"""Fold one micro-batch into rows: decode, reject, drop repeats, count. Pure: the clock is an argument."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import pyarrow as pa

from streams.broker import EMBEDDED_PREFIX
from streams.ingest.decode import EventDecoder, latest_possible, micros_of
from streams.ingest.earlier_events import NOT_FOUND
from streams.ingest.errors import LogMismatchError
from streams.ingest.event_columns import EventColumns, Flags, Longs, chained, joined, longs
from streams.ingest.id_store import words_of
from streams.ingest.identities import conflict_fault, identities_of
from streams.ingest.known_facts import FactChanges, KnownFacts
from streams.ingest.rejects import Reject, reject
from streams.ingest.rows import NO_TIMESTAMP, Accepted, count, dropped_rows, event_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime, timedelta

    import polars as pl

    from analytics.lake.tables import SourcePartition
    from streams.ingest.binary_mode import HeadersOf
    from streams.ingest.dedupe import SeenIds
    from streams.ingest.faults import Fault
    from streams.ingest.records import Batch, PartitionRecords

Column = TypeVar("Column")

_AT_ANY_TIME: Final = (None, None)
_CHUNK: Final = 2_000  # decoded together: few enough for what is made of them to stay in the processor's cache


@dataclass
class PartitionState:
    """State of the fold of one partition."""

    reached: int  # the last offset that was folded; the one before the log's beginning when nothing was
    settled_through: int  # up to this offset the table `rejects` holds what was rejected; nothing is decided anew
    rejected: Mapping[int, Reject]  # stored rejects above `reached`, by offset
    seen: SeenIds  # what was accepted
    known: KnownFacts = field(default_factory=KnownFacts)  # what came of decisions


@dataclass
class Tally:
    """Counts of a batch's records by what became of them."""

    accepted: int = 0  # events stored
    repeats: int = 0  # events dropped because the same were accepted before
    rejected: int = 0  # records rejected for the first time
    known_rejects: int = 0  # records read again that had been rejected before a restart
    skipped: int = 0  # offsets without a record on a log where that is normal (transactions, compaction)


@dataclass(frozen=True)
class FoldedBatch:
    """The rows of a batch, ready to be committed."""

    number: int
    events: pa.Table  # rows for the table `events`
    signals: pl.DataFrame  # rows for the table `signals`
    rejects: tuple[Reject, ...]  # what was rejected for the first time
    dropped: pl.DataFrame  # rows for the table `dropped`
    letters: tuple[Reject, ...]  # and what the table holds already: a worker that died may not have published it
    reached: Mapping[SourcePartition, int]  # the last offset of each partition in the batch
    tally: Tally


@dataclass(frozen=True)
class _Piece:
    """Records of one partition that are decoded together."""

    partition: SourcePartition
    records: PartitionRecords  # all records of the partition in this batch
    positions: Sequence[int]  # which of them these are

    def take(self, column: list[Column]) -> list[Column]:
        """The values of these records in one column."""
        if isinstance(self.positions, range):
            return column[self.positions.start : self.positions.stop]
        return [column[position] for position in self.positions]

    @property
    def headers_of(self) -> HeadersOf | None:
        """The headers of these records, by the position among them."""
        headers_of = self.records.headers_of
        return None if headers_of is None else lambda place: headers_of(self.positions[place])


@dataclass
class _BatchParts:
    """The decoded parts of one batch; the lists about decoded records are in the same order."""

    now: datetime
    events: list[EventColumns] = field(default_factory=list)
    usable: list[Flags] = field(default_factory=list)  # which records are events
    values: list[pa.Array] = field(default_factory=list)
    offsets: list[Longs] = field(default_factory=list)
    broker_at_ms: list[Longs] = field(default_factory=list)  # or `NO_TIMESTAMP`
    partitions: list[tuple[SourcePartition, int]] = field(default_factory=list)  # in turn, with their record counts
    rejects: list[Reject] = field(default_factory=list)  # what was rejected for the first time
    known_rejects: list[Reject] = field(default_factory=list)  # what had been rejected before a restart
    repeats: list[tuple[SourcePartition, EventColumns, Longs]] = field(default_factory=list)  # with their offsets
    gaps: list[tuple[SourcePartition, int, int]] = field(default_factory=list)  # first and last offset without a record
    tally: Tally = field(default_factory=Tally)


class Folder:
    """Folds batches, in order, from where the states of the assigned partitions begin; `fold` moves them.

    `keep` is for how long the table `events` keeps its rows; None: for ever.
    """

    def __init__(
        self, states: dict[SourcePartition, PartitionState], key: bytes | None, keep: timedelta | None = None
    ) -> None:
        self._states = states
        self._keep = keep
        self._decoder = EventDecoder(key)
        self._settled_decoder = EventDecoder(None)  # signatures were checked before the restart

    def fold(self, batch: Batch, now: datetime) -> FoldedBatch:
        """Fold a batch that continues where the last one ended; `now` tells what lies impossibly far ahead.

        Raises:
            LogMismatchError: The records do not continue where the last ones ended.
        """
        parts = _BatchParts(now)
        possible = latest_possible(now), None if self._keep is None else micros_of(now - self._keep)
        self._settled_decoder.begin_batch()
        self._decoder.begin_batch()
        for partition, records in batch.partitions.items():
            if partition not in self._states:
                raise LogMismatchError(f"a record of {partition.app_id} came, which is not assigned to this worker.")
            settled, fresh = self._account(partition, records, parts)
            for positions in _chunks(settled):
                self._decode(self._settled_decoder, _Piece(partition, records, positions), _AT_ANY_TIME, parts)
            for positions in _chunks(fresh):
                self._decode(self._decoder, _Piece(partition, records, positions), possible, parts)
            parts.partitions.append((partition, len(settled) + len(fresh)))
        accepted, changes = self._accept(batch, parts)
        order = {partition: position for position, partition in enumerate(batch.partitions)}
        parts.rejects.sort(key=lambda reject: (order[reject.partition], reject.offset))
        tally = parts.tally
        tally.accepted, tally.rejected = len(accepted.events), len(parts.rejects)
        tally.known_rejects = len(parts.known_rejects)
        return FoldedBatch(
            number=batch.number,
            events=event_rows(accepted, ingested_at=now),
            signals=count(accepted.events, changes, micros_of(now)),
            rejects=tuple(parts.rejects),
            dropped=dropped_rows(parts.repeats, parts.gaps, dropped_at=now),
            letters=(*parts.known_rejects, *parts.rejects),
            reached={partition: self._states[partition].reached for partition in batch.partitions},
            tally=tally,
        )

    def _account(
        self, partition: SourcePartition, records: PartitionRecords, parts: _BatchParts
    ) -> tuple[Sequence[int], Sequence[int]]:
        """Account for every offset; positions of the records that only their bytes may still reject, and all others."""
        state = self._states[partition]
        offsets, next_offset = records.offsets, state.reached + 1
        unbroken = bool(offsets) and offsets == list(range(next_offset, next_offset + len(offsets)))
        if not unbroken:
            for offset in offsets:
                if offset != next_offset:
                    self._fold_gap(partition, next_offset, offset, parts)
                next_offset = offset + 1
        elif offsets:
            next_offset = offsets[-1] + 1
        first_fresh = bisect_right(offsets, state.settled_through)
        settled: Sequence[int] = range(first_fresh)
        if settled and state.rejected:
            stored = [state.rejected.get(offset) for offset in offsets[:first_fresh]]
            parts.known_rejects += [reject for reject in stored if reject is not None]
            settled = [position for position in settled if stored[position] is None]
        if records.end is not None and records.end > next_offset:
            self._fold_gap(partition, next_offset, records.end, parts)
            next_offset = records.end
        state.reached = next_offset - 1
        return settled, range(first_fresh, len(offsets))

    def _decode(
        self, decoder: EventDecoder, piece: _Piece, possible: tuple[int | None, int | None], parts: _BatchParts
    ) -> None:
        latest_us, oldest_us = possible
        decoded = decoder.decode(piece.take(piece.records.values), latest_us, oldest_us, piece.headers_of)
        for place, fault in decoded.faults.items():
            _reject(piece.partition, piece.records, piece.positions[place], fault, parts)
        timestamps = [NO_TIMESTAMP if at_ms is None else at_ms for at_ms in piece.take(piece.records.broker_at_ms)]
        parts.events.append(decoded.events)
        parts.usable.append(decoded.usable)
        parts.values.append(decoded.values)
        parts.offsets.append(longs(piece.take(piece.records.offsets)))
        parts.broker_at_ms.append(longs(timestamps))

    def _accept(self, batch: Batch, parts: _BatchParts) -> tuple[Accepted, FactChanges]:
        events = joined(parts.events or [self._decoder.decode([], None).events])
        values = pa.chunked_array(parts.values, pa.binary())
        offsets, broker_at_ms = chained(parts.offsets), chained(parts.broker_at_ms)
        keep = np.concatenate([np.empty(0, dtype=np.bool_), *parts.usable])
        words = words_of(events.subjects)
        identities = identities_of(events, words)
        partitions, end = [], 0
        for partition, height in parts.partitions:
            begin, end = end, end + height
            places = begin + np.flatnonzero(keep[begin:end])
            mine = identities.take(places)
            before = self._states[partition].seen.accept_all(mine)
            is_new = before == NOT_FOUND
            keep[places] = is_new
            conflicts = np.flatnonzero(~is_new & (before != mine.marks))
            repeats = places[~is_new & (before == mine.marks)]
            if repeats.size:
                parts.repeats.append((partition, events.at(repeats), offsets[repeats]))
            for place in conflicts.tolist():
                records = batch.partitions[partition]
                position = bisect_left(records.offsets, int(offsets[places[place]]))
                fault = conflict_fault(mine, place, int(before[place]))
                _reject(partition, records, position, fault, parts)
            accepted = int(is_new.sum())
            parts.tally.repeats += len(is_new) - accepted - conflicts.size
            partitions.append((partition, accepted))
        if not keep.all():
            events, values = events.kept(keep), values.filter(pa.array(keep))
            offsets, broker_at_ms, words = offsets[keep], broker_at_ms[keep], words[keep]
        changes, end = [], 0
        for partition, height in partitions:
            begin, end = end, end + height
            changes.append(self._states[partition].known.take(events.span(begin, end), words[begin:end], begin))
        return Accepted(events, values, partitions, offsets, broker_at_ms), FactChanges.joined(changes)

    def _fold_gap(self, partition: SourcePartition, first: int, end: int, parts: _BatchParts) -> None:
        """Account for the offsets from `first` to `end` (exclusive), at which no record was read."""
        if end < first:
            raise LogMismatchError(
                f"{partition.app_id} went backwards: offset {end} came after offset {first - 1}. "
                "Start the worker again; it resumes from the lake."
            )
        if not partition.log_id.startswith(EMBEDDED_PREFIX):
            parts.tally.skipped += end - first
            if end > first:
                parts.gaps.append((partition, first, end - 1))
            return
        state = self._states[partition]
        # The embedded broker keeps null values but never hands them out.
        for offset in range(first, end):
            if offset in state.rejected:
                parts.known_rejects.append(state.rejected[offset])
            else:
                detail = "the record has no value"
                parts.rejects.append(reject(partition, offset, reason="null_value", detail=detail, now=parts.now))


def _reject(
    partition: SourcePartition, records: PartitionRecords, position: int, fault: Fault, parts: _BatchParts
) -> None:
    parts.rejects.append(
        reject(
            partition,
            records.offsets[position],
            reason=fault.reason,
            detail=fault.detail,
            now=parts.now,
            key=records.keys[position],
            value=records.values[position],
            broker_at_ms=records.broker_at_ms[position],
        )
    )


def _chunks(positions: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(positions), _CHUNK):
        yield positions[start : start + _CHUNK]
