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

SIZES_BYTES: Final = (4 * 1024 * 1024, 64 * 1024 * 1024)
"""File sizes (bytes) that are worked towards, one after the other, so that no row is rewritten each time."""


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


def fold(table: DeltaTable, *, at_least: int) -> bool:
    """Rewrite small files into few. For the holder of `sole_compactor` alone, with a freshly refreshed table.

    Args:
        table: The table.
        at_least: For each size, do nothing while fewer files than this are below it.

    Returns:
        Whether anything was rewritten.
    """
    folded = False
    for size in SIZES_BYTES:
        if _files_below(table, size) >= at_least:
            table.optimize.compact(target_size=size, max_concurrent_tasks=1)
            folded = True
    return folded


def _files_below(table: DeltaTable, size: int) -> int:
    files = pl.DataFrame(table.get_add_actions())
    return files.filter(pl.col("size_bytes") < size).height if files.width else 0
