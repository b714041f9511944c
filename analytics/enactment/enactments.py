"""Enactments: what was done in the store of stages about each recommendation, step by step. Append only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - pydantic reads annotations at run time
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import polars as pl
from pydantic import ConfigDict, ValidationError

from analytics.lake.errors import UnreadableLakeError
from analytics.lake.table_schemas import COLUMNS, ENACTMENTS
from analytics.signals.cells import CELL
from analytics.verdicts.evidence_models import DocumentPart
from producers.boundary.policy_flags import MODE
from producers.boundary.stage_store import ActionName
from producers.wire.events import PolicyChanged, PolicyChangedData, VerdictName, schema_id
from producers.wire.model import Moment
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from analytics.lake.tables import Fence, Lake

SOURCE: Final = "/stagekeeper/enactor"
"""The `source` of every policy change that is made by itself."""
ENACTOR: Final = "stagekeeper"
"""Who is named as having made it."""


class EnactmentPhase(StrEnum):
    """How far a change is; a later one stands below an earlier one here."""

    INTENDED = "intended"
    """The store is about to be written, and may have been."""
    APPLIED = "applied"
    """The store has it."""
    NOT_IN_FORCE = "not_in_force"
    """A source still decides by the old stage after the deadline."""
    IN_FORCE = "in_force"
    """Every source decides by it."""
    SUPERSEDED = "superseded"
    """Somebody else has changed the stage before it was written, or before it was seen to be in force."""


_ORDER: Final = tuple(EnactmentPhase)


class Life(StrEnum):
    """What has become of a recommendation."""

    OPEN = "open"
    ACCEPTED = "accepted"
    DISMISSED = "dismissed"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    """By another call, or because somebody moved the action."""
    APPLIED = "applied"
    NOT_IN_FORCE = "not in force"
    IN_FORCE = "in force"


class EnactmentStep(DocumentPart):
    """One step of one change, with what it takes to finish the change after a kill."""

    model_config = ConfigDict(extra="ignore")

    recommendation_id: str
    """The verdict that crossed first: one for each cell, epoch, verdict and destination."""
    phase: EnactmentPhase
    at: Moment
    """When the step was taken, by the enactor's clock."""
    environment: str
    workflow: str
    tool: str
    stage: str
    """The stage that the verdict is about, and that the store gave the action."""
    cohort: str
    epoch: str
    verdict: VerdictName
    verdict_id: str
    """The verdict as it stood when the change was made."""
    to_stage: str
    attempt: int
    """The attempt of the action that the store named."""
    mode_before: Mode | None = None
    """Null where the store decided by more than the action."""
    mode_after: Mode
    store: str
    """What people call the store."""
    version_before: str
    version_after: str
    """The store's versions without the change and with it."""
    replaced_before: str = ""
    """The version that was the newest of those that another had replaced by then: the same version may come twice."""
    reason: str
    """The verdict in a sentence."""
    judged_at: Moment
    """When the verdict was reached that crossed first."""
    watermark: Moment | None = None
    """The newest event time that was known then."""
    signoff_id: str | None = None
    """The approval that allowed it; null where none was asked for."""
    sources: tuple[str, ...] = ()
    """In force: who decides by it. Not in force: who still decides by the old stage."""
    silent: tuple[str, ...] = ()
    """In force: routers that were not heard of any more, and not waited for."""
    in_force_at: Moment | None = None
    """When the last source began to decide by it, by the sources' clocks."""
    note: str = ""
    """Why it was superseded, or what was completed."""

    @property
    def action(self) -> ActionName:
        """The action that is moved."""
        return ActionName(self.environment, self.workflow, self.tool)

    @property
    def key(self) -> tuple[str, ...]:
        """Cell, epoch, verdict and destination: what is carried out at most once."""
        return (*(getattr(self, name) for name in CELL), self.epoch, self.verdict.value, self.to_stage)

    @property
    def routers(self) -> str:
        """Of a change that is in force: at how many routers, such as `11 of 12 routers (silent: /routers/b)`."""
        silent = f" (silent: {', '.join(self.silent)})" if self.silent else ""
        return f"{len(self.sources)} of {len(self.sources) + len(self.silent)} routers{silent}"

    @property
    def event_id(self) -> str:
        """The id of the policy change: the same however often it is told."""
        return hashlib.sha256(f"enactment/{self.recommendation_id}".encode()).hexdigest()[:32]

    def to_event(self) -> PolicyChanged:
        """The policy change that an applied step is, always the same bytes."""
        return PolicyChanged(
            id=self.event_id,
            source=SOURCE,
            time=self.at,
            subject=MODE.key,
            dataschema=schema_id(PolicyChanged),
            data=PolicyChangedData(
                flag_key=MODE.key,
                changed_by=ENACTOR,
                reason=self.reason,
                before=None if self.mode_before is None else self.mode_before.value,
                after=self.mode_after.value,
                environment=self.environment,
                workflow=self.workflow,
                tool=self.tool,
                verdict_id=self.verdict_id,
                recommendation_id=self.recommendation_id,
                signoff_id=self.signoff_id,
            ),
        )

    def followed_by(self, phase: EnactmentPhase, *, at: datetime, **more: Any) -> EnactmentStep:  # noqa: ANN401 - fields of it
        """The next step of the same change."""
        return self.model_copy(update={"phase": phase, "at": at, "sources": (), "silent": (), "note": "", **more})


@dataclass(frozen=True, slots=True)
class Enactment:
    """What was done about one recommendation."""

    steps: tuple[EnactmentStep, ...]  # at least one, in the order of phases; of equal ones the later comes later

    @property
    def last(self) -> EnactmentStep:
        """The furthest step."""
        return self.steps[-1]

    @property
    def phase(self) -> EnactmentPhase:
        """How far it is."""
        return self.last.phase

    @property
    def applied(self) -> EnactmentStep | None:
        """The step by which the store had the change; None while it has not."""
        return next((step for step in self.steps if step.phase is EnactmentPhase.APPLIED), None)

    @property
    def life(self) -> Life:
        """What has become of the recommendation by it."""
        return Life.OPEN if self.phase is EnactmentPhase.INTENDED else Life[self.phase.name]

    @property
    def is_settled(self) -> bool:
        """Whether nothing may be changed on its account any more."""
        return self.phase is not EnactmentPhase.INTENDED


def append(lake: Lake, steps: Iterable[EnactmentStep], *, fence: Fence | None = None) -> None:
    """Append steps in one commit.

    Raises `FencedError` where somebody else enacts now, else `LakeError`; nothing was written.
    """
    rows = [
        {
            **{name: getattr(step, name) for name in ("recommendation_id", "at", *CELL, "epoch", "to_stage")},
            "phase": step.phase.value,
            "verdict": step.verdict.value,
            "payload": step.model_dump_json(),
        }
        for step in steps
    ]
    lake.append(ENACTMENTS, pl.DataFrame(rows, schema=COLUMNS[ENACTMENTS], orient="row"), fence=fence)


def enactments(lake: Lake) -> dict[str, Enactment]:
    """What was done, by recommendation, oldest first. Raises `LakeError`, also where a row cannot be read."""
    if not lake.version(ENACTMENTS):
        return {}
    rows = lake.scan(ENACTMENTS).select("at", "recommendation_id", "payload").sort("at").collect()
    by_recommendation: dict[str, list[EnactmentStep]] = {}
    for at, recommendation_id, payload in rows.iter_rows():
        try:
            step = EnactmentStep.model_validate_json(payload)
        except ValidationError as error:
            raise UnreadableLakeError(
                f"The row of {ENACTMENTS} of {at.isoformat()} about recommendation {recommendation_id} cannot be read, "
                f"so what was carried out is not known and nothing is: {error}"
            ) from error
        by_recommendation.setdefault(step.recommendation_id, []).append(step)
    # By phase first: two machines' clocks may be apart.
    return {
        recommendation_id: Enactment(tuple(sorted(steps, key=lambda step: _ORDER.index(step.phase))))
        for recommendation_id, steps in by_recommendation.items()
    }
