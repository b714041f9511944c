"""What was appended between two versions of a table, for as long as the lake keeps it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import polars as pl
from deltalake.exceptions import DeltaError

from analytics.lake.errors import ForgottenError, UnreadableLakeError
from analytics.lake.places import files_of

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
        feed: Any = handle.load_cdf(starting_version=after + 1, ending_version=through, columns=[*columns, _VERSION])
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
