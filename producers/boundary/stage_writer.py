"""What commands ask of a store of stages that people change: more than the enactor does."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from producers.boundary.stage_store import StageStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from producers.boundary.flagd_overlays import Overlay, OverlayScope
    from producers.boundary.stage_store import ActionName, StageChange, StageSetting


class StageStep(NamedTuple):
    """What became of an action's stage when another version of the store took the place of one."""

    at: datetime
    before: StageSetting
    after: StageSetting


class OverlayEdit(NamedTuple):
    """What became of an entry above the stages."""

    changed: bool
    version: str  # what is in force now


class StageWriter(StageStore, Protocol):
    """A store with all that commands do. Everything raises `StageStoreError`, and writes `StageConflictError` too."""

    def preview(self, change: StageChange) -> str:
        """What a change would do, as a unified diff; empty where it is so already."""

    def settings(self, others: Iterable[ActionName] = ()) -> list[StageSetting]:
        """What one version says of every action that has an entry of ours, and of others, sorted."""

    def steps(self) -> Iterator[StageStep]:
        """The changes that the store remembers, newest first."""

    def cover(self, overlay: Overlay, scope: OverlayScope) -> OverlayEdit:
        """Put an entry above the stages into force at once, where it is not there."""

    def uncover(self, overlay: Overlay, scope: OverlayScope, *, before_write: Callable[[str], None]) -> OverlayEdit:
        """Take exactly this entry away, where it is there; `before_write` gets the new version first."""

    def start_attempt(self, action: ActionName, *, earlier: int, before_write: Callable[[int, int, str], None]) -> int:
        """Begin the attempt after `earlier`, or after the store's own; its number.

        `before_write` gets the number before, the new one and the new version first.
        """

    def close(self) -> None:
        """Let go of what it holds open."""
