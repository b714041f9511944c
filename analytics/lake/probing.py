"""Whether a store keeps what the lake's commits rest on."""

from __future__ import annotations

import uuid

import pyarrow as pa
import pyarrow.fs as pafs
from deltalake import CommitProperties, DeltaTable, Schema, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from analytics.lake.errors import UnreadableLakeError
from analytics.lake.places import files_of, options_of


def check_store(root: str) -> None:
    """Commit the same version of a table twice: the store must refuse the second one. Nothing of it stays.

    Args:
        root: Root of a lake on object storage, whether or not it exists.

    Raises:
        UnreadableLakeError: The store takes both, or cannot be written: a lake there would lose events.
        SettingsError: The settings of the store cannot be used.
    """
    name, options = f"probe-{uuid.uuid4()}", options_of(root)
    schema = pa.schema([pa.field("n", pa.int64())])
    once = CommitProperties(max_commit_retries=0)
    try:
        first = DeltaTable.create(f"{root}/{name}", schema=Schema.from_arrow(schema), storage_options=options)
        second = DeltaTable(f"{root}/{name}", storage_options=options)
        write_deltalake(first, pa.table({"n": [1]}), mode="append", commit_properties=once)
        try:
            write_deltalake(second, pa.table({"n": [2]}), mode="append", commit_properties=once)
        except CommitFailedError:
            refused = True
        else:
            found = DeltaTable(f"{root}/{name}", storage_options=options)
            refused = int(found.version()) == 2
        store = files_of(root, name, options)
        for info in store.get_file_info(pafs.FileSelector("", recursive=True)):
            if info.is_file:
                store.delete_file(info.path)
    except (DeltaError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UnreadableLakeError(
            f"nothing can be committed at {root}: {reason}. Check that the bucket exists, that the principal may write "
            "and delete there, and STAGEKEEPER_LAKE_ENDPOINT, STAGEKEEPER_LAKE_REGION and the keys."
        ) from error
    if not refused:
        raise UnreadableLakeError(
            f"no lake can be kept at {root}: the store does not refuse to write an object that is there already "
            "(If-None-Match), and workers would overwrite each other's commits. Use a store that does, or a folder."
        )
