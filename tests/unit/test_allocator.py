"""Free memory goes back to the system."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from streams.allocator import give_back_free_memory, malloc_trim

_STATUS = Path("/proc/self/status")
_BLOCK_BYTES, _BLOCKS = 1_000, 100_000


def _anonymous_mb() -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1_024


@pytest.mark.skipif(malloc_trim() is None or not _STATUS.exists(), reason="only glibc on Linux keeps and gives back")
def test_what_was_freed_below_something_that_is_used_is_given_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    before_mb = _anonymous_mb()
    blocks = [libc.malloc(_BLOCK_BYTES) for _ in range(_BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, _BLOCK_BYTES)
    for block in blocks[:-1]:  # the last one stays, so that free() by itself cannot shorten the heap
        libc.free(block)
    kept_mb = _anonymous_mb() - before_mb

    give_back_free_memory()

    assert kept_mb > 80, "nothing was kept that could be given back"
    assert _anonymous_mb() - before_mb < kept_mb / 4
    libc.free(blocks[-1])
