"""Rights that one process at a time holds, for as long as it lives."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType
    from typing import IO


class Claim:
    """A right over a lake, by a lock of the operating system beside its tables: it ends with the process that holds it.

    On object storage nothing can lock; there the right is always granted, and whoever runs the processes has to see to
    it that only one asks.

    Args:
        root: Root of the lake.
        name: What is claimed.
    """

    def __init__(self, root: str, name: str) -> None:
        self._path = None if "://" in root else Path(root, ".locks", name)
        self._held: IO[str] | None = None

    def held(self) -> bool:
        """Whether this process has the right; tries to get it."""
        if self._path is None or self._held is not None:
            return True
        self._path.parent.mkdir(exist_ok=True)
        file = self._path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._held = file
        return True

    def release(self) -> None:
        """Give it up."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
