"""Rewrite files of a table, in one commit that can neither lose nor double an append, and compact small files by it.

A rewrite names the files that it replaces. What is appended meanwhile is in other files, and stays. Two rewrites could
replace the same files (Delta takes both commits, seen with deltalake 1.6.6, and rows would be doubled), so each carries
the application transaction `rewrite`: of two that began at the same version, Delta refuses the second. This holds on a
folder as on object storage. A process that dies before the commit leaves files that no version names; `vacuum` takes
them.

The change feed does not show a rewrite: it tells what came, and a rewrite only says it again.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final, Self

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from analytics.lake.commits import ROWS_AT_A_TIME, TAKEN, UNIQUE
from analytics.lake.errors import LakeError
from analytics.lake.storage import files_of
from analytics.lake.table_schemas import TABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from deltalake import DeltaTable

    from analytics.lake.commits import Fence

SIZES_BYTES: Final = (4 * 1024 * 1024, 64 * 1024 * 1024, 512 * 1024 * 1024)
"""File sizes (bytes) that are worked towards, one after the other. A row is rewritten a few times on its way up, and a
table has at most `at_least` files below each size, besides those of the largest."""

_REWRITE: Final = "rewrite"
_BATCH_ROWS: Final = 65_536
_READ_BYTES: Final = 1 << 20
_LONGEST_BOUND: Final = 64
"""Characters of a smallest or largest value that are worth a place in the log: a payload helps no reader to skip."""
_FAILURES: Final = (DeltaError, OSError, pa.ArrowException)


@dataclass(frozen=True)
class StoredFile:
    """A file that a table consists of."""

    path: str  # its path within the table
    size: int  # bytes
    rows: int  # rows
    least: Mapping[str, Any]  # smallest value of each column, where it is known
    most: Mapping[str, Any]  # largest value, likewise

    @classmethod
    def from_action(cls, action: Mapping[str, Any]) -> StoredFile:
        """The file that an entry of the log (`get_add_actions`, flattened) is about."""

        def bounds(prefix: str) -> dict[str, Any]:
            return {name.removeprefix(prefix): value for name, value in action.items() if name.startswith(prefix)}

        return cls(action["path"], action["size_bytes"], action["num_records"] or 0, bounds("min."), bounds("max."))


class Rewriter:
    """Replaces files of one table, as of one version. Use one, commit once, and take another.

    Args:
        root: Root of the lake.
        table: Table name.
        handle: The table, at the version that is rewritten; nobody else may use it.
        options: Storage options of the lake.
        fence: Proof of the lease that a commit needs, where one is needed.
    """

    def __init__(
        self, root: str, table: str, handle: DeltaTable, options: Mapping[str, str] | None, fence: Fence | None
    ) -> None:
        self.table = table
        self.root = root
        self.options = options
        self._handle = handle
        self._fence = fence
        self._store = files_of(root, table, options)
        self._schema: pa.Schema = TABLES[table]
        self._check()

    def refreshed(self) -> Self:
        """The same at the newest version.

        Raises:
            FencedError: Somebody else holds the lease now.
            LakeError: The table cannot be read.
        """
        try:
            self._handle.update_incremental()
        except _FAILURES as error:
            raise self._failed(error) from error
        return type(self)(self.root, self.table, self._handle, self.options, self._fence)

    def files(self) -> list[StoredFile]:
        """The files at this version, oldest first.

        Raises:
            LakeError: The table cannot be read.
        """
        try:
            actions = pl.DataFrame(self._handle.get_add_actions(flatten=True))
        except _FAILURES as error:
            raise self._failed(error) from error
        if not actions.width:
            return []
        actions = actions.sort("modification_time", "path")
        return [StoredFile.from_action(action) for action in actions.iter_rows(named=True)]

    def uri(self, file: StoredFile) -> str:
        """The whole path of a file, for a reader."""
        return f"{self.root}/{self.table}/{file.path}"

    def rewrite(
        self, files: Sequence[StoredFile], change: Callable[[pl.DataFrame], pl.DataFrame] | None = None
    ) -> bool:
        """Replace files by one with the same rows in the same order, batch by batch.

        Args:
            files: Which.
            change: Takes a batch of rows, and gives back what stands in the new file; all of it unless given.

        Returns:
            False when somebody else rewrote files meanwhile: nothing was changed.

        Raises:
            FencedError: Somebody else holds the lease now; nothing was changed.
            LakeError: The rewrite failed; the table is as it was.
        """
        return self._replace(files, self._batches(files, change), takes=change is not None)

    def replace(self, files: Sequence[StoredFile], rows: pl.DataFrame) -> bool:
        """Replace files by rows; returns and raises as `rewrite`."""
        frames = (rows.slice(start, _BATCH_ROWS) for start in range(0, rows.height, _BATCH_ROWS))
        return self._replace(files, frames)

    def remove(self, files: Sequence[StoredFile]) -> bool:
        """Take files out, with whatever is in them; returns and raises as `rewrite`."""
        return self._replace(files, iter(()), takes=True)

    def _batches(
        self, files: Sequence[StoredFile], change: Callable[[pl.DataFrame], pl.DataFrame] | None
    ) -> Iterator[pl.DataFrame]:
        for file in files:
            with self._store.open_input_file(file.path) as opened:
                # Read as it is needed: without being told so, Arrow loads the whole file first.
                stored = pq.ParquetFile(opened, pre_buffer=False, buffer_size=_READ_BYTES)
                for batch in stored.iter_batches(ROWS_AT_A_TIME.get(self.table, _BATCH_ROWS)):
                    rows = pl.DataFrame(pa.Table.from_batches([batch]))
                    yield rows if change is None else change(rows)

    def _replace(self, files: Sequence[StoredFile], batches: Iterator[pl.DataFrame], *, takes: bool = False) -> bool:
        path = f"part-{uuid.uuid4()}.parquet"
        try:
            stats = self._write(path, batches)
        except _FAILURES as error:
            self._drop(path)
            raise self._failed(error) from error
        now_ms = time.time_ns() // 1_000_000
        actions: list[AddAction | RemoveAction] = [
            RemoveAction(path=file.path, data_change=False, deletion_timestamp=now_ms, size=file.size) for file in files
        ]
        if stats.rows:
            size = self._store.get_file_info(path).size
            actions.append(AddAction(path, size, {}, now_ms, data_change=False, stats=stats.to_json()))
        if self._commit(actions, takes=takes):
            return True
        self._drop(path)
        self._check(newest=True)
        return False

    def _write(self, path: str, batches: Iterator[pl.DataFrame]) -> _Stats:
        stats, writer, opened = _Stats(), None, None
        try:
            for rows in batches:
                if rows.is_empty():
                    continue
                if writer is None:
                    opened = self._store.open_output_stream(path)
                    repeated = [name for name in self._schema.names if name not in UNIQUE.get(self.table, ())]
                    writer = pq.ParquetWriter(opened, self._schema, compression="zstd", use_dictionary=repeated)
                writer.write_table(rows.select(self._schema.names).to_arrow().cast(self._schema))
                stats.add(rows)
        finally:
            if writer is not None:
                writer.close()
            if opened is not None:
                opened.close()
            pa.default_memory_pool().release_unused()
        return stats

    def _commit(self, actions: list[AddAction | RemoveAction], *, takes: bool) -> bool:
        names = (_REWRITE, TAKEN) if takes else (_REWRITE,)
        marks = [Transaction(name, int(self._handle.version())) for name in names]
        if self._fence is not None:
            marks.append(Transaction(self._fence.app_id, self._fence.epoch))
        try:
            self._handle.create_write_transaction(
                actions, "append", self._handle.schema(), commit_properties=CommitProperties(app_transactions=marks)
            )
        except CommitFailedError:
            return False
        except _FAILURES as error:
            raise self._failed(error) from error
        return True

    def _check(self, *, newest: bool = False) -> None:
        if self._fence is None:
            return
        try:
            if newest:
                self._handle.update_incremental()
            highest = self._handle.transaction_version(self._fence.app_id)
        except _FAILURES as error:
            raise self._failed(error) from error
        self._fence.check(self.table, highest)

    def _drop(self, path: str) -> None:
        """Delete what was written for nothing; what cannot be deleted is left to `vacuum`."""
        try:
            if self._store.get_file_info(path).is_file:
                self._store.delete_file(path)
        except OSError:
            return

    def _failed(self, error: Exception) -> LakeError:
        return LakeError(
            f"{self.table}: rewriting files failed: {error}. The table is as it was; check the free space at "
            f"{self.root}."
        )


class _Stats:
    """What a file's entry in the log says of its columns: readers skip files by it."""

    def __init__(self) -> None:
        self.rows = 0
        self._least: dict[str, Any] = {}
        self._most: dict[str, Any] = {}
        self._nulls: dict[str, int] = {}

    def add(self, rows: pl.DataFrame) -> None:
        self.rows += rows.height
        without = (pl.Binary, pl.Boolean)
        plain = [name for name, kind in rows.schema.items() if not kind.is_nested() and kind not in without]
        nulls = rows.select(pl.col(plain).null_count()).row(0, named=True)
        least = rows.select(pl.col(plain).min()).row(0, named=True)
        most = rows.select(pl.col(plain).max()).row(0, named=True)
        for name in plain:
            self._nulls[name] = self._nulls.get(name, 0) + nulls[name]
            if least[name] is not None:
                self._least[name] = min(self._least.get(name, least[name]), least[name])
                self._most[name] = max(self._most.get(name, most[name]), most[name])

    def to_json(self) -> str:
        bounded = [
            name
            for name, least in self._least.items()
            if len(str(least)) <= _LONGEST_BOUND and len(str(self._most[name])) <= _LONGEST_BOUND
        ]
        return json.dumps(
            {
                "numRecords": self.rows,
                "minValues": {name: _plain(self._least[name]) for name in bounded},
                "maxValues": {name: _plain(self._most[name]) for name in bounded},
                "nullCount": self._nulls,
            }
        )


def _plain(value: Any) -> Any:  # noqa: ANN401 - a cell of any column
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else value


def compact_files(rewriter: Rewriter, *, at_least: int) -> bool:
    """Rewrite small files into few; one commit for each new file.

    Args:
        rewriter: The table, at its newest version.
        at_least: For each size, do nothing while fewer files than this are below it.

    Returns:
        Whether anything was rewritten.

    Raises:
        FencedError: Somebody else holds the lease now.
        LakeError: A rewrite failed; the table is as it was.
    """
    rewritten = False
    for size in SIZES_BYTES:
        small = [file for file in rewriter.files() if file.size < size]
        if len(small) < at_least:
            continue
        for group in chunks(small, size, lambda file: file.size):
            if len(group) == 1:
                continue  # a file without a neighbour is left alone
            if not rewriter.rewrite(group):
                return rewritten  # somebody else is at it
            rewritten = True
            rewriter = rewriter.refreshed()
    return rewritten


def chunks(files: Sequence[StoredFile], most: int, weight: Callable[[StoredFile], int]) -> Iterator[list[StoredFile]]:
    """Neighbours that together weigh at most `most`, or one that weighs more."""
    chunk: list[StoredFile] = []
    for file in files:
        if chunk and sum(map(weight, chunk)) + weight(file) > most:
            yield chunk
            chunk = []
        chunk.append(file)
    if chunk:
        yield chunk
