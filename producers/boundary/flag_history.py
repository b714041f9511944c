"""Earlier versions of a flag file, in a folder beside it: none is lost when another takes its place."""

from __future__ import annotations

import hashlib
import os
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

KEPT: Final = 20  # versions; the oldest go first

_NAME: Final = re.compile(r"(\d{8}T\d{12}Z)-([0-9a-f]{64})\.json", re.ASCII)
_MOMENT: Final = "%Y%m%dT%H%M%S%fZ"


class FlagVersion(NamedTuple):
    """A version that was in force until another took its place."""

    until: datetime  # when that was, in UTC
    sha256: str  # digest of its bytes
    path: Path


def history_of(target: Path) -> Path:
    """The folder with the earlier versions of a flag file."""
    return target.parent / f".{target.name}.history"


def versions(target: Path) -> list[FlagVersion]:
    """The earlier versions of a flag file that are kept, oldest first; `OSError` where the folder cannot be read."""
    folder = history_of(target)
    if not folder.exists():
        return []
    matches = [(match, path) for path in sorted(folder.iterdir()) if (match := _NAME.fullmatch(path.name))]
    return [
        FlagVersion(datetime.strptime(match[1], _MOMENT).replace(tzinfo=UTC), match[2], path) for match, path in matches
    ]


def make_history(target: Path) -> Path:
    """The folder of a flag file's earlier versions, made where it is missing."""
    folder = history_of(target)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return folder
    owner = target.stat()
    try:
        os.chown(folder, owner.st_uid, owner.st_gid)  # the file's owner may edit it, whoever was the first to
    except OSError:
        folder.rmdir()  # nobody but us could edit the file for as long as it is there
        raise
    return folder


def tidy(target: Path, drafts: str = "draft-*") -> None:
    """Settle what a process that was killed left in the folder. Nobody else may be writing there.

    It is either a draft that never was in force, or another name of what is in force still, which goes; or the version
    that its draft had just replaced, which is kept.
    """
    for draft in history_of(target).glob(drafts):
        content = draft.read_bytes()
        if draft.suffix == ".part" or draft.name == draft_name(content) or draft.samefile(target):
            draft.unlink()
        else:
            keep(draft, content)


def draft_name(content: bytes) -> str:
    """What a draft is called, so that it is known from the version that has changed places with it."""
    return f"draft-{hashlib.sha256(content).hexdigest()}"


def keep(old: Path, content: bytes) -> None:
    """Put a version that was just replaced, and lies in the folder under another name, among the earlier ones."""
    old.chmod(0o600)
    name = f"{datetime.now(UTC).strftime(_MOMENT)}-{hashlib.sha256(content).hexdigest()}.json"
    old.rename(old.parent / name)
    for _, path in sorted((path.name, path) for path in old.parent.iterdir() if _NAME.fullmatch(path.name))[:-KEPT]:
        path.unlink()
