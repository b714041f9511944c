"""Where the lake of a storm lies, when something was committed there, and how it is made to refuse all writes."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from object_store import BUCKET

from analytics.lake.table_schemas import EVENTS
from analytics.lake.tables import Lake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from object_store import ObjectStore

_CHATTR = shutil.which("chattr")


class Storage(Protocol):
    """What a storm needs of the place where its lake lies."""

    @property
    def root(self) -> str:
        """Root of the lake."""

    @property
    def look_every_s(self) -> float:
        """How often it is asked for its newest commit, in seconds."""

    def newest(self) -> object:
        """Something that changes with every commit of events."""

    def refusing(self) -> AbstractContextManager[bool]:
        """Nothing can be added meanwhile; False where this machine has no way to do that."""


class Folder:
    """A lake in a folder."""

    look_every_s = 0.02

    def __init__(self, path: Path) -> None:
        self.root = str(path)

    def newest(self) -> object:
        return max((path.name for path in Path(self.root, EVENTS, "_delta_log").glob("*.json")), default="")

    @contextmanager
    def refusing(self) -> Iterator[bool]:
        change = how_to_refuse(Path(self.root))
        if change is None:
            yield False
            return
        with refusing(Path(self.root), change):
            yield True


class Bucket:
    """A lake in a bucket of a store of its own, which is stopped to make it refuse."""

    look_every_s = 0.2

    def __init__(self, store: ObjectStore) -> None:
        self.root = f"s3://{BUCKET}/storm"
        self._store = store
        self._lake: Lake | None = None

    def newest(self) -> object:
        self._lake = self._lake or Lake.open_only(self.root, EVENTS)
        return self._lake.version(EVENTS)

    @contextmanager
    def refusing(self) -> Iterator[bool]:
        self._store.stop()
        try:
            yield True
        finally:
            self._store.restart()


def how_to_refuse(root: Path) -> Callable[[Path, bool], None] | None:
    """The way in which folders can be made to take no new file on this machine; None where there is none.

    Permissions do it for everybody but root, whom only the immutable attribute of the file system stops.
    """
    if os.geteuid() != 0 or _CHATTR is None:
        return None if os.geteuid() == 0 else lambda folder, refuse: folder.chmod(0o555 if refuse else 0o755)

    def change(folder: Path, refuse: bool) -> None:
        subprocess.run([_CHATTR, "+i" if refuse else "-i", str(folder)], check=True, capture_output=True)

    try:
        change(root, True)
        change(root, False)
    except (OSError, subprocess.CalledProcessError):
        return None
    return change


@contextmanager
def refusing(root: Path, change: Callable[[Path, bool], None]) -> Iterator[None]:
    """Nothing can be added to the lake meanwhile."""
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    done = []
    try:
        for folder in folders:
            change(folder, True)
            done.append(folder)
        yield
    finally:
        for folder in done:
            change(folder, False)
