"""The log of a table: which versions it reaches back to, what its last commits took out, and deleting what is over.

Delta keeps a file for each commit, and every hundred commits a checkpoint with which the earlier ones are no longer
needed to read the table. They are needed to read it as it was, and to tell what was appended since. Nobody asks that of
most tables after some minutes: of those, only the files from a checkpoint on stay. A writer that slept meanwhile, and
wants to commit after a version that is gone, is refused by Delta.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from analytics.lake.errors import LakeError
from analytics.lake.storage import TOMBSTONES, files_of, uri_of

if TYPE_CHECKING:
    from analytics.lake.tables import Lake

LOG_KEPT: Final = timedelta(minutes=2)  # how long a commit can be read by itself: readers look every few seconds
LOG: Final = "_delta_log"
_CHECKPOINT: Final = ".checkpoint.parquet"


class LogFiles:
    """The files of one table's log at a moment; raises `OSError` where they cannot be listed."""

    def __init__(self, store: pafs.FileSystem) -> None:
        self._store = store
        infos = [info for info in store.get_file_info(pafs.FileSelector(LOG)) if info.is_file]
        # Its version begins the name of every file but `_last_checkpoint`.
        self.files = {info.path: int(info.base_name[:20]) for info in infos if info.base_name[:20].isdigit()}
        self.commits: dict[int, datetime] = {
            int(info.base_name[:20]): info.mtime for info in infos if info.base_name[20:] == ".json"
        }
        """The versions whose commits are there, and when they were written, by the store's clock."""
        self.checkpoints = sorted(int(info.base_name[:20]) for info in infos if info.base_name[20:] == _CHECKPOINT)

    def written_at(self, version: int) -> datetime:
        """When a version was made, by its writer's clock or by the store's, whichever is earlier."""
        written = self.commits[version]
        for action in self._actions(version):
            if (timestamp_ms := action.get("commitInfo", {}).get("timestamp")) is not None:
                return min(written, _moment(timestamp_ms))
        return written

    def taken_out(self) -> dict[str, datetime]:
        """The files that were taken out lately, and when: all of `TOMBSTONES` and perhaps earlier ones."""
        taken, after = {}, -1
        if self.checkpoints:
            after = self.checkpoints[-1]
            with self._store.open_input_file(f"{LOG}/{after:020}{_CHECKPOINT}") as opened:
                removed = pq.read_table(opened, columns=["remove"])["remove"]
            for action in removed.to_pylist():
                if action is not None:
                    taken[action["path"]] = _moment(action["deletionTimestamp"])
        for version in sorted(version for version in self.commits if version > after):
            for action in self._actions(version):
                if "remove" in action:
                    taken[action["remove"]["path"]] = _moment(action["remove"]["deletionTimestamp"])
        return taken

    def _actions(self, version: int) -> list[dict[str, dict[str, int]]]:
        with self._store.open_input_file(f"{LOG}/{version:020}.json") as opened:
            return [json.loads(line) for line in opened.read().splitlines()]


def _moment(timestamp_ms: int | None) -> datetime:
    return datetime.fromtimestamp((timestamp_ms or 0) / 1_000, UTC)


def trim_log(
    lake: Lake,
    table: str,
    *,
    unused_since: datetime,
    needed: int | None = None,
    dry_run: bool = False,
) -> int:
    """Delete the files of a table's log that nobody needs, and tell how many those are; a dry run only counts them.

    What stays reaches back to a checkpoint before the oldest commit since `unused_since`, and before the version
    `needed`, where there is one. Raises `LakeError`; what was deleted before was needed by nobody.
    """
    store = files_of(lake.root, table, lake.options)
    try:
        log = LogFiles(store)
        older = [version for version, at in log.commits.items() if at <= unused_since]
        oldest = min(max(older, default=-1), lake.version(table))
        if needed is not None:
            oldest = min(oldest, needed)
        base = max((version for version in log.checkpoints if version <= oldest), default=-1)
        doomed = sorted((version, path) for path, version in log.files.items() if version < base)
        if dry_run or not doomed:
            return len(doomed)
        # What it takes to read the table from there on is there, and not half a file.
        DeltaTable(uri_of(lake.root, table), version=base, storage_options=lake.options).get_add_actions()
        for _version, path in doomed:  # the oldest first: whoever dies here leaves no gap
            store.delete_file(path)
    except (DeltaError, OSError, pa.ArrowException) as error:
        raise LakeError(f"{table}: its log cannot be trimmed: {error}.") from error
    return len(doomed)


def keep_tombstones_short(lake: Lake, table: str) -> bool:
    """Let checkpoints of a lake of an earlier version forget what was taken out as soon as those of a new one do.

    Tells whether that was still to be done. Raises `LakeError`.
    """
    try:
        handle = DeltaTable(uri_of(lake.root, table), storage_options=lake.options)
        if all(handle.metadata().configuration.get(name) == value for name, value in TOMBSTONES.items()):
            return False
        handle.alter.set_table_properties(dict(TOMBSTONES))
    except (DeltaError, OSError) as error:
        raise LakeError(f"{table}: its properties cannot be set: {error}. Nothing was changed.") from error
    return True
