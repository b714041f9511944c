"""The search index: every decision of the lake by its words, in one SQLite file beside the lake.

The lake's columns do not hold what people search for, such as the agent, the account or the intent, and reading them
from the events' bytes takes a second for each 100,000. The index is derived from the lake alone: whoever deletes it
loses nothing. It follows the table `events` from version to version, and is built anew where retention took rows away,
so that it never tells of what the lake has let go of.

A row's key is the decision's moment in microseconds times 4,096 plus a number that tells those of one microsecond
apart. So the newest come first in the order of keys, a span of time is a span of keys, and SQLite's full-text index
(FTS5) delivers in that order as it goes, however many there are. An exact value is one word of that index: a digest of
its field and itself, behind a mark that no intent's words are indexed with.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import polars as pl

from analytics.lake.errors import ForgottenError
from analytics.lake.storage import is_remote, reading
from analytics.lake.table_schemas import EVENTS
from analytics.signals.state import microseconds
from producers.errors import StagekeeperError
from producers.wire.events import ActionDecided, type_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from analytics.lake.tables import Lake

_FORMAT: Final = 2
_MARK: Final = "\ue000"  # for private use, and to FTS5 a letter
KEYS_A_MICROSECOND: Final = 4_096
_CHUNK: Final = 20_000  # rows in one transaction
_COLUMNS: Final = ["type", "subject", "decided_at", "stage", "cohort", "source", "value"]
_DECIDED: Final = type_of(ActionDecided)
_TABLES: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE profiles (id INTEGER PRIMARY KEY, fields TEXT UNIQUE);
CREATE TABLE decisions (
    key INTEGER PRIMARY KEY, decision_id TEXT NOT NULL, profile INTEGER NOT NULL,
    user TEXT, account TEXT, record TEXT, intent TEXT NOT NULL
);
CREATE INDEX by_id ON decisions (decision_id);
CREATE VIRTUAL TABLE terms USING fts5(words, content='', detail=none, columnsize=0);
"""

PROFILE: Final = (
    *("environment", "workflow", "tool", "stage", "cohort", "outcome", "mode", "reason", "rule"),
    *("agent", "service_identity", "system", "risk_class", "source"),
)
"""Fields of which many decisions share the values: each different set of values is stored once."""
OWN: Final = ("user", "account", "record")
"""Fields of each decision alone."""


class SearchIndexError(StagekeeperError):
    """The search index cannot be read or written."""


class _Actor(msgspec.Struct):
    agent: str
    user: str | None = None
    account: str | None = None
    service_identity: str | None = None


class _Target(msgspec.Struct):
    environment: str
    system: str | None = None
    record: str | None = None


class _Contract(msgspec.Struct):
    actor: _Actor
    target: _Target
    tool: str
    workflow: str
    intent: str = ""
    risk_class: str | None = None


class _Result(msgspec.Struct):
    outcome: str
    reason: str = "policy_allows"
    mode: str | None = None


class _Authorization(msgspec.Struct):
    rule: str | None = None


class _Decision(msgspec.Struct):
    result: _Result
    authorization: _Authorization | None = None


class _StoredData(msgspec.Struct):
    contract: _Contract
    decision: _Decision


class _Stored(msgspec.Struct):
    data: _StoredData


_decode: Final = msgspec.json.Decoder(_Stored).decode


@lru_cache(maxsize=200_000)
def term(field: str, value: str) -> str:
    """The word that stands for a value of a field in the full-text index."""
    return _MARK + hashlib.blake2b(f"{field}\0{value}".encode(), digest_size=8).hexdigest()


def index_path(root: str, home: Path) -> Path:
    """Where the index of a lake lies: beside its folder; for a bucket in this machine's `home`."""
    if is_remote(root):
        return home / f"search-{hashlib.blake2b(root.encode(), digest_size=8).hexdigest()}.sqlite"
    folder = Path(os.path.realpath(root))
    return folder.with_name(f"{folder.name}.search.sqlite")


class SearchIndex:
    """The index of one lake, in one file; several processes may use it. Raises `SearchIndexError`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._named():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)  # it holds intents and names, as the lake does
            self.connection = sqlite3.connect(path, isolation_level=None, timeout=60.0)
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=NORMAL")
            self.connection.execute("PRAGMA cache_size=-65536")
            if self.connection.execute("PRAGMA user_version").fetchone()[0] != _FORMAT:
                with self._transaction():
                    self._begin_anew()

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def select(self, statement: str, values: Sequence[object]) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, one by one."""
        with self._named():
            yield from self.connection.execute(statement, values)

    def follow(self, lake: Lake, progress: Callable[[int], None] = lambda _: None) -> int:
        """Take in what the lake has got since; the version of `events` that is covered. Raises `LakeError`, too.

        `progress` is told how many decisions are in, chunk by chunk. A build that was killed begins anew.
        """
        with self._named(), self._alone(), reading(lake.root):
            version, taken = lake.version(EVENTS), str(lake.taken(EVENTS))
            covered = self._meta("version")
            if covered is not None and self._meta("taken") == taken and int(covered) <= version:
                if int(covered) == version:
                    return version
                try:
                    added = lake.increments(EVENTS, after=int(covered), through=version, columns=_COLUMNS)
                except ForgottenError:
                    pass
                else:
                    with self._transaction():
                        self._add(added.filter(pl.col("type") == _DECIDED))
                        self._set_meta(version=version, taken=taken)
                    return version
            self._build(lake, version, taken, progress)
            return version

    def _build(self, lake: Lake, version: int, taken: str, progress: Callable[[int], None]) -> None:
        with self._transaction():
            self._begin_anew()
        frame = lake.scan(EVENTS, version=version).filter(pl.col("type") == _DECIDED).select(_COLUMNS)
        done = 0
        for rows in frame.collect_batches(chunk_size=_CHUNK, maintain_order=True):
            for chunk in rows.iter_slices(_CHUNK):
                with self._transaction():
                    self._add(chunk)
                done += chunk.height
                progress(done)
        with self._transaction():
            self.connection.execute("INSERT INTO terms(terms) VALUES ('optimize')")
            self._set_meta(version=version, taken=taken)

    def _add(self, decided: pl.DataFrame) -> None:
        rows: list[tuple[Any, ...]] = []
        terms: list[tuple[int, str]] = []
        used: set[int] = set()
        newest = self.connection.execute("SELECT max(key) FROM decisions").fetchone()[0] or 0
        for decision_id, decided_at, profile, own, intent in _read(decided.sort("decided_at")):
            key = key_of(decided_at)
            while key in used or (key <= newest and self._has(key)):
                key += 1
            used.add(key)
            words = [term(name, value) for name, value in zip(PROFILE, profile, strict=True) if value]
            words += [term(name, value) for name, value in zip(OWN, own, strict=True) if value]
            rows.append((key, decision_id, self._profile(profile), *own, intent))
            terms.append((key, f"{' '.join(words)} {intent.replace(_MARK, ' ')}"))
        self.connection.executemany("INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self.connection.executemany("INSERT INTO terms(rowid, words) VALUES (?, ?)", terms)

    def _has(self, key: int) -> bool:
        return self.connection.execute("SELECT 1 FROM decisions WHERE key = ?", (key,)).fetchone() is not None

    def _profile(self, fields: tuple[str | None, ...]) -> int:
        number = self._profiles.get(fields)
        if number is None:
            stored = (msgspec.json.encode(fields).decode(),)
            self.connection.execute("INSERT INTO profiles(fields) VALUES (?) ON CONFLICT DO NOTHING", stored)
            number = self.connection.execute("SELECT id FROM profiles WHERE fields = ?", stored).fetchone()[0]
            self._profiles[fields] = number
        return int(number)

    def _begin_anew(self) -> None:
        for name in ("meta", "profiles", "decisions", "terms"):
            self.connection.execute(f"DROP TABLE IF EXISTS {name}")
        for statement in _TABLES.split(";"):
            self.connection.execute(statement)
        self.connection.execute(f"PRAGMA user_version={_FORMAT}")

    def _meta(self, name: str) -> str | None:
        row = self.connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _set_meta(self, **values: object) -> None:
        pairs = [(name, str(value)) for name, value in values.items()]
        self.connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", pairs)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process follows the lake with this file: a build takes many transactions."""
        with self.path.with_name(f"{self.path.name}-lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._profiles: dict[tuple[str | None, ...], int] = {}  # what a transaction that failed had added is gone
        with closing(self.connection.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            cursor.execute("COMMIT")

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise SearchIndexError(
                f"the search index {self.path} cannot be used: {error}. It is derived from the lake: delete it, "
                "and the next search builds it anew; check the disk's space."
            ) from error


def key_of(moment: datetime) -> int:
    """The least key of a moment."""
    return microseconds(moment) * KEYS_A_MICROSECOND


def _read(decided: pl.DataFrame) -> Iterable[tuple[str, datetime, tuple[str | None, ...], tuple[str | None, ...], str]]:
    for _, decision_id, decided_at, stage, cohort, source, value in decided.iter_rows():
        data = _decode(value).data
        contract, result = data.contract, data.decision.result
        actor, target, authorization = contract.actor, contract.target, data.decision.authorization
        action = (target.environment, contract.workflow, contract.tool, stage, cohort)
        rule = None if authorization is None else authorization.rule
        outcome = (result.outcome, result.mode, result.reason, rule)
        by = (actor.agent, actor.service_identity, target.system, contract.risk_class, source)
        yield (
            decision_id,
            decided_at,
            (*action, *outcome, *by),
            (actor.user, actor.account, target.record),
            contract.intent,
        )
