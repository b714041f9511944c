"""Where the stages of actions are kept, and how they change: one interface for every flag store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, runtime_checkable

from producers.errors import StagekeeperError, UsageError
from producers.wire.stage import STAGE_OF_MODE, Mode, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


RUNGS: Final = (1, 5, 25, 50, 100)
"""The shares of accounts, in percent, by which progressive expansion grows; the first is rung 1."""


class StageStoreError(StagekeeperError):
    """The store cannot be read, understood or written; nothing has changed in it."""


class StageConflictError(StagekeeperError):
    """The store has another version by now than the change was made for; nothing has changed in it by us."""


class ActionName(NamedTuple):
    """The action that has a stage, and attempts."""

    environment: str
    workflow: str
    tool: str

    def __str__(self) -> str:
        return "/".join(self)


@dataclass(frozen=True, slots=True)
class StageSetting:
    """What a store says about one action."""

    action: ActionName
    mode: Mode | None  # None where more than the action decides, such as a percentage or the account: no one stage
    attempt: int  # which attempt of the action it is
    version: str  # of all that was read, opaque: a change names it as what it was made for
    modes: tuple[Mode, ...] = ()  # every one that it may have by what else decides; one where the action alone does
    by_entry: bool = False  # whether an entry of ours says so, and not other targeting or the flag's default
    share: int | None = (
        None  # percent of accounts at the first of `modes`, in a roll-out of ours; the rest has the other
    )
    emergency: bool = False  # whether an emergency covers it: routers fall back whatever `mode` says
    denied: bool = False  # whether the master switch or the denylist stops it: routers deny it whatever `mode` says

    @property
    def stage(self) -> Stage | None:
        """The stage that the mode puts the action at."""
        return None if self.mode is None else STAGE_OF_MODE[self.mode]


@dataclass(frozen=True, slots=True)
class StageChange:
    """The mode that one action is to have."""

    action: ActionName
    to: Mode
    expected_version: str  # of the setting that it was made for: the store has this one, or nothing changes
    share: int | None = None  # of `RUNGS`: so many percent of accounts have `expanded`, the others `autonomous`

    def __post_init__(self) -> None:
        if self.share is not None and (self.to is not Mode.EXPANDED or self.share not in RUNGS):
            raise UsageError(
                f"a roll-out by share is one of {', '.join(map(str, RUNGS))} % of accounts at {Mode.EXPANDED.value}, "
                f"not {self.share} % at {self.to.value}"
            )


class StageStore(Protocol):
    """A store of stages. A change is in force for routers within their lease, or an error says why not."""

    @property
    def name(self) -> str:
        """What people call it, such as a file's path."""

    def read(self, action: ActionName) -> StageSetting:
        """What is in force for an action; raises `StageStoreError`."""

    def newest_replaced(self) -> str:
        """Name of the version that another took the place of last; later ones sort after it. Empty where there is none.

        Raises `StageStoreError`.
        """

    def had(self, version: str, *, after: str = "") -> bool:
        """Whether a version was in force and another took its place, after the one that `newest_replaced` named.

        Raises `StageStoreError`.
        """

    def change(self, change: StageChange, *, before_write: Callable[[str], None]) -> StageSetting:
        """Put a mode into force; what is in force then, at its new version.

        `before_write` gets the new version before it is in force, for nothing changes off the record. What it raises
        leaves everything as it was.

        Raises:
            StageConflictError: Another version is there by now.
            StageStoreError: It cannot be read, understood or written.
        """


@runtime_checkable
class ChangesTogether(Protocol):
    """A store that can change the stages of several actions in one step."""

    def change_together(
        self, changes: Sequence[StageChange], *, before_write: Callable[[str], None]
    ) -> list[StageSetting]:
        """As `StageStore.change`, for changes that were made for the same version: all are in force, or none."""
