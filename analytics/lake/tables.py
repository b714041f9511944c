"""Append to and read the tables of the lake; every other package goes through `Lake`.

Each table is a Delta table. An append and the source offsets that it covers are one atomic commit, so that a worker
that dies at any moment resumes with nothing lost and nothing twice.
"""

from __future__ import annotations

from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from analytics.lake import storage
from analytics.lake.commits import (
    WRITER_PROPERTIES,
    Advance,
    Fence,
    Removals,
    SourcePartition,
    StoredNumberT,
    appended,
    check_advances,
    fitting,
)
from analytics.lake.errors import LakeError, OvertakenError, UnreadableLakeError
from analytics.lake.rewrite import Rewriter, compact_files
from analytics.lake.table_schemas import COLUMNS, EVENTS, SIGNALS, TABLES
from analytics.signals.definitions import ADDED
from analytics.signals.event_structs import meanings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

__all__ = ["Advance", "Fence", "Lake", "SourcePartition", "added_to_signals", "with_amounts", "with_meanings"]

_BATCH_ROWS: Final = 200_000
_MOMENT: Final = COLUMNS[SIGNALS]["last_event_at"]
_NO_ADVANCES: Final[Mapping[Any, Advance]] = MappingProxyType({})


class Lake:
    """The tables under one root. One thread at a time may use a table; processes need no coordination."""

    def __init__(
        self, root: str, tables: dict[str, DeltaTable], folders: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.root = root
        self._folders = folders  # by table, where it is called differently
        self.options = storage.options_of(root)
        self._tables = tables
        self._scanned: dict[str, tuple[int, pl.LazyFrame]] = {}  # the newest version: opening one takes 10 ms
        self._removals = {name: Removals() for name in tables}
        # Numbers as of a version, per table: reading them back from the log costs more than the commit itself.
        self._numbers: dict[str, tuple[int, dict[str, int | None]]] = {}

    @classmethod
    def open(cls, root: str) -> Lake:
        """Open the lake at `root` and create what is missing.

        Raises `SchemaMismatchError` where layout or columns are others than this version writes,
        `UnreadableLakeError` where a table is damaged or the root cannot be written, and `SettingsError`.
        """
        tables = {name: storage.open_table(root, name) for name in TABLES}
        if storage.is_remote(root) and None in tables.values():
            storage.check_store(root)
        return cls(root, {name: table or storage.create_table(root, name) for name, table in tables.items()})

    @classmethod
    def open_only(cls, root: str, *names: str) -> Lake:
        """Open some of the tables, and create those of them that are missing; raises as `open` does."""
        return cls(root, {name: storage.open_table(root, name) or storage.create_table(root, name) for name in names})

    @classmethod
    def existing(cls, root: str) -> Lake | None:
        """Open the lake at `root` without creating anything; None when there is none yet.

        Raises `SchemaMismatchError` where layout or columns are others than this version reads, and
        `UnreadableLakeError` where a table is damaged, or missing although others hold data.
        """
        tables = {name: table for name in TABLES if (table := storage.open_table(root, name)) is not None}
        missing = [name for name in TABLES if name not in tables]
        if not missing:
            return cls(root, tables)
        if any(table.version() > 0 for table in tables.values()):
            raise UnreadableLakeError(
                f"the lake at {root} has data but no table {', '.join(missing)}. Restore the folder from a backup, "
                "or start the worker, which creates it anew (empty)."
            )
        return None  # nothing there, or a writer is creating the tables at this moment

    def version(self, table: str) -> int:
        """The newest version of a table (0 right after its creation)."""
        return int(self._handle(table).version())

    def committed_at(self, table: str) -> datetime:
        """When the newest version of a table was made, by its writer's clock."""
        (newest,) = self._handle(table).history(1)
        return datetime.fromtimestamp(int(newest["timestamp"]) / 1_000, UTC)

    def scan(self, table: str, *, version: int | None = None) -> pl.LazyFrame:
        """Read a table lazily, as it is now or was at a version; what is appended before it is collected does not show.

        Raises `LakeError` where there is no such version, or it is older than the log's retention.
        """
        newest = self.version(table)
        wanted = newest if version is None else version
        self._check_version(table, wanted, newest)
        scanned = self._scanned.get(table)
        if scanned is not None and scanned[0] == wanted:
            return scanned[1]
        try:
            frame = storage.scan_table(self.root, self._folders.get(table, table), version=wanted)
            if wanted == newest:
                self._scanned[table] = (newest, frame)
            if table not in {EVENTS, SIGNALS} or wanted == newest:
                return frame
            columns = frame.collect_schema()
            if table == SIGNALS:
                return frame.with_columns(added_to_signals(columns)).select(COLUMNS[SIGNALS].names())
            lacking = [name for name in ("incarnation", "sequence") if name not in columns]
            frame = frame.with_columns(pl.lit(None, COLUMNS[EVENTS][name]).alias(name) for name in lacking)
            if "latency_us" in columns:
                return frame
            # As of before the migrations that added columns.
            return frame.map_batches(
                with_amounts if "kind" in columns else with_meanings,
                schema=COLUMNS[EVENTS],
                projection_pushdown=False,
                predicate_pushdown=False,
            )
        except DeltaError as error:
            raise storage.unreadable_table(self.root, table, error) from error

    def batches(self, table: str, *, version: int) -> Iterator[pl.DataFrame]:
        """Read a table as it was at a version, part by part; the parts must not be used before the last one came.

        Raises `LakeError` where there is no such version any more, or not every row of it came.
        """
        frame, read = self.scan(table, version=version), 0
        with storage.reading(self.root):
            for rows in frame.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=False):
                read += rows.height
                yield rows
            # Where a file is damaged polars ends the parts early, without a word.
            height = frame.select(pl.len()).collect().item()
        if read != height:
            raise storage.unreadable(self.root, EOFError(f"{read:,} of the {height:,} rows of {table} came"))

    def increments(self, table: str, *, after: int, through: int, columns: list[str] | None = None) -> pl.DataFrame:
        """The rows that were appended in versions `after` (exclusive; -1 is all) to `through` (inclusive), in order.

        Compaction neither hides nor repeats a row. Raises `ForgottenError` where the lake no longer keeps what was
        appended back then (read the table whole), and `LakeError`.
        """
        handle = self._handle(table)
        columns = columns or COLUMNS[table].names()
        self._check_version(table, through, int(handle.version()))
        if after >= through:
            return pl.DataFrame(schema=COLUMNS[table]).select(columns)
        return appended(handle, self.root, self.options, table, after=after, through=through, columns=columns)

    def append(
        self,
        table: str,
        rows: pl.DataFrame | pa.Table,
        *,
        advances: Mapping[StoredNumberT, Advance] = _NO_ADVANCES,
        fence: Fence | None = None,
    ) -> int:
        """Append rows, and move the source offsets that they cover, in one commit; gives the version that it made.

        The rows have the table's columns in any order, and may be empty while offsets move; an Arrow table in the
        stored order and types is written as it is. Raises `FencedError` where a stored offset is not `previous`, or
        another writer took over (nothing was written), `SchemaMismatchError` where the rows do not fit, and
        `LakeError` for another reason.
        """
        data = fitting(table, rows)
        try:
            return self._append(table, data, advances, fence)
        except OvertakenError:
            # Something else was changed meanwhile, such as the table's properties.
            return self._append(table, data, advances, fence)

    def _append(
        self, table: str, data: pa.Table, advances: Mapping[StoredNumberT, Advance], fence: Fence | None
    ) -> int:
        handle = self._handle(table)
        moved = {partition.app_id: advance.reached for partition, advance in advances.items()}
        if fence is not None:
            moved[fence.app_id] = fence.epoch
        stored = self._check_commit(table, handle, advances, fence)
        marks = CommitProperties(app_transactions=[Transaction(*mark) for mark in moved.items()])
        properties = WRITER_PROPERTIES[table]
        try:
            write_deltalake(handle, data, mode="append", commit_properties=marks, writer_properties=properties)
        except CommitFailedError as error:
            self._numbers.pop(table, None)
            self._check_commit(table, self._handle(table), advances, fence)
            raise OvertakenError(
                f"{table}: the commit was refused: {error}. Nothing was written; try again."
            ) from error
        except (DeltaError, OSError) as error:
            self._numbers.pop(table, None)
            raise LakeError(
                f"{table}: the commit failed: {error}. Check that {self.root} is writable and not full."
            ) from error
        version = int(handle.version())
        self._numbers[table] = (version, {**stored, **moved})
        return version

    def stored_offsets(self, table: str, partitions: Iterable[StoredNumberT]) -> dict[StoredNumberT, int]:
        """The last offset that the table covers, for each partition that has one."""
        wanted = list(partitions)
        stored = self._stored(table, self._handle(table), [partition.app_id for partition in wanted])
        return {partition: offset for partition in wanted if (offset := stored[partition.app_id]) is not None}

    def compact(self, table: str, *, at_least: int = 2, fence: Fence | None = None) -> bool:
        """Fold small files of a table into few, unless there are fewer than `at_least`; readers and writers go on.

        Worth doing often: a commit takes about 0.1 ms longer for each file. Gives False where nothing was folded,
        also because another process was at it; raises `FencedError` where somebody else holds the lease, else
        `LakeError`.
        """
        return compact_files(self.rewriter(table, fence=fence), at_least=max(at_least, 2))

    def rewriter(self, table: str, *, fence: Fence | None = None) -> Rewriter:
        """What puts files of a table in the place of others, as of its newest version."""
        self._handle(table)  # names a table that is unknown
        try:
            own = DeltaTable(self._uri(table), storage_options=self.options)
        except (DeltaError, OSError) as error:
            raise storage.unreadable_table(self.root, table, error) from error
        return Rewriter(self.root, table, own, self.options, fence)

    def reaches(self, table: str, version: int) -> bool:
        """Whether a table can still be read as it was at a version: its log and its files are there."""
        if not 0 <= version <= self.version(table):
            return False
        try:
            then = DeltaTable(self._uri(table), version=version, storage_options=self.options)
        except (DeltaError, OSError):
            return False
        store = storage.files_of(self.root, table, self.options)
        paths = pa.table(then.get_add_actions())["path"].to_pylist()
        return all(info.is_file for info in store.get_file_info(paths))

    def damaged(self, table: str) -> list[str]:
        """The files of a table that are gone or not as long as its log says, in words; raises `UnreadableLakeError`.

        As of the version that was last asked for: asking for it again costs more than the listing that tells.
        """
        try:
            return list(storage.damaged(self._tables[table], self.root, table, self.options))
        except (DeltaError, OSError) as error:
            raise storage.unreadable_table(self.root, table, error) from error

    def taken(self, table: str) -> int | None:
        """A number that is another one once retention took rows out, as of the version that was last asked for."""
        try:
            return self._removals[table].mark(self._tables[table])
        except (DeltaError, OSError) as error:
            raise storage.unreadable_table(self.root, table, error) from error

    def _uri(self, table: str) -> str:
        return storage.uri_of(self.root, self._folders.get(table, table))

    def _handle(self, table: str) -> DeltaTable:
        """The table's handle, brought to the newest version."""
        try:
            handle = self._tables[table]
        except KeyError:
            raise LakeError(f"there is no table {table!r}; the tables are {', '.join(TABLES)}.") from None
        try:
            handle.update_incremental()
        except (DeltaError, OSError) as error:
            raise storage.unreadable_table(self.root, table, error) from error
        return handle

    def _stored(self, table: str, handle: DeltaTable, app_ids: list[str]) -> dict[str, int | None]:
        """Stored offsets and epochs at the handle's version: those asked for, and those that are cached."""
        version = int(handle.version())
        cached_at, cached = self._numbers.get(table, (version, {}))
        numbers = dict(cached) if cached_at == version else {}
        try:
            numbers |= {app_id: handle.transaction_version(app_id) for app_id in app_ids if app_id not in numbers}
        except (DeltaError, OSError) as error:
            raise storage.unreadable_table(self.root, table, error) from error
        self._numbers[table] = (version, numbers)
        return numbers

    def _check_commit(
        self, table: str, handle: DeltaTable, advances: Mapping[StoredNumberT, Advance], fence: Fence | None
    ) -> dict[str, int | None]:
        """Refuse a commit that another writer overtook; the stored numbers otherwise."""
        app_ids = [partition.app_id for partition in advances] + ([] if fence is None else [fence.app_id])
        stored = self._stored(table, handle, app_ids)
        check_advances(table, advances, stored)
        if fence is not None:
            fence.check(table, stored[fence.app_id])
        return stored

    def _check_version(self, table: str, wanted: int, newest: int) -> None:
        if not 0 <= wanted <= newest:
            raise LakeError(f"{table} has no version {wanted}; versions 0 to {newest} exist.")


def added_to_signals(columns: Collection[str]) -> list[pl.Expr]:
    """The columns of `signals` that an earlier layout lacks: nothing was counted, and nobody knows when it was read."""
    added = {**dict.fromkeys(ADDED, pl.lit(0, dtype=pl.Int64)), "last_ingested_at": pl.lit(None, dtype=_MOMENT)}
    return [value.alias(name) for name, value in added.items() if name not in columns]


def with_meanings(events: pl.DataFrame) -> pl.DataFrame:
    """Rows of `events` of an earlier layout with the columns that their bytes say: kind, user, latency and cost."""
    names = ("kind", "user", "latency_us", "cost_microusd")
    columns = zip(*meanings(events["value"]), strict=True) if events.height else [()] * len(names)
    schema = COLUMNS[EVENTS]
    said = [pl.Series(name, column, schema[name]) for name, column in zip(names, columns, strict=True)]
    return events.with_columns(said).select(schema.names())


def with_amounts(events: pl.DataFrame) -> pl.DataFrame:
    """Rows of `events` of an earlier layout with the columns `latency_us` and `cost_microusd`; nothing else changes."""
    amounts = with_meanings(events).select("latency_us", "cost_microusd")
    return events.with_columns(amounts.get_columns()).select(COLUMNS[EVENTS].names())
