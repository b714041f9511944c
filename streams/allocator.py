"""Giving memory that is free back to the system.

Batches of tens of thousands of small objects come and go in threads of several libraries, and glibc keeps what they
free in a pool for each of some threads, where the next batch, in another thread, does not find it. What a worker has
in memory then creeps upwards for hours although what it uses does not.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable


def give_back_free_memory() -> None:
    """Give free memory back; some dozens of milliseconds, in which other threads go on. Without glibc, only Arrow's."""
    pa.default_memory_pool().release_unused()
    trim = malloc_trim()
    if trim is not None:
        trim(0)


@cache
def malloc_trim() -> Callable[[int], int] | None:
    """What the C library offers for it: glibc does, others are None. See its manual page of section 3."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
