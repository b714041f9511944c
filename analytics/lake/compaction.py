"""Folding many small files into few, one compaction at a time."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deltalake import DeltaTable

TARGET_FILE_BYTES: Final = 64 * 1024 * 1024
"""Files at or above this size (bytes) are left alone."""


@contextmanager
def sole_compactor(lock_file: Path) -> Iterator[bool]:
    """Hold the right to compact a table, or learn that somebody else holds it.

    Delta's commit does not refuse the second of two compactions that fold the same files (seen with deltalake 1.6.6,
    with every isolation level and retry setting): both copies of the rows would stay. So only one may run. The lock is
    the operating system's: it ends with the process that holds it, however that ends.

    Yields:
        Whether the right was obtained.
    """
    lock_file.parent.mkdir(exist_ok=True)
    with lock_file.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def small_files(table: DeltaTable) -> int:
    """How many files of the table are below the target size."""
    sizes = pl.DataFrame(table.get_add_actions())
    return sizes.filter(pl.col("size_bytes") < TARGET_FILE_BYTES).height if sizes.width else 0


def fold(table: DeltaTable) -> None:
    """Rewrite the small files of a freshly refreshed table into few. Only for the holder of `sole_compactor`."""
    table.optimize.compact(target_size=TARGET_FILE_BYTES, max_concurrent_tasks=1)
