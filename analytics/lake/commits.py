"""Commits to a table: which rows fit, which numbers they carry, when they are refused, and what one has appended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

import polars as pl
import pyarrow as pa
from deltalake import ColumnProperties, DeltaTable, WriterProperties
from deltalake.exceptions import DeltaError

from analytics.lake.errors import FencedError, ForgottenError, LakeError, SchemaMismatchError, UnreadableLakeError
from analytics.lake.storage import files_of
from analytics.lake.table_schemas import COLUMNS, EVENTS, SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow.fs as pafs

# The application transaction of a commit that takes rows out; its number is the version that they were in.
TAKEN: Final = "taken"
# Columns of which hardly two rows hold the same: looking for what repeats in them takes time and saves no room.
UNIQUE: Final[dict[str, tuple[str, ...]]] = {EVENTS: ("offset", "id", "subject", "value", "sequence")}
ROWS_AT_A_TIME: Final = {EVENTS: 16_384}  # rows that are held at a time while files are rewritten, where they are long

WRITER_PROPERTIES: Final = {
    name: WriterProperties(
        compression="ZSTD",
        compression_level=1,  # in less time than Snappy, and half its size
        column_properties={
            # Nobody looks for files by the smallest and largest of arbitrary bytes.
            field.name: ColumnProperties(
                dictionary_enabled=field.name not in UNIQUE.get(name, ()),
                statistics_enabled="NONE" if pa.types.is_binary(field.type) else "PAGE",
            )
            for field in schema
        },
    )
    for name, schema in SCHEMAS.items()
}

_VERSION: Final = "_commit_version"


class StoredNumber(Protocol):
    """What a number in a table's log is kept for: a partition's offset, or something that is counted like one."""

    def __hash__(self) -> int: ...

    @property
    def app_id(self) -> str:
        """The name under which the number is stored, as an application transaction."""


StoredNumberT = TypeVar("StoredNumberT", bound=StoredNumber)


class SourcePartition(NamedTuple):
    """One partition of one log."""

    log_id: str  # identity of the log (the Kafka cluster id): offsets of another log are unrelated
    topic: str
    partition: int

    @property
    def app_id(self) -> str:
        """The name under which the offset is stored in a table's log."""
        return f"{self.log_id}/{self.topic}/{self.partition}"


class Advance(NamedTuple):
    """How far one commit moves a partition."""

    previous: int | None  # the offset stored before, as the writer knows it; None when nothing was stored yet
    reached: int  # the last offset that the commit covers


class Fence(NamedTuple):
    """Proof of a lease, for commits: a table refuses one once it has seen a higher epoch of the same name."""

    name: str  # what the lease is for
    epoch: int  # which tenure it is: every holder's is higher than all before

    @property
    def app_id(self) -> str:
        """The name under which the highest epoch is stored in a table's log; it is older than the word lease."""
        return f"claim/{self.name}"

    def check(self, table: str, highest: int | None) -> None:
        """Raise `FencedError` where a table has seen a later holder."""
        if highest is not None and highest > self.epoch:
            raise FencedError(
                f"{table}: the lease {self.name} is with a later holder (epoch {highest}, this one's was "
                f"{self.epoch}). Drop what was going to be written, and ask for the lease anew."
            )


def check_advances(table: str, advances: Mapping[StoredNumberT, Advance], stored: Mapping[str, int | None]) -> None:
    """Raise `FencedError` where the writer does not know the stored offsets, `LakeError` where one would go back."""
    for partition, (previous, reached) in advances.items():
        if previous is not None and reached < previous:
            raise LakeError(f"{table}: offsets of {partition.app_id} cannot go back from {previous} to {reached}.")
        if stored[partition.app_id] != previous:
            raise FencedError(
                f"{table}: {partition.app_id} is stored up to {_offset(stored[partition.app_id])}, this writer last "
                f"knew {_offset(previous)}: another writer has taken over. "
                "Drop the batch and resume from the stored offset."
            )


def _offset(value: int | None) -> str:
    return "no offset" if value is None else f"offset {value}"


def fitting(table: str, rows: pl.DataFrame | pa.Table) -> pa.Table:
    """The rows as an Arrow table with exactly the stored columns; raises `SchemaMismatchError` if they do not fit."""
    if table not in SCHEMAS:
        raise LakeError(f"there is no table {table!r}; the tables are {', '.join(SCHEMAS)}.")
    schema, columns = SCHEMAS[table], COLUMNS[table]
    required = [field.name for field in schema if not field.nullable]
    if isinstance(rows, pa.Table):
        if rows.schema == schema and not any(rows[name].null_count for name in required):
            return rows
        rows = pl.DataFrame(rows)  # tells what is wrong
    faults = [f"{name} is missing" for name in columns if name not in rows.columns]
    faults += [f"{name} is not a column of the table" for name in rows.columns if name not in columns]
    faults += [
        f"{name} is {kind}, expected {columns[name]}"
        for name, kind in rows.schema.items()
        if name in columns and kind not in (columns[name], pl.Null())
    ]
    if not faults:
        nulls = {name: rows[name].null_count() for name in required}
        faults = [f"{name} has {count} null values" for name, count in nulls.items() if count]
    if faults:
        raise SchemaMismatchError(f"rows for {table} do not fit: {'; '.join(faults)}.")
    return rows.select(columns.names()).cast(columns).to_arrow().cast(schema)


def completed(table: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of an earlier layout, null in the columns that it lacks and that may be."""
    lacking = [field.name for field in SCHEMAS[table] if field.nullable and field.name not in rows.columns]
    return rows.with_columns(pl.lit(None, COLUMNS[table][name]).alias(name) for name in lacking)


def appended(
    handle: DeltaTable,
    root: str,
    options: Mapping[str, str] | None,
    table: str,
    *,
    after: int,
    through: int,
    columns: list[str],
) -> pl.DataFrame:
    """The rows of the commits `after` (exclusive) to `through` (inclusive; the handle is there or later), in order.

    Raises `ForgottenError` where the log, or a file that one of these commits added, was deleted by age, and
    `UnreadableLakeError` where they cannot be read for another reason.
    """
    try:
        quoted = [f'"{name}"' for name in (*columns, _VERSION)]  # some, such as `offset`, are words of SQL
        feed: Any = handle.load_cdf(starting_version=after + 1, ending_version=through, columns=quoted)
        rows = pl.DataFrame(feed.read_all())
    except Exception as error:  # the reader raises this very class where a file is missing
        if type(error) is not Exception and not isinstance(error, (DeltaError, OSError)):
            raise
        reason = str(error).partition("\n")[0]
        if _is_gone(files_of(root, table, options), after, through):
            raise ForgottenError(
                f"{table}: what was appended since version {after} is no longer kept: {reason}. Read the table whole."
            ) from error
        raise UnreadableLakeError(
            f"what was appended to {table} at {root}/{table} since version {after} cannot be read: {reason}. "
            "Check that the lake can be reached; restore a damaged table from a backup."
        ) from error
    return rows.sort(_VERSION, maintain_order=True).select(columns)


def _is_gone(store: pafs.FileSystem, after: int, through: int) -> bool:
    """Whether anything of these commits is no longer there; False where nobody can tell."""
    try:
        return not all(store.get_file_info(path).is_file for path in _paths(store, after, through))
    except OSError:
        return False


def _paths(store: pafs.FileSystem, after: int, through: int) -> Iterator[str]:
    """The commits, oldest first, and the files that each added; a commit is named before it is opened."""
    for version in range(after + 1, through + 1):
        commit = f"_delta_log/{version:020}.json"
        yield commit
        with store.open_input_file(commit) as opened:
            actions = [json.loads(line) for line in opened.read().splitlines()]
        yield from (action["add"]["path"] for action in actions if action.get("add", {}).get("dataChange"))


class Removals:
    """Tells whether rows were taken out of a table since the last time."""

    def __init__(self) -> None:
        self._files: frozenset[str] | None = None
        self._mark: int | None = None

    def mark(self, handle: DeltaTable) -> int | None:
        """A number that is another one once rows were taken out; None where none ever were. Raises `DeltaError`.

        The log is asked only where files went since the last time: that costs by the commits since a checkpoint.
        """
        files = frozenset(handle.file_uris())
        if self._files is None or not self._files <= files:
            self._mark = handle.transaction_version(TAKEN)
        self._files = files
        return self._mark
