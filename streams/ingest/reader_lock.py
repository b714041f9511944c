"""A lock of the operating system that lets one worker at a time read the embedded broker's log.

The embedded broker's consumer groups lock up for minutes when a member leaves while another joins. It never leaves its
machine, so workers there lock a file instead. The lock ends with the process that holds it, however that ends, and the
next worker reads at once, without waiting for a session to time out.
"""

from __future__ import annotations

import fcntl
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator


@contextmanager
def reader_lock(log_id: str, stopping: threading.Event) -> Iterator[bool]:
    """Wait for the lock of a log, and hold it; yields False where `stopping` ended the waiting."""
    with _lock_file(log_id).open("w") as file:
        while not stopping.is_set():
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stopping.wait(0.1)
            else:
                yield True
                return
        yield False


def has_reader(log_id: str) -> bool:
    """Whether a process of this machine holds the lock of a log."""
    try:
        with _lock_file(log_id).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _lock_file(log_id: str) -> Path:
    return Path(tempfile.gettempdir(), f"stagekeeper-{log_id}.lock")
