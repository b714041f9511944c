"""What was appended between two versions of a table, for as long as the lake keeps it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import polars as pl
import pyarrow as pa
from deltalake import ColumnProperties, WriterProperties
from deltalake.exceptions import DeltaError

from analytics.lake.errors import ForgottenError, LakeError, SchemaMismatchError, UnreadableLakeError
from analytics.lake.storage import files_of
from analytics.lake.table_schemas import COLUMNS, EVENTS, TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow.fs as pafs
    from deltalake import DeltaTable

_VERSION: Final = "_commit_version"


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
    """The rows of the commits `after` (exclusive) to `through` (inclusive), in that order.

    Args:
        handle: The table, at `through` or later.
        root: Root of the lake.
        options: What it takes to get in.
        table: Table name.
        after: The last version that is known already.
        through: The last version that is wanted, later than `after`.
        columns: Which columns.

    Raises:
        ForgottenError: The log, or a file that one of these commits added, was deleted by age.
        UnreadableLakeError: They cannot be read for another reason.
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
        return any(not info.is_file for path in _needed(store, after, through) for info in store.get_file_info([path]))
    except OSError:
        return False


def _needed(store: pafs.FileSystem, after: int, through: int) -> Iterator[str]:
    """The files that hold what was appended, oldest first; each commit is named before it is opened."""
    for version in range(after + 1, through + 1):
        commit = f"_delta_log/{version:020}.json"
        yield commit
        with store.open_input_file(commit) as opened:
            said = [json.loads(line) for line in opened.read().splitlines()]
        yield from (each["add"]["path"] for each in said if each.get("add", {}).get("dataChange"))


class SourcePartition(NamedTuple):
    """One partition of one log.

    Attributes:
        log_id: Identity of the log (the Kafka cluster id): offsets of another log are unrelated.
        topic: Topic name.
        partition: Partition number.
    """

    log_id: str
    topic: str
    partition: int

    @property
    def app_id(self) -> str:
        """The name under which the offset is stored in a table's log."""
        return f"{self.log_id}/{self.topic}/{self.partition}"


class Advance(NamedTuple):
    """How far one commit moves a partition.

    Attributes:
        previous: The offset stored before, as the writer knows it; None when nothing was stored yet.
        reached: The last offset that the commit covers.
    """

    previous: int | None
    reached: int


class Fence(NamedTuple):
    """A right that a writer holds, for the commits that need it; see `analytics.lake.leases`.

    A table refuses a commit under a fence once it has seen a higher epoch of the same name.

    Attributes:
        name: What is claimed.
        epoch: Which tenure it is: every holder's is higher than all before.
    """

    name: str
    epoch: int

    @property
    def app_id(self) -> str:
        """The name under which the highest epoch is stored in a table's log."""
        return f"claim/{self.name}"


def fitting(table: str, rows: pl.DataFrame | pa.Table) -> pa.Table:
    """The rows as an Arrow table with exactly the stored columns.

    Raises:
        SchemaMismatchError: They do not have them; the message says which.
        LakeError: There is no such table.
    """
    if table not in TABLES:
        raise LakeError(f"there is no table {table!r}; the tables are {', '.join(TABLES)}.")
    if isinstance(rows, pa.Table):
        if rows.schema == TABLES[table] and not any(
            rows[field.name].null_count for field in TABLES[table] if not field.nullable
        ):
            return rows
        rows = pl.DataFrame(rows)  # tells what is wrong
    wanted = COLUMNS[table]
    faults = [f"{name} is missing" for name in wanted if name not in rows.columns]
    faults += [f"{name} is not a column of the table" for name in rows.columns if name not in wanted]
    faults += [
        f"{name} is {kind}, expected {wanted[name]}"
        for name, kind in rows.schema.items()
        if name in wanted and kind not in (wanted[name], pl.Null())
    ]
    if not faults:
        faults += [
            f"{field.name} has {rows[field.name].null_count()} null values"
            for field in TABLES[table]
            if not field.nullable and rows[field.name].null_count()
        ]
    if faults:
        raise SchemaMismatchError(f"rows for {table} do not fit: {'; '.join(faults)}.")
    return rows.select(wanted.names()).cast(wanted).to_arrow().cast(TABLES[table])


UNIQUE: Final[dict[str, tuple[str, ...]]] = {EVENTS: ("offset", "id", "subject", "value")}
"""Columns of which hardly two rows hold the same: looking for what repeats in them takes time and saves no room."""

WRITING: Final = {
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
    for name, schema in TABLES.items()
}
"""What the writer of appended rows is told, for each table."""

ROWS_AT_A_TIME: Final = {EVENTS: 16_384}
"""Rows that are held at a time while files are rewritten, where they are long."""


TAKEN: Final = "taken"
"""The application transaction of a commit that takes rows out; its number is the version that they were in."""


class Removals:
    """What was last seen of one table."""

    def __init__(self) -> None:
        self._files: frozenset[str] | None = None
        self._mark: int | None = None

    def mark(self, handle: DeltaTable) -> int | None:
        """A number that is another one once rows were taken out; None where none ever were.

        The log is asked only where files went since the last time: that costs by the commits since a checkpoint.

        Raises:
            DeltaError: The log cannot be read.
        """
        files = frozenset(handle.file_uris())
        if self._files is None or not self._files <= files:
            self._mark = handle.transaction_version(TAKEN)
        self._files = files
        return self._mark
