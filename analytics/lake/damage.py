"""Naming what makes a lake unreadable: a scan is lazy, so it fails in the hands of whoever collects it, without a name.

A file that was cut short even makes polars panic, with an error that tells neither the file nor the table, and that is
no `Exception`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import polars as pl
import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from analytics.lake.errors import READ_FAILURES, UnreadableLakeError
from analytics.lake.places import files_of, options_of
from analytics.lake.schemas import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NAMED: Final = 3
"""So many damaged files are named; the others are counted."""


@contextmanager
def reading(root: str) -> Iterator[None]:
    """Name what reading a lake raises.

    Raises:
        UnreadableLakeError: A file is gone or was cut short, or the lake cannot be reached.
    """
    try:
        yield
    except READ_FAILURES as error:
        raise unreadable(root, error) from error


def unreadable(root: str, error: BaseException) -> UnreadableLakeError:
    """What a failed read means: the files that are damaged, and how to mend it."""
    reason = str(error).partition("\n")[0]
    try:
        damaged = damaged_files(root)
    except (DeltaError, OSError):
        damaged = []
    if not damaged:
        return UnreadableLakeError(
            f"the lake at {root} cannot be read: {reason}. Check that it can be reached; every file is there that its "
            "tables name, as long as it should be."
        )
    more = f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
    return UnreadableLakeError(
        f"the lake at {root} is damaged: {'; '.join(damaged[:_NAMED])}{more}. Stop the workers and restore the lake "
        "from a backup of one moment; without one, set STAGEKEEPER_LAKE_ROOT to a new folder and replay the topics."
    )


def damaged_files(root: str) -> list[str]:
    """The files of a lake that are gone, or not as long as its log says, in words; a listing of each table tells.

    Raises:
        DeltaError: A table cannot be opened.
        OSError: The files cannot be listed.
    """
    options = options_of(root)
    found: list[str] = []
    for table in TABLES:
        try:
            newest = DeltaTable(f"{root}/{table}", storage_options=options)
        except TableNotFoundError:
            continue
        found.extend(damaged(newest, root, table, options))
    return found


def damaged(newest: DeltaTable, root: str, table: str, options: Mapping[str, str] | None) -> Iterator[str]:
    """The files of one table, as of what its handle knows, and the end of its log; otherwise as `damaged_files`.

    An open handle notices neither that files are gone nor that its log is.
    """
    store = files_of(root, table, options)
    (end,) = store.get_file_info([f"_delta_log/{newest.version():020}.json"])
    if not end.is_file:
        yield f"{table}/{end.path} is gone"
    sizes = {info.path: info.size for info in store.get_file_info(pafs.FileSelector("", recursive=False))}
    for path, size in pl.DataFrame(newest.get_add_actions()).select("path", "size_bytes").iter_rows():
        if path not in sizes:
            yield f"{table}/{path} is gone"
        elif sizes[path] != size:
            yield f"{table}/{path} has {sizes[path]:,} of {size:,} bytes"
