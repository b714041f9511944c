"""What ledger and events say of some actions, read at once: a look that moves a hundred costs little more than one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analytics.enactment.due_changes import recommendation_id
from analytics.enactment.effect import newest_decisions
from analytics.enactment.standing_calls import crossings
from analytics.verdicts.ledger import latest_verdicts
from producers.boundary.stage_store import ActionName

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from analytics.enactment.due_changes import Crossing
    from analytics.enactment.effect import NewestDecision
    from analytics.enactment.standing_calls import StandingCall
    from analytics.lake.tables import Lake
    from analytics.verdicts.document import VerdictDocument


@dataclass(frozen=True, slots=True)
class ActionFacts:
    """What is known of the actions that some calls are about."""

    documents: Mapping[ActionName, list[VerdictDocument]]  # the latest verdict on each of their cells
    newest: Mapping[tuple[str, ...], NewestDecision]  # by cell and epoch of the calls
    crossings: Mapping[str, Crossing]  # by id, of the verdicts that crossed first

    @classmethod
    def load(cls, lake: Lake, calls: Collection[StandingCall]) -> ActionFacts:
        """Read them; raises `LakeError`."""
        by_action = defaultdict(list)
        crossed = {call.crossed for call in calls}
        for document in latest_verdicts(lake, actions={call.action for call in calls}):
            by_action[ActionName(*document.cell[:3])].append(document)
            crossed.add(recommendation_id(document))
        newest = newest_decisions(lake, [(*call.cell, call.epoch) for call in calls])
        return cls(by_action, newest, crossings(lake, crossed))
