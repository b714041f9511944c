"""Which recommendation is due to be carried out, given ledger, gate file, sign-offs, store and what was done before.

Pure functions. Nothing missing ever promotes, and a rollback never goes upwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from analytics.enactment.enactments import EnactmentPhase, EnactmentStep
from analytics.gates.gate_file import GateTieError
from analytics.verdicts.signoffs import SignOffKind, is_about, shown_harm
from producers.wire.events import VerdictName
from producers.wire.stage import MODE_OF_STAGE, STAGE_OF_MODE, STOPPED, Mode, Stage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from analytics.enactment.effect import NewestDecision
    from analytics.enactment.enactments import Enactment
    from analytics.gates.gate_file import Gate, GateFile
    from analytics.verdicts.document import VerdictDocument
    from analytics.verdicts.gate_check import GateAnswer
    from analytics.verdicts.signoffs import SignOff
    from producers.boundary.stage_store import StageSetting
    from producers.wire.receipt import Cell

REFUSALS: Final[dict[str, str]] = {
    "recommend_only": "The gate only recommends it, is a dry run, or is not there any more.",
    "done": "It was carried out before, and is at most once.",
    "moved": "The store gives the action another stage than the one that was judged: somebody has moved it meanwhile.",
    "many_stages": "The store decides by more than the action, such as a percentage: a person promotes from there.",
    "emergency": "An emergency covers the action.",
    "stopped": "A person has stopped the action: mode `off` or `fallback`, the master switch, or the denylist.",
    "other_attempt": "The verdict is of another attempt than the store's, or it is not known of which.",
    "other_gate_content": "The gate has another content by now; the worker judges under the new one first.",
    "overridden": "A person has set the rollback aside.",
    "upwards": "The destination is not below every stage that the store may give the action.",
    "stale_harm": "The harm was shown on evidence that was stale already.",
    "gate_shut": "The gate does not open: evidence, freshness or a person's word is missing.",
    "rolled_back": "The action was rolled back, and nobody has begun a new attempt since.",
}
"""Why a recommendation is not carried out, by code."""

_LEAVE_HARM: Final = frozenset({"upwards", "stale_harm", "other_attempt"})


@dataclass(frozen=True, slots=True)
class Crossing:
    """A verdict that crossed a limit, as far as it tells whether harm was shown on fresh evidence."""

    judged_at: datetime
    watermark: datetime

    def was_fresh(self, freshness_s: float) -> bool:
        """Whether the evidence was no older than that when it crossed; a watermark ahead of the clock is."""
        return (self.judged_at - self.watermark).total_seconds() <= freshness_s


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one action at this moment."""

    documents: Sequence[VerdictDocument]  # the latest verdict on each of its cells
    setting: StageSetting  # what the store says
    past: Collection[Enactment]  # every change of this action that was begun
    signoffs: Sequence[SignOff]  # about the action, in force
    newest: Mapping[tuple[str, ...], NewestDecision]  # by cell and epoch, where there is one


class Done:
    """Which recommendations some changes carry out."""

    def __init__(self, changes: Iterable[Enactment]) -> None:
        self._by_id = {one.last.recommendation_id: one for one in changes}
        promotions = [one for one in self._by_id.values() if one.last.verdict is VerdictName.PROMOTE]
        # A rollback that was refuted may be followed by a real one of the same epoch: that is another crossing.
        self._by_key = {one.last.key: one for one in promotions}

    def of(self, key: tuple[str, ...], crossed: str) -> Enactment | None:
        """The change that carries out the recommendation of that crossing, or a promotion of that key."""
        return self._by_id.get(crossed) or self._by_key.get(key)

    def covers(self, key: tuple[str, ...], crossed: str) -> bool:
        """Whether one of them does."""
        return self.of(key, crossed) is not None


@dataclass(frozen=True, slots=True)
class DueChange:
    """A change that is to be made."""

    document: VerdictDocument
    to: Mode
    signoff_id: str | None = None

    def intended(
        self, setting: StageSetting, crossings: Mapping[str, Crossing], *, at: datetime, **store: str
    ) -> EnactmentStep:
        """The record that it is about to be made; `store` says what the store and its versions are called."""
        document = self.document
        first = crossings.get(recommendation_id(document))
        return EnactmentStep(
            recommendation_id=recommendation_id(document),
            phase=EnactmentPhase.INTENDED,
            at=at,
            **document.cell._asdict(),
            epoch=document.epoch,
            verdict=document.verdict,
            verdict_id=document.verdict_id,
            to_stage=document.to_stage or "",
            attempt=setting.attempt,
            mode_before=setting.mode,
            mode_after=self.to,
            version_before=setting.version,
            reason=document.summary,
            judged_at=document.judged_at if first is None else first.judged_at,
            watermark=document.watermark if first is None else first.watermark,
            signoff_id=self.signoff_id,
            **store,
        )


@dataclass(frozen=True, slots=True)
class NotDue:
    """Why nothing is to be changed."""

    code: str  # of `REFUSALS`
    leaves_harm: bool = False  # whether harm that was shown goes on, and no person has said that it may

    @property
    def message(self) -> str:
        """The reason in a sentence."""
        return REFUSALS[self.code]


def recommendation_id(document: VerdictDocument) -> str:
    """The verdict that crossed first: the name of the recommendation that a verdict repeats."""
    return document.latched_by or document.verdict_id


def asks_for_enactor(gates: GateFile) -> bool:
    """Whether any gate says that something is to be carried out."""
    return any(gate.on_roll_back == "apply" or gate.on_promote != "recommend" for gate in gates.gates)


def rollback_due(known: Known, gates: GateFile, crossings: Mapping[str, Crossing]) -> DueChange | NotDue:
    """The rollback that is due: of several cells the one that goes down furthest.

    A rollback may rest on stale evidence where harm was shown while it was fresh.
    """
    refusal = NotDue("moved")
    calls = [document for document in known.documents if document.verdict is VerdictName.ROLL_BACK]
    for document in sorted(calls, key=lambda call: (_rank(call.to_stage), call.judged_at)):
        reason = _against(document, known, gates) or _against_rollback(document, known, gates, crossings)
        if reason is None:
            return DueChange(document, MODE_OF_STAGE[Stage(document.to_stage or document.stage)])
        if reason != "moved" and not refusal.leaves_harm:
            refusal = NotDue(reason, reason in _LEAVE_HARM and _is_in_force(document, known.setting))
    return refusal


def promotion_due(known: Known, gates: GateFile, answer: GateAnswer) -> DueChange | NotDue:
    """The promotion that is due, given what the gate answers to the move from the stage that the store gives.

    The gate answers for all cells of the action, with its own freshness, approvals, dismissals and overrides.
    """
    leading = [document for document in known.documents if document.stage == known.setting.stage]
    calls = [document for document in leading if document.verdict is VerdictName.PROMOTE]
    if answer.answer is not VerdictName.PROMOTE or any(call.to_stage != answer.to_stage for call in calls):
        return NotDue("gate_shut")
    if known.setting.emergency or known.setting.mode is None:
        return NotDue("emergency" if known.setting.emergency else "many_stages")
    if known.setting.denied:
        return NotDue("stopped")
    made = [one.applied for one in known.past if one.applied is not None]
    if any(one.verdict is VerdictName.ROLL_BACK and known.setting.attempt <= one.attempt for one in made):
        return NotDue("rolled_back")
    # One cell that was carried out before, or speaks of another attempt, stands for the action.
    against = [_against(document, known, gates) for document in calls]
    judging = [gate_of(gates, document.cell, document.risk_class) for document in leading]
    against += ["recommend_only" for gate in judging if gate is None or gate.on_promote == "recommend"]
    if not calls or any(against):
        return NotDue(next((code for code in against if code), "moved"))
    approvals = [signoff.signoff_id for signoff in answer.signoffs if signoff.kind is SignOffKind.APPROVAL]
    return DueChange(calls[0], MODE_OF_STAGE[Stage(answer.to_stage)], approvals[-1] if approvals else None)


def _against(document: VerdictDocument, known: Known, gates: GateFile) -> str | None:
    """Why a call cannot be carried out, whichever it is."""
    setting, gate = known.setting, gate_of(gates, document.cell, document.risk_class)
    if gate is None or gate.dry_run:
        return "recommend_only"
    done = Done(one for one in known.past if one.is_settled)
    newest = known.newest.get((*document.cell, document.epoch))
    reasons = {
        "stopped": setting.mode in STOPPED,
        "done": done.covers(call_key(document), recommendation_id(document)),
        "moved": document.stage not in stages_of(setting),
        "other_gate_content": document.gate_content_sha256 != gates.contents[gate.name],
        "other_attempt": newest is None or newest.attempt != setting.attempt,
    }
    return next((code for code, holds in reasons.items() if holds), None)


def _against_rollback(
    document: VerdictDocument, known: Known, gates: GateFile, crossings: Mapping[str, Crossing]
) -> str | None:
    gate = gate_of(gates, document.cell, document.risk_class)
    if gate is None or gate.on_roll_back != "apply":
        return "recommend_only"
    # Under a percentage the whole action goes back, for no part of it upwards; a part may be there already.
    to = _rank(document.to_stage)
    is_up = any(to > stage.rank for stage in stages_of(known.setting))
    if is_up or to >= Stage(document.stage).rank or not STOPPED.isdisjoint(modes_of(known.setting)):
        return "upwards"
    if any(signoff.kind is SignOffKind.OVERRIDE and is_about(signoff, document) for signoff in known.signoffs):
        return "overridden"
    shown = [crossings.get(recommendation_id(document))]
    if shown_harm(document):
        # It is shown again, by each heartbeat of the judge, and as fresh as what the cell itself has decided since.
        at, through = document.confirmed_at or document.judged_at, document.confirmed_through or document.watermark
        newest = known.newest.get((*document.cell, document.epoch))
        shown.append(None if newest is None else Crossing(at, min(through, newest.at)))
    if not any(look is not None and look.was_fresh(gates.freshness_s) for look in shown):
        return "stale_harm"
    return None


def _is_in_force(call: VerdictDocument, setting: StageSetting) -> bool:
    """Whether routers may still decide above the stage that a rollback leads to."""
    is_above = any(stage.rank > _rank(call.to_stage) for stage in stages_of(setting))
    return is_above and not setting.emergency and not setting.denied


def modes_of(setting: StageSetting) -> tuple[Mode, ...]:
    """The modes that a store may give an action; one where the action alone decides."""
    return setting.modes if setting.mode is None else (setting.mode,)


def stages_of(setting: StageSetting) -> frozenset[Stage]:
    """The stages that these modes put it at."""
    return frozenset(STAGE_OF_MODE[mode] for mode in modes_of(setting))


def call_key(document: VerdictDocument) -> tuple[str, ...]:
    """Cell, epoch, verdict and destination, as `EnactmentStep.key`."""
    return (*document.cell, document.epoch, document.verdict.value, document.to_stage or "")


def gate_of(gates: GateFile, cell: Cell, risk_class: str | None) -> Gate | None:
    """The gate that holds for a cell now; None also where two do."""
    try:
        return gates.gate_of(cell, risk_class)
    except GateTieError:
        return None


def _rank(stage: str | None) -> int:
    return len(Stage) if stage is None else Stage(stage).rank
