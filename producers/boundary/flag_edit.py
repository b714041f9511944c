"""Edits of a flag file: one at a time, checked before it is written, in one step, and never over somebody's own.

Whoever edits takes a lock, which people's editors do not: what they write meanwhile is noticed, and wins. What is
urgent does without the lock where another holds it for long.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import logging
import os
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from producers.boundary.flag_history import draft_name, keep, make_history, tidy
from producers.boundary.flagd_file import flags_document, parse_rules, read_flag_file
from producers.boundary.json_text import members, top_of, with_member
from producers.boundary.stage_store import StageConflictError, StageStoreError
from producers.boundary.targeting_entries import Layers, Targeting, variant_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from producers.boundary.policy_flags import Flag, FlagValue

LOG = logging.getLogger(__name__)

Json = Any  # a flagd document, as JSON has it

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_PATIENCE_S: Final = 5.0  # for another operator's edit
_URGENT_PATIENCE_S: Final = 2.0
_TRIES: Final = 10  # how often an edit that is made for no certain content is made for what somebody else just wrote
_RENAME_EXCHANGE: Final = 2  # <linux/fs.h>
_AT_FDCWD: Final = -100  # <fcntl.h>
_NO_EXCHANGE: Final = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}  # the system or the file system cannot


class FlagFileError(StageStoreError):
    """The flag file cannot be read, understood or written."""


@dataclass(frozen=True, slots=True)
class FlagText:
    """What a flag file holds: its characters, and what they mean."""

    path: Path
    content: bytes
    characters: str  # without a byte order mark
    document: dict[str, Json]

    @classmethod
    def load(cls, path: Path, known: FlagText | None = None) -> FlagText:
        """Read a flag file, understood anew unless it is `known`; `FlagFileError` where it is gone, or unusable."""
        try:
            content = read_flag_file(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        return known if known is not None and known.content == content else cls.from_bytes(path, content)

    @classmethod
    def from_bytes(cls, path: Path, content: bytes) -> FlagText:
        """Understand the content of a flag file; `FlagFileError` where it is none."""
        try:
            return cls(path, content, content.decode("utf-8-sig"), flags_document(content))
        except (ValueError, TypeError) as error:
            raise FlagFileError(
                f"{path} is not a flagd file: {error}. Mend it; examples/flags.json shows what one looks like."
            ) from error

    def edited(self, characters: str) -> FlagText:
        """The same file with other characters."""
        mark = _BYTE_ORDER_MARK if self.content.startswith(_BYTE_ORDER_MARK) else b""
        return self.from_bytes(self.path, mark + characters.encode())

    @property
    def sha256(self) -> str:
        """Digest of the content, as decisions carry it."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def flags(self) -> dict[str, Json]:
        """The flags by key."""
        flags: dict[str, Json] = self.document["flags"]
        return flags

    def usable(self, flag: Flag) -> dict[str, Json]:
        """A flag that can decide; `FlagFileError` where it cannot, so that entries in it would do nothing."""
        stated = self.flags.get(flag.key)
        if stated is None:
            raise FlagFileError(
                f"{self.path} has no flag {flag.key}, so {flag.safe!r} applies to every action; take it over from what "
                "`stagekeeper flags init` writes"
            )
        if not isinstance(stated, dict) or stated.get("state") != "ENABLED":
            raise FlagFileError(
                f"{flag.key} is disabled, so {flag.safe!r} applies to every action; set its state to ENABLED"
            )
        if not isinstance(stated.get("variants"), dict):
            raise FlagFileError(f"{flag.key} has no variants; take them over from what `stagekeeper flags init` writes")
        return stated

    def targeting(self, flag: Flag) -> Targeting:
        """A flag's targeting, to be edited; `FlagFileError` where the flag cannot decide."""
        self.usable(flag)
        return Targeting(self.characters, flag.key)

    def with_variant(self, flag: Flag, value: FlagValue) -> tuple[FlagText, str]:
        """The file in which a flag has a variant with this value, and the variant's name."""
        stated = self.usable(flag)
        name = variant_of(stated, value)
        if name is not None:
            return self, name
        if not isinstance(value, str):
            raise FlagFileError(f"{flag.key} has no variant whose value is {json.dumps(value)}; add one")
        if value in stated["variants"]:
            raise FlagFileError(f"{flag.key} has a variant {value!r} with another value; give it another name")
        place = members(self.characters, self._flags_at)[flag.key].value.start
        variants = members(self.characters, place)["variants"].value.start
        return self.edited(with_member(self.characters, variants, value, json.dumps(value))), value

    def with_flag(self, flag: Flag, stated: Json) -> FlagText:
        """The file with one more flag, where it is not there yet."""
        if flag.key in self.flags:
            return self
        ending = "\r\n" if "\r\n" in self.characters else "\n"
        lines = json.dumps(stated, indent=2 if ending in self.characters else None)
        text = lines.replace("\n", f"{ending}    ")
        return self.edited(with_member(self.characters, self._flags_at, flag.key, text))

    @property
    def _flags_at(self) -> int:
        return members(self.characters, top_of(self.characters))["flags"].value.start


class FlagEdit(NamedTuple):
    """A flag file before and after an edit."""

    before: FlagText
    after: FlagText

    @property
    def new_sha256(self) -> str | None:
        """Digest of the new content; None where nothing was to be changed."""
        return None if self.after.content == self.before.content else self.after.sha256


def edit_flags(
    path: Path,
    flags: Sequence[Flag],
    edit: Callable[[FlagText], FlagText],
    *,
    before_write: Callable[[str], None] = lambda _sha256: None,
    expected_sha256: str | None = None,
    urgent: bool = False,
    entries: int = 1,
) -> FlagEdit:
    """Put an edit of an entry (or of so many) in each of some flags into force; an edit of nothing writes nothing.

    `before_write` gets the new SHA-256 before the file has it. What it raises, as what `edit` raises, leaves the file
    as it is. Where `expected_sha256` is None, the edit is made anew for what somebody else writes meanwhile. An
    `urgent` edit waits for no operator that holds the file for more than a moment.

    Raises:
        StageConflictError: The file is another by now than `expected_sha256`, or than what was edited.
        FlagFileError: It cannot be read, understood or written, or the edit would change more than these entries.
    """
    for _ in range(_TRIES if expected_sha256 is None else 1):
        with suppress(StageConflictError), _locked(path, urgent=urgent) as alone:
            before = FlagText.load(path)
            if expected_sha256 not in {None, before.sha256}:
                break
            made = FlagEdit(before, edit(before))
            if made.new_sha256 is not None:
                require_entries(made, flags, entries)
                _write(made, before_write, alone=alone)
            return made
    raise _conflict(path)


def require_entries(edit: FlagEdit, flags: Sequence[Flag], most: int = 1) -> None:
    """Refuse what would change any flag but these, and more in one of these than so many entries of ours."""
    (before, after), ours = edit, {flag.key: None for flag in flags}
    path = before.path
    same_around = {**before.document, "flags": None} == {**after.document, "flags": None}
    same_others = {**before.flags, **ours} == {**after.flags, **ours}
    entries_alone = all(
        _differ_in_entries(key, before.flags[key], after.flags[key], most) for key in ours if key in before.flags
    )
    old, new = parse_rules(before.content, path), parse_rules(after.content, path)
    usable = new.error is None and new.broken.keys() <= old.broken.keys() - ours.keys()
    if not (same_around and same_others and entries_alone and usable):
        raise FlagFileError(f"{path} is written in a way that cannot be edited safely; nothing was. Edit it by hand.")


def _differ_in_entries(key: str, was: dict[str, Json], now: dict[str, Json], most: int) -> bool:
    return was == now or (
        _without_entries(key, was) == _without_entries(key, now)
        and now["variants"].items() >= was["variants"].items()
        and Layers.from_flag(key, was).differing(Layers.from_flag(key, now)) <= most
    )


def _without_entries(key: str, flag: dict[str, Json]) -> dict[str, Json]:
    return {**flag, "variants": None, "targeting": Layers.from_flag(key, flag).rest}


def _write(edit: FlagEdit, before_write: Callable[[str], None], *, alone: bool) -> None:
    before, after = edit
    path, target = before.path, before.path.resolve()
    with _named(path):
        if alone:
            tidy(target)
        draft = _drafted(target, after.content)
    try:
        _require_unchanged(before, target)
        before_write(after.sha256)
        with _named(path):
            _swap(draft, target)
    except BaseException:
        tidy(target, f"{draft.name}*")  # keeps what it holds where the two have changed places
        raise
    # From here on the change is in force: what fails now takes nothing back.
    try:
        if (old := read_flag_file(draft)) == before.content:
            keep(draft, old)
            _sync(draft.parent, target.parent)
            return
    except OSError as error:
        LOG.error("%s is changed; what it was before lies in %s, and may not stay: %s", path, draft.parent, error)  # noqa: TRY400 - the error says it all
        return
    with _named(path, f"what somebody else wrote in the same moment lies in {draft}"):
        _give_back(draft, target, after.content)
        _sync(draft.parent, target.parent)
    raise _conflict(path)


def _give_back(draft: Path, target: Path, ours: bytes) -> None:
    """Put back what somebody else wrote in the moment of the write; what he wrote last stays, the rest is kept."""
    theirs, expected = read_flag_file(draft), ours
    _swap(draft, target)
    while (taken := read_flag_file(draft)) != expected:
        theirs, expected = taken, theirs
        _swap(draft, target)
    if taken == ours:
        draft.unlink()
    else:
        keep(draft, taken)


def _require_unchanged(before: FlagText, target: Path) -> None:
    with _named(before.path):
        if read_flag_file(target) != before.content:
            raise _conflict(before.path)


@contextmanager
def _named(path: Path, state: str = "it is as it was") -> Iterator[None]:
    """Give a failure to write its name, and a way out."""
    try:
        yield
    except OSError as error:
        raise FlagFileError(
            f"{path} cannot be written: {error.strerror or error}; {state}. Whoever changes it needs leave to "
            f"write to the folder {path.resolve().parent}, must be able to keep the file's owner, and cannot replace a "
            "file that is mounted by itself: mount its folder."
        ) from error


def _drafted(target: Path, content: bytes) -> Path:
    """The new content under another name on the same medium, with the mode and the owner of the file."""
    status, draft = target.stat(), make_history(target) / draft_name(content)
    unfinished = draft.with_suffix(".part")
    try:
        with unfinished.open("xb") as file:
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), status.st_mode & 0o777)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return unfinished.rename(draft)
    finally:
        unfinished.unlink(missing_ok=True)


def _swap(draft: Path, target: Path) -> None:
    """Let two files change places in one step, so that nothing that stood there is lost, of whatever moment."""
    libc = ctypes.CDLL(None, use_errno=True)
    exchange = getattr(libc, "renameat2", None)
    if exchange is None or exchange(_AT_FDCWD, os.fsencode(draft), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE):
        code = errno.ENOSYS if exchange is None else ctypes.get_errno()
        if code not in _NO_EXCHANGE:
            raise OSError(code, os.strerror(code))
        # In two steps: what somebody puts there between them, within microseconds, goes.
        old = draft.with_suffix(".old")
        old.hardlink_to(target)
        draft.rename(target)
        old.rename(draft)


def _sync(*folders: Path) -> None:
    for folder in folders:
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _conflict(path: Path) -> StageConflictError:
    return StageConflictError(f"somebody else has changed {path} meanwhile, and nothing was written; look at it again")


def _unreadable(path: Path, error: OSError) -> FlagFileError:
    why = error.strerror or error
    return FlagFileError(f"the flag file {path} cannot be read: {why}. Name it with --flags or STAGEKEEPER_FLAG_FILE.")


@contextmanager
def _locked(path: Path, *, urgent: bool) -> Iterator[bool]:
    """Hold a flag file against other operators; whether it is held, which what is urgent does not wait for.

    What is locked is the folder of its earlier versions: the file itself is another whenever somebody replaces it.
    """
    FlagText.load(path)  # where there is no flag file, no folder is made
    with _named(path):
        folder = make_history(path.resolve())
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _named(path):
            alone = _await_lock(held, _URGENT_PATIENCE_S if urgent else _PATIENCE_S)
        if not alone and not urgent:
            raise FlagFileError(
                f"another process has been editing {path} for {_PATIENCE_S:g} s, and nothing was changed. End it "
                f"(`fuser {folder}` names it), and try again."
            )
        yield alone
    finally:
        os.close(held)


def _await_lock(held: int, patience_s: float) -> bool:
    """Take the lock, which an operator holds for milliseconds; one that is stopped must not hold up a rollback."""
    until = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.01)  # flock(2) can be waited for without an end, or not at all
        else:
            return True
