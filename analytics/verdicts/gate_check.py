"""The gate's answer to a program: may this action move to that stage? Only an evident yes opens it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from analytics.gates.gate_file import Gate, GateFile, GateTieError
from analytics.lake.chain import AlteredHistoryError
from analytics.text import duration
from analytics.verdicts import messages
from analytics.verdicts.heartbeats import evidence_age_s
from analytics.verdicts.history_check import check_history
from analytics.verdicts.ledger import latest_verdicts
from analytics.verdicts.signoffs import (
    NothingToSignOffError,
    SignOff,
    SignOffKind,
    in_force,
    is_about,
    record,
    shown_harm,
    signed_off,
)
from producers.errors import StagekeeperError
from producers.wire.contract import RiskClass
from producers.wire.events import Reason, VerdictName
from producers.wire.stage import LADDER, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from analytics.lake.tables import Lake
    from analytics.verdicts.document import VerdictDocument

EXIT_CODES: Final[dict[VerdictName, int]] = {
    VerdictName.PROMOTE: 0,
    VerdictName.HOLD: 10,
    VerdictName.ROLL_BACK: 20,
    VerdictName.INVALID: 30,
}
"""What `stagekeeper gate check` exits with."""

_QUIET: Final = frozenset({"stale_evidence", "set_aside", "late_outcomes"})  # reasons of a cell that merely went quiet
_LONGEST: Final = 4_000  # characters of a reason's sentence

REASON_CODES: Final[dict[str, str]] = {
    "no_lake": "There is no lake yet at the configured root.",
    "no_verdict": "No cell of the action has been judged at the stage directly below.",
    "stale_verdict": "The last look at the verdict, or the evidence behind it, is older than the freshness limit.",
    "other_gate_file": "The verdict was reached under another gate file than the one configured now.",
    "nothing_below": "The stage is the foot of the ladder, so no evidence leads to it.",
    "other_destination": "The verdict promotes, but to another stage.",
    "overridden": "A person has set a verdict aside, until the override expires.",
    "approved": "A person has approved the promotion, until the approval expires.",
    "dismissed": "A person has dismissed the promotion, until the dismissal expires.",
    "approval_needed": "The evidence suffices, and the gate file wants a person's approval.",
    "altered_history": "The lake is not the one that was judged: a row, a file or the end of the ledger was changed.",
    "error": "The answer could not be found; the message names the error.",
}
"""Reason codes that only the gate's answer has, beside those of the verdict itself."""


@dataclass(frozen=True, slots=True)
class GateAnswer:
    """What the gate says."""

    answer: VerdictName  # PROMOTE opens it; nothing else does
    reasons: tuple[Reason, ...]  # why
    to_stage: str  # the stage that was asked for
    verdict_id: str | None = None  # the verdict that decided; None where there is none
    gate_sha256: str | None = None  # digest of the configured gate file; None where it cannot be read
    lake_version: int | None = None  # version of the table `signals` behind the verdict
    age_s: float | None = None  # seconds since the evidence behind the verdict was complete
    from_stage: str | None = None  # the stage whose evidence decided
    signoffs: tuple[SignOff, ...] = ()  # the sign-offs that counted
    unit: str | None = None  # what one observation is, and what that takes for granted; None without a verdict

    @property
    def exit_code(self) -> int:
        """0 promote, 10 hold, 20 roll back, 30 anything else."""
        return EXIT_CODES[self.answer]

    def to_dict(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        return {
            "answer": self.answer.value,
            "exit_code": self.exit_code,
            "verdict_id": self.verdict_id,
            "reasons": [reason.model_dump() for reason in self.reasons],
            "gate_sha256": self.gate_sha256,
            "lake_version": self.lake_version,
            "age_s": self.age_s,
            "from_stage": self.from_stage,
            "to_stage": self.to_stage,
            "unit": self.unit,
            "signoffs": [signoff.to_dict() for signoff in self.signoffs],
        }


def refusal(code: str, message: str, to_stage: str, *, gate_sha256: str | None = None) -> GateAnswer:
    """An answer that keeps the gate shut because there is nothing to open it with."""
    # However long the sentence of an error is, the answer has room for it: the gate stays shut in any case.
    reason = Reason(code=code, message=message if len(message) <= _LONGEST else f"{message[: _LONGEST - 1]}…")
    return GateAnswer(VerdictName.INVALID, (reason,), to_stage, gate_sha256=gate_sha256)


def gate_check(
    lake: Lake | None,
    gates: GateFile,
    *,
    environment: str,
    workflow: str,
    tool: str,
    to_stage: str,
    now: datetime,
    freshness_s: float,
    cohort: str | None = None,
) -> GateAnswer:
    """Ask the ledger whether an action may move to a stage. Raises `LakeError` where it cannot be read.

    The cells at the stage directly below must all promote to exactly this stage; a cell already at this stage shuts the
    gate when it rolled back or cannot be judged. The worst cell answers: ROLL_BACK, then INVALID, then HOLD. An
    override that is in force sets the verdicts aside that it is about, and a dismissal shuts the gate on the promotion
    that it is about, unless it was approved later; where the gate asks for it, approval comes last. Evidence that is
    older than `freshness_s`, or than the gate file's limit, opens nothing, nor does a history that was altered. No
    cohort asks all of them.
    """
    narrowed_s = min(gates.freshness_s, freshness_s)  # whoever asks may want fresher evidence, never older
    move = _Move((environment, workflow, tool), to_stage, cohort, gates.sha256, now, narrowed_s)
    try:
        cells = _cells(lake, gates, move)
        signoffs = [] if lake is None else in_force(lake, now=now, action=move.action, to_stage=to_stage)
        answer = _worst([_set_aside(document, answer, signoffs, move) for document, answer in cells.answers])
        answer = _approved(answer, cells, signoffs)
        if answer.answer is VerdictName.PROMOTE and lake is not None:
            check_history(lake, [document for document, _ in cells.answers])
    except _ShutError as shut:
        return refusal(shut.code, str(shut), to_stage, gate_sha256=gates.sha256)
    except AlteredHistoryError as error:
        return refusal("altered_history", str(error), to_stage, gate_sha256=gates.sha256)
    return answer


class _ShutError(StagekeeperError):
    """There is nothing to open the gate with."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def sign_off(
    lake: Lake | None,
    gates: GateFile,
    kind: SignOffKind,
    *,
    environment: str,
    workflow: str,
    tool: str,
    to_stage: str,
    actor: str,
    reason: str,
    now: datetime,
    expires_at: datetime,
    cohort: str | None = None,
) -> SignOff:
    """Record a decision on a move: what promotes is approved or dismissed, what holds or rolls back is overridden.

    It holds for the verdicts as they stand now: for the verdict itself, its epoch and its gate's content. What nobody
    could judge (INVALID) cannot be set aside.

    Raises:
        NothingToSignOffError: There is no such verdict in the way of this move.
        UnusableSignOffError: It has no actor, no reason, or no future.
        LakeError: The ledger cannot be read or written.
    """
    move = _Move((environment, workflow, tool), to_stage, cohort, gates.sha256, now, freshness_s=float("inf"))
    wanted = {"HOLD", "ROLL_BACK"} if kind is SignOffKind.OVERRIDE else {"PROMOTE"}
    try:
        cells = _cells(lake, gates, move)
    except _ShutError as shut:
        raise NothingToSignOffError(f"there is nothing to sign off: {shut}") from shut
    about = [document for document, _ in cells.answers if document.verdict in wanted]
    if kind is SignOffKind.OVERRIDE and (harm := [reason for document in about for reason in shown_harm(document)]):
        raise NothingToSignOffError(
            f"the evidence shows harm, and an override opens nothing on it: {'; '.join(harm)}. Mend it and let a new "
            "version show that it is safe: that begins a new epoch"
        )
    if lake is None or not about:
        stated = ", ".join(sorted({document.verdict for document, _ in cells.answers}))
        raise NothingToSignOffError(
            f"{kind.with_article} is about {' or '.join(sorted(wanted))}; the verdicts on this move say {stated}"
        )
    judged_by = {document.gate_sha256[:12] for document in about}
    if gates.sha256[:12] not in judged_by:
        raise NothingToSignOffError(
            f"the verdict on this move was reached under gate file {', '.join(sorted(judged_by))}, the one named is "
            f"{gates.sha256[:12]}: {kind.with_article} would open and shut nothing. Name that file, or wait until the "
            "worker has judged under this one"
        )
    return record(
        lake, kind, about, to_stage=to_stage, cohort=cohort, actor=actor, reason=reason, now=now, expires_at=expires_at
    )


@dataclass(frozen=True, slots=True)
class _Move:
    """Where an action should go, and under what the answer counts."""

    action: tuple[str, str, str]
    to_stage: str
    cohort: str | None
    gate_sha256: str
    now: datetime
    freshness_s: float


@dataclass(frozen=True, slots=True)
class _CellAnswers:
    """The cells that count, each with its verdict and answer; those directly below come first."""

    answers: list[tuple[VerdictDocument, GateAnswer]]
    leading: list[Gate]  # the gates of those directly below


def _cells(lake: Lake | None, gates: GateFile, move: _Move) -> _CellAnswers:
    """The answer of each cell that counts; there is at least one."""
    if lake is None:
        raise _ShutError("no_lake", "there is no lake yet; start the worker, or name another lake")
    verdicts = [
        document
        for document in latest_verdicts(lake, actions=[move.action])
        if move.cohort is None or document.cohort == move.cohort
    ]
    risk_class = _risk_class(verdicts)
    try:
        judged = [(document, gates.gate_of(document.cell, risk_class)) for document in verdicts]
        leading = [
            (document, gate) for document, gate in judged if gate and gate.above(document.stage) == move.to_stage
        ]
        if not leading:
            raise _nothing_below(gates, move, risk_class, judged)
    except GateTieError as error:
        raise _ShutError("ambiguous_gate", str(error)) from error
    below = {document.stage for document, _ in leading}
    if any(gate is None and document.stage in below for document, gate in judged):
        raise _ShutError("no_gate", messages.no_gate(*move.action))
    answers = [(document, _answer_below(document, gate, move)) for document, gate in leading]
    answers += [
        (document, _answer_of(document, move))
        for document in verdicts
        if document.stage == move.to_stage and _is_against(document)
    ]
    return _CellAnswers(answers, [gate for _, gate in leading])


def _nothing_below(
    gates: GateFile, move: _Move, risk_class: str | None, judged: Sequence[tuple[VerdictDocument, Gate | None]]
) -> _ShutError:
    """Why no verdict is on a cell from which the move leads."""
    segments = (gates.gate_for(*move.action, risk_class, stage=stage, cohort=move.cohort) for stage in (None, *LADDER))
    possible = [gate for gate in (*(gate for _, gate in judged), *segments) if gate is not None]
    if not possible:
        return _ShutError("no_gate", messages.no_gate(*move.action))
    gate = next((gate for gate in possible if move.to_stage in gate.ladder), possible[0])
    if move.to_stage not in gate.ladder:
        return _ShutError("not_on_ladder", messages.not_on_ladder(move.to_stage, gate))
    below = gate.below(move.to_stage)
    if below is None:
        return _ShutError("nothing_below", f"{move.to_stage} is the foot of the ladder of the gate `{gate.name}`")
    return _ShutError("no_verdict", _no_verdict(move, below, [document for document, _ in judged]))


def _set_aside(document: VerdictDocument, answer: GateAnswer, signoffs: Sequence[SignOff], move: _Move) -> GateAnswer:
    """An answer, opened by an override or shut by a dismissal that is about its verdict."""
    about = [signoff for signoff in signoffs if is_about(signoff, document)]
    if answer.answer is VerdictName.PROMOTE:
        if not about or about[-1].kind is not SignOffKind.DISMISSAL:
            return answer
        return _decided_by(about[-1], answer, VerdictName.HOLD, "dismissed")
    if answer.answer is VerdictName.ROLL_BACK:
        return answer  # an override opens nothing on harm: the judge goes by it, and says what the evidence says then
    override = next((signoff for signoff in about if signoff.kind is SignOffKind.OVERRIDE), None)
    stays_shut = answer.answer is VerdictName.INVALID and not _went_quiet(document, answer, move)
    if override is None or stays_shut:
        return answer
    return _decided_by(override, answer, VerdictName.PROMOTE, "overridden")


def _went_quiet(document: VerdictDocument, answer: GateAnswer, move: _Move) -> bool:
    """Whether a cell cannot be judged only because nothing came since the rollback that an override sets aside.

    Somebody must still look at it: what nobody judges any more may have done harm since.
    """
    looked_at, codes = document.confirmed_at, {reason.code for reason in answer.reasons}
    is_watched = looked_at is not None and (move.now - looked_at).total_seconds() <= move.freshness_s
    return document.set_aside is not None and is_watched and codes <= {"stale_verdict", *_QUIET}


def _decided_by(signoff: SignOff, answer: GateAnswer, verdict: VerdictName, code: str) -> GateAnswer:
    reason = Reason(code=code, message=signed_off(signoff))
    return replace(answer, answer=verdict, reasons=(reason, *answer.reasons), signoffs=(signoff,))


def _approved(answer: GateAnswer, cells: _CellAnswers, signoffs: Sequence[SignOff]) -> GateAnswer:
    """An answer that promotes, held until every promotion below is approved, where the gate asks for that."""
    if answer.answer is not VerdictName.PROMOTE:
        return answer
    approvals = [signoff for signoff in signoffs if signoff.kind is SignOffKind.APPROVAL]
    used = []
    for (document, _), gate in zip(cells.answers, cells.leading, strict=False):
        # What an override has opened, a person has looked at already.
        if gate.on_promote != "ask" or document.verdict is not VerdictName.PROMOTE:
            continue
        approval = next((signoff for signoff in approvals if is_about(signoff, document)), None)
        if approval is None:
            held = Reason(code="approval_needed", message=messages.approval_required(gate))
            return replace(answer, answer=VerdictName.HOLD, reasons=(held, *answer.reasons))
        used.append(approval)
    given = tuple(dict.fromkeys(used))
    reasons = tuple(Reason(code="approved", message=signed_off(signoff)) for signoff in given)
    return replace(answer, reasons=(*reasons, *answer.reasons), signoffs=(*answer.signoffs, *given))


def _answer_below(document: VerdictDocument, gate: Gate, move: _Move) -> GateAnswer:
    """The answer of a cell below; what makes a verdict unusable counts before what it says, except for a rollback."""
    answer = _answer_of(document, move)
    if answer.answer is VerdictName.ROLL_BACK:
        return answer
    if document.gate_sha256 != move.gate_sha256:
        code = "other_gate_file"
        message = (
            f"verdict {document.verdict_id} was reached under gate file {document.gate_sha256[:12]}, "
            f"configured is {move.gate_sha256[:12]}; it opens nothing until the worker has judged under the new one"
        )
    elif answer.age_s is None or answer.age_s > move.freshness_s:
        code = "stale_verdict"
        age = "unknown" if answer.age_s is None else duration(answer.age_s)
        message = f"the evidence is {age} old, at most {duration(move.freshness_s)} are allowed"
    elif answer.answer is VerdictName.PROMOTE and document.to_stage != move.to_stage:
        code = "other_destination"
        message = f"the verdict promotes to {document.to_stage}, not to {move.to_stage} (ladder of `{gate.name}`)"
    else:
        return answer
    return replace(answer, answer=VerdictName.INVALID, reasons=(Reason(code=code, message=message), *answer.reasons))


def _answer_of(document: VerdictDocument, move: _Move) -> GateAnswer:
    # A worker that restarts judges old evidence anew: the older of the two moments is the verdict's age. A verdict that
    # every heartbeat since has confirmed is as fresh as the last of them; where nobody judges any more, it grows old.
    at, through = document.confirmed_at, document.confirmed_through
    return GateAnswer(
        document.verdict,
        document.reasons,
        move.to_stage,
        verdict_id=document.verdict_id,
        gate_sha256=move.gate_sha256,
        lake_version=document.lake_version,
        age_s=None if at is None or through is None else evidence_age_s(at, through, move.now),
        from_stage=document.stage,
        unit=document.unit or None,
    )


def _is_against(document: VerdictDocument) -> bool:
    """Whether a cell at the stage asked for speaks against it: rolled back, or its counts make no sense.

    That it went quiet does not: an action that is asked about is usually not there yet, or no longer.
    """
    stale = {reason.code for reason in document.reasons} <= _QUIET
    return document.verdict is VerdictName.ROLL_BACK or (document.verdict is VerdictName.INVALID and not stale)


def _worst(answers: Sequence[GateAnswer]) -> GateAnswer:
    severity = (VerdictName.PROMOTE, VerdictName.HOLD, VerdictName.INVALID, VerdictName.ROLL_BACK)
    worst = max(answers, key=lambda answer: severity.index(answer.answer))
    # Sign-offs are shown whichever cell answers.
    signoffs = tuple(dict.fromkeys(signoff for answer in answers for signoff in answer.signoffs))
    overridden = [answer for answer in answers if answer.signoffs and answer is not worst]
    if worst.answer is not VerdictName.PROMOTE or not overridden:
        return replace(worst, signoffs=signoffs)
    return replace(worst, reasons=(*(answer.reasons[0] for answer in overridden), *worst.reasons), signoffs=signoffs)


def _risk_class(verdicts: Sequence[VerdictDocument]) -> str | None:
    shown = [RiskClass(document.risk_class) for document in verdicts if document.risk_class is not None]
    return max(shown, key=lambda risk_class: risk_class.rank).value if shown else None


def _no_verdict(move: _Move, below: Stage, verdicts: Sequence[VerdictDocument]) -> str:
    segment = "" if move.cohort is None else f" in cohort {move.cohort}"
    stages = sorted({Stage(document.stage) for document in verdicts}, key=lambda stage: stage.rank)
    judged = f"verdicts exist at {', '.join(stages)}" if stages else "the action is unknown to the ledger"
    return f"no verdict on {'/'.join(move.action)}{segment} at {below}, the stage directly below; {judged}"
