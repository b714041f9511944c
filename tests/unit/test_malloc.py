"""Free memory goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

_STATUS = Path("/proc/self/status")
_BLOCK_BYTES, _BLOCKS = 1_000, 100_000

only_glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "gnu_get_libc_version") or not _STATUS.exists(),
    reason="only glibc on Linux keeps what was freed and can be told to give it back",
)


# In a process of its own: one that has run other tests holds free memory from which these blocks would come.
_FREED_BELOW_A_USED_BLOCK = f"""
import ctypes
from pathlib import Path
from streams.malloc import release_free_memory

def anonymous_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1_024

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
before = anonymous_mb()
blocks = [libc.malloc({_BLOCK_BYTES}) for _ in range({_BLOCKS})]
for block in blocks:
    ctypes.memset(block, 1, {_BLOCK_BYTES})
for block in blocks[:-1]:  # the last one stays, so that free() by itself cannot shorten the heap
    libc.free(block)
kept = anonymous_mb() - before
release_free_memory()
print(kept, anonymous_mb() - before)
"""


@only_glibc
def test_what_was_freed_below_something_that_is_used_is_given_back() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _FREED_BELOW_A_USED_BLOCK], capture_output=True, text=True, check=True, timeout=60
    )
    kept_mb, left_mb = map(float, ran.stdout.split())
    assert kept_mb > 80, "nothing was kept that could be given back"
    assert left_mb < kept_mb / 4


# Once a buffer of this size was freed, glibc would take the next ones from its pools, and keep them there.
_LARGE_BUFFERS = """
import ctypes, sys
from pathlib import Path
import pyarrow as pa
from streams.malloc import limit_memory

def anonymous_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1_024

if sys.argv[1] == "little":
    limit_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.free(libc.malloc(30 << 20))
before = anonymous_mb()
buffers = [libc.malloc(20 << 20) for _ in range(5)]
for buffer in buffers:
    ctypes.memset(buffer, 1, 20 << 20)
above = libc.malloc(2 << 20)
for buffer in buffers:
    libc.free(buffer)
print(pa.default_memory_pool().backend_name, round(anonymous_mb() - before))
"""


@only_glibc
@pytest.mark.slow
def test_large_buffers_are_not_kept() -> None:
    def kept(how: str) -> tuple[str, int]:
        ran = subprocess.run(
            [sys.executable, "-c", _LARGE_BUFFERS, how], capture_output=True, text=True, check=True, timeout=60
        )
        backend, megabytes = ran.stdout.split()
        return backend, int(megabytes)

    backend, megabytes = kept("little")
    assert backend == "system"
    assert megabytes < 10
    assert kept("as it comes")[1] > 80, "glibc gives them back by itself: nothing needs to be set"
