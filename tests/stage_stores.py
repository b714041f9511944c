"""Stores of stages to test with: one in memory that can be stopped anywhere, and one in a real flag file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from producers.boundary.flag_edit import FlagText
from producers.boundary.flagd_stages import FlagdStages, settings_of
from producers.boundary.stage_store import (
    ActionName,
    StageChange,
    StageConflictError,
    StageSetting,
    StageStoreError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from producers.wire.stage import Mode


class KilledError(BaseException):
    """Ends an enactor where it is."""


def kill() -> None:
    """Be killed at this moment."""
    raise KilledError


def nothing() -> None:
    """What a test does at a moment unless it says something else."""


@dataclass
class MemoryStages:
    """Modes of actions in memory, with a version that every change of anything moves."""

    modes: dict[ActionName, Mode]
    attempt: int = 1
    edits: int = 0
    broken: str | None = None  # why it cannot be written
    before: Callable[[], None] = nothing  # called once the record is made, before the change is
    after: Callable[[], None] = nothing  # called once the change is made
    changes: list[StageChange] = field(default_factory=list)

    @property
    def name(self) -> str:
        return "memory"

    def read(self, action: ActionName) -> StageSetting:
        mode = self.modes.get(action)
        return StageSetting(action, mode, self.attempt, f"v{self.edits}", by_entry=True)

    def newest_replaced(self) -> str:
        return ""

    def had(self, version: str, *, after: str = "") -> bool:
        assert after == ""
        return version in {f"v{edit}" for edit in range(self.edits)}

    def change(self, change: StageChange, *, before_write: Callable[[str], None]) -> StageSetting:
        if change.expected_version != f"v{self.edits}":
            raise StageConflictError("the store has changed meanwhile")
        if self.broken is not None:
            raise StageStoreError(self.broken)
        before_write(f"v{self.edits + 1}")
        self.before()
        self.set(change.action, change.to)
        self.changes.append(change)
        self.after()
        return self.read(change.action)

    def set(self, action: ActionName, mode: Mode) -> None:
        """What a person does."""
        self.modes[action] = mode
        self.edits += 1


class FileStages:
    """The same in a flag file, as routers read it."""

    def __init__(self, folder: Path, modes: dict[ActionName, Mode]) -> None:
        self.stages = FlagdStages(flag_file(folder, modes))
        self.broken: str | None = None
        self.before, self.after = nothing, nothing
        self.changes: list[StageChange] = []

    @property
    def name(self) -> str:
        return self.stages.name

    @property
    def modes(self) -> dict[ActionName, Mode | None]:
        return {setting.action: setting.mode for setting in settings_of(FlagText.load(self.stages.path))}

    def read(self, action: ActionName) -> StageSetting:
        return self.stages.read(action)

    def newest_replaced(self) -> str:
        return self.stages.newest_replaced()

    def had(self, version: str, *, after: str = "") -> bool:
        return self.stages.had(version, after=after)

    def change(self, change: StageChange, *, before_write: Callable[[str], None]) -> StageSetting:
        return self.change_together([change], before_write=before_write)[0]

    def change_together(
        self, changes: Sequence[StageChange], *, before_write: Callable[[str], None]
    ) -> list[StageSetting]:
        def keep(version: str) -> None:
            before_write(version)
            self.before()

        settings = self.stages.change_together(changes, before_write=keep)
        self.changes += changes
        self.after()
        return settings

    def set(self, action: ActionName, mode: Mode) -> None:
        """What a person does with an editor or a command."""
        change = StageChange(action, mode, self.read(action).version)
        self.stages.change(change, before_write=lambda _: None)


def flag_file(folder: Path, modes: dict[ActionName, Mode]) -> Path:
    """A flag file with an entry for each action."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "flags.json"
    path.write_bytes((Path(__file__).parents[1] / "examples" / "flags.json").read_bytes())
    stages = FlagdStages(path)
    for action, mode in modes.items():
        stages.change(StageChange(action, mode, stages.read(action).version), before_write=lambda _: None)
    return path
