"""Set glibc's malloc and Arrow's pool up so that free memory goes back to the operating system.

Batches of tens of thousands of small objects and of buffers of many megabytes come and go in the threads of several
libraries. Left alone, glibc keeps what they free in one of up to eight pools a core, where the next batch, in another
thread, does not find it; it learns to take ever larger buffers from there as well; and Arrow's own allocator keeps
pages for each thread that ever used it. Measured by `benchmarks/memory.py`.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Final

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable

# Of glibc's malloc.h; see mallopt(3).
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

_LIMITS: Final = {
    _M_MMAP_THRESHOLD: 1 << 20,  # larger buffers are the system's again as soon as they are free
    _M_TRIM_THRESHOLD: 16 << 20,  # so much stays free at the end of a pool
    _M_ARENA_MAX: 4,  # so many pools
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
    """A function of glibc; None with another C library."""
    library = ctypes.CDLL(None)
    return getattr(library, name) if hasattr(library, "gnu_get_libc_version") else None
