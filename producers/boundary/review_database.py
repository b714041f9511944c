"""Where a review store keeps its rows: an SQLite file of one machine, or a PostgreSQL database for all."""

from __future__ import annotations

import sqlite3
import threading
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

from producers.boundary.approvals import ReviewError
from producers.delivery.outbox import open_database
from producers.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import psycopg

TABLES: Final = """
CREATE TABLE IF NOT EXISTS reviews (
    decision_id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    queued_at TEXT NOT NULL,
    queued TEXT NOT NULL,
    resolution TEXT,
    seal TEXT
)
"""

CLOCK: Final = """
CREATE TABLE IF NOT EXISTS clock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    moment TEXT NOT NULL,
    boot TEXT NOT NULL,
    uptime_s DOUBLE PRECISION NOT NULL
)
"""
_MAKING: Final = 1_937_006_964  # names the lock under which the tables are made, so that two do not at once
_CONNECT_S: Final = 3
_STATEMENT_MS: Final = 5_000


Answer = TypeVar("Answer")


class ReviewDatabase(Protocol):
    """Rows behind a review store. Values stand for `?` in the queries; safe to use from many threads."""

    name: str
    """Where it is, for messages; without any password."""

    def read(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        """The rows of a query; `ReviewError` where it cannot be read."""

    def change(self, query: str, values: tuple[object, ...], before: Callable[[], None]) -> int:
        """Change rows, after something that must have happened `before`; where that raises, nothing is changed.

        Returns how many were changed; `before` happens only where there are any. Raises `ReviewError`.
        """

    def close(self) -> None:
        """Close it."""


class SqliteReviews:
    """Rows in an SQLite file, which many processes of one machine may use. Its folder is created."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open_database(path, TABLES, synchronous="FULL")
            self._complete_tables()
        except (sqlite3.Error, OSError) as error:
            raise ReviewError(f"the review store {path} cannot be used: {error}") from error

    def read(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        """As the protocol says."""
        with self._lock:
            try:
                return self._file.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise ReviewError(f"the review store {self.name} cannot be read: {error}") from error

    def change(self, query: str, values: tuple[object, ...], before: Callable[[], None]) -> int:
        """As the protocol says; nobody else can write the file meanwhile."""
        with self._lock:
            try:
                self._file.execute("BEGIN IMMEDIATE")
                try:
                    changed = self._file.execute(query, values).rowcount
                    if changed:
                        before()
                    self._file.execute("COMMIT")
                finally:
                    if self._file.in_transaction:
                        self._file.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise ReviewError(f"the review store {self.name} cannot be written: {error}") from error
        return changed

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _complete_tables(self) -> None:
        """Add what files of older versions do not have."""
        self._file.execute(CLOCK)
        if all(column[1] != "seal" for column in self._file.execute("PRAGMA table_info(reviews)")):
            try:
                self._file.execute("ALTER TABLE reviews ADD COLUMN seal TEXT")
            except sqlite3.OperationalError as error:
                if "duplicate column" not in str(error):  # another process has added it meanwhile
                    raise


class PostgresReviews:
    """Rows in a PostgreSQL database, which routers, services and pages of many machines may use.

    A connection that was lost is made anew at the next use.
    """

    def __init__(self, url: str) -> None:
        try:
            import psycopg  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            raise SettingsError(
                'reviews in PostgreSQL need psycopg, which is not installed. Run: pip install "stagekeeper[postgres]"'
            ) from error
        self._psycopg = psycopg
        parts = urlsplit(url)
        if parts.scheme not in {"postgresql", "postgres"}:
            raise SettingsError("STAGEKEEPER_REVIEW_DATABASE reads postgresql://user:password@host:port/database")
        self.name = f"postgresql://{parts.hostname or ''}{parts.path}"
        self._url = url
        self._lock = threading.Lock()
        self._connection: psycopg.Connection | None = None
        with self._lock:
            self._run(lambda _: None, "used")

    def read(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        """As the protocol says."""
        with self._lock:
            return self._run(lambda connection: connection.execute(_as_theirs(query), values).fetchall(), "read")

    def change(self, query: str, values: tuple[object, ...], before: Callable[[], None]) -> int:
        """As the protocol says; nobody else can change the same row meanwhile."""

        def write(connection: psycopg.Connection) -> int:
            with connection.transaction():
                changed = connection.execute(_as_theirs(query), values).rowcount
                if changed:
                    before()
            return changed

        with self._lock:
            return self._run(write, "written")

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def _run(self, do: Callable[[psycopg.Connection], Answer], what: str) -> Answer:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = self._connect()
            return do(self._connection)
        except self._psycopg.Error as error:
            lines = str(error).strip().splitlines()
            raise ReviewError(
                f"the review store {self.name} cannot be {what}: {lines[0] if lines else type(error).__name__}"
            ) from error

    def _connect(self) -> psycopg.Connection:
        connection = self._psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=_CONNECT_S,
            options=f"-c statement_timeout={_STATEMENT_MS} -c synchronous_commit=on",
        )
        try:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MAKING,))
                connection.execute(TABLES)
                connection.execute(CLOCK)
        except BaseException:
            connection.close()
            raise
        return connection


def _as_theirs(query: str) -> Any:  # noqa: ANN401 - psycopg takes literal strings alone, which ours are
    return query.replace(" IS ?", " IS NOT DISTINCT FROM ?").replace("?", "%s")
