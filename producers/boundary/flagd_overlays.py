"""What lies in front of everything else in a flag's targeting: the denylist, and emergencies.

An emergency lets actions fall back, whatever else `agent-action-mode` says of them. Taking an entry away leaves what is
below as it is by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from producers.boundary.flag_edit import FlagEdit, FlagText, edit_flags
from producers.boundary.policy_flags import DENYLIST, MODE, Flag
from producers.boundary.targeting_entries import SWITCHES, Layers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from producers.boundary.stage_store import ActionName


class OverlayScope(NamedTuple):
    """What an entry covers: every action that has all of the values given; without any, everything."""

    workflow: str | None = None
    tool: str | None = None
    account: str | None = None

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.values.items()) or "everything"

    @property
    def values(self) -> dict[str, str]:
        """The values that are given."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def covers(self, action: ActionName) -> bool:
        """Whether an action is covered whatever its account."""
        return self.values.items() <= action._asdict().items()


class Overlay(NamedTuple):
    """Entries that give a flag one value, whatever it has below."""

    flag: Flag

    def scopes(self, flags: FlagText) -> list[OverlayScope]:
        """What is covered by entries of ours."""
        stated = flags.flags.get(self.flag.key)
        switched = Layers.from_flag(self.flag.key, stated).switched if isinstance(stated, dict) else []
        return [OverlayScope(**values) for values in switched if values.keys() <= set(OverlayScope._fields)]

    def add(self, path: Path, scope: OverlayScope) -> FlagEdit:
        """Add an entry at once, where it is not there; raises `FlagFileError`."""

        def edit(flags: FlagText) -> FlagText:
            flags.usable(self.flag)
            if scope in self.scopes(flags):
                return flags
            flags, variant = flags.with_variant(self.flag, SWITCHES[self.flag.key].value)
            return flags.edited(flags.targeting(self.flag).with_switch(scope.values, variant))

        return edit_flags(path, [self.flag], edit, urgent=True)

    def remove(self, path: Path, scope: OverlayScope, *, before_write: Callable[[str], None]) -> FlagEdit:
        """Take exactly this entry away, where it is there; raises `FlagFileError`.

        `before_write` gets the new SHA-256 before the file has it: nothing is released off the record. What it raises
        leaves the file as it is.
        """

        def edit(flags: FlagText) -> FlagText:
            flags.usable(self.flag)
            if scope not in self.scopes(flags):
                return flags
            return flags.edited(flags.targeting(self.flag).without_switch(scope.values))

        return edit_flags(path, [self.flag], edit, before_write=before_write)


DENIED: Final = Overlay(DENYLIST)
EMERGENCIES: Final = Overlay(MODE)
