"""Set glibc's malloc and Arrow's pool up so that free memory goes back to the operating system.

Batches come and go in the threads of several libraries. Left alone, glibc keeps what they free in up to eight pools a
core, where the next batch, in another thread, does not find it, and takes ever larger buffers from there as well;
Arrow's own allocator keeps pages for each thread that ever used it. Measured by `benchmarks/memory.py`.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Final

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable

_LIMITS: Final = {  # by the option's number in glibc's malloc.h; see mallopt(3)
    -3: 1 << 20,  # M_MMAP_THRESHOLD: larger buffers are the system's again as soon as they are free
    -1: 16 << 20,  # M_TRIM_THRESHOLD: so much stays free at the end of a pool
    -8: 4,  # M_ARENA_MAX: so many pools
}


def limit_memory() -> None:
    """Set the allocators up; early, and before other threads are started. Without glibc, only Arrow's."""
    pa.set_memory_pool(pa.system_memory_pool())
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        for option, limit in _LIMITS.items():
            mallopt(option, limit)


def release_free_memory() -> None:
    """Give free memory back; some dozens of milliseconds, in which other threads go on. Nothing without glibc."""
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


@cache
def _glibc(name: str) -> Callable[..., int] | None:
    library = ctypes.CDLL(None)
    return getattr(library, name) if hasattr(library, "gnu_get_libc_version") else None
