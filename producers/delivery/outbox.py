"""A durable outbox: records on this machine's disk until the broker has acknowledged them (SQLite, in WAL mode)."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

_TABLES = """
CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    checksum BLOB
)
"""
# Files of earlier versions have no such column; what lies in them without a checksum is taken as it is.
_ADD_CHECKSUM = "ALTER TABLE records ADD COLUMN checksum BLOB"
_PUT = "INSERT INTO records (topic, key, value, checksum) VALUES (?, ?, ?, ?)"
_AFTER = "SELECT seq, topic, key, value, checksum FROM records WHERE seq > ? ORDER BY seq LIMIT ?"
_OF_KEY = "SELECT seq, topic, key, value, checksum FROM records WHERE key = ? ORDER BY seq"

LOG = logging.getLogger(__name__)


class OutboxError(StagekeeperError):
    """A record could not be put on disk: the disk is full, the file is damaged or gone, or another process holds it."""


class Waiting(NamedTuple):
    """One record on disk that the broker has not acknowledged."""

    seq: int
    topic: str
    key: bytes
    value: bytes


class Outbox:
    """A queue of records in one SQLite file. Safe to use from many threads; one process at a time delivers from it.

    With `sync` a record is on the medium before `put` returns; without, it survives the death of this process, not that
    of the machine. `spare_bytes` of the disk are held back to take away what was delivered when it is full; they must
    hold SQLite's log, about 4 MB.

    A file that is deleted, replaced or cut short meanwhile is noticed at the next `put`, and so is a record that was
    altered since it was put, once somebody has read it: it is never handed out, and stays where it is.
    """

    def __init__(self, path: Path, *, sync: bool = True, spare_bytes: int = 8_000_000) -> None:
        self._path = path
        self._spare = path.with_name(f"{path.name}-spare")
        self._spare_bytes = spare_bytes
        self._lock = threading.Lock()
        self._tail_lock = threading.Lock()  # taken first where both are
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open_database(path, _TABLES, synchronous="FULL" if sync else "NORMAL")
            if "checksum" not in {name for _, name, *_ in self._file.execute("PRAGMA table_info(records)")}:
                self._file.execute(_ADD_CHECKSUM)
            # Reads and removals go over a connection of their own: what is removed and comes back after a power cut is
            # delivered twice, which is harmless, so removing need not wait for the medium as `put` does.
            self._tail = open_database(path, _TABLES, synchronous="NORMAL")
            self._hold_spare_room()
            self._tail.execute("SELECT seq FROM records LIMIT 1").fetchall()  # from here on there is a log beside it
            log = f"{os.fspath(path)}-wal"
            # Of the log only which file it is: SQLite cuts it itself.
            self._files = {os.fspath(path): _stat(os.fspath(path)), log: (_stat(log)[0], 0)}
        except (sqlite3.Error, OSError) as error:
            raise self._named(error) from error
        self._altered: set[int] = set()

    def put(self, topic: str, key: bytes, value: bytes) -> int:
        """Put a record on disk and return its number; `OutboxError` where it is not on disk."""
        record = topic, key, value
        with self._lock:
            self._check_files()
            try:
                cursor = self._file.execute(_PUT, (*record, _checksum(*record)))
            except sqlite3.Error as error:
                raise self._named(error) from error
            return int(cursor.lastrowid or 0)

    def put_all(
        self, records: Iterable[tuple[str, bytes, bytes]], also: Callable[[sqlite3.Connection], None] = lambda _: None
    ) -> None:
        """Put records on disk in one transaction, with what `also` writes; `OutboxError` where none of it is there."""
        rows = [(*record, _checksum(*record)) for record in records]
        with self._lock:
            self._check_files()
            try:
                self._file.execute("BEGIN IMMEDIATE")
                try:
                    self._file.executemany(_PUT, rows)
                    also(self._file)
                    self._file.execute("COMMIT")
                finally:
                    if self._file.in_transaction:
                        self._file.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise self._named(error) from error

    def after(self, seq: int, limit: int) -> list[Waiting]:
        """The next records with numbers above `seq`, oldest first, at most `limit`."""
        while rows := self._read(_AFTER, seq, limit):
            if intact := self._intact(rows):
                return intact
            seq = rows[-1][0]
        return []

    def of_key(self, key: bytes) -> list[Waiting]:
        """The records with this key that still wait, oldest first; a search through the whole file."""
        return self._intact(self._read(_OF_KEY, key))

    def _intact(self, rows: list[Any]) -> list[Waiting]:
        intact = []
        for *row, checksum in rows:
            record = Waiting(*row)
            is_typed = tuple(map(type, record[1:])) == (str, bytes, bytes)
            if is_typed and (checksum is None or checksum == _checksum(*record[1:])):
                intact.append(record)
            elif record.seq not in self._altered:
                self._altered.add(record.seq)
                LOG.error("%s", self._altered_error())
        return intact

    def _altered_error(self) -> OutboxError:
        numbers = ", ".join(map(str, sorted(self._altered)[:10]))
        return OutboxError(
            f"the outbox {self._path} holds records that were altered since they were written (seq {numbers}, "
            f"{len(self._altered)} in all). They are not delivered. Keep a copy of the file, find out who wrote to it, "
            "delete these rows, and start the router again."
        )

    def _check_files(self) -> None:
        """Make sure that what is written lies where the next process looks for it; `OutboxError` where it would not."""
        while_running = "while this router was writing to it"
        for file, (known, least) in self._files.items():
            identity, size = _stat(file)
            if identity != known:
                what = "was deleted" if identity is None else "was replaced by another file"
                raise OutboxError(
                    f"{file} {what} {while_running}: nothing that is put there would be found again. What was not "
                    "delivered yet is lost if this process ends; let it deliver first."
                )
            if size < least:
                raise OutboxError(
                    f"{file} was cut from {least:,} to {size:,} bytes {while_running}. Restore it from a copy, "
                    "or move it away, and start the router again."
                )
        if self._altered:
            raise self._altered_error()

    def remove(self, seqs: Iterable[int]) -> None:
        """Forget records that the broker has acknowledged."""
        rows = [(seq,) for seq in seqs]
        with self._tail_lock, self._lock:
            try:
                try:
                    self._delete(rows)
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
                        raise
                    self._delete_from_a_full_disk(rows)
            except (sqlite3.Error, OSError) as error:
                raise self._named(error) from error

    def _delete(self, rows: list[tuple[int]]) -> None:
        try:
            self._tail.execute("BEGIN IMMEDIATE")
            self._tail.executemany("DELETE FROM records WHERE seq = ?", rows)
            self._tail.execute("COMMIT")
        except sqlite3.Error:
            if self._tail.in_transaction:
                self._tail.execute("ROLLBACK")
            raise

    def _delete_from_a_full_disk(self, rows: list[tuple[int]]) -> None:
        """Removing writes to the log before it frees anything: the spare room is for that."""
        os.truncate(self._spare, 0)
        try:
            self._tail.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._delete(rows)
            self._tail.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            self._hold_spare_room()

    def _hold_spare_room(self) -> None:
        """Without any, not even what was delivered could be taken away; a disk that is full has none to hold."""
        with self._spare.open("ab") as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, self._spare_bytes)

    def __len__(self) -> int:
        return int(self._read("SELECT count(*) FROM records")[0][0])

    def close(self) -> None:
        """Close the file."""
        with self._tail_lock, self._lock:
            self._tail.close()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, query: str, *values: bytes | int) -> list[Any]:
        with self._tail_lock:
            try:
                return self._tail.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._named(error) from error

    def _named(self, error: Exception) -> OutboxError:
        return OutboxError(f"the outbox {self._path} cannot be used: {error}. Check the disk's space and the file.")


def _stat(file: str) -> tuple[tuple[int, int] | None, int]:
    """Which file it is (None: none that can be found), and its size in bytes."""
    try:
        stat = os.stat(file)  # noqa: PTH116 - at every write; a path object takes ten times as long
    except OSError:
        return None, 0
    return (stat.st_dev, stat.st_ino), stat.st_size


def _checksum(topic: str, key: bytes, value: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=8)
    for part in (topic.encode(), key, value):
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()


def open_database(path: Path, tables: str, *, synchronous: str) -> sqlite3.Connection:
    """A connection for many threads to a file in WAL mode, with these tables; raises `sqlite3.Error` and `OSError`.

    The file is its user's alone (0600), and so are SQLite's own beside it, which take the file's mode.
    """
    _keep_private(path)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute(tables)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _keep_private(path: Path) -> None:
    # A file that is there is not opened: closing it would end the locks that this process holds on it through SQLite.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    for name in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        with contextlib.suppress(FileNotFoundError):  # SQLite's own come and go
            found = name.stat()
            # Earlier versions let everybody read it. What a group alone was given is somebody's decision, and stays.
            if found.st_mode & 0o007 and found.st_uid == os.geteuid():
                name.chmod(0o600)
