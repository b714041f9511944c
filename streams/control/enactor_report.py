"""What the enactor has to say of itself, after each look."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from analytics.enactment.due_changes import Done

if TYPE_CHECKING:
    from collections.abc import Collection

    from analytics.enactment.enactments import Enactment
    from analytics.enactment.standing_calls import StandingCall
    from streams.control.enactor_faults import EnactorFaults


@dataclass(frozen=True)
class EnactorReport:
    """What the enactor has to say of itself."""

    fault: str | None = None  # why something cannot be carried out at this moment; None where all is well
    is_failing: bool = False  # whether a fault is a failure, and not a refusal
    lives: Counter[str] = field(default_factory=Counter)  # recommendations by how far they are
    seconds_to_apply: tuple[float, ...] = ()  # from the verdict that crossed to the changed store, of each change
    seconds_to_force: tuple[float, ...] = ()  # from there until the last source decided by it, of each that is in force

    @classmethod
    def of_past(
        cls, past: Collection[Enactment], calls: Collection[StandingCall], faults: EnactorFaults
    ) -> EnactorReport:
        """What is to be said of the changes that were begun, of what the ledger calls for, and of what fails."""
        lives = Counter(one.life.value for one in past if one.is_settled)
        done = Done(one for one in past if one.is_settled)
        lives["open"] = sum(not done.covers(call.key, call.crossed) for call in calls)
        made = [(one.applied, one.last.in_force_at) for one in past if one.applied is not None]
        to_apply = tuple(max((step.at - step.judged_at).total_seconds(), 0.0) for step, _ in made)
        to_force = tuple(max((at - step.at).total_seconds(), 0.0) for step, at in made if at is not None)
        return cls(faults.text, faults.is_failing, lives, to_apply, to_force)
