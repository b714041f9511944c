"""Who is at the page, what that person may do, and the desk through which everything is done.

The page writes no flag, no sign-off and no review itself: whoever starts it gives it a desk, and the desk checks the
role again, whatever the page has shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from pathlib import Path

    from producers.boundary.approvals import Review
    from producers.boundary.decision_rules import StagedDecision
    from producers.boundary.stage_store import ActionName, StageChange, StageSetting
    from producers.wire.contract import ActionContract
    from producers.wire.events import Resolution
    from producers.wire.stage import Stage


class Role(StrEnum):
    """What a person may do at the page; everybody who sees it may look."""

    VIEWER = "viewer"
    REVIEWER = "reviewer"
    """Approve and reject queued actions."""
    OPERATOR = "operator"
    """Change stages, answer recommendations, and use the emergency controls."""


class ForbiddenError(StagekeeperError):
    """A person lacks the role for an act."""


class UnnamedError(StagekeeperError):
    """An act lacks who does it, or why."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who is at the page."""

    name: str  # empty where nobody has said
    roles: frozenset[Role]
    authenticated: bool = False  # whether somebody has checked that it is this person

    def may(self, role: Role) -> bool:
        """Whether the person has a role."""
        return role in self.roles

    @property
    def recorded_name(self) -> str:
        """Who did it, as records have it: that nobody has checked a name is said beside it."""
        return self.name if self.authenticated else f"{self.name} (unauthenticated)"

    def require(self, role: Role, reason: str) -> None:
        """Check an act; raises `ForbiddenError` without the role, `UnnamedError` without a name or a reason."""
        if not self.may(role):
            held = ", ".join(sorted(self.roles)) or "none"
            raise ForbiddenError(
                f"this needs the role {role}, and {self.name or 'you'} has {held}. Nothing was changed; send the "
                f"address of this page to somebody with the role {role}."
            )
        if not self.name.strip() or not reason.strip():
            raise UnnamedError("say who you are and why: both are kept with the change. Nothing was changed.")


SwitchKind: TypeAlias = Literal["fallback", "deny"]


@dataclass(frozen=True, slots=True)
class EmergencySwitch:
    """An emergency entry in the flag store: actions fall back, or are denied, whatever their stages are."""

    kind: SwitchKind
    workflow: str | None = None
    tool: str | None = None
    account: str | None = None

    @property
    def about(self) -> str:
        """What it covers."""
        named = {"workflow": self.workflow, "tool": self.tool, "account": self.account}
        return ", ".join(f"{name} {value}" for name, value in named.items() if value) or "everything"

    def covers(self, action: ActionName) -> bool:
        """Whether an action is covered, whatever its account."""
        return self.account is None and self.workflow in {None, action.workflow} and self.tool in {None, action.tool}


@dataclass(frozen=True, slots=True)
class FlagFacts:
    """One flag as the store has it."""

    key: str
    state: str
    default: str
    says: str  # the entries that target it, in words
    owner: str
    kind: str
    review_date: str
    cleanup_condition: str


@dataclass(frozen=True, slots=True)
class RecommendationAnswer:
    """What a person says to a recommendation."""

    accept: bool
    action: ActionName
    to_stage: Stage
    verdict: Literal["PROMOTE", "ROLL_BACK"]
    cohort: str | None
    verdict_id: str
    recommendation_id: str
    expected_version: str  # of the flag store, as the person saw it
    holds_for: timedelta


class ActDesk(Protocol):
    """Everything that the page may do, each act under the name of a visitor, with a reason, and on record.

    Every act raises `ForbiddenError` or `UnnamedError` where `Visitor.require` does, and a `StagekeeperError` where it
    cannot be done.
    """

    @property
    def store_name(self) -> str:
        """What people call the flag store."""

    @property
    def gates(self) -> Path:
        """The gate file in force."""

    @property
    def home(self) -> Path:
        """The folder for what is kept beside the lake, such as the search index."""

    @property
    def effect_deadline_s(self) -> float:
        """How long a router may decide by the old stage after a change, in seconds."""

    @property
    def acts_unauthenticated(self) -> bool:
        """Whether somebody who has not signed in may act: only where the page is reached from this machine alone."""

    @property
    def roles_claim(self) -> str:
        """The claim that holds a person's roles."""

    def stage(self, action: ActionName) -> StageSetting:
        """What the store says about an action."""

    def preview(self, change: StageChange) -> str:
        """What a change would do to the store, as a unified diff."""

    def change_stage(self, visitor: Visitor, change: StageChange, reason: str) -> StageSetting:
        """Give an action a stage: upward only where the gate opens."""

    def answer(self, visitor: Visitor, answer: RecommendationAnswer, reason: str) -> str:
        """Accept or dismiss a recommendation; what has become of it, in a sentence."""

    def switches(self) -> list[EmergencySwitch]:
        """The emergency entries in force."""

    def flip(self, visitor: Visitor, switch: EmergencySwitch, reason: str, *, on: bool) -> str:
        """Put an emergency entry into force, or take it away; what has become of it, in a sentence."""

    def flags(self) -> list[FlagFacts]:
        """The flags of the store."""

    def decide(self, contract: ActionContract) -> StagedDecision:
        """What the rules in force say to a contract; nothing is recorded, and nothing runs."""

    def reviews(self) -> tuple[list[Review], list[str]]:
        """The actions that wait for a person, and why others cannot be shown."""

    def resolve(self, visitor: Visitor, decision_id: str, resolution: Resolution, reason: str) -> str:
        """Approve or reject a queued action; what has become of it, in a sentence."""

    def now(self) -> datetime:
        """The moment."""
