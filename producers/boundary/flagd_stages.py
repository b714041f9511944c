"""Stages of actions in a flagd file: entries in the flag `agent-action-mode`."""

from __future__ import annotations

import difflib
import functools
from typing import TYPE_CHECKING, Any, TypeVar

from producers.boundary.flag_edit import FlagEdit, FlagFileError, FlagText, edit_flags, require_entries
from producers.boundary.flag_history import replaced, versions
from producers.boundary.flagd_attempts import attempt_in_force, start_attempt, with_rung
from producers.boundary.flagd_overlays import EMERGENCIES
from producers.boundary.policy_flags import ATTEMPT, DENYLIST, GOVERNANCE_ENABLED, MODE
from producers.boundary.possible_values import possible_values
from producers.boundary.stage_store import ActionName, StageChange, StageConflictError, StageSetting
from producers.boundary.stage_writer import OverlayEdit, StageStep
from producers.boundary.targeting_entries import Layers, share_of, shared
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from producers.boundary.flagd_overlays import Overlay, OverlayScope
    from producers.boundary.policy_flags import Flag


Earlier = TypeVar("Earlier")


class FlagdStages:
    """The stages in a flagd file. Entries of ours come first in the flag's targeting, and win over what is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: FlagText | None = None  # as it was read last

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    def read(self, action: ActionName) -> StageSetting:
        """What is in force for an action, below any emergency; raises `FlagFileError`."""
        self._known = FlagText.load(self.path, self._known)
        return setting_of(self._known, action)

    def newest_replaced(self) -> str:
        """Name of the file's newest earlier version; raises `FlagFileError`."""
        return next(reversed(_read_history(self.path, replaced)), "")

    def had(self, version: str, *, after: str = "") -> bool:
        """Whether the file had a version that an edit of ours replaced after that one; raises `FlagFileError`."""
        return any(version in name for name in _read_history(self.path, replaced) if name > after)

    def preview(self, change: StageChange) -> str:
        """What a change would do to the file, as a unified diff; raises as `change` does."""
        before = FlagText.load(self.path)
        if before.sha256 != change.expected_version:
            raise StageConflictError(f"{self.path} has changed meanwhile; look at it again")
        edit = FlagEdit(before, with_stage(before, change))
        if edit.new_sha256 is not None:
            require_entries(edit, [MODE, ATTEMPT])
        was, now = (text.characters.splitlines(keepends=True) for text in edit)
        return "".join(difflib.unified_diff(was, now, fromfile=self.name, tofile=self.name))

    def change(self, change: StageChange, *, before_write: Callable[[str], None]) -> StageSetting:
        """Put a mode into force, or leave everything as it is where the entry has it already.

        `before_write` gets the file's new SHA-256 before the file has it, and what it raises leaves the file as it is.
        Raises `StageConflictError` and `FlagFileError`.
        """
        return self.change_together([change], before_write=before_write)[0]

    def change_together(
        self, changes: Sequence[StageChange], *, before_write: Callable[[str], None]
    ) -> list[StageSetting]:
        """As `change`, for several actions in one step: all are in force, or none."""
        if len({change.expected_version for change in changes}) != 1:
            raise StageConflictError(f"{self.path} has changed meanwhile; look at it again")
        edit = edit_flags(
            self.path,
            [MODE, ATTEMPT],
            lambda flags: functools.reduce(with_stage, changes, flags),
            before_write=before_write,
            expected_sha256=changes[0].expected_version,
            entries=len(changes),
        )
        return [setting_of(edit.after, change.action) for change in changes]

    def settings(self, others: Iterable[ActionName] = ()) -> list[StageSetting]:
        """What is in force for every action that has an entry of ours, and for others; raises `FlagFileError`."""
        flags = FlagText.load(self.path)
        return [setting_of(flags, action) for action in sorted({*_layers(flags).actions, *others})]

    def steps(self) -> Iterator[StageStep]:
        """The changes between the versions that are kept, newest first; raises `FlagFileError`."""
        return stage_steps(self.path)

    def cover(self, overlay: Overlay, scope: OverlayScope) -> OverlayEdit:
        """Add an entry at once, where it is not there; raises `FlagFileError`."""
        edit = overlay.add(self.path, scope)
        return OverlayEdit(edit.new_sha256 is not None, edit.after.sha256)

    def uncover(self, overlay: Overlay, scope: OverlayScope, *, before_write: Callable[[str], None]) -> OverlayEdit:
        """Take exactly this entry away, where it is there; raises `FlagFileError`."""
        edit = overlay.remove(self.path, scope, before_write=before_write)
        return OverlayEdit(edit.new_sha256 is not None, edit.after.sha256)

    def start_attempt(self, action: ActionName, *, earlier: int, before_write: Callable[[int, int, str], None]) -> int:
        """Put an action's next attempt into force; its number. Raises `FlagFileError`."""
        return start_attempt(self.path, action, earlier=earlier, before_write=before_write)

    def close(self) -> None:
        """Nothing: a file is opened for each edit."""


def setting_of(flags: FlagText, action: ActionName) -> StageSetting:
    """What a version of a flag file says about an action."""
    layers = _layers(flags)
    by_entry = action in layers.actions
    rule = layers.actions[action] if by_entry else layers.rest
    modes = tuple(Mode(str(value)) for value in possible_values(flags.flags, MODE, action, rule))
    return StageSetting(
        action=action,
        mode=modes[0] if len(modes) == 1 else None,
        attempt=attempt_in_force(flags, action),
        version=flags.sha256,
        modes=modes,
        by_entry=by_entry,
        share=share_of(rule) if by_entry else None,
        emergency=any(scope.covers(action) for scope in EMERGENCIES.scopes(flags)),
        denied=_always(flags, GOVERNANCE_ENABLED, action, value=False) or _always(flags, DENYLIST, action, value=True),
    )


def _always(flags: FlagText, flag: Flag, action: ActionName, *, value: bool) -> bool:
    """Whether a switch has a value for the action, whatever else decides."""
    stated = flags.flags.get(flag.key)
    rule = stated.get("targeting") if isinstance(stated, dict) else None
    return set(possible_values(flags.flags, flag, action, rule)) == {value}


def settings_of(flags: FlagText) -> list[StageSetting]:
    """What a version of a flag file says about every action that has an entry of ours."""
    return [setting_of(flags, action) for action in _layers(flags).actions]


def stage_steps(path: Path) -> Iterator[StageStep]:
    """The changes between the versions of a flag file that are kept, newest first; raises `FlagFileError`.

    What cannot be understood among them never decided anything, and is passed over.
    """
    after = FlagText.load(path)
    for version in reversed(_read_history(path, versions)):
        try:
            before = FlagText.load(version.path)
        except FlagFileError:
            continue
        for action in sorted({setting.action for flags in (before, after) for setting in settings_of(flags)}):
            step = StageStep(version.until, setting_of(before, action), setting_of(after, action))
            if (step.before.modes, step.before.share) != (step.after.modes, step.after.share):
                yield step
        after = before


def _read_history(path: Path, read: Callable[[Path], list[Earlier]]) -> list[Earlier]:
    try:
        return read(path.resolve())
    except OSError as error:
        raise FlagFileError(f"the earlier versions of {path} cannot be read: {error.strerror}.") from error


def _layers(flags: FlagText) -> Layers:
    stated = flags.flags.get(MODE.key)
    return Layers.from_flag(MODE.key, stated) if isinstance(stated, dict) else Layers()


def with_stage(flags: FlagText, change: StageChange) -> FlagText:
    """The file in which an action has a mode, and its accounts the rung; raises `FlagFileError`."""
    flags.usable(MODE)
    flags, variant = flags.with_variant(MODE, change.to.value)
    rule: str | dict[str, Any] = variant
    before, share = _layers(flags).actions.get(change.action), change.share
    if share is None and change.to is Mode.EXPANDED and share_of(before) is not None:
        share = 100  # the roll-out is complete
    if share is not None:
        flags, otherwise = flags.with_variant(MODE, Mode.AUTONOMOUS.value)
        rule = shared(variant, otherwise, share)
    if before != rule:
        flags = flags.edited(flags.targeting(MODE).with_action(change.action, rule))
    # Whoever has left the roll-out is at none of its rungs; what is complete stays at the last.
    return flags if share is None and change.to is Mode.EXPANDED else with_rung(flags, change.action, share)
