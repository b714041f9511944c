"""Whether a change of stage is in force: what the decisions that followed it show, whoever made it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from analytics.enactment.effect import Effect, decisions_around, effect_of
from analytics.enactment.enactments import EnactmentPhase, EnactmentStep
from producers.boundary.policy_flags import MODE
from producers.wire.events import VerdictName
from producers.wire.stage import MODE_OF_STAGE, STAGE_OF_MODE, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from analytics.backtest.recommendation_outcomes import Followed, Recommendation
    from analytics.lake.tables import Lake
    from dashboard.data.people_log import PolicyChange


@dataclass(frozen=True, slots=True)
class MadeChange:
    """The change of stage that a recommendation led to."""

    step: EnactmentStep
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Proof:
    """What is known of a change's effect."""

    made: MadeChange
    effect: Effect
    deadline: datetime  # after it, whoever decides by the old stage is named

    @property
    def routers(self) -> int:
        """How many routers are waited for."""
        return len(self.effect.heard) + len(self.effect.waiting) + len(self.effect.late)


def made_change(one: Followed, changes: Iterable[PolicyChange], store: str) -> MadeChange | None:
    """The change that carried a recommendation out: by the enactor, or by a person; None where there was none."""
    applied = None if one.enactment is None else one.enactment.applied
    if applied is not None:
        return MadeChange(applied, "stagekeeper", applied.reason)
    said = one.recommendation
    for change in changes:
        if change.data.recommendation_id == said.verdict_id or _answers(said, change):
            return MadeChange(_step(said, change, store), change.data.changed_by, change.data.reason)
    return None


def prove(lake: Lake, made: MadeChange, *, now: datetime, deadline_s: float) -> Proof:
    """Look at the decisions since a change. Raises `LakeError`."""
    deadline = timedelta(seconds=deadline_s)
    effect = effect_of(decisions_around(lake, [made.step]), made.step, now=now, deadline=deadline)
    return Proof(made, effect, made.step.at + deadline)


def _answers(said: Recommendation, change: PolicyChange) -> bool:
    """Whether somebody has moved the action as a recommendation says, after it was said."""
    data, to = change.data, Stage(said.to_stage)
    mode = (data.after or "").partition(" (")[0]
    named = (data.environment, data.workflow, data.tool)
    stage = next((stage for known, stage in STAGE_OF_MODE.items() if known.value == mode), None)
    about = data.flag_key == MODE.key and named == said.cell[:3] and said.follows(change.at)
    if not about or stage is None:
        return False
    return stage is to if said.verdict == "PROMOTE" else stage.rank <= to.rank


def _step(said: Recommendation, change: PolicyChange, store: str) -> EnactmentStep:
    environment, workflow, tool, stage, cohort = said.cell
    return EnactmentStep(
        recommendation_id=said.verdict_id,
        phase=EnactmentPhase.APPLIED,
        at=change.at,
        environment=environment,
        workflow=workflow,
        tool=tool,
        stage=stage,
        cohort=cohort,
        epoch=said.epoch,
        verdict=VerdictName(said.verdict),
        verdict_id=said.verdict_id,
        to_stage=said.to_stage,
        attempt=1,
        mode_before=MODE_OF_STAGE[Stage(stage)] if stage in set(Stage) else None,
        mode_after=MODE_OF_STAGE[Stage(said.to_stage)],
        store=store,
        version_before="",
        version_after="",
        reason=change.data.reason,
        judged_at=said.at,
    )
