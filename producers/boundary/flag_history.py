"""Earlier versions of a flag file, in a folder beside it: none is lost when another takes its place."""

from __future__ import annotations

import hashlib
import os
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

KEPT: Final = 20  # versions; the oldest go first, and their names stay

FORGOTTEN: Final = "forgotten"
"""The file in the folder with the names of the versions that are kept no longer, one a line."""

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


def replaced(target: Path) -> list[str]:
    """Name of every version that another took the place of, oldest first; `OSError` where that cannot be read.

    Kept or not: what was in force is known for good, for 98 bytes each.
    """
    try:
        forgotten = (history_of(target) / FORGOTTEN).read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        forgotten = []
    return sorted({*forgotten, *(version.path.name for version in versions(target))})


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
    folder, sha256 = old.parent, hashlib.sha256(content).hexdigest()
    kept = sorted(path.name for path in folder.iterdir() if _NAME.fullmatch(path.name))
    until = datetime.now(UTC)
    if kept:  # names tell the order, also where the clock was set back
        newest = datetime.strptime(kept[-1].partition("-")[0], _MOMENT).replace(tzinfo=UTC)
        until = max(until, newest + timedelta(microseconds=1))
    old.rename(folder / f"{until.strftime(_MOMENT)}-{sha256}.json")
    if len(kept) >= KEPT:
        _forget(folder, kept[: len(kept) + 1 - KEPT])


def _forget(folder: Path, names: list[str]) -> None:
    """Take versions away once their names are on the disk for good."""
    with (folder / FORGOTTEN).open("a", encoding="ascii") as file:
        owner = folder.stat()
        os.fchown(file.fileno(), owner.st_uid, owner.st_gid)  # whoever was the first to forget
        os.fchmod(file.fileno(), 0o600)
        file.writelines(f"{name}\n" for name in names)
        file.flush()
        os.fsync(file.fileno())
    for name in names:
        (folder / name).unlink(missing_ok=True)  # an urgent edit beside this one may forget the same
