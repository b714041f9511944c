"""Which process this is, so that another one on the same machine can tell that it is gone.

A process is named by the start of its machine, its namespace of process ids, its id there and the moment it began. Only
who shares the first two can look; for everybody else, and where the system does not tell, nothing is ever gone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE: Final = Path("/proc/self/ns/pid")
_DEAD: Final = "ZX"
_STATE, _BEGAN = 0, 19
"""Places in `/proc/<pid>/stat` after the name, see proc(5)."""


def this_process() -> str:
    """A name for this process that no other has or will have; empty where the system does not tell (not Linux)."""
    where, pid = _where(), os.getpid()
    said = _stat(pid)
    return "" if where is None or said is None else f"{where}/{pid}/{said[_BEGAN]}"


def is_gone(name: str) -> bool:
    """Whether the process of this name (`this_process`) has surely ended; False where nobody here can tell."""
    parts = name.split("/")
    if len(parts) != 4 or "/".join(parts[:2]) != _where() or not parts[2].isdecimal():
        return False
    pid, began = int(parts[2]), parts[3]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it is there, and somebody else's
    said = _stat(pid)  # may be hidden from us
    return said is not None and (said[_BEGAN] != began or said[_STATE] in _DEAD)


def _where() -> str | None:
    """This machine since its last start, and the namespace."""
    try:
        return f"{_BOOT.read_text().strip()}/{_NAMESPACE.stat().st_ino}"
    except OSError:
        return None


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
