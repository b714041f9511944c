"""A lock on the home folder: one `stagekeeper up` at a time, and the file that tells other commands about it."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from producers.errors import StagekeeperError
from stagekeeper.settings import RUNNING_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class AlreadyRunningError(StagekeeperError):
    """Another `stagekeeper up` runs in the same home folder."""


@dataclass(frozen=True)
class HomeLock:
    """The right to run in a home folder, as `lock_home` gives it."""

    running_file: Path
    stale_pid: int | None  # in a file that an earlier run left behind, now removed

    def announce(self, endpoints: Mapping[str, str]) -> None:
        """Tell other commands where broker, lake and gate file are; replaces what was announced before."""
        draft = self.running_file.with_suffix(".draft")
        draft.write_text(json.dumps({"pid": os.getpid(), **endpoints}, indent=1))
        draft.replace(self.running_file)


@contextmanager
def lock_home(home: Path) -> Iterator[HomeLock]:
    """Hold the home folder, and remove the running file at the end.

    A lock of the operating system decides whether somebody runs: it ends with its holder, so that a file which was
    left behind is known to be stale even when its process id is in use again. Raises `AlreadyRunningError`, which
    names the process, and `StagekeeperError` where the folder cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock_file = (home / "up.lock").open("w")
    except OSError as error:
        raise StagekeeperError(f"{home} cannot be written: {error}. Choose another --home.") from error
    running_file = home / RUNNING_FILE
    with lock_file:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(
                f"`stagekeeper up` runs in {home} already (process {_announced_pid(running_file) or 'unknown'}). "
                "Stop it, or give this one its own --home."
            ) from None
        stale_pid = _announced_pid(running_file)
        running_file.unlink(missing_ok=True)
        try:
            yield HomeLock(running_file, stale_pid)
        finally:
            running_file.unlink(missing_ok=True)


def _announced_pid(running_file: Path) -> int | None:
    try:
        content = json.loads(running_file.read_text())
    except (FileNotFoundError, ValueError):  # not announced yet, or half a file: either way nobody is named
        return None
    pid = content.get("pid") if isinstance(content, dict) else None
    return pid if isinstance(pid, int) else None
