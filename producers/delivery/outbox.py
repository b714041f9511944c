"""A durable outbox: records on this machine's disk until the broker has acknowledged them (SQLite, in WAL mode)."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_TABLES = """
CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL
)
"""


class OutboxError(StagekeeperError):
    """A record could not be put on disk: the disk is full, the file is damaged, or another process holds it."""


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
            # Reads and removals go over a connection of their own: what is removed and comes back after a power cut is
            # delivered twice, which is harmless, so removing need not wait for the medium as `put` does.
            self._tail = open_database(path, _TABLES, synchronous="NORMAL")
            self._hold_spare_room()
        except (sqlite3.Error, OSError) as error:
            raise self._named(error) from error

    def put(self, topic: str, key: bytes, value: bytes) -> int:
        """Put a record on disk and return its number; `OutboxError` where it is not on disk."""
        with self._lock:
            try:
                cursor = self._file.execute(
                    "INSERT INTO records (topic, key, value) VALUES (?, ?, ?)", (topic, key, value)
                )
            except sqlite3.Error as error:
                raise self._named(error) from error
            return int(cursor.lastrowid or 0)

    def after(self, seq: int, limit: int) -> list[Waiting]:
        """The next records with numbers above `seq`, oldest first, at most `limit`."""
        rows = self._read("SELECT seq, topic, key, value FROM records WHERE seq > ? ORDER BY seq LIMIT ?", seq, limit)
        return [Waiting(*row) for row in rows]

    def of_key(self, key: bytes) -> list[Waiting]:
        """The records with this key that still wait, oldest first; a search through the whole file."""
        rows = self._read("SELECT seq, topic, key, value FROM records WHERE key = ? ORDER BY seq", key)
        return [Waiting(*row) for row in rows]

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


def open_database(path: Path, tables: str, *, synchronous: str) -> sqlite3.Connection:
    """A connection for many threads to a file in WAL mode, with these tables; raises `sqlite3.Error`."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute(tables)
    except sqlite3.Error:
        connection.close()
        raise
    return connection
