"""The verdict document: one shape for the ledger, every command, the page and the published JSON Schema.

Evidence and thresholds are natural logarithms. What is unknown is null, and stays so.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, ValidationError

from analytics.verdicts import caveats, messages
from analytics.verdicts.evidence_models import (
    DocumentPart,
    RateCourseShown,
    Reassessment,
    SignalEvidence,
    SplitEvidence,
    VerdictClaim,
)
from analytics.verdicts.verdict import OF_HARM, Regrade
from producers.errors import StagekeeperError
from producers.wire.events import Reason, VerdictName
from producers.wire.model import Moment
from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.verdicts.verdict import Verdict


class UnknownShapeError(StagekeeperError):
    """A row of the ledger is no verdict that this release knows."""


class ExposureShown(DocumentPart):
    """How much was seen of the epoch, and how much the gate asks for."""

    actions: int
    """Decisions."""
    minimum: int = 0
    days: int | float = 0
    """Different days with decisions; in older verdicts, days from the first decision to the newest."""
    minimum_days: int | float = 0
    weekdays: int | None = None
    """Different days of the week with decisions; null where they were not counted."""
    minimum_weekdays: int = 0
    hours: int | None = None
    """Different hours of the day with decisions; null likewise."""
    minimum_hours: int = 0
    timezone: str = "UTC"
    """Whose days and hours these are."""
    users: int | None = None
    """Different users in closed user-windows; null where they were not counted."""
    minimum_users: int = 0
    unnamed: int | None = None
    """Decisions in closed user-windows that name no user; null likewise."""
    users_as_of: Moment | None = None
    """End of the newest closed user-window; null likewise."""
    events_version: int | None = None
    """Version of the table `events` that the users were counted at; null likewise."""
    open_version: int | None = None
    """Version of the table `events` that the first actions of open windows were read at; null where they were not."""
    held_s: float = 0.0
    """Seconds from the first decision to the watermark."""


class DryRun(DocumentPart):
    """What the verdict would be if dry runs counted."""

    verdict: VerdictName
    to_stage: str | None
    summary: str
    reasons: tuple[Reason, ...]


def _is_none(value: object) -> bool:
    return value is None


class VerdictDocument(DocumentPart):
    """A verdict on one cell, with every number that was used to reach it."""

    environment: str
    workflow: str
    tool: str
    stage: str
    cohort: str
    epoch: str
    """The stretch of the cell in which nothing that shapes its behaviour changed."""
    attempt: int | None = None
    """Which attempt of the cell it is, counted from 1: epochs in which actions were due; null in older verdicts."""
    risk_class: str | None = None
    """Highest risk class seen; null where unknown."""
    verdict_id: str
    verdict: VerdictName
    to_stage: str | None = None
    """Where the action should go; null where it stays."""
    summary: str
    """One sentence: what follows, and the first reason with its numbers."""
    reasons: tuple[Reason, ...]
    """Why, what matters most first."""
    signals: tuple[SignalEvidence, ...]
    """What each signal of the gate says."""
    gate: str | None = None
    """The gate that matches; null where none does, or two do."""
    gate_sha256: str
    """Digest of the gate file."""
    gate_content_sha256: str | None = None
    """Digest of what the gate judges by: its own content and what it inherits; null where no gate can be named."""
    lake_version: int
    """Version of the table `signals`."""
    evidence_sha256: str | None = None
    """Digest of every number that was counted about the epoch."""
    watermark: Moment
    """Newest event time that was known."""
    judged_at: Moment
    """When it was reached; has no part in the verdict."""
    latched_by: str | None = None
    """The verdict that crossed first and stands, where one did."""
    set_aside: str | None = None
    """The rollback of this epoch that a person's override sets aside, where one does."""
    refuted: str | None = None
    """The rollback of this epoch that outcomes that came late refute, where they do."""
    exposure: ExposureShown | None = None
    claim: VerdictClaim | None = None
    """Of whom it speaks: a rollback of the traffic seen, a promotion, or what holds one up, of users seen or to come;
    null where nothing follows from the evidence, and in older verdicts."""
    claim_text: str = ""
    """The claim in a sentence."""
    unit: str = ""
    """What one observation is, and what that takes for granted."""
    owner: str | None = None
    """Who answers for the gate's limits."""
    log_e_combined: float | None = None
    """The combined evidence of the weighted guardrails; null without any."""
    split: SplitEvidence | None = None
    """Null where the gate declares no split."""
    course: RateCourseShown | None = None
    """How failures lie in time; null where no user-window of a day that is over was counted."""
    regraded: tuple[Reassessment, ...] = ()
    """What came of earlier epochs of the cell, of which outcomes came late."""
    is_regrade: bool = False
    """Whether this is an epoch that is over."""
    dry_run: DryRun | None = None
    """Null where no dry run is concerned."""
    confirmed_at: Annotated[Moment | None, Field(exclude_if=_is_none)] = None
    """When the judge last found it again; absent in the ledger, whose heartbeats say it."""
    confirmed_through: Annotated[Moment | None, Field(exclude_if=_is_none)] = None
    """The watermark of that moment; absent likewise."""

    @classmethod
    def from_verdict(cls, verdict: Verdict) -> Self:
        """Everything that is published of a verdict."""
        inputs, result = verdict.inputs, verdict.result
        gate, would = inputs.gate, result.would
        minimum = None if gate is None else gate.minimum_exposure
        return cls(
            **inputs.cell._asdict(),
            epoch=inputs.epoch,
            attempt=inputs.attempt,
            risk_class=inputs.risk_class,
            verdict_id=verdict.verdict_id,
            verdict=result.verdict,
            to_stage=result.to_stage,
            summary=messages.summary(result.verdict, result.to_stage, result.reasons, attempt=inputs.attempt),
            reasons=result.reasons,
            signals=tuple(
                part.model_copy(update={"contribution": _contribution(verdict, part)}) for part in inputs.signals
            ),
            gate=gate.name if gate else None,
            gate_sha256=verdict.gate_sha256,
            gate_content_sha256=inputs.gate_content_sha256,
            lake_version=verdict.lake_version,
            evidence_sha256=inputs.evidence_sha256,
            watermark=verdict.watermark,
            judged_at=verdict.judged_at,
            latched_by=result.latched_by,
            set_aside=result.set_aside,
            refuted=result.refuted,
            exposure=ExposureShown(
                actions=inputs.exposure.actions,
                minimum=minimum.actions if minimum else 0,
                days=inputs.exposure.days,
                minimum_days=minimum.days if minimum else 0,
                weekdays=inputs.exposure.weekdays,
                minimum_weekdays=minimum.all_weekdays if minimum else 0,
                hours=inputs.exposure.hours,
                minimum_hours=minimum.hours if minimum else 0,
                timezone=minimum.timezone if minimum else "UTC",
                users=inputs.exposure.users,
                minimum_users=minimum.users if minimum else 0,
                unnamed=inputs.exposure.unnamed,
                users_as_of=inputs.exposure.as_of,
                events_version=inputs.exposure.events_version,
                open_version=inputs.exposure.open_version,
                held_s=inputs.exposure.held_s,
            ),
            claim=messages.claim_of(inputs, result.verdict),
            claim_text=messages.claim(inputs, result.verdict),
            unit=caveats.unit(inputs.exposure, inputs.signals),
            owner=gate.owner if gate else None,
            log_e_combined=inputs.log_e_combined,
            split=inputs.split,
            course=inputs.course,
            regraded=inputs.regraded,
            is_regrade=inputs.is_reassessment,
            dry_run=None
            if would is None
            else DryRun(
                verdict=would.verdict,
                to_stage=would.to_stage,
                summary=messages.summary(would.verdict, would.to_stage, would.reasons),
                reasons=would.reasons,
            ),
        )

    @classmethod
    def from_json(cls, payload: str) -> Self:
        """Read a row of the ledger, without what a newer release adds. Raises `UnknownShapeError`."""
        try:
            return cls.model_validate_json(payload, strict=True, extra="ignore")
        except ValidationError as error:
            fault = error.errors()[0]
            raise UnknownShapeError(
                "the ledger holds a verdict of a shape that this release does not know, at "
                f"{'.'.join(map(str, fault['loc'])) or 'the beginning'}: {fault['msg']}. Read it with the release of "
                "Stagekeeper that the worker runs."
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """The document of JSON types alone."""
        return self.model_dump(mode="json")

    @property
    def cell(self) -> Cell:
        """The cell that it is about."""
        return Cell(self.environment, self.workflow, self.tool, self.stage, self.cohort)

    @property
    def independence(self) -> str | None:
        """What signals that are counted by action take for granted; None where there are none."""
        return caveats.independence(self.signals)

    @property
    def order(self) -> tuple[datetime, int, str]:
        """What tells the later of two verdicts on a cell."""
        return self.judged_at, self.lake_version, self.verdict_id

    @property
    def regrade(self) -> Regrade:
        """What later verdicts on the cell go by, and say, of this one, which is on an epoch that is over."""
        shown = Reassessment(epoch=self.epoch, verdict_id=self.verdict_id, verdict=self.verdict, summary=self.summary)
        signals = {reason.signal or "" for reason in self.reasons if reason.code in OF_HARM}
        return Regrade(shown, self.watermark, () if "" in signals else tuple(sorted(signals)))

    def limit_of(self, signal: str) -> float | None:
        """The limit in force for a signal, in the signal's unit; None where the gate sets none."""
        return next((part.limit for part in self.signals if part.signal == signal), None)


def _contribution(verdict: Verdict, part: SignalEvidence) -> float | None:
    combined, gate = verdict.inputs.log_e_combined, verdict.inputs.gate
    weighed = part.role == "guardrail" and (not part.dry_run or (gate is not None and gate.dry_run))
    if combined is None or not weighed or part.log_e_harm is None or part.weight is None:
        return None
    return math.exp(min(part.log_e_harm + math.log(part.weight) - combined, 0.0))
