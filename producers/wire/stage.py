"""Stages of authority, and the flag modes that put an action there."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """The ladder that an action climbs, lowest rung first."""

    OBSERVE_ONLY = "observe_only"
    SEARCH_ONLY = "search_only"
    DRAFT_WRITE = "draft_write"
    APPROVAL_GATED = "approval_gated"
    NARROW_AUTONOMY = "narrow_autonomy"
    PROGRESSIVE_EXPANSION = "progressive_expansion"

    @property
    def rank(self) -> int:
        """Position on the ladder, from 0."""
        return LADDER.index(self)


LADDER: tuple[Stage, ...] = tuple(Stage)  # all stages, lowest first
ROLLBACK_STAGE = Stage.SEARCH_ONLY  # where a rollback sends an action


class Mode(StrEnum):
    """Values of the flag `agent-action-mode`."""

    OFF = "off"
    OBSERVE = "observe"
    SEARCH_ONLY = "search_only"
    DRAFT_WRITE = "draft_write"
    APPROVED_EXTERNAL = "approved_external"
    AUTONOMOUS = "autonomous"
    EXPANDED = "expanded"
    FALLBACK = "fallback"


# The stage at which an action counts while the flag holds a mode
STAGE_OF_MODE: dict[Mode, Stage] = {
    Mode.OFF: Stage.OBSERVE_ONLY,
    Mode.OBSERVE: Stage.OBSERVE_ONLY,
    Mode.SEARCH_ONLY: Stage.SEARCH_ONLY,
    Mode.FALLBACK: Stage.SEARCH_ONLY,
    Mode.DRAFT_WRITE: Stage.DRAFT_WRITE,
    Mode.APPROVED_EXTERNAL: Stage.APPROVAL_GATED,
    Mode.AUTONOMOUS: Stage.NARROW_AUTONOMY,
    Mode.EXPANDED: Stage.PROGRESSIVE_EXPANSION,
}

# The flag mode that puts an action into a stage
MODE_OF_STAGE: dict[Stage, Mode] = {
    Stage.OBSERVE_ONLY: Mode.OBSERVE,
    Stage.SEARCH_ONLY: Mode.SEARCH_ONLY,
    Stage.DRAFT_WRITE: Mode.DRAFT_WRITE,
    Stage.APPROVAL_GATED: Mode.APPROVED_EXTERNAL,
    Stage.NARROW_AUTONOMY: Mode.AUTONOMOUS,
    Stage.PROGRESSIVE_EXPANSION: Mode.EXPANDED,
}

STOPPED = frozenset(Mode) - frozenset(MODE_OF_STAGE.values())  # the modes of no stage: people alone write them
