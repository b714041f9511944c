"""Rewrite files of a table, in one commit that can neither lose nor double an append, and fold small files by it.

A rewrite names the files that it replaces; what is appended meanwhile is in other files, and stays. Delta would take
two rewrites of the same files, and double rows (seen with deltalake 1.6.6), so each carries the application transaction
`rewrite`: of two that began at the same version, Delta refuses the second. A process that dies before the commit leaves
files that no version names; `vacuum` takes them. The change feed does not show a rewrite.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from analytics.lake.commits import ROWS_AT_A_TIME, TAKEN, UNIQUE, Fence, completed
from analytics.lake.errors import LakeError
from analytics.lake.storage import files_of, uri_of
from analytics.lake.table_schemas import SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


# A file of this size (bytes) is not folded any more, and none that is written is much larger than the other.
FULL_BYTES: Final = 128 * 1024 * 1024
LARGEST_BYTES: Final = 512 * 1024 * 1024
_LEVEL: Final = re.compile(r"level-(\d+)-")  # how the name of a rewritten file begins
_BATCH_ROWS: Final = 65_536
_LONGEST_BOUND: Final = 64  # characters of a bound that are worth a place in the log: a payload helps no reader to skip
_FAILURES: Final = (DeltaError, OSError, pa.ArrowException)


@dataclass(frozen=True)
class StoredFile:
    """A file that a table consists of."""

    path: str  # within the table
    size: int  # bytes
    rows: int
    least: Mapping[str, Any]  # smallest value of each column, where it is known
    most: Mapping[str, Any]  # largest value, likewise

    @classmethod
    def from_action(cls, action: Mapping[str, Any]) -> StoredFile:
        """The file that an entry of the log (`get_add_actions`, flattened) is about."""

        def bounds(prefix: str) -> dict[str, Any]:
            return {name.removeprefix(prefix): value for name, value in action.items() if name.startswith(prefix)}

        return cls(action["path"], action["size_bytes"], action["num_records"] or 0, bounds("min."), bounds("max."))

    @property
    def level(self) -> int:
        """How often its rows were folded: as its name says, 0 for what was appended."""
        named = _LEVEL.match(self.path)
        return 0 if named is None else int(named[1])


class Rewriter:
    """Replaces files of one table, as of one version. Use one, commit once, and take another.

    Nobody else may use the handle, which is at that version; the fence proves the lease, where one is needed.
    """

    def __init__(
        self, root: str, table: str, handle: DeltaTable, options: Mapping[str, str] | None, fence: Fence | None
    ) -> None:
        self.root, self.table, self.options = root, table, options
        self._handle, self._fence = handle, fence
        self._store = files_of(root, table, options)
        self._schema: pa.Schema = SCHEMAS[table]
        self._check()

    def refreshed(self) -> Self:
        """The same at the newest version; raises `FencedError` if somebody else holds the lease, else `LakeError`."""
        try:
            self._handle.update_incremental()
        except _FAILURES as error:
            raise self._failed(error) from error
        return type(self)(self.root, self.table, self._handle, self.options, self._fence)

    def files(self) -> list[StoredFile]:
        """The files at this version, oldest first; raises `LakeError` where the table cannot be read."""
        try:
            actions = pl.DataFrame(self._handle.get_add_actions(flatten=True))
        except _FAILURES as error:
            raise self._failed(error) from error
        actions = actions.sort("modification_time", "path") if actions.width else actions
        return [StoredFile.from_action(action) for action in actions.iter_rows(named=True)]

    def uri(self, file: StoredFile) -> str:
        """The whole path of a file, for a reader."""
        return f"{uri_of(self.root, self.table)}/{file.path}"

    def rewrite(
        self, files: Sequence[StoredFile], change: Callable[[pl.DataFrame], pl.DataFrame] | None = None
    ) -> bool:
        """Replace files by one with the same rows in the same order, or what `change` makes of each batch of them.

        Gives False when somebody else rewrote files meanwhile, and raises `FencedError` when somebody else holds the
        lease, else `LakeError`; the table is as it was in each case.
        """
        return self._replace(files, self._batches(files, change), level=_highest(files), takes=change is not None)

    def fold(self, files: Sequence[StoredFile]) -> bool:
        """Replace files by one of the next level with the same rows in the same order; returns and raises likewise."""
        return self._replace(files, self._batches(files, None), level=_highest(files) + 1)

    def replace(self, files: Sequence[StoredFile], rows: pl.DataFrame) -> bool:
        """Replace files by rows; returns and raises as `rewrite`."""
        frames = (rows.slice(start, _BATCH_ROWS) for start in range(0, rows.height, _BATCH_ROWS))
        return self._replace(files, frames, level=_highest(files))

    def remove(self, files: Sequence[StoredFile]) -> bool:
        """Take files out, with whatever is in them; returns and raises as `rewrite`."""
        return self._replace(files, iter(()), level=0, takes=True)

    def _batches(
        self, files: Sequence[StoredFile], change: Callable[[pl.DataFrame], pl.DataFrame] | None
    ) -> Iterator[pl.DataFrame]:
        for file in files:
            with self._store.open_input_file(file.path) as opened:
                # Read as it is needed: without being told so, Arrow loads the whole file first.
                stored = pq.ParquetFile(opened, pre_buffer=False, buffer_size=1 << 20)
                for batch in stored.iter_batches(ROWS_AT_A_TIME.get(self.table, _BATCH_ROWS)):
                    rows = completed(self.table, pl.DataFrame(pa.Table.from_batches([batch])))
                    yield rows if change is None else change(rows)

    def _replace(
        self, files: Sequence[StoredFile], batches: Iterator[pl.DataFrame], *, level: int, takes: bool = False
    ) -> bool:
        path = f"level-{level}-{uuid.uuid4()}.parquet"
        try:
            stats = self._write(path, batches)
        except _FAILURES as error:
            self._drop(path)
            raise self._failed(error) from error
        now_ms = time.time_ns() // 1_000_000
        removal = partial(RemoveAction, data_change=False, deletion_timestamp=now_ms)
        actions: list[AddAction | RemoveAction] = [removal(path=file.path, size=file.size) for file in files]
        if stats.rows:
            size = self._store.get_file_info(path).size
            actions.append(AddAction(path, size, {}, now_ms, data_change=False, stats=stats.to_json()))
        if self._commit(actions, takes=takes):
            return True
        self._drop(path)
        self._check(newest=True)
        return False

    def _write(self, path: str, batches: Iterator[pl.DataFrame]) -> _Stats:
        stats, writer = _Stats(), None
        with ExitStack() as at_end:
            at_end.callback(pa.default_memory_pool().release_unused)
            for rows in batches:
                if rows.is_empty():
                    continue
                if writer is None:
                    opened = at_end.enter_context(self._store.open_output_stream(path))
                    repeated = [name for name in self._schema.names if name not in UNIQUE.get(self.table, ())]
                    writer = pq.ParquetWriter(opened, self._schema, compression="zstd", use_dictionary=repeated)
                    at_end.callback(writer.close)
                writer.write_table(rows.select(self._schema.names).to_arrow().cast(self._schema))
                stats.add(rows)
        return stats

    def _commit(self, actions: list[AddAction | RemoveAction], *, takes: bool) -> bool:
        names = ("rewrite", TAKEN) if takes else ("rewrite",)
        marks = [Transaction(name, int(self._handle.version())) for name in names]
        if self._fence is not None:
            marks.append(Transaction(self._fence.app_id, self._fence.epoch))
        try:
            properties = CommitProperties(app_transactions=marks)
            self._handle.create_write_transaction(
                actions, "append", self._handle.schema(), commit_properties=properties
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
        fix = f"The table is as it was; check the free space at {self.root}."
        return LakeError(f"{self.table}: rewriting files failed: {error}. {fix}")


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
        longest = {name: max(len(str(self._least[name])), len(str(self._most[name]))) for name in self._least}
        bounded = [name for name, length in longest.items() if length <= _LONGEST_BOUND]
        least, most = ({name: _plain(bounds[name]) for name in bounded} for bounds in (self._least, self._most))
        stats = {"numRecords": self.rows, "minValues": least, "maxValues": most, "nullCount": self._nulls}
        return json.dumps(stats)


def _plain(value: Any) -> Any:  # noqa: ANN401 - a cell of any column
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else value


def _highest(files: Sequence[StoredFile]) -> int:
    return max((file.level for file in files), default=0)


def compact_files(rewriter: Rewriter, *, at_least: int) -> bool:
    """Fold small files into few, one commit for each new file, and tell whether anything was folded.

    A file that was appended is of level 0; so many files of one level as `at_least` make one of the next, until it is
    full. So each row is rewritten once a level, of which there are as many as it takes to get from a commit's size to
    a full file (three or four), and a table has fewer small files of each than that. Raises as `Rewriter.rewrite`.
    """
    folded, level = False, 0
    while level <= _highest(files := rewriter.files()):
        small = [file for file in files if file.level == level and file.size < FULL_BYTES]
        for group in chunks(small, LARGEST_BYTES, lambda file: file.size) if len(small) >= at_least else ():
            if len(group) == 1:
                continue  # a file without a neighbour is left alone
            if not rewriter.fold(group):
                return folded  # somebody else is at it
            folded = True
            rewriter = rewriter.refreshed()
        level += 1
    return folded


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
