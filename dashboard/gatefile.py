"""The gate file in force, as the page knows it: its digest, or why nothing can be judged by it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from analytics.verdicts.gates import GateFile
from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class GateFileState:
    """What is known about the gate file.

    Attributes:
        sha256: Digest of the file; None while it cannot be read.
        fault: What is wrong with it; None where nothing is.
    """

    sha256: str | None
    fault: str | None


def gate_file(path: Path) -> GateFileState:
    """Look at the gate file; it is read again only when it has changed."""
    try:
        found = path.stat()
    except OSError as error:
        fault = f"The gate file {path} cannot be read: {error.strerror}. Nothing is judged without it."
        return GateFileState(None, fault)
    return _load(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=8)
def _load(path: Path, _modified_ns: int, _size: int) -> GateFileState:
    try:
        return GateFileState(GateFile.load(path).sha256, None)
    except StagekeeperError as error:
        return GateFileState(None, f"{str(error).rstrip('.')}. Until it is mended, verdicts stay as they were.")
