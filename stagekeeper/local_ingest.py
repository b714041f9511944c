"""Folding events in this process, as the worker folds them: no broker, no lake."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from analytics.lake.tables import SourcePartition
from producers.errors import StagekeeperError
from producers.wire.events import Event, event_to_bytes
from streams.ingest.dedupe import SeenIds
from streams.ingest.fold import FoldedBatch, Folder, PartitionState
from streams.ingest.records import Batch, PartitionRecords

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime


LOG_ID: Final = "in-process"


class RefusedEventsError(StagekeeperError):
    """Events that were made in this process were rejected by its own data plane."""


class LocalIngest:
    """Folds events as the worker does, one partition a topic, without storing them; the clock tells what lies ahead."""

    def __init__(self, *, now: Callable[[], datetime]) -> None:
        self._now = now
        self._states: dict[SourcePartition, PartitionState] = {}
        self._batches = 0

    def fold(self, events: Sequence[Event]) -> FoldedBatch:
        """Fold events in the order given; raises `RefusedEventsError` where one of them is not acceptable."""
        records: dict[SourcePartition, PartitionRecords] = defaultdict(PartitionRecords)
        for event in events:
            partition = SourcePartition(LOG_ID, event.topic, 0)
            state = self._states.setdefault(partition, PartitionState(-1, -1, {}, SeenIds()))
            into = records[partition]
            into.add(state.reached + 1 + len(into.offsets), None, event_to_bytes(event), None)
        self._batches += 1
        folded = Folder(self._states, None).fold(Batch(self._batches, dict(records)), self._now())
        if folded.rejects:
            raise RefusedEventsError(f"{len(folded.rejects)} events were refused: {folded.rejects[0]}")
        return folded
