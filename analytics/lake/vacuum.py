"""Vacuum: delete files that no version needs which anybody may still ask for.

A file may go once neither the newest version contains it, nor any from the oldest needed one on, and

- its table's log says that it was taken out a grace period ago: readers and writers work on what they opened; or
- the log no longer knows of it, and it is older than the log by a margin, so that it is not what somebody is about to
  commit: whoever wrote it died, or it was taken out long ago.

The oldest needed version is the one that somebody named, such as the ledger, where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from analytics.lake.errors import LakeError
from analytics.lake.log_files import LogFiles
from analytics.lake.storage import files_of, uri_of

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.lake.tables import Lake

# What clocks of writers and of the store may be apart, and how long a file may take to be written.
MARGIN: Final = timedelta(hours=1)


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

    What was taken out by `unused_since` is used by no reader any more; `needed` is the oldest version that must stay
    readable, where there is one. Files that the log does not know, and those that `needed` may still need, stay unless
    they are older than it by `margin`. Raises `LakeError`; what was deleted before was needed by nobody.
    """
    uri, newest = uri_of(lake.root, table), lake.version(table)
    store = files_of(lake.root, table, lake.options)
    try:
        log = LogFiles(store)
        settled = [version for version, at in log.commits.items() if at <= unused_since]
        oldest = max(settled, default=min(log.commits))
        if needed is not None:
            oldest = min(oldest, needed)
        # Before the oldest commit that is still in the log no version can be read anyway.
        oldest = min(max(oldest, min(log.commits)), newest)
        kept: set[str] = set()
        for version in {oldest, newest}:
            table_then = DeltaTable(uri, version=version, storage_options=lake.options)
            kept.update(table_then.get_add_actions()["path"].to_pylist())
        taken_out = log.taken_out() if needed is None else {}
        until = log.written_at(oldest) - margin
        infos = store.get_file_info(pafs.FileSelector("", recursive=False))
        parquet = [info for info in infos if info.is_file and info.base_name.endswith(".parquet")]
        doomed = [
            info
            for info in parquet
            if info.base_name not in kept
            and (taken_out[info.base_name] <= unused_since if info.base_name in taken_out else info.mtime < until)
        ]
        if not dry_run:
            for info in doomed:
                store.delete_file(info.base_name)
    except (DeltaError, OSError, pa.ArrowException) as error:
        raise LakeError(f"{table}: files that nobody needs cannot be deleted: {error}.") from error
    return Vacuumed(len(doomed), sum(info.size for info in doomed), oldest)
