"""A verdict: what follows from the evidence about one cell, always asked in the same order."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from analytics.verdicts import explain
from producers.wire.events import Reason, VerdictName
from producers.wire.stage import ROLLBACK_STAGE, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from analytics.verdicts.gates import Gate
    from analytics.verdicts.gatesignals import Role
    from producers.wire.receipt import Cell

State = Literal["pass", "fail", "undecided", "missing", "not_applicable"]
Unit = Literal["ratio", "ms", "usd", "count"]

REASON_CODES: Final[dict[str, str]] = {
    "no_gate": "No gate matches the action.",
    "ambiguous_gate": "Two gates match the action equally well.",
    "no_signals": "The gate decides nothing at this stage: it has no signals there, or only watched ones.",
    "contradictory_counts": "Counters contradict each other, for example more failures than executions.",
    "stale_evidence": "The newest evidence is older than the gate file's `freshness`.",
    "harm": "A guardrail's rate is evidently above its limit.",
    "combined_harm": "The guardrails together are evidently broken, although no single one is.",
    "trip": "A count that trips is over its maximum.",
    "latched": "An earlier look at the same epoch under the same gate file decided, and that stands.",
    "below_minimum_exposure": "Fewer actions were decided than the gate asks for.",
    "missing_data": "A signal that must be shown safe has no trials.",
    "over_limit": "A promotion signal is evidently above its limit.",
    "more_evidence_needed": "A signal is not yet shown to be within its limit.",
    "no_promotion_signals": "The gate has only tripping signals at this stage, so nothing can show the action safe.",
    "not_on_ladder": "The stage is not on the gate's ladder.",
    "top_of_ladder": "There is no higher stage.",
    "shown_safe": "A signal is evidently within its limit.",
}
"""Every reason code and what it means."""

# What stands most in the way comes first: it is what a summary shows.
_BLOCK_ORDER: Final = ("over_limit", "below_minimum_exposure", "missing_data", "more_evidence_needed")


@dataclass(frozen=True, slots=True)
class SignalEvidence:
    """What one signal of the gate says about a cell. Evidence and thresholds are natural logarithms.

    Attributes:
        signal: Name of the signal.
        role: Its role in the gate.
        state: `fail` where harm is evident, `pass` where safety is, `missing` without trials, `not_applicable` where
            nothing is asked of it.
        value: The rate, quantile or count as measured, in `unit`; None where nothing is known.
        failures: Failed trials; for a quantile, observations above the limit.
        trials: Trials; for a quantile, known observations.
        limit: The limit in force, in `unit`; a quantile's is moved to the nearest bound of its histogram.
        unit: Unit of `value`, `limit`, `lower` and `upper`.
        lower: Lower confidence bound at the error level that `harm_threshold` stands for; None where there is none.
        upper: Upper confidence bound at the error level that `safe_threshold` stands for; None where there is none.
        log_e_harm: Evidence that the limit is broken.
        log_e_safe: Evidence that the limit is kept.
        harm_threshold: How much `log_e_harm` shows harm by this signal alone.
        safe_threshold: How much `log_e_safe` shows safety.
        more_needed: More trials until safety is shown at the present rate; 0 where it is shown, None where this rate
            never shows it or nothing is asked.
        weight: A guardrail's share of alpha; None for other roles.
    """

    signal: str
    role: Role
    state: State
    value: float | None
    failures: int
    trials: int
    limit: float | None
    unit: Unit
    lower: float | None = None
    upper: float | None = None
    log_e_harm: float | None = None
    log_e_safe: float | None = None
    harm_threshold: float | None = None
    safe_threshold: float | None = None
    more_needed: int | None = None
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Latch:
    """A verdict that an earlier look reached and that stands.

    Attributes:
        verdict: PROMOTE or ROLL_BACK.
        to_stage: Where it sends the action.
        verdict_id: The verdict that crossed first.
    """

    verdict: VerdictName
    to_stage: str | None
    verdict_id: str


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that a verdict on one cell follows from.

    Attributes:
        cell: The cell.
        epoch: Its current epoch.
        risk_class: Highest risk class seen; None where unknown.
        gate: The gate that matches; None where none does, or two do.
        fault: Why no gate can be named, or which counters contradict each other; None where all is well.
        fault_code: The reason code of `fault`.
        signals: What each signal of the gate says.
        combined_harm: Whether the weighted guardrails together show harm.
        log_e_combined: Their combined evidence, a natural logarithm.
        actions: Decisions in the epoch.
        stale_s: Seconds between the cell's newest event and the watermark where that is too long; None otherwise.
        latches: Verdicts that earlier looks at this epoch under this gate file reached.
        evidence: Every number that was counted, by name: what `signals` were read from, and what was not used.
    """

    cell: Cell
    epoch: str
    risk_class: str | None
    gate: Gate | None
    fault: str | None
    fault_code: str
    signals: tuple[SignalEvidence, ...]
    combined_harm: bool
    log_e_combined: float | None
    actions: int
    stale_s: float | None
    latches: Mapping[VerdictName, Latch]
    evidence: Mapping[str, object]

    @property
    def evidence_sha256(self) -> str:
        """Digest of every number that was counted about the epoch, whether or not a signal used it."""
        return hashlib.sha256(json.dumps(self.evidence, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Finding:
    """What follows from a case: the verdict, where the action goes, and why."""

    verdict: VerdictName
    to_stage: str | None
    reasons: tuple[Reason, ...]
    latched_by: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A finding with everything that is needed to reach it again.

    Attributes:
        case: What it follows from.
        finding: What follows.
        gate_sha256: Digest of the gate file.
        lake_version: Version of the table `signals`.
        watermark: Newest event time that was known.
        judged_at: When it was computed; has no part in the verdict.
    """

    case: Case
    finding: Finding
    gate_sha256: str
    lake_version: int
    watermark: datetime
    judged_at: datetime

    @property
    def verdict_id(self) -> str:
        """Sixteen hexadecimal digits over what the verdict is a function of."""
        basis = [*self.case.cell, self.case.epoch, self.lake_version, self.gate_sha256, self.watermark.isoformat()]
        return hashlib.sha256(json.dumps(basis, ensure_ascii=False).encode()).hexdigest()[:16]

    @property
    def outline(self) -> tuple[str, str | None, tuple[str, ...]]:
        """The part whose change is news: verdict, destination and reason codes."""
        return self.finding.verdict.value, self.finding.to_stage, outline_codes(self.finding.reasons)

    def document(self) -> dict[str, Any]:
        """The verdict as published in the ledger and by every command, of JSON types alone."""
        minimum = self.case.gate.minimum_exposure.actions if self.case.gate else 0
        return {
            **self.case.cell._asdict(),
            "epoch": self.case.epoch,
            "risk_class": self.case.risk_class,
            "verdict_id": self.verdict_id,
            "verdict": self.finding.verdict.value,
            "to_stage": self.finding.to_stage,
            "summary": explain.summary(self.finding.verdict, self.finding.to_stage, self.finding.reasons),
            "reasons": [reason.model_dump() for reason in self.finding.reasons],
            "signals": [asdict(evidence) for evidence in self.case.signals],
            "gate": self.case.gate.name if self.case.gate else None,
            "gate_sha256": self.gate_sha256,
            "lake_version": self.lake_version,
            "evidence_sha256": self.case.evidence_sha256,
            "watermark": explain.iso(self.watermark),
            "judged_at": explain.iso(self.judged_at),
            "latched_by": self.finding.latched_by,
            "exposure": {"actions": self.case.actions, "minimum": minimum},
        }


def outline_codes(reasons: Sequence[Reason]) -> tuple[str, ...]:
    """The reason codes with their signals, in a fixed order."""
    return tuple(sorted(f"{reason.code}:{reason.signal or ''}" for reason in reasons))


def rollback_stage(stage: str) -> Stage:
    """Where a rollback sends an action from a stage."""
    return ROLLBACK_STAGE if Stage(stage).rank > ROLLBACK_STAGE.rank else Stage.OBSERVE_ONLY


def decide(case: Case) -> Finding:
    """Find what follows from a case.

    The order never changes: is the evidence usable, is there harm, has something tripped, is the evidence fresh, has
    enough been seen, is everything shown safe. Harm comes before staleness because it does not expire: an action that
    was rolled back goes quiet, and must not look merely undecided for it.
    """
    if case.fault is not None or case.gate is None:
        return Finding(VerdictName.INVALID, None, (Reason(code=case.fault_code, message=case.fault or "no gate"),))
    if not _deciding(case):
        message = explain.no_signals(case.gate.name, case.cell.stage)
        return Finding(VerdictName.INVALID, None, (Reason(code="no_signals", message=message),))
    latched = case.latches.get(VerdictName.ROLL_BACK)
    if harm := _harm(case):
        first = latched.verdict_id if latched else None
        return Finding(VerdictName.ROLL_BACK, rollback_stage(case.cell.stage), harm, first)
    if latched is not None:
        return _stands(latched)
    if case.stale_s is not None:
        return Finding(VerdictName.INVALID, None, (Reason(code="stale_evidence", message=explain.stale(case.stale_s)),))
    return _promotion(case, case.gate)


def _deciding(case: Case) -> list[SignalEvidence]:
    """The signals that something can follow from at this stage."""
    return [part for part in case.signals if part.state != "not_applicable" and part.role != "watch"]


def _stands(latch: Latch, *more: Reason) -> Finding:
    reason = Reason(code="latched", message=explain.latched(latch.verdict, latch.verdict_id))
    return Finding(latch.verdict, latch.to_stage, (*more, reason), latch.verdict_id)


def _harm(case: Case) -> tuple[Reason, ...]:
    failing = [evidence for evidence in case.signals if evidence.state == "fail"]
    reasons = [
        Reason(code="harm", message=explain.harm(evidence), signal=evidence.signal)
        for evidence in failing
        if evidence.role == "guardrail"
    ]
    if case.combined_harm and not reasons and case.gate is not None and case.log_e_combined is not None:
        message = explain.combined_harm(case.signals, case.log_e_combined, case.gate.alpha)
        reasons.append(Reason(code="combined_harm", message=message))
    reasons += [
        Reason(code="trip", message=explain.trip(evidence), signal=evidence.signal)
        for evidence in failing
        if evidence.role == "trip"
    ]
    return tuple(reasons)


def _promotion(case: Case, gate: Gate) -> Finding:
    stage = case.cell.stage
    if stage not in gate.ladder:
        return _hold(Reason(code="not_on_ladder", message=explain.not_on_ladder(stage, gate)))
    above = gate.above(stage)
    if above is None:
        return _hold(Reason(code="top_of_ladder", message=explain.top_of_ladder(stage)))
    asked = [evidence for evidence in _deciding(case) if evidence.role != "trip"]
    if not asked:
        return _hold(Reason(code="no_promotion_signals", message=explain.no_promotion_signals(gate.name)))
    blocks = [block for evidence in asked if (block := _block(evidence)) is not None]
    minimum = gate.minimum_exposure.actions
    if case.actions < minimum:
        blocks.append((_BLOCK_ORDER.index("below_minimum_exposure"), 0.0, _exposure(case.actions, minimum)))
    latched = case.latches.get(VerdictName.PROMOTE)
    stands = latched is not None and latched.to_stage == above
    if blocks and latched is not None and stands:
        return _stands(latched)
    if blocks:
        return _hold(*(reason for *_, reason in sorted(blocks, key=lambda block: block[:2])))
    tightest_first = sorted(asked, key=_room_left)
    safe = tuple(Reason(code="shown_safe", message=explain.safe(part), signal=part.signal) for part in tightest_first)
    return Finding(VerdictName.PROMOTE, above, safe, latched.verdict_id if latched is not None and stands else None)


def _hold(*reasons: Reason) -> Finding:
    return Finding(VerdictName.HOLD, None, reasons)


def _room_left(evidence: SignalEvidence) -> float:
    """Share of the limit that the upper bound leaves."""
    return 1.0 - evidence.upper / evidence.limit if evidence.upper is not None and evidence.limit else 1.0


def _exposure(actions: int, minimum: int) -> Reason:
    return Reason(code="below_minimum_exposure", message=explain.exposure(actions, minimum))


def _block(evidence: SignalEvidence) -> tuple[int, float, Reason] | None:
    """Why a signal that must be shown safe is not, and what to sort it by; None where it is."""
    if evidence.state == "pass":
        return None
    code, explained = {
        "missing": ("missing_data", explain.missing),
        "fail": ("over_limit", explain.over_limit),
    }.get(evidence.state, ("more_evidence_needed", explain.undecided))
    reason = Reason(code=code, message=explained(evidence), signal=evidence.signal)
    return _BLOCK_ORDER.index(code), -math.inf if evidence.more_needed is None else -evidence.more_needed, reason
