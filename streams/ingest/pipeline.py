"""Commit micro-batches to the lake, exactly once.

Three tables take the outcome of a batch, one commit each, always in this order: `rejects`, `events`, `signals`; the
dead letters are acknowledged between the first two. A table to which the batch adds nothing gets no commit: its offsets
travel with the next one that adds something, which covers all partitions up to the end of its own batch. A commit names
the offset it covers in each partition and the one the table must have covered before; otherwise the lake refuses it.
With R, E and S for the offsets that the tables cover, nothing is lost or counted twice, wherever a worker dies:

1. A commit is all or nothing, and whoever makes one has committed everything that came before it. So each table holds
   all that is due to it up to the largest of R, E and S, except for the batch that the worker died in: of that, the
   tables after the last one committed lack their rows. `signals` gets rows only where `events` does: E >= S. `rejects`
   may be behind, where nothing was rejected, or ahead, where nothing was accepted or the worker died in between.
2. A restart first brings S to E by folding the rows of `events` in (S, E]. `events` holds exactly the accepted events
   and their bytes, so `signals` is a function of it, and no record is decided a second time for it.
3. Reading goes on at E + 1. No record above E was accepted, whatever was read since: rejects and repeats, after which
   the dedupe state is what it was. What was accepted before are the rows of `events`: that state is rebuilt from them,
   and decides every later record as it would have without the restart, those repeats among them.
4. In (E, R], if there is such, it is settled which records are rejected: those in `rejects`, and no other for its time
   or signature, whatever the clock and the key are now, so no record is in both tables or in neither. Their dead
   letters are published again under the same keys, since the worker may have died before: at least once, and none for a
   record that was accepted after all.
5. Above R and E nothing was committed, so nothing can be contradicted. Of two workers that both read a partition, the
   first to commit wins; the other is refused, stops, and resumes.

Offsets that nothing was added for are committed alone once the source has nothing more, or after `ALONE`: a broker
forgets old records, and the lake must be seen to have caught up.

A batch is folded while the one before it is committed; commits never overlap. The offsets that Kafka stores for the
consumer group play no part.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from analytics.lake.table_schemas import DROPPED, EVENTS, REJECTS, SIGNALS, TABLES
from analytics.lake.tables import Advance, Lake, SourcePartition
from streams.ingest.cadence import Haste
from streams.ingest.errors import DataPlaneError
from streams.ingest.fold import FoldedBatch, Folder
from streams.ingest.rejects import KafkaDeadLetters, to_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    import polars as pl
    import pyarrow as pa

    from streams.ingest.records import Batch
    from streams.ingest.recovery import Resumed
    from streams.metrics import Progress

ALONE: Final = timedelta(seconds=5)  # how long offsets wait for a commit that adds something, while records come


@dataclass(frozen=True)
class Assignment:
    """The partitions that this worker reads from now on, in place of all earlier ones."""

    number: int  # position among everything the source hands over, counted from 1 without a gap
    partitions: Mapping[SourcePartition, Resumed]


class Pipeline:
    """Folds and commits what the source hands over, in order.

    `fold` and `commit` may run in two threads, each call after the one before it has returned; `assign` while neither
    runs.
    """

    def __init__(
        self,
        lake: Lake,
        dead_letters: KafkaDeadLetters,
        *,
        key: bytes | None,
        now: Callable[[], datetime],
        keep: timedelta | None = None,  # for how long `events` keeps its rows; None: for ever
    ) -> None:
        self._lake = lake
        self._dead_letters = dead_letters
        self._key = key
        self._now = now
        self._keep = keep
        self._folder = Folder({}, key, keep)
        self._reached: dict[SourcePartition, int] = {}  # the last offset of which everything is committed
        self._covered: dict[str, dict[SourcePartition, int]] = {}  # by table, the last offset that its log states
        self._behind_since: datetime | None = None  # since when `events` or `signals` covers less than was reached
        self._taken = 0
        self._committed = 0

    def assign(self, assignment: Assignment) -> None:
        """Go on with other partitions; raises `DataPlaneError` where an item before was lost, or is not committed."""
        self._take(assignment.number)
        if self._committed != assignment.number - 1:
            raise DataPlaneError("partitions were assigned before the batches of the last ones were committed.")
        self._committed = assignment.number
        resumed = assignment.partitions
        self._folder = Folder({partition: start.state for partition, start in resumed.items()}, self._key, self._keep)
        events = {partition: start.events for partition, start in resumed.items() if start.events is not None}
        rejects = {partition: start.rejects for partition, start in resumed.items() if start.rejects is not None}
        self._covered = {REJECTS: rejects, EVENTS: dict(events), SIGNALS: dict(events)}
        self._reached, self._behind_since = {}, None

    def fold(self, batch: Batch) -> FoldedBatch:
        """Fold the next batch; nothing is written.

        Raises:
            DataPlaneError: Something between was lost.
            LogMismatchError: The records do not continue where the last ones ended.
        """
        self._take(batch.number)
        return self._folder.fold(batch, self._now())

    def commit(self, folded: FoldedBatch) -> float:
        """Publish the batch's rejects and commit its rows with the offsets; how long it took, in seconds.

        A batch without partitions says that nothing more is there for now.

        Raises:
            DataPlaneError: A batch before it was not committed.
            PublicationError: A reject was not taken by the broker.
            FencedError: Another worker owns a partition now.
            LakeError: A commit failed.
        """
        if folded.number != self._committed + 1:
            raise DataPlaneError(f"batch {folded.number} cannot follow {self._committed}: one between was lost.")
        began = time.perf_counter()
        self._reached.update(folded.reached)
        if folded.dropped.height:
            # Before `events`, after which nobody reads these offsets again; twice, where the worker dies in between.
            self._lake.append(DROPPED, folded.dropped)
        for table, rows in ((REJECTS, to_rows(folded.rejects)), (EVENTS, folded.events), (SIGNALS, folded.signals)):
            if len(rows):
                self._append(table, rows)
            if table == REJECTS and folded.letters:
                self._dead_letters.publish(folded.letters)
        self._cover(is_idle=not folded.reached)
        self._committed = folded.number
        return time.perf_counter() - began

    def _append(self, table: str, rows: pa.Table | pl.DataFrame) -> None:
        advances = self._advances(table)
        self._lake.append(table, rows, advances=advances)
        self._covered[table].update({partition: advance.reached for partition, advance in advances.items()})

    def _advances(self, table: str) -> dict[SourcePartition, Advance]:
        covered = self._covered[table]
        return {
            partition: Advance(covered.get(partition), reached)
            for partition, reached in self._reached.items()
            if reached > covered.get(partition, -1)
        }

    def _cover(self, *, is_idle: bool) -> None:
        """Commit offsets alone that have waited for long, or that nothing comes for to travel with."""
        behind = [table for table in (EVENTS, SIGNALS) if self._advances(table)]
        now = self._now()
        self._behind_since = (self._behind_since or now) if behind else None
        if self._behind_since is not None and (is_idle or now - self._behind_since >= ALONE):
            for table in behind:
                self._append(table, TABLES[table].empty_table())
            self._behind_since = None

    def _take(self, number: int) -> None:
        if number != self._taken + 1:
            raise DataPlaneError(f"item {number} of the source came after {self._taken}: one between was lost.")
        self._taken = number


class DataPlane:
    """Runs the pipeline: folds a batch while the one before it is committed.

    `fail` is called with every error; from then on nothing more is committed. `committed` is called with every batch
    whose counts have become visible.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        progress: Progress,
        fail: Callable[[BaseException], None],
        committed: Callable[[FoldedBatch], None] = lambda _: None,
    ) -> None:
        self._pipeline = pipeline
        self._progress = progress
        self._fail = fail
        self._committed = committed
        self._folding = ThreadPoolExecutor(1, thread_name_prefix="stagekeeper-fold")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="stagekeeper-commit")
        self._committing: asyncio.Task[None] | None = None
        self._haste = Haste()
        self.assignment: Assignment | None = None

    async def take(self, item: Assignment | Batch) -> None:
        """Assign partitions, or fold a batch; returns once the batch before it is committed. Raises after `fail`."""
        try:
            if isinstance(item, Assignment):
                await self._settle()
                self._pipeline.assign(item)
                self.assignment = item
                self._progress.reach(item.number)
            else:
                loop = asyncio.get_running_loop()
                folded = await loop.run_in_executor(self._folding, self._pipeline.fold, item)
                await self._settle()
                self._committing = asyncio.create_task(self._commit(folded))
        except Exception as error:
            self._fail(error)
            raise

    async def _commit(self, folded: FoldedBatch) -> None:
        loop = asyncio.get_running_loop()
        try:
            seconds = await loop.run_in_executor(self._writing, self._pipeline.commit, folded)
        except Exception as error:
            self._fail(error)  # at once: the next batch, which would meet this error, may never come
            raise
        self._committed(folded)
        if folded.reached:
            self._progress.count(folded.tally, seconds, [one.reason for one in folded.rejects])
            self._progress.hurry_is(self._haste.after(folded.signals))
        self._progress.reach(folded.number)

    async def _settle(self) -> None:
        if self._committing is not None:
            await self._committing
            self._committing = None

    def close(self) -> None:
        """Begin nothing new. What is being committed ends by itself, or with the process."""
        for pool in (self._folding, self._writing):
            pool.shutdown(wait=False, cancel_futures=True)
