"""Emergencies in a flagd file: actions that fall back at once, whatever else `agent-action-mode` says of them.

They stand in front of everything in the flag's targeting. Taking one away leaves what is below as it is by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from producers.boundary.flag_edit import FlagText, edit_flags
from producers.boundary.policy_flags import MODE
from producers.boundary.targeting_entries import Layers
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from producers.boundary.stage_store import ActionName


class EmergencyScope(NamedTuple):
    """What falls back: every action that has all of the values given; without any, everything."""

    workflow: str | None = None
    tool: str | None = None

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.values.items()) or "everything"

    @property
    def values(self) -> dict[str, str]:
        """The values that are given."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def covers(self, action: ActionName) -> bool:
        """Whether an action falls back by it."""
        return self.values.items() <= action._asdict().items()


def emergencies(flags: FlagText) -> list[EmergencyScope]:
    """What falls back by entries of ours."""
    stated = flags.flags.get(MODE.key)
    switched = Layers.from_flag(MODE.key, stated).switched if isinstance(stated, dict) else []
    return [EmergencyScope(**values) for values in switched if values.keys() <= set(EmergencyScope._fields)]


def fall_back(path: Path, scope: EmergencyScope) -> str | None:
    """Let actions fall back; the file's new SHA-256, None where they did already. Raises `FlagFileError`."""

    def edit(flags: FlagText) -> FlagText:
        flags.usable(MODE)
        if scope in emergencies(flags):
            return flags
        flags, fallback = flags.with_variant(MODE, Mode.FALLBACK.value)
        return flags.edited(flags.targeting(MODE).with_switch(scope.values, fallback))

    return edit_flags(path, [MODE], edit, urgent=True).new_sha256


def resume(path: Path, scope: EmergencyScope, *, before_write: Callable[[str], None]) -> str | None:
    """Take exactly this emergency away; the file's new SHA-256, None where there was none. Raises `FlagFileError`.

    `before_write` gets the new SHA-256 before the file has it, and what it raises leaves the file as it is.
    """

    def edit(flags: FlagText) -> FlagText:
        flags.usable(MODE)
        if scope not in emergencies(flags):
            return flags
        return flags.edited(flags.targeting(MODE).without_switch(scope.values))

    return edit_flags(path, [MODE], edit, before_write=before_write).new_sha256
