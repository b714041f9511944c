"""What follows from the evidence about one cell, always asked in the same order."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from analytics.evidence.sequential import crosses
from analytics.verdicts import messages
from analytics.verdicts.verdict import VerdictResult
from producers.wire.events import Reason, VerdictName
from producers.wire.stage import ROLLBACK_STAGE, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analytics.gates.gate_file import Gate
    from analytics.verdicts.document import SignalEvidence
    from analytics.verdicts.verdict import Latch, VerdictInputs

# What stands most in the way comes first: it is what a summary shows.
_BLOCK_ORDER: Final = ("over_limit", "below_minimum_exposure", "missing_data", "immature", "more_evidence_needed")
_FINAL: Final = frozenset({"top_of_ladder", "not_on_ladder"})
_WEIGHED: Final = frozenset({"guardrail", "promote"})

_Block = tuple[int, float, Reason]


def rollback_stage(stage: str) -> Stage:
    """Where a rollback sends an action from a stage."""
    return ROLLBACK_STAGE if Stage(stage).rank > ROLLBACK_STAGE.rank else Stage.OBSERVE_ONLY


def decide(case: VerdictInputs) -> VerdictResult:
    """Find what follows from a case.

    The order never changes: is the evidence usable, is there harm (of a guardrail, of all together, since a promotion),
    has something tripped, is the evidence fresh, was traffic split as declared, has enough been seen, is it mature, is
    everything shown safe. Harm comes before staleness because it does not expire: an action that was rolled back goes
    quiet, and must not look merely undecided for it. It comes before the split because an arm that loses its traffic
    is often one that is broken. A person's approval comes last, when the gate is asked.

    What is a dry run takes part in nothing; what would follow if it did is added.
    """
    if case.fault is not None or case.gate is None:
        return VerdictResult(
            VerdictName.INVALID, None, (Reason(code=case.fault_code, message=case.fault or "no gate"),)
        )
    is_dry = [evidence for evidence in case.signals if evidence.dry_run and evidence.state != "not_applicable"]
    if not case.gate.dry_run and not is_dry:
        return _with_earlier(case, _find(case, case.gate, case.signals))
    would = _find(case, case.gate, case.signals)
    live = tuple(evidence for evidence in case.signals if not evidence.dry_run)
    if case.gate.dry_run or not _deciding(live):
        would_be = messages.summary(would.verdict, would.to_stage, would.reasons)
        message = messages.dry_run(case.gate.name, would.verdict, would_be)
        found = VerdictResult(VerdictName.HOLD, None, (Reason(code="dry_run", message=message),))
    else:
        found = _with_earlier(case, _find(case, case.gate, live))
    return replace(found, would=would)


def _find(case: VerdictInputs, gate: Gate, signals: Sequence[SignalEvidence]) -> VerdictResult:
    if not _deciding(signals):
        return _invalid("no_signals", messages.no_signals(gate.name, case.cell.stage))
    latched = case.latches.get(VerdictName.ROLL_BACK)
    if harm := _harm(case, gate, signals):
        first = latched.verdict_id if latched else None
        promoted = case.latches.get(VerdictName.PROMOTE)
        if promoted is not None:
            harm = (*harm, Reason(code="regraded", message=messages.regraded(promoted.verdict_id)))
        harm = (*harm, *_split(case))
        return VerdictResult(VerdictName.ROLL_BACK, rollback_stage(case.cell.stage), harm, first)
    if latched is not None:
        return _stands(latched)
    if case.stale_s is not None:
        return _expiring(case, gate, _invalid("stale_evidence", messages.stale(case.stale_s)))
    found = _promotion(case, gate, signals)
    if doubt := _split(case):
        found = _hold(*doubt, *(found.reasons if found.verdict is VerdictName.HOLD else ()))
    return _expiring(case, gate, found)


def _split(case: VerdictInputs) -> tuple[Reason, ...]:
    """Why arms cannot be compared; nothing where they can, or no split is declared."""
    if case.split is None or not case.split.broken:
        return ()
    if case.split.state == "undeclared":
        return (Reason(code="undeclared_arm", message=messages.undeclared_arm(case.split)),)
    return (Reason(code="split_mismatch", message=messages.split_mismatch(case.split)),)


def _invalid(code: str, message: str) -> VerdictResult:
    return VerdictResult(VerdictName.INVALID, None, (Reason(code=code, message=message),))


def _deciding(signals: Sequence[SignalEvidence]) -> list[SignalEvidence]:
    """The signals that something can follow from at this stage."""
    return [part for part in signals if part.state != "not_applicable" and part.role != "watch"]


def _stands(latch: Latch) -> VerdictResult:
    reason = Reason(code="latched", message=messages.latched(latch.verdict, latch.verdict_id))
    return VerdictResult(latch.verdict, latch.to_stage, (reason,), latch.verdict_id)


def _harm(case: VerdictInputs, gate: Gate, signals: Sequence[SignalEvidence]) -> tuple[Reason, ...]:
    failing = [evidence for evidence in signals if evidence.state == "fail"]
    reasons = [
        Reason(code="harm", message=messages.harm(evidence), signal=evidence.signal)
        for evidence in failing
        if evidence.role == "guardrail"
    ]
    combined = case.log_e_combined
    if not reasons and combined is not None and crosses(combined, gate.alpha):
        message = messages.combined_harm(signals, combined, gate.alpha)
        reasons.append(Reason(code="combined_harm", message=message))
    reasons += [
        Reason(code="regression", message=messages.regression(evidence, evidence.regression), signal=evidence.signal)
        for evidence in signals
        if evidence.regression is not None and evidence.regression.since is not None
    ]
    reasons += [
        Reason(code="trip", message=messages.trip(evidence), signal=evidence.signal)
        for evidence in failing
        if evidence.role == "trip"
    ]
    return tuple(reasons)


def _promotion(case: VerdictInputs, gate: Gate, signals: Sequence[SignalEvidence]) -> VerdictResult:
    stage = case.cell.stage
    if stage not in gate.ladder:
        return _hold(Reason(code="not_on_ladder", message=messages.not_on_ladder(stage, gate)))
    above = gate.above(stage)
    if above is None:
        return _hold(Reason(code="top_of_ladder", message=messages.top_of_ladder(stage)))
    asked = [evidence for evidence in _deciding(signals) if evidence.role in _WEIGHED]
    if not asked:
        return _hold(Reason(code="no_promotion_signals", message=messages.no_promotion_signals(gate.name)))
    blocks = [*_exposure(case, gate), *(block for each in signals if (block := _block(each)) is not None)]
    safe = sorted((evidence for evidence in asked if evidence.state == "pass"), key=_room_left)
    if not blocks and not safe:
        # Every signal may do without data, and none has any: still nothing was shown.
        blocks = [_missing(evidence) for evidence in asked]
    latched = case.latches.get(VerdictName.PROMOTE)
    stands = latched is not None and latched.to_stage == above
    approval = (
        (Reason(code="approval_required", message=messages.approval_required(gate)),)
        if gate.approval == "required"
        else ()
    )
    if blocks and latched is not None and stands:
        found = _stands(latched)
        return replace(found, reasons=(*found.reasons, *approval))
    if blocks:
        return _hold(*(reason for *_, reason in sorted(blocks, key=lambda block: block[:2])))
    shown = tuple(Reason(code="shown_safe", message=messages.safe(part), signal=part.signal) for part in safe)
    first = latched.verdict_id if latched is not None and stands else None
    return VerdictResult(VerdictName.PROMOTE, above, (*shown, *approval), first)


def _expiring(case: VerdictInputs, gate: Gate, found: VerdictResult) -> VerdictResult:
    """A finding that leaves the action where it is, with a call for the owner once that has gone on for too long."""
    waits = found.verdict is not VerdictName.PROMOTE and not any(reason.code in _FINAL for reason in found.reasons)
    if gate.hold_expires is None or not waits or case.exposure.held_s <= gate.hold_expires:
        return found
    message = messages.hold_expired(case.exposure.held_s, gate.hold_expires, gate.owner or "nobody")
    return replace(found, reasons=(Reason(code="hold_expired", message=message), *found.reasons))


def _with_earlier(case: VerdictInputs, found: VerdictResult) -> VerdictResult:
    told = tuple(Reason(code="earlier_epoch_regraded", message=messages.earlier_epoch(each)) for each in case.regraded)
    return replace(found, reasons=(*found.reasons, *told))


def _hold(*reasons: Reason) -> VerdictResult:
    return VerdictResult(VerdictName.HOLD, None, reasons)


def _room_left(evidence: SignalEvidence) -> float:
    """Share of the limit that the upper bound leaves."""
    return 1.0 - evidence.upper / evidence.limit if evidence.upper is not None and evidence.limit else 1.0


def _exposure(case: VerdictInputs, gate: Gate) -> list[_Block]:
    seen, least = case.exposure, gate.minimum_exposure
    said = []
    if seen.actions < least.actions:
        said.append(messages.exposure(seen.actions, least.actions))
    if least.users and (seen.users or 0) < least.users:
        said.append(messages.few_users(seen, least.users))
    if seen.days < least.days:
        said.append(messages.few_days(seen.days, least.days))
    code = "below_minimum_exposure"
    return [(_BLOCK_ORDER.index(code), 0.0, Reason(code=code, message=message)) for message in said]


def _missing(evidence: SignalEvidence) -> _Block:
    reason = Reason(code="missing_data", message=messages.missing(evidence), signal=evidence.signal)
    return _BLOCK_ORDER.index("missing_data"), 0.0, reason


def _block(evidence: SignalEvidence) -> _Block | None:
    """Why a signal holds up a promotion, and what to sort it by; None where it does not."""
    if evidence.role not in _WEIGHED:
        return _missing(evidence) if evidence.needs_data and not evidence.trials else None
    if evidence.state in {"pass", "not_applicable"} or (evidence.state == "missing" and not evidence.needs_data):
        return None
    code, explained = {
        "missing": ("missing_data", messages.missing),
        "fail": ("over_limit", messages.over_limit),
    }.get(evidence.state, ("more_evidence_needed", messages.undecided))
    if evidence.state == "undecided" and not evidence.mature_trials:
        code, explained = "immature", messages.immature
    reason = Reason(code=code, message=explained(evidence), signal=evidence.signal)
    return _BLOCK_ORDER.index(code), -math.inf if evidence.more_needed is None else -evidence.more_needed, reason
