"""What runs in a home folder: one whole at a time, and the file that tells other commands about it."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from producers.errors import StagekeeperError
from stagekeeper.settings import RUNNING_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class AlreadyRunningError(StagekeeperError):
    """Another `stagekeeper up` runs in the same home folder."""


class Claim:
    """The right to run in a home folder. Made by `claimed`."""

    def __init__(self, path: Path, *, replaced: int | None) -> None:
        self._path = path
        self.replaced = replaced
        """Process id in a file that an earlier run left behind, now removed; None when there was none."""

    def announce(self, stated: Mapping[str, str]) -> None:
        """Tell other commands where broker, lake and gate file are; replaces what was stated before."""
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps({"pid": os.getpid(), **stated}, indent=1))
        draft.replace(self._path)


@contextmanager
def claimed(home: Path) -> Iterator[Claim]:
    """Hold the home folder, and remove the running file at the end.

    A lock of the operating system decides whether somebody runs: it ends with its holder, however that ends, so that a
    file which was left behind is known to be stale even when its process id is in use again.

    Raises:
        AlreadyRunningError: Another one runs here; the message names its process.
        StagekeeperError: The folder cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "up.lock").open("w")
    except OSError as error:
        raise StagekeeperError(f"{home} cannot be written: {error}. Choose another --home.") from error
    path = home / RUNNING_FILE
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(
                f"`stagekeeper up` runs in {home} already (process {_stated_pid(path) or 'unknown'}). "
                "Stop it, or give this one its own --home."
            ) from None
        stale = _stated_pid(path)
        path.unlink(missing_ok=True)
        try:
            yield Claim(path, replaced=stale)
        finally:
            path.unlink(missing_ok=True)


def _stated_pid(path: Path) -> int | None:
    try:
        stated = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # not announced yet, or half a file: either way nobody is named
        return None
    pid = stated.get("pid") if isinstance(stated, dict) else None
    return pid if isinstance(pid, int) else None
