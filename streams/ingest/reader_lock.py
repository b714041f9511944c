"""One reader at a time, where the broker cannot see to it.

The embedded broker's consumer groups lock up for minutes when a member leaves while another joins. It never leaves its
machine, so there the workers take turns by a lock of the operating system instead, which ends with the process that
holds it, however that ends: the next worker reads at once, and has not to wait until a session is over.
"""

from __future__ import annotations

import fcntl
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

_LOOK_EVERY_S: Final = 0.1


@contextmanager
def sole_reader(log_id: str, given_up: threading.Event) -> Iterator[bool]:
    """Wait for the turn to read a log, and hold it.

    Args:
        log_id: The log.
        given_up: Ends the waiting.

    Yields:
        Whether the turn has come.
    """
    with _lock_file(log_id).open("w") as held:
        while not given_up.is_set():
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                given_up.wait(_LOOK_EVERY_S)
            else:
                yield True
                return
        yield False


def has_reader(log_id: str) -> bool:
    """Whether a process of this machine holds the turn."""
    try:
        with _lock_file(log_id).open("r") as asked:
            fcntl.flock(asked, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _lock_file(log_id: str) -> Path:
    return Path(tempfile.gettempdir(), f"stagekeeper-{log_id}.lock")
