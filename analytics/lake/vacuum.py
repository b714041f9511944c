"""Vacuum: delete files that no version needs which anybody may still ask for.

A file may go once the newest version does not contain it, none from the oldest needed one on does, and it is older than
that version, so that it is not what somebody is about to commit. The oldest needed version was the newest a grace
period ago (readers and writers work on what they opened), or is an earlier one that somebody named, such as the ledger.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from analytics.lake.errors import LakeError
from analytics.lake.storage import files_of, uri_of

if TYPE_CHECKING:
    from analytics.lake.tables import Lake

# What clocks of writers and of the store may be apart, and how long a file may take to be written.
MARGIN: Final = timedelta(hours=1)
_LOG: Final = "_delta_log"


@dataclass(frozen=True)
class Vacuumed:
    """What was deleted, or would be."""

    files: int
    size: int  # bytes
    oldest_version: int  # the oldest version that can be read afterwards


def vacuum(
    lake: Lake,
    table: str,
    *,
    unused_since: datetime,
    needed: int | None = None,
    margin: timedelta = MARGIN,
    dry_run: bool = False,
) -> Vacuumed:
    """Delete the files of a table that nobody needs; a dry run only counts them.

    Versions that were replaced by `unused_since` are used by no reader any more; `needed` is the oldest version that
    must stay readable, where there is one. Files that are not older than that by `margin` stay. Raises `LakeError`;
    what was deleted before was needed by nobody.
    """
    uri, newest = uri_of(lake.root, table), lake.version(table)
    store = files_of(lake.root, table, lake.options)
    try:
        commits = _commits(store)
        settled = [version for version, at in commits.items() if at <= unused_since]
        oldest = max(settled, default=min(commits))
        if needed is not None:
            oldest = min(oldest, needed)
        # Before the oldest commit that is still in the log no version can be read anyway.
        oldest = min(max(oldest, min(commits)), newest)
        kept: set[str] = set()
        for version in {oldest, newest}:
            table_then = DeltaTable(uri, version=version, storage_options=lake.options)
            kept.update(table_then.get_add_actions()["path"].to_pylist())
        until = _stamp(store, oldest) - margin
        infos = store.get_file_info(pafs.FileSelector("", recursive=False))
        parquet = [info for info in infos if info.is_file and info.base_name.endswith(".parquet")]
        doomed = [info for info in parquet if info.base_name not in kept and info.mtime < until]
        if not dry_run:
            for info in doomed:
                store.delete_file(info.base_name)
    except (DeltaError, OSError) as error:
        raise LakeError(f"{table}: files that nobody needs cannot be deleted: {error}.") from error
    return Vacuumed(len(doomed), sum(info.size for info in doomed), oldest)


def _commits(store: pafs.FileSystem) -> dict[int, datetime]:
    """The versions whose commits are in the log, and when they were written, by the store's clock."""
    infos = store.get_file_info(pafs.FileSelector(_LOG, recursive=False))
    commits = {info.base_name.removesuffix(".json"): info for info in infos if info.base_name.endswith(".json")}
    return {int(name): info.mtime for name, info in commits.items() if info.is_file and name.isdigit()}


def _stamp(store: pafs.FileSystem, version: int) -> datetime:
    """When a version was made, by its writer's clock or by the store's, whichever is earlier."""
    path = f"{_LOG}/{version:020}.json"
    written: datetime = store.get_file_info(path).mtime
    with store.open_input_file(path) as opened:
        for line in opened.read().splitlines():
            if (timestamp_ms := json.loads(line).get("commitInfo", {}).get("timestamp")) is not None:
                return min(written, datetime.fromtimestamp(timestamp_ms / 1_000, UTC))
    return written
