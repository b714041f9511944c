"""Single tools, workflows or accounts switched off in a flagd file: entries in `agent-action-denylist`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from producers.boundary.flag_edit import FlagText, edit_flags
from producers.boundary.policy_flags import DENYLIST
from producers.boundary.targeting_entries import Layers
from producers.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class DenylistEntry(NamedTuple):
    """What is switched off: every action that has all of the values given."""

    tool: str | None = None
    workflow: str | None = None
    account: str | None = None

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.values.items())

    @property
    def values(self) -> dict[str, str]:
        """The values that are given."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def denylist_entries(flags: FlagText) -> list[DenylistEntry]:
    """What is switched off by entries of ours."""
    stated = flags.flags.get(DENYLIST.key)
    switched = Layers.from_flag(DENYLIST.key, stated).switched if isinstance(stated, dict) else []
    return [DenylistEntry(**values) for values in switched if values.keys() <= set(DenylistEntry._fields)]


def disable(path: Path, entry: DenylistEntry) -> str | None:
    """Add an entry; the new SHA-256, None where it was there already, `FlagFileError` where it cannot be added."""
    _require_named(entry)

    def edit(flags: FlagText) -> FlagText:
        flags.usable(DENYLIST)
        if entry in denylist_entries(flags):
            return flags
        flags, denied = flags.with_variant(DENYLIST, True)  # noqa: FBT003 - the flag's value
        return flags.edited(flags.targeting(DENYLIST).with_switch(entry.values, denied))

    return edit_flags(path, [DENYLIST], edit, urgent=True).new_sha256


def enable(
    path: Path, entry: DenylistEntry, *, before_write: Callable[[str], None] = lambda _sha256: None
) -> str | None:
    """Take exactly this entry away; the file's new SHA-256, None where there was no such entry.

    `before_write` gets the new SHA-256 before the file has it: nothing is released off the record. What it raises
    leaves the file as it is; `FlagFileError` says that the file cannot be read, understood or written.
    """
    _require_named(entry)

    def edit(flags: FlagText) -> FlagText:
        flags.usable(DENYLIST)
        if entry not in denylist_entries(flags):
            return flags
        return flags.edited(flags.targeting(DENYLIST).without_switch(entry.values))

    return edit_flags(path, [DENYLIST], edit, before_write=before_write).new_sha256


def _require_named(entry: DenylistEntry) -> None:
    if not entry.values:
        raise UsageError("say what to switch: a tool, a workflow or an account")
