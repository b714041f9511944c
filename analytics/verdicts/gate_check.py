"""The gate's answer to a program: may this action move to that stage? Only an evident yes opens it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from analytics.gates.gate_file import GateTieError
from analytics.text import duration
from analytics.verdicts import messages
from analytics.verdicts.ledger import latest_verdicts
from analytics.verdicts.signoffs import NothingToRuleError, Ruling, RulingKind, binding, give, in_force
from producers.errors import StagekeeperError
from producers.wire.contract import RiskClass
from producers.wire.events import Reason, VerdictName
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from analytics.gates.gate_file import Gate, GateFile
    from analytics.lake.tables import Lake
    from analytics.verdicts.document import VerdictDocument

EXIT_CODES: Final[dict[VerdictName, int]] = {
    VerdictName.PROMOTE: 0,
    VerdictName.HOLD: 10,
    VerdictName.ROLL_BACK: 20,
    VerdictName.INVALID: 30,
}
"""What `stagekeeper gate check` exits with."""

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
    "error": "The answer could not be found; the message names the error.",
}
"""Reason codes that only the gate's answer has, beside those of the verdict itself."""


@dataclass(frozen=True, slots=True)
class GateAnswer:
    """What the gate says.

    Attributes:
        answer: PROMOTE opens it; nothing else does.
        verdict_id: The verdict that decided; None where there is none.
        reasons: Why.
        gate_sha256: Digest of the configured gate file; None where it cannot be read.
        lake_version: Version of the table `signals` behind the verdict.
        age_s: Seconds since the evidence behind the verdict was complete.
        from_stage: The stage whose evidence decided.
        to_stage: The stage that was asked for.
        rulings: What people ruled about it, where that counted.
    """

    answer: VerdictName
    reasons: tuple[Reason, ...]
    to_stage: str
    verdict_id: str | None = None
    gate_sha256: str | None = None
    lake_version: int | None = None
    age_s: float | None = None
    from_stage: str | None = None
    rulings: tuple[Ruling, ...] = ()

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
            "rulings": [ruling.to_dict() for ruling in self.rulings],
        }


def refusal(code: str, message: str, to_stage: str, *, gate_sha256: str | None = None) -> GateAnswer:
    """An answer that keeps the gate shut because there is nothing to open it with."""
    return GateAnswer(VerdictName.INVALID, (Reason(code=code, message=message),), to_stage, gate_sha256=gate_sha256)


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
    """Ask the ledger whether an action may move to a stage.

    The cells at the stage directly below must all promote to exactly this stage; a cell already at this stage shuts the
    gate when it rolled back or cannot be judged. The worst cell answers: ROLL_BACK, then INVALID, then HOLD. An
    override that is in force sets the verdicts aside that it is about, and a dismissal shuts the gate on the promotion
    that it is about, unless it was approved later; where the gate asks for it, approval comes last.

    Args:
        lake: The lake; None where there is none.
        gates: The gate file as configured now.
        environment: Of the action's target.
        workflow: Of the action.
        tool: Of the action.
        to_stage: Where it should go.
        now: The present moment.
        freshness_s: Seconds after which evidence opens nothing any more.
        cohort: One segment of the roll-out; None asks all of them.

    Raises:
        LakeError: The ledger cannot be read.
    """
    action, asked = (environment, workflow, tool), _Asked(to_stage, gates.sha256, now, freshness_s)
    try:
        spoken = _spoken(lake, gates, action, cohort=cohort, asked=asked)
        rulings = [] if lake is None else in_force(lake, now=now, action=action, to_stage=to_stage)
        answer = _worst([_set_aside(each, rulings) for each in spoken.answers])
        return _approved(answer, spoken, rulings)
    except _ShutError as shut:
        return refusal(shut.code, str(shut), to_stage, gate_sha256=gates.sha256)


class _ShutError(StagekeeperError):
    """There is nothing to open the gate with."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def rule(
    lake: Lake | None,
    gates: GateFile,
    kind: RulingKind,
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
) -> Ruling:
    """Record a person's ruling on a move: what promotes is approved or dismissed, what holds or rolls back overridden.

    It holds for the verdicts as they stand now: for their words, epochs and gate file. What nobody could judge
    (INVALID) cannot be set aside.

    Raises:
        NothingToRuleError: There is no such verdict in the way of this move.
        UnusableRulingError: It has no actor, no reason, or no future.
        LakeError: The ledger cannot be read or written.
    """
    asked = _Asked(to_stage, gates.sha256, now, freshness_s=float("inf"))
    wanted = {"HOLD", "ROLL_BACK"} if kind is RulingKind.OVERRIDE else {"PROMOTE"}
    try:
        spoken = _spoken(lake, gates, (environment, workflow, tool), cohort=cohort, asked=asked)
    except _ShutError as shut:
        raise NothingToRuleError(f"there is nothing to rule on: {shut}") from shut
    about = [verdict for verdict, _ in spoken.answers if verdict.verdict in wanted]
    if lake is None or not about:
        words = ", ".join(sorted({verdict.verdict for verdict, _ in spoken.answers}))
        raise NothingToRuleError(
            f"{kind.said} is about {' or '.join(sorted(wanted))}; the verdicts on this move say {words}"
        )
    judged_by = {verdict.gate_sha256[:12] for verdict in about}
    if gates.sha256[:12] not in judged_by:
        raise NothingToRuleError(
            f"the verdict on this move was reached under gate file {', '.join(sorted(judged_by))}, the one named is "
            f"{gates.sha256[:12]}: {kind.said} would open and shut nothing. Name that file, or wait until the worker "
            "has judged under this one"
        )
    return give(
        lake,
        kind,
        about,
        to_stage=to_stage,
        cohort=cohort,
        actor=actor,
        reason=reason,
        now=now,
        expires_at=expires_at,
    )


@dataclass(frozen=True, slots=True)
class _Spoken:
    """The cells that have a say, each with its verdict and its answer."""

    gate: Gate
    answers: list[tuple[VerdictDocument, GateAnswer]]
    leading: int


@dataclass(frozen=True, slots=True)
class _Asked:
    to_stage: str
    gate_sha256: str
    now: datetime
    freshness_s: float


def _spoken(
    lake: Lake | None, gates: GateFile, action: tuple[str, str, str], *, cohort: str | None, asked: _Asked
) -> _Spoken:
    """What each cell that has a say says; at least one does, and those directly below come first."""
    if lake is None:
        raise _ShutError("no_lake", "there is no lake yet; start the worker, or name another lake")
    verdicts = [
        verdict for verdict in latest_verdicts(lake, action=action) if cohort is None or verdict.cohort == cohort
    ]
    try:
        gate = gates.gate_for(*action, _risk_class(verdicts))
    except GateTieError as error:
        raise _ShutError("ambiguous_gate", str(error)) from error
    if gate is None:
        raise _ShutError("no_gate", messages.no_gate(*action))
    if asked.to_stage not in gate.ladder:
        raise _ShutError("not_on_ladder", messages.not_on_ladder(asked.to_stage, gate))
    below = gate.below(asked.to_stage)
    if below is None:
        raise _ShutError("nothing_below", f"{asked.to_stage} is the foot of the ladder of the gate `{gate.name}`")
    leading = [verdict for verdict in verdicts if verdict.stage == below]
    if not leading:
        raise _ShutError("no_verdict", _no_verdict(action, below, cohort, verdicts))
    there = [verdict for verdict in verdicts if verdict.stage == asked.to_stage and _is_against(verdict)]
    answers = [(verdict, _answer(verdict, gate, asked)) for verdict in leading]
    answers += [(verdict, _said(verdict, asked)) for verdict in there]
    return _Spoken(gate, answers, len(leading))


def _set_aside(spoken: tuple[VerdictDocument, GateAnswer], rulings: Sequence[Ruling]) -> GateAnswer:
    """An answer, opened by an override or shut by a dismissal that is about its verdict."""
    verdict, said = spoken
    if said.answer is VerdictName.PROMOTE:
        last = next((ruling for ruling in reversed(rulings) if binding(verdict) in ruling.about), None)
        if last is None or last.kind is not RulingKind.DISMISSAL:
            return said
        reason = Reason(code="dismissed", message=messages.ruled(last))
        return replace(said, answer=VerdictName.HOLD, reasons=(reason, *said.reasons), rulings=(last,))
    if said.answer not in {VerdictName.HOLD, VerdictName.ROLL_BACK}:
        return said
    for ruling in rulings:
        if ruling.kind is RulingKind.OVERRIDE and binding(verdict) in ruling.about:
            reason = Reason(code="overridden", message=messages.ruled(ruling))
            reasons = (reason, *said.reasons)
            return replace(said, answer=VerdictName.PROMOTE, reasons=reasons, rulings=(ruling,))
    return said


def _approved(answer: GateAnswer, spoken: _Spoken, rulings: Sequence[Ruling]) -> GateAnswer:
    """An answer that promotes, held until every promotion below is approved, where the gate asks for that."""
    if answer.answer is not VerdictName.PROMOTE or spoken.gate.approval != "required":
        return answer
    approvals = [ruling for ruling in rulings if ruling.kind is RulingKind.APPROVAL]
    used = []
    for verdict, _ in spoken.answers[: spoken.leading]:
        # What an override has opened, a person has looked at already.
        if verdict.verdict is not VerdictName.PROMOTE:
            continue
        found = next((ruling for ruling in approvals if binding(verdict) in ruling.about), None)
        if found is None:
            message = messages.approval_required(spoken.gate)
            held = Reason(code="approval_needed", message=message)
            return replace(answer, answer=VerdictName.HOLD, reasons=(held, *answer.reasons))
        used.append(found)
    told = tuple(Reason(code="approved", message=messages.ruled(ruling)) for ruling in dict.fromkeys(used))
    return replace(answer, reasons=(*told, *answer.reasons), rulings=(*answer.rulings, *dict.fromkeys(used)))


def _answer(verdict: VerdictDocument, gate: Gate, asked: _Asked) -> GateAnswer:
    """What one cell below says; what makes a verdict unusable counts before what it says, except for a rollback."""
    said = _said(verdict, asked)
    if said.answer is VerdictName.ROLL_BACK:
        return said
    code = message = None
    if verdict.gate_sha256 != asked.gate_sha256:
        code = "other_gate_file"
        message = (
            f"verdict {verdict.verdict_id} was reached under gate file {verdict.gate_sha256[:12]}, "
            f"configured is {asked.gate_sha256[:12]}; it opens nothing until the worker has judged under the new one"
        )
    elif said.age_s is None or said.age_s > asked.freshness_s:
        code = "stale_verdict"
        age = "unknown" if said.age_s is None else duration(said.age_s)
        message = f"the evidence is {age} old, at most {duration(asked.freshness_s)} are allowed"
    elif said.answer is VerdictName.PROMOTE and verdict.to_stage != asked.to_stage:
        code = "other_destination"
        message = f"the verdict promotes to {verdict.to_stage}, not to {asked.to_stage} (ladder of `{gate.name}`)"
    if code is None or message is None:
        return said
    return replace(said, answer=VerdictName.INVALID, reasons=(Reason(code=code, message=message), *said.reasons))


def _said(verdict: VerdictDocument, asked: _Asked) -> GateAnswer:
    # A worker that restarts judges old evidence anew: the older of the two moments is the verdict's age. A verdict that
    # every look since has found again is as fresh as the last of them; where nobody looks any more, it grows old.
    at, through = verdict.confirmed_at, verdict.confirmed_through
    age_s = None if at is None or through is None else max((asked.now - min(at, through)).total_seconds(), 0.0)
    return GateAnswer(
        verdict.verdict,
        verdict.reasons,
        asked.to_stage,
        verdict_id=verdict.verdict_id,
        gate_sha256=asked.gate_sha256,
        lake_version=verdict.lake_version,
        age_s=age_s,
        from_stage=verdict.stage,
    )


def _is_against(verdict: VerdictDocument) -> bool:
    """Whether a cell at the stage asked for speaks against it: rolled back, or its counts make no sense.

    That it went quiet does not: an action that is asked about is usually not there yet, or no longer.
    """
    stale = [reason.code for reason in verdict.reasons] == ["stale_evidence"]
    return verdict.verdict is VerdictName.ROLL_BACK or (verdict.verdict is VerdictName.INVALID and not stale)


def _worst(answers: Sequence[GateAnswer]) -> GateAnswer:
    severity = (VerdictName.PROMOTE, VerdictName.HOLD, VerdictName.INVALID, VerdictName.ROLL_BACK)
    found = max(answers, key=lambda answer: severity.index(answer.answer))
    # What people ruled is shown whoever answers.
    rulings = dict.fromkeys(ruling for answer in answers for ruling in answer.rulings)
    overridden = [answer for answer in answers if answer.rulings and answer is not found]
    if found.answer is not VerdictName.PROMOTE or not overridden:
        return replace(found, rulings=tuple(rulings))
    reasons = (*(answer.reasons[0] for answer in overridden), *found.reasons)
    return replace(found, reasons=reasons, rulings=tuple(rulings))


def _risk_class(verdicts: Sequence[VerdictDocument]) -> str | None:
    """The highest risk class that any cell of the action has shown."""
    known = [RiskClass(verdict.risk_class) for verdict in verdicts if verdict.risk_class is not None]
    return max(known, key=lambda risk_class: risk_class.rank).value if known else None


def _no_verdict(
    action: tuple[str, str, str], below: Stage, cohort: str | None, verdicts: Sequence[VerdictDocument]
) -> str:
    segment = "" if cohort is None else f" in cohort {cohort}"
    stages = sorted({Stage(verdict.stage) for verdict in verdicts}, key=lambda stage: stage.rank)
    known = f"verdicts exist at {', '.join(stages)}" if stages else "the action is unknown to the ledger"
    return f"no verdict on {'/'.join(action)}{segment} at {below}, the stage directly below; {known}"
