"""The service's decisions on disk: each with its event in one transaction, so that a retry finds what was decided.

Decisions of many requests share a transaction, since the medium is what they wait for: while one is written, the next
ones gather (group commit; benchmarks/service.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import queue
import sqlite3
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from producers.delivery.outbox import Outbox, OutboxError, open_database
from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from producers.delivery.kafka_emitter import DeliveryStats
    from producers.delivery.outbox_emitter import OutboxEmitter, OutboxOnlyEmitter
    from producers.wire.events import EventRecord

    Write = Callable[[sqlite3.Connection], object]

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS decisions (
    decision_id TEXT PRIMARY KEY,
    request TEXT UNIQUE,
    request_sha256 TEXT NOT NULL,
    owner TEXT NOT NULL,
    decided_at REAL NOT NULL,
    good_until REAL NOT NULL,
    may_run INTEGER NOT NULL,
    value BLOB NOT NULL
)
"""
_REPORTS: Final = """
CREATE TABLE IF NOT EXISTS reports (
    decision_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    content_sha256 TEXT NOT NULL,
    reported_at REAL NOT NULL,
    PRIMARY KEY (decision_id, kind)
) WITHOUT ROWID
"""
# The decisions that another one took the place of under its idempotency key: one of them may have run.
_SUPERSEDED: Final = """
CREATE TABLE IF NOT EXISTS superseded (decision_id TEXT PRIMARY KEY, request TEXT NOT NULL) WITHOUT ROWID
"""
_SUPERSEDED_INDEX: Final = "CREATE INDEX IF NOT EXISTS superseded_by_request ON superseded (request)"
_SUPERSEDE: Final = "INSERT INTO superseded SELECT decision_id, request FROM decisions WHERE request = ?"
_REDEEMED: Final = """
CREATE TABLE IF NOT EXISTS redeemed (
    decision_id TEXT PRIMARY KEY,
    token_id TEXT NOT NULL,
    request_sha256 TEXT NOT NULL,
    good_until REAL NOT NULL,
    decision BLOB NOT NULL
) WITHOUT ROWID
"""
_INDEX: Final = "CREATE INDEX IF NOT EXISTS decisions_by_age ON decisions (decided_at)"
_SELECT: Final = (
    "SELECT decision_id, request, request_sha256, owner, decided_at, good_until, may_run, value FROM decisions WHERE "
)
_INSERT: Final = (
    "INSERT INTO decisions (decision_id, request, request_sha256, owner, decided_at, good_until, may_run, value) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_OLDEST: Final = "SELECT decision_id FROM decisions WHERE decided_at < ? ORDER BY decided_at LIMIT 1000"
_BATCH: Final = 500  # entries that one transaction takes


class ServiceRunsError(StagekeeperError):
    """Another service uses the same decisions."""


class LoggedDecision(NamedTuple):
    """A decision as it was answered."""

    decision_id: str
    request: str | None  # who asked, and that request's idempotency key
    request_sha256: str  # of what was asked
    owner: str  # the agent and the service
    decided_at: float  # seconds of Unix time, as the next one
    good_until: float  # until when a retry is answered with it
    may_run: int  # 1 where an execution may follow
    value: bytes  # the event


class RedeemedPermit(NamedTuple):
    """The permit that an approval was spent on, as it was answered."""

    decision_id: str
    token_id: str  # who redeemed it
    request_sha256: str  # of what was asked
    good_until: float  # seconds of Unix time
    decision: bytes  # JSON: what authorization and flags said then

    def write(self, file: sqlite3.Connection) -> None:
        """Put it beside its decision, which may run from here on."""
        file.execute("INSERT OR REPLACE INTO redeemed VALUES (?, ?, ?, ?, ?)", self)
        file.execute("UPDATE decisions SET may_run = 1 WHERE decision_id = ?", (self.decision_id,))


class _Entry(NamedTuple):
    records: Sequence[EventRecord]
    write: Write
    done: Callable[[OutboxError | None], None]


class DecisionLog:
    """Decisions and reports in the file of an outbox; one process at a time uses it. Its folder is created."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._held = path.with_name(f"{path.name}-lock").open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._held.close()
            raise ServiceRunsError(
                f"another service uses {path}. Stop it, or give this one a folder of its own (STAGEKEEPER_HOME)."
            ) from None
        self.outbox = Outbox(path)
        try:
            self._file = open_database(path, _TABLES, synchronous="NORMAL")
            for statement in (_REPORTS, _INDEX, _SUPERSEDED, _SUPERSEDED_INDEX, _REDEEMED):
                self._file.execute(statement)
        except sqlite3.Error as error:
            raise OutboxError(f"the decisions in {path} cannot be used: {error}") from error
        self._lock = threading.Lock()
        # Decisions for whose writing nobody waits, until they are written.
        self._unwritten: dict[str, LoggedDecision] = {}
        self._unwritten_requests: dict[str, LoggedDecision] = {}
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._committer = threading.Thread(target=self._commit, name="stagekeeper-decisions", daemon=True)
        self._committer.start()

    def read(self, query: str, *values: str | float | bytes) -> list[Any]:
        """Rows of the service's file; `OutboxError` where they cannot be read."""
        with self._lock:
            try:
                return self._file.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise OutboxError(f"the service's decisions cannot be read: {error}") from error

    def of_request(self, request: str) -> LoggedDecision | None:
        """The newest decision on a request, by its idempotency key."""
        return self._unwritten_requests.get(request) or self._decision(f"{_SELECT}request = ?", request)

    def get(self, decision_id: str) -> LoggedDecision | None:
        """A decision by its id."""
        return self._unwritten.get(decision_id) or self._decision(f"{_SELECT}decision_id = ?", decision_id)

    def containing(self, mark: bytes, since: datetime) -> list[bytes]:
        """The events of decisions since a moment that contain some bytes; at most 100."""
        query = "SELECT value FROM decisions WHERE decided_at >= ? AND instr(value, ?) LIMIT 100"
        return [row[0] for row in self.read(query, since.timestamp(), mark)]

    def report(self, decision_id: str, kind: str) -> str | None:
        """Digest of what was reported of one kind about a decision; None where nothing was."""
        query = "SELECT content_sha256 FROM reports WHERE decision_id = ? AND kind = ?"
        rows = self.read(query, decision_id, kind)
        return str(rows[0][0]) if rows else None

    def was_reported(self, request: str, kind: str) -> bool:
        """Whether something of one kind was reported about any decision that was made on a request."""
        query = (
            "SELECT 1 FROM reports WHERE kind = ? AND decision_id IN (SELECT decision_id FROM decisions "
            "WHERE request = ? UNION ALL SELECT decision_id FROM superseded WHERE request = ?) LIMIT 1"
        )
        return bool(self.read(query, kind, request, request))

    def redeemed(self, decision_id: str) -> RedeemedPermit | None:
        """The permit that the approval of a decision was spent on here."""
        rows = self.read("SELECT * FROM redeemed WHERE decision_id = ?", decision_id)
        return RedeemedPermit(*rows[0]) if rows else None

    def enqueue_decision(
        self, record: EventRecord, row: LoggedDecision, done: Callable[[OutboxError | None], None]
    ) -> None:
        """As `enqueue`, for a decision, which is known from here on."""
        self._unwritten[row.decision_id] = row
        if row.request is not None:
            self._unwritten_requests[row.request] = row

        def written(error: OutboxError | None) -> None:
            self._unwritten.pop(row.decision_id, None)
            if row.request is not None and self._unwritten_requests.get(row.request) is row:
                del self._unwritten_requests[row.request]
            done(error)

        self.enqueue([record], insert(row), written)

    def enqueue(self, records: Sequence[EventRecord], write: Write, done: Callable[[OutboxError | None], None]) -> None:
        """Have events put into the outbox together with what `write` writes; `done` hears it, in another thread."""
        self._queue.put(_Entry(records, write, done))

    async def append(self, records: Sequence[EventRecord], write: Write) -> None:
        """As `enqueue`, and wait until all of it is on disk; `OutboxError` where none of it is."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()

        def settle(error: OutboxError | None) -> None:
            if not written.done():
                written.set_exception(error) if error is not None else written.set_result(None)

        def done(error: OutboxError | None) -> None:
            loop.call_soon_threadsafe(settle, error)

        self.enqueue(records, write, done)
        await asyncio.shield(written)

    def forget_before(self, moment: datetime) -> int:
        """Forget some of the decisions made before a moment, with their reports; how many were forgotten."""
        rows = self.read(_OLDEST, moment.timestamp())

        def delete(file: sqlite3.Connection) -> None:
            file.executemany("DELETE FROM decisions WHERE decision_id = ?", rows)
            file.executemany("DELETE FROM reports WHERE decision_id = ?", rows)
            file.executemany("DELETE FROM redeemed WHERE decision_id = ?", rows)
            file.executemany("DELETE FROM superseded WHERE decision_id = ?", rows)

        if rows:
            self.outbox.put_all((), delete)
        return len(rows)

    def close(self) -> None:
        """Write what still waits, and close the file; the outbox closes with its emitter."""
        self._queue.put(None)
        self._committer.join()
        with self._lock:
            self._file.close()
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decision(self, query: str, value: str) -> LoggedDecision | None:
        rows = self.read(query, value)
        return LoggedDecision(*rows[0]) if rows else None

    def _commit(self) -> None:
        ended = False
        while not ended:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < _BATCH:
                    batch.append(self._queue.get_nowait())
            ended = None in batch
            entries = [entry for entry in batch if entry is not None]
            # What fails together is tried apart: the fault of one is not that of the others.
            error = self._put(entries)
            for entry in entries:
                entry.done(error if error is None or len(entries) == 1 else self._put([entry]))

    def _put(self, entries: Sequence[_Entry]) -> OutboxError | None:
        def write(file: sqlite3.Connection) -> None:
            for entry in entries:
                entry.write(file)

        try:
            self.outbox.put_all([record for entry in entries for record in entry.records], write)
        except OutboxError as error:
            return error
        return None


_ROW: ContextVar[Callable[[EventRecord], LoggedDecision] | None] = ContextVar("stagekeeper-decision-row", default=None)
_COLLECTED: ContextVar[list[EventRecord] | None] = ContextVar("stagekeeper-collected-records", default=None)


@contextlib.contextmanager
def deciding(row: Callable[[EventRecord], LoggedDecision]) -> Iterator[None]:
    """Have the event of the decision in the block kept together with what `row` makes of it."""
    token = _ROW.set(row)
    try:
        yield
    finally:
        _ROW.reset(token)


@contextlib.contextmanager
def collected_records() -> Iterator[list[EventRecord]]:
    """Collect what is recorded in the block, for who keeps it together with something else."""
    records: list[EventRecord] = []
    token = _COLLECTED.set(records)
    try:
        yield records
    finally:
        _COLLECTED.reset(token)


class LoggedEmitter:
    """Emits through the log's outbox; decisions come into the log together with their event."""

    def __init__(self, log: DecisionLog, delivery: OutboxEmitter | OutboxOnlyEmitter) -> None:
        self._log = log
        self._delivery = delivery

    def emit(self, record: EventRecord) -> None:
        """Hand over an event; nobody waits for the disk."""
        row = _ROW.get()
        if row is None:
            self._delivery.emit(record)
            return

        def done(error: OutboxError | None) -> None:
            # A decision by which nothing is changed is on record in memory where the disk does not take it.
            self._delivery.emit(record) if error is not None else self._delivery.look()

        self._log.enqueue_decision(record, row(record), done)

    def keep(self, record: EventRecord) -> None:
        """Put an event on disk; `OutboxError` where it is not."""
        collected = _COLLECTED.get()
        if collected is not None:
            collected.append(record)
        else:
            self._log.outbox.put(*record)
            self._delivery.look()

    async def keep_async(self, record: EventRecord) -> None:
        """As `keep`, while others are served."""
        row = _ROW.get()
        if row is None:
            await asyncio.to_thread(self.keep, record)
            return
        await self.append([record], insert(row(record)))

    async def append(self, records: Sequence[EventRecord], write: Write) -> None:
        """Put events on disk together with what `write` writes."""
        await self._log.append(records, write)
        self._delivery.look()

    def flush(self, timeout_s: float) -> int:
        """As the emitter that delivers."""
        return self._delivery.flush(timeout_s)

    @property
    def stats(self) -> DeliveryStats:
        """Of the emitter that delivers."""
        return self._delivery.stats


def insert(row: LoggedDecision) -> Write:
    """Write a decision, which takes the place of an earlier one on the same request."""

    def write(file: sqlite3.Connection) -> None:
        if row.request is not None:
            file.execute(_SUPERSEDE, (row.request,))
            file.execute("UPDATE decisions SET request = NULL WHERE request = ?", (row.request,))
        file.execute(_INSERT, row)

    return write
