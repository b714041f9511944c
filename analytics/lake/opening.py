"""Opening and creating one table of the lake."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from deltalake import CommitProperties, DeltaTable, Field, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.schema import PrimitiveType

from analytics.lake.errors import SchemaMismatchError, UnreadableLakeError
from analytics.lake.places import is_remote, options_of
from analytics.lake.schemas import CLAIMS, TABLES

_CONFIGURATION: Final = {
    "delta.enableChangeDataFeed": "true",  # what was appended between two versions, whatever was compacted since
    "delta.checkpointInterval": "100",  # commits; opening a table reads at most this many small log files
    # How long a verdict can be recomputed at its version: 90 days, and a week between one checkpoint and the next.
    "delta.logRetentionDuration": "interval 97 days",
    "delta.deletedFileRetentionDuration": "interval 97 days",
}
# Claims beat all the time, and nobody asks how they stood an hour ago.
_OF_CLAIMS: Final = {"delta.logRetentionDuration": "interval 1 hours"}


def open_table(root: str, name: str) -> DeltaTable | None:
    """The table, with its columns checked; None when there is none.

    Raises:
        SchemaMismatchError: It has other columns than this version knows.
        UnreadableLakeError: It is damaged, or cannot be reached.
    """
    uri = f"{root}/{name}"
    try:
        table = DeltaTable(uri, storage_options=options_of(root))
    except TableNotFoundError:
        if not is_remote(root) and any(Path(uri).rglob("*.parquet")):
            raise UnreadableLakeError(
                f"the table {name} at {uri} has data files but no log (`_delta_log`). "
                "Restore the folder from a backup, or move it away to begin a new table."
            ) from None
        return None
    except (DeltaError, OSError) as error:
        raise unreadable_table(root, name, error) from error
    stored = {field.name: _described(field) for field in table.schema().fields}
    wanted = {field.name: _described(field) for field in Schema.from_arrow(TABLES[name]).fields}
    if stored != wanted:
        differing = [column for column in {**wanted, **stored} if stored.get(column) != wanted.get(column)]
        differences = "; ".join(
            f"{column} is {stored.get(column, 'missing')}, expected {wanted.get(column, 'no such column')}"
            for column in differing
        )
        raise SchemaMismatchError(
            f"the table {name} at {uri} was written by another version of Stagekeeper: {differences}. "
            "Use that version, or set STAGEKEEPER_LAKE_ROOT to a new folder and replay the topics into it."
        )
    return table


def create_table(root: str, name: str) -> DeltaTable:
    """Create the table, empty; where another process was faster, that one's.

    Raises:
        UnreadableLakeError: It cannot be created.
    """
    uri = f"{root}/{name}"
    try:
        return DeltaTable.create(
            uri,
            schema=Schema.from_arrow(TABLES[name]),
            mode="error",
            configuration=_CONFIGURATION | (_OF_CLAIMS if name == CLAIMS else {}),
            name=name,
            storage_options=options_of(root),
            # Refused version 0, it would try the next one: a second creation, which changes the table's identity under
            # whoever writes to the first.
            commit_properties=CommitProperties(max_commit_retries=0),
        )
    except (DeltaError, OSError) as error:
        table = open_table(root, name)  # another process may have created it in the same moment
        if table is None:
            raise UnreadableLakeError(
                f"the table {name} cannot be created at {uri}: {_first_line(error)}. Check that the folder is writable."
            ) from error
        return table


def _described(field: Field) -> str:
    kind = field.type.type if isinstance(field.type, PrimitiveType) else str(field.type)
    return f"{kind}{' nullable' if field.nullable else ''}"


def unreadable_table(root: str, table: str, error: Exception) -> UnreadableLakeError:
    """The name for a failure to read a table, with what mends it."""
    mend = "Restore the folder from a backup, or move it away to begin a new table."
    if is_remote(root):
        mend = "Check that the store answers and lets this principal in; restore a damaged table from a backup."
    return UnreadableLakeError(f"the table {table} at {root}/{table} cannot be read: {_first_line(error)}. {mend}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
