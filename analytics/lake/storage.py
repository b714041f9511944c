"""Where a lake lies, a folder or a bucket, and opening, creating and checking its tables there."""

from __future__ import annotations

import os
import re
import uuid
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler
from deltalake.schema import PrimitiveType
from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from analytics.lake.errors import READ_FAILURES, OutdatedLakeError, SchemaMismatchError, UnreadableLakeError
from analytics.lake.table_schemas import EVENTS, LAYOUT, LEASES, SCHEMAS, TABLES
from producers.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LAYOUT_MARK: Final = "stagekeeper/layout"  # the application transaction in the log of `events`: the lake's layout
_PREFIX: Final = "STAGEKEEPER_LAKE_"
# Delta (deltalake 1.6.6) goes from a path to a URL and back, and with these it comes back elsewhere, or panics.
_UNFIT: Final = re.compile(r"[\\\[\]|^\x00-\x1f\x7f\ud800-\udfff]|%[0-9a-f]{2}", re.IGNORECASE)
_NAMED: Final = 3  # so many damaged files are named; the others are counted
CHECKPOINT_EVERY: Final = 100  # commits; opening a table reads at most this many small log files
TOMBSTONES_KEPT: Final = timedelta(hours=1)
"""How long a checkpoint names files that are gone. Without end, each would be as long as the table's history."""
TOMBSTONES: Final = {"delta.deletedFileRetentionDuration": f"interval {TOMBSTONES_KEPT // timedelta(hours=1)} hours"}
_CONFIGURATION: Final = {
    "delta.enableChangeDataFeed": "true",  # what was appended between two versions, whatever was compacted since
    "delta.checkpointInterval": str(CHECKPOINT_EVERY),
    # How long a verdict can be recomputed at its version: 90 days, and a week between one checkpoint and the next. Of
    # what no verdict names, maintenance deletes the log after minutes.
    "delta.logRetentionDuration": "interval 97 days",
    **TOMBSTONES,
}
# Heartbeats come all the time, and nobody asks how they stood an hour ago.
_CONFIGURATION_OF_LEASES: Final = _CONFIGURATION | {"delta.logRetentionDuration": "interval 1 hours"}


class StorageSettings(BaseSettings):
    """How to get into a bucket, and what is kept beside a lake: environment variables, prefix `STAGEKEEPER_LAKE_`.

    What is unset follows the store's own conventions: the `AWS_*` variables, a profile, or the role of the machine.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore")

    endpoint: str | None = None
    """URL of the store, `http://host:port` or `https://host`; unset means Amazon's."""
    region: str | None = None
    """Region of the bucket."""
    access_key_id: str | None = None
    """The principal."""
    secret_access_key: SecretStr | None = None
    """Its key; never printed."""
    session_token: SecretStr | None = None
    """Its session, where there is one; never printed."""
    head: Path | None = None
    """File outside the lake that names the ledger's last row; unset means beside a folder, and none for a bucket."""
    checkpoints: Path | None = None
    """Folder outside the lake for the newest checkpoints of its transparency logs; unset means likewise."""

    @classmethod
    def load(cls) -> StorageSettings:
        """Read the environment; raises `SettingsError`, which names the variables that cannot be used."""
        try:
            settings = cls()
        except ValidationError as error:
            faults = "; ".join(f"{_PREFIX}{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors())
            raise SettingsError(f"{faults}. Mend or unset the variable.") from error
        if (settings.access_key_id is None) != (settings.secret_access_key is None):
            raise SettingsError(
                f"{_PREFIX}ACCESS_KEY_ID and {_PREFIX}SECRET_ACCESS_KEY belong together: set both, or neither."
            )
        if settings.endpoint is not None and "://" not in settings.endpoint:
            raise SettingsError(
                f"{_PREFIX}ENDPOINT is {settings.endpoint!r}, not a URL such as https://s3.example.com."
            )
        return settings

    @property
    def options(self) -> dict[str, str]:
        """The same as storage options of delta-rs and polars, secrets in the clear."""
        options: dict[str, str | SecretStr | None] = {
            "aws_endpoint": self.endpoint,
            "aws_region": self.region or ("us-east-1" if self.endpoint is not None else None),
            "aws_access_key_id": self.access_key_id,
            "aws_secret_access_key": self.secret_access_key,
            "aws_session_token": self.session_token,
            # A commit is a file that must not be there yet: the store has to refuse the second one.
            "aws_conditional_put": "etag",
        }
        if self.endpoint is not None and self.endpoint.startswith("http://"):
            options["aws_allow_http"] = "true"
        given = ((name, value) for name, value in options.items() if value is not None)
        return {name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in given}


def is_remote(root: str) -> bool:
    """Whether a lake lies on object storage."""
    return "://" in root


def options_of(root: str) -> dict[str, str] | None:
    """Storage options for a lake; None for a folder. Raises `SettingsError`, also where no lake can be kept there."""
    if not is_remote(root):
        real = os.path.realpath(root)
        if (unfit := _UNFIT.search(real)) is not None:
            raise SettingsError(
                f"the folder {real!r} cannot hold a lake: Delta cannot open a path with {unfit[0]!r} in it. Set "
                "STAGEKEEPER_LAKE_ROOT to a folder without."
            )
        return None
    if not root.startswith(("s3://", "s3a://")):
        raise SettingsError(
            f"the lake root {root} is neither a folder nor s3://BUCKET/PATH. Set STAGEKEEPER_LAKE_ROOT to one of them."
        )
    return StorageSettings.load().options


def uri_of(root: str, table: str) -> str:
    """Where a table lies, for the libraries: of a folder always the whole path, which none takes for a URL or `~`."""
    return f"{root}/{table}" if is_remote(root) else str(Path(root, table).absolute())


class _FolderTable(DeltaTable):
    """A table in a folder, for polars: Delta names its files as a URL does, and polars takes that for the path."""

    @property
    def table_uri(self) -> str:
        return unquote(super().table_uri)

    def file_uris(self, *arguments: Any, **options: Any) -> list[str]:  # noqa: ANN401 - as Delta has them
        return [unquote(uri) for uri in super().file_uris(*arguments, **options)]


def scan_table(root: str, table: str, *, version: int | None = None) -> pl.LazyFrame:
    """Read a table lazily, as it was at a version; raises `DeltaError`."""
    options, uri = options_of(root), uri_of(root, table)
    if is_remote(root):
        return pl.scan_delta(uri, version=version, storage_options=options)
    return pl.scan_delta(_FolderTable(uri, version=version))


class FollowedTable:
    """One table as it is now, asked again and again by one thread: only what its log has gained is read each time."""

    def __init__(self, root: str, table: str) -> None:
        self._root = root
        self._options, self._uri = options_of(root), uri_of(root, table)
        self._handle: DeltaTable | None = None

    def collect(self, query: Callable[[pl.LazyFrame], pl.LazyFrame]) -> pl.DataFrame:
        """What a query finds in the newest version; raises `UnreadableLakeError`."""
        with reading(self._root):
            if self._handle is None:
                opened = DeltaTable if is_remote(self._root) else _FolderTable
                self._handle = opened(self._uri, storage_options=self._options)
            else:
                self._handle.update_incremental()
            return query(pl.scan_delta(self._handle, storage_options=self._options)).collect()


def files_of(root: str, table: str, options: Mapping[str, str] | None) -> pafs.FileSystem:
    """The files of one table, by their paths within it."""
    if is_remote(root):
        return pafs.PyFileSystem(DeltaStorageHandler(f"{root}/{table}", dict(options or {})))
    return pafs.SubTreeFileSystem(str(Path(root, table)), pafs.LocalFileSystem())


def stored_layout(root: str) -> int | None:
    """The number of a lake's layout; None where there is no lake. Raises `UnreadableLakeError`."""
    try:
        return _layout(DeltaTable(uri_of(root, EVENTS), storage_options=options_of(root)))
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise unreadable_table(root, EVENTS, error) from error


def _layout(events: DeltaTable) -> int:
    stored: int | None = events.transaction_version(LAYOUT_MARK)
    return stored or 1  # before layouts had numbers


def open_table(root: str, name: str) -> DeltaTable | None:
    """Open a table and check its columns; None when there is none.

    Raises `OutdatedLakeError` for an earlier layout, `SchemaMismatchError` for a later one or other columns, and
    `UnreadableLakeError`.
    """
    uri = f"{root}/{name}"
    try:
        table = DeltaTable(uri_of(root, name), storage_options=options_of(root))
        layout = _layout(table) if name == EVENTS else LAYOUT
    except TableNotFoundError:
        if not is_remote(root) and any(Path(uri).rglob("*.parquet")):
            raise UnreadableLakeError(
                f"the table {name} at {uri} has data files but no log (`_delta_log`). "
                "Restore the folder from a backup, or move it away to begin a new table."
            ) from None
        return None
    except (DeltaError, OSError) as error:
        raise unreadable_table(root, name, error) from error
    if layout < LAYOUT:
        raise OutdatedLakeError(
            f"the lake at {root} has layout {layout} of an earlier version, this one needs {LAYOUT}. Stop all "
            "processes of that version and start a worker of this one (`stagekeeper worker`, or `stagekeeper up`): it "
            "migrates the lake first."
        )
    if layout > LAYOUT:
        raise SchemaMismatchError(
            f"the lake at {root} has layout {layout} of a later version of Stagekeeper, this one knows up to {LAYOUT}. "
            "Install that version, or set STAGEKEEPER_LAKE_ROOT to another lake."
        )
    stored, expected = _columns(table.schema()), _columns(Schema.from_arrow(SCHEMAS[name]))
    differences = "; ".join(
        f"{column} is {stored.get(column, 'missing')}, expected {expected.get(column, 'no such column')}"
        for column in {**expected, **stored}
        if stored.get(column) != expected.get(column)
    )
    if differences:
        raise SchemaMismatchError(
            f"the table {name} at {uri} was written by another version of Stagekeeper: {differences}. "
            "Use that version, or set STAGEKEEPER_LAKE_ROOT to a new folder and replay the topics into it."
        )
    return table


def _columns(schema: Schema) -> dict[str, str]:
    """Type and nullability of each column, in words."""
    kinds = [field.type.type if isinstance(field.type, PrimitiveType) else str(field.type) for field in schema.fields]
    described = zip(schema.fields, kinds, strict=True)
    return {field.name: f"{kind}{' nullable' if field.nullable else ''}" for field, kind in described}


def create_table(root: str, name: str) -> DeltaTable:
    """Create an empty table, or open the one that another process created just now; raises `UnreadableLakeError`."""
    uri = f"{root}/{name}"
    try:
        return DeltaTable.create(
            uri_of(root, name),
            schema=Schema.from_arrow(SCHEMAS[name]),
            mode="error",
            configuration=_CONFIGURATION_OF_LEASES if name == LEASES else _CONFIGURATION,
            name=name,
            storage_options=options_of(root),
            commit_properties=CommitProperties(
                # Refused version 0, it would try the next one: a second creation, which changes the table's identity
                # under whoever writes to the first.
                max_commit_retries=0,
                app_transactions=[Transaction(LAYOUT_MARK, LAYOUT)] if name == EVENTS else None,
            ),
        )
    except (DeltaError, OSError) as error:
        if (table := open_table(root, name)) is not None:
            return table
        raise UnreadableLakeError(
            f"the table {name} cannot be created at {uri}: {_first_line(error)}. Check that the folder is writable."
        ) from error


def check_store(root: str) -> None:
    """Check that the object store refuses the second of two commits of one version. Nothing stays of the attempt.

    Raises `UnreadableLakeError` where it takes both, or cannot be written: a lake there would lose events.
    """
    name, options = f"probe-{uuid.uuid4()}", options_of(root)
    schema = pa.schema([pa.field("n", pa.int64())])
    once = CommitProperties(max_commit_retries=0)
    try:
        first = DeltaTable.create(uri_of(root, name), schema=Schema.from_arrow(schema), storage_options=options)
        second = DeltaTable(uri_of(root, name), storage_options=options)
        write_deltalake(first, pa.table({"n": [1]}), mode="append", commit_properties=once)
        try:
            write_deltalake(second, pa.table({"n": [2]}), mode="append", commit_properties=once)
        except CommitFailedError:
            refused = True
        else:
            refused = int(DeltaTable(uri_of(root, name), storage_options=options).version()) == 2
        store = files_of(root, name, options)
        for info in store.get_file_info(pafs.FileSelector("", recursive=True)):
            if info.is_file:
                store.delete_file(info.path)
    except (DeltaError, OSError) as error:
        raise UnreadableLakeError(
            f"nothing can be committed at {root}: {_first_line(error)}. Check that the bucket exists, that the "
            "principal may write and delete there, and STAGEKEEPER_LAKE_ENDPOINT, STAGEKEEPER_LAKE_REGION and the keys."
        ) from error
    if not refused:
        raise UnreadableLakeError(
            f"no lake can be kept at {root}: the store does not refuse to write an object that is there already "
            "(If-None-Match), and workers would overwrite each other's commits. Use a store that does, or a folder."
        )


@contextmanager
def reading(root: str) -> Iterator[None]:
    """Raise `UnreadableLakeError` for whatever the libraries raise where a lake cannot be read."""
    try:
        yield
    except READ_FAILURES as error:
        raise unreadable(root, error) from error


def unreadable(root: str, error: BaseException) -> UnreadableLakeError:
    """The error for a failed read: which files are damaged, and how to mend it."""
    try:
        damaged = damaged_files(root)
    except (DeltaError, OSError):
        damaged = []
    if not damaged:
        return UnreadableLakeError(
            f"the lake at {root} cannot be read: {_first_line(error)}. Check that it can be reached; every file is "
            "there that its tables name, as long as it should be. Restore one that was overwritten from a backup."
        )
    more = f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
    return UnreadableLakeError(
        f"the lake at {root} is damaged: {'; '.join(damaged[:_NAMED])}{more}. Stop the workers and restore the lake "
        "from a backup of one moment; without one, set STAGEKEEPER_LAKE_ROOT to a new folder and replay the topics."
    )


def unreadable_table(root: str, table: str, error: Exception) -> UnreadableLakeError:
    """The error for a table that cannot be read, and how to mend it."""
    mend = "Restore the folder from a backup, or move it away to begin a new table."
    if is_remote(root):
        mend = "Check that the store answers and lets this principal in; restore a damaged table from a backup."
    return UnreadableLakeError(f"the table {table} at {root}/{table} cannot be read: {_first_line(error)}. {mend}")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def damaged_files(root: str) -> list[str]:
    """The files of a lake that are gone or not as long as its log says, in words. Raises `DeltaError` and `OSError`."""
    options = options_of(root)
    faults: list[str] = []
    for table in TABLES:
        try:
            newest = DeltaTable(uri_of(root, table), storage_options=options)
        except TableNotFoundError:
            continue
        faults.extend(damaged(newest, root, table, options))
    return faults


def damaged(newest: DeltaTable, root: str, table: str, options: Mapping[str, str] | None) -> Iterator[str]:
    """The same for one table, as its handle has it, and for the end of its log: an open handle notices no loss."""
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
