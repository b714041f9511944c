"""A verdict: what follows from the evidence about one cell, always asked in the same order."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal

from analytics import text
from analytics.evidence.clustered_rate import ASSUMPTIONS
from analytics.evidence.sample_ratio import ALPHA
from analytics.verdicts import messages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from analytics.gates.gate_file import Gate
    from analytics.gates.gate_signal import CountBy, Role
    from analytics.text import Unit
    from producers.wire.events import Reason, VerdictName
    from producers.wire.receipt import Cell

REASSESSED: Final = "r"
"""First letter of the id of a verdict on an epoch that is over; those of all others are hexadecimal."""

State = Literal["pass", "fail", "undecided", "missing", "not_applicable"]

SplitState = Literal["as_declared", "mismatch", "undeclared"]
THRESHOLD: Final = -math.log(ALPHA)
"""Evidence (a natural logarithm) that a mismatch takes."""

REASON_CODES: Final[dict[str, str]] = {
    "no_gate": "No gate matches the action.",
    "ambiguous_gate": "Two gates match the action equally well.",
    "no_signals": "The gate decides nothing at this stage: it has no signals there, or only watched ones.",
    "contradictory_counts": "Counters contradict each other, for example more failures than executions.",
    "stale_evidence": "The newest evidence is older than the gate file's `freshness`.",
    "harm": "A guardrail's rate is evidently above its limit.",
    "combined_harm": "The guardrails together are evidently broken, although no single one is.",
    "regression": "Since its promotion a guardrail's rate has risen above its limit.",
    "trip": "A count that trips is over its maximum.",
    "regraded": "The epoch had been promoted; what came later says otherwise.",
    "latched": "An earlier look at the same epoch under the same gate file decided, and that stands.",
    "hold_expired": "The epoch has been held for longer than `hold_expires`: the owner must decide.",
    "split_mismatch": "Traffic was not split as the gate declares, so nothing that compares the arms can be believed.",
    "undeclared_arm": "The gate declares how traffic is split, and the cell's cohort has no share in it.",
    "below_minimum_exposure": "Fewer actions, users or days were seen than the gate asks for.",
    "missing_data": "A signal that must be shown safe has no trials.",
    "over_limit": "A promotion signal is evidently above its limit.",
    "immature": "No outcome of a signal is old enough to count for a promotion.",
    "more_evidence_needed": "A signal is not yet shown to be within its limit.",
    "no_promotion_signals": "The gate has only tripping signals at this stage, so nothing can show the action safe.",
    "not_on_ladder": "The stage is not on the gate's ladder.",
    "top_of_ladder": "There is no higher stage.",
    "shown_safe": "A signal is evidently within its limit.",
    "approval_required": "The gate file wants a person's approval before the gate opens.",
    "earlier_epoch_regraded": "A late outcome has turned the verdict on an earlier epoch of the cell.",
    "dry_run": "The gate, or all that it asks here, is a dry run: it says what it would do, and does nothing.",
}
"""Every reason code and what it means."""


@dataclass(frozen=True, slots=True)
class Regression:
    """What the detector says about one guardrail of one epoch.

    Attributes:
        log_level: Natural logarithm of the detector's level; None before the first minute.
        threshold: The level at which it alarms, likewise.
        since: The minute, or the beginning of the user-window, that raised the alarm; None where none did.
        failures: Failed trials within its window.
        trials: Trials within its window.
        window_s: How far back it looked, seconds.
        by: What one observation is: a single action, or a user's closed window.
        windows: Closed user-windows within its window; None where it is counted by action.
        value: The rate within its window: failures over trials, or the failed share of the average user-window; None
            without any.
    """

    log_level: float | None
    threshold: float
    since: datetime | None
    failures: int
    trials: int
    window_s: float
    by: CountBy = "action"
    windows: int | None = None
    value: float | None = None

    def document(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return {
            "log_level": self.log_level,
            "threshold": self.threshold,
            "since": None if self.since is None else text.iso(self.since),
            "failures": self.failures,
            "trials": self.trials,
            "window_s": self.window_s,
            "by": self.by,
            "windows": self.windows,
            "value": self.value,
            "assumes": ASSUMPTIONS[self.by],
        }


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of a declared split.

    Attributes:
        name: The cohort, or the stage.
        declared: Its declared share, a ratio.
        assigned: What was assigned to it.
    """

    name: str
    declared: float
    assigned: int


@dataclass(frozen=True, slots=True)
class SplitEvidence:
    """What the assignments say about a declared split.

    Attributes:
        state: `mismatch` once the evidence has ever reached its threshold; `undeclared` where the cell is in no arm.
        by: What tells the arms apart.
        unit: What one assignment is.
        arm: The arm of the cell that is judged.
        since: From when on assignments are counted.
        until: Up to when.
        arms: The declared arms, in the order of the gate file.
        outside: Assignments to no declared arm; they are left out.
        crossed: Users who were seen in more than one arm; None where actions are counted.
        log_e: Evidence against the declared shares now, a natural logarithm.
        log_e_highest: The highest that it ever was: a crossing stands.
        mismatch_at: The end of the minute, or user-window, by which it first sufficed; None where it never did.
    """

    state: SplitState
    by: Literal["cohort", "stage"]
    unit: CountBy
    arm: str
    since: datetime
    until: datetime
    arms: tuple[Arm, ...]
    outside: int
    crossed: int | None
    log_e: float
    log_e_highest: float
    mismatch_at: datetime | None

    @property
    def assigned(self) -> int:
        """Assignments to the declared arms in all."""
        return sum(arm.assigned for arm in self.arms)

    @property
    def broken(self) -> bool:
        """Whether nothing that compares the arms can be believed."""
        return self.state != "as_declared"

    def document(self) -> dict[str, Any]:
        """The evidence as a JSON object."""
        return {
            "state": self.state,
            "by": self.by,
            "unit": self.unit,
            "arm": self.arm,
            "since": text.iso(self.since),
            "until": text.iso(self.until),
            "arms": [
                {
                    "arm": arm.name,
                    "declared": arm.declared,
                    "assigned": arm.assigned,
                    "share": arm.assigned / self.assigned if self.assigned else None,
                }
                for arm in self.arms
            ],
            "outside": self.outside,
            "crossed": self.crossed,
            "log_e": self.log_e,
            "log_e_highest": self.log_e_highest,
            "threshold": THRESHOLD,
            "mismatch_at": None if self.mismatch_at is None else text.iso(self.mismatch_at),
        }


@dataclass(frozen=True, slots=True)
class SignalEvidence:
    """What one signal of the gate says about a cell. Evidence and thresholds are natural logarithms.

    Attributes:
        signal: Name of the signal.
        role: Its role in the gate.
        state: `fail` where harm is evident, `pass` where safety is, `missing` without trials, `not_applicable` where
            nothing is asked of it.
        value: The rate, quantile or count as measured, in `unit`; by user, the failed share of the average closed
            user-window; None where nothing is known.
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
        more_to_harm: More trials until harm is shown by this signal alone at the present rate; 0 where it is shown,
            None where this rate never shows it or nothing is asked.
        weight: A guardrail's share of alpha; None for other roles.
        mature_failures: Of the failures, those that a promotion may count.
        mature_trials: Of the trials, those that a promotion may count.
        by: What one observation is: a single action, or a user's closed window.
        windows: Closed user-windows; None where it is counted by action.
        assumes: What the evidence takes for granted; None where nothing is weighed.
        needs_data: Whether a promotion has to wait while there are no trials.
        dry_run: Whether it is shown and does nothing.
        regression: What the detector says after a promotion; None where it does not watch.
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
    more_to_harm: int | None = None
    weight: float | None = None
    mature_failures: int = 0
    mature_trials: int = 0
    by: CountBy = "action"
    windows: int | None = None
    assumes: str | None = None
    needs_data: bool = False
    dry_run: bool = False
    regression: Regression | None = None

    def document(self) -> dict[str, Any]:
        """The evidence as a JSON object."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**told, "regression": None if self.regression is None else self.regression.document()}


@dataclass(frozen=True, slots=True)
class Reassessment:
    """A verdict on an epoch that is over, reached because outcomes of it came late.

    Attributes:
        epoch: The epoch.
        verdict_id: The new verdict on it.
        verdict: What it says now.
        summary: Why, in a sentence.
    """

    epoch: str
    verdict_id: str
    verdict: VerdictName
    summary: str


@dataclass(frozen=True, slots=True)
class Exposure:
    """How much was seen of an epoch.

    Attributes:
        actions: Decisions.
        days: Days from its first decision to its newest.
        users: Different users in closed user-windows; None where they were not counted.
        unnamed: Decisions in closed user-windows that name no user; None likewise.
        held_s: Seconds from its first decision to the watermark.
        by_user: Whether any decision names a user, so that users can be counted.
        as_of: End of the newest closed user-window; None likewise.
        events_version: Version of the table `events` that the users were counted at; None likewise.
    """

    actions: int
    days: float
    held_s: float
    users: int | None = None
    unnamed: int | None = None
    by_user: bool = False
    as_of: datetime | None = None
    events_version: int | None = None


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
class VerdictInputs:
    """Everything that a verdict on one cell follows from.

    Attributes:
        cell: The cell.
        epoch: Its current epoch.
        risk_class: Highest risk class seen; None where unknown.
        gate: The gate that matches; None where none does, or two do.
        fault: Why no gate can be named, or which counters contradict each other; None where all is well.
        fault_code: The reason code of `fault`.
        signals: What each signal of the gate says.
        log_e_combined: The combined evidence of the weighted guardrails, a natural logarithm; None without any.
        exposure: How much was seen of the epoch.
        stale_s: Seconds between the cell's newest event and the watermark where that is too long; None otherwise.
        latches: Verdicts that earlier looks at this epoch under this gate file reached.
        evidence: Every number that was counted, by name: what `signals` were read from, and what was not used.
        split: What the assignments say about the split that the gate declares; None where it declares none.
        regraded: What came of earlier epochs of the cell, of which outcomes came late.
        is_reassessment: Whether this is an epoch that is over.
    """

    cell: Cell
    epoch: str
    risk_class: str | None
    gate: Gate | None
    fault: str | None
    fault_code: str
    signals: tuple[SignalEvidence, ...]
    log_e_combined: float | None
    exposure: Exposure
    stale_s: float | None
    latches: Mapping[VerdictName, Latch]
    evidence: Mapping[str, object]
    split: SplitEvidence | None = None
    regraded: tuple[Reassessment, ...] = ()
    is_reassessment: bool = False

    @property
    def evidence_sha256(self) -> str:
        """Digest of every number that was counted about the epoch, whether or not a signal used it."""
        return hashlib.sha256(json.dumps(self.evidence, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class VerdictResult:
    """What follows from the inputs of a verdict.

    Attributes:
        verdict: The verdict.
        to_stage: Where the action goes; None where it stays.
        reasons: Why, what matters most first.
        latched_by: The verdict that crossed first, where one did.
        would: What would follow if dry runs counted; None where there are none.
    """

    verdict: VerdictName
    to_stage: str | None
    reasons: tuple[Reason, ...]
    latched_by: str | None = None
    would: VerdictResult | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict on one cell, with everything that is needed to reach it again.

    Attributes:
        inputs: What it follows from.
        result: What follows.
        gate_sha256: Digest of the gate file.
        lake_version: Version of the table `signals`.
        watermark: Newest event time that was known.
        judged_at: When it was computed; has no part in the verdict.
    """

    inputs: VerdictInputs
    result: VerdictResult
    gate_sha256: str
    lake_version: int
    watermark: datetime
    judged_at: datetime

    @property
    def verdict_id(self) -> str:
        """Sixteen digits over what the verdict is a function of; on an epoch that is over, the first is an `r`."""
        basis = [*self.inputs.cell, self.inputs.epoch, self.lake_version, self.gate_sha256, self.watermark.isoformat()]
        if self.inputs.exposure.as_of is not None:
            basis += [self.inputs.exposure.events_version, self.inputs.exposure.as_of.isoformat()]
        digits = hashlib.sha256(json.dumps(basis, ensure_ascii=False).encode()).hexdigest()[:16]
        return f"{REASSESSED}{digits[1:]}" if self.inputs.is_reassessment else digits

    @property
    def change_key(self) -> tuple[str, str | None, tuple[str, ...]]:
        """The part whose change is news: verdict, destination and reason codes."""
        return self.result.verdict.value, self.result.to_stage, reason_codes(self.result.reasons)

    def document(self) -> dict[str, Any]:
        """The verdict as published in the ledger and by every command, of JSON types alone."""
        would = self.result.would
        gate = self.inputs.gate
        return {
            **self.inputs.cell._asdict(),
            "epoch": self.inputs.epoch,
            "risk_class": self.inputs.risk_class,
            "verdict_id": self.verdict_id,
            "verdict": self.result.verdict.value,
            "to_stage": self.result.to_stage,
            "summary": messages.summary(self.result.verdict, self.result.to_stage, self.result.reasons),
            "reasons": [reason.model_dump() for reason in self.result.reasons],
            "signals": [
                {**evidence.document(), "contribution": self._contribution(evidence)}
                for evidence in self.inputs.signals
            ],
            "gate": gate.name if gate else None,
            "gate_sha256": self.gate_sha256,
            "lake_version": self.lake_version,
            "evidence_sha256": self.inputs.evidence_sha256,
            "watermark": text.iso(self.watermark),
            "judged_at": text.iso(self.judged_at),
            "latched_by": self.result.latched_by,
            "exposure": self._exposure(),
            "unit": messages.unit(self.inputs.exposure),
            "owner": gate.owner if gate else None,
            "log_e_combined": self.inputs.log_e_combined,
            "split": None if self.inputs.split is None else self.inputs.split.document(),
            "regraded": [
                {
                    "epoch": each.epoch,
                    "verdict_id": each.verdict_id,
                    "verdict": each.verdict.value,
                    "summary": each.summary,
                }
                for each in self.inputs.regraded
            ],
            "is_regrade": self.inputs.is_reassessment,
            "dry_run": None
            if would is None
            else {
                "verdict": would.verdict.value,
                "to_stage": would.to_stage,
                "summary": messages.summary(would.verdict, would.to_stage, would.reasons),
                "reasons": [reason.model_dump() for reason in would.reasons],
            },
        }

    def _contribution(self, evidence: SignalEvidence) -> float | None:
        """Which share of the combined evidence is a signal's; None where it has no part in it."""
        combined, gate = self.inputs.log_e_combined, self.inputs.gate
        weighed = evidence.role == "guardrail" and (not evidence.dry_run or (gate is not None and gate.dry_run))
        if combined is None or not weighed or evidence.log_e_harm is None or evidence.weight is None:
            return None
        return math.exp(min(evidence.log_e_harm + math.log(evidence.weight) - combined, 0.0))

    def _exposure(self) -> dict[str, Any]:
        seen, gate = self.inputs.exposure, self.inputs.gate
        return {
            "actions": seen.actions,
            "minimum": gate.minimum_exposure.actions if gate else 0,
            "days": seen.days,
            "minimum_days": gate.minimum_exposure.days if gate else 0,
            "users": seen.users,
            "minimum_users": gate.minimum_exposure.users if gate else 0,
            "unnamed": seen.unnamed,
            "users_as_of": None if seen.as_of is None else text.iso(seen.as_of),
            "events_version": seen.events_version,
            "held_s": seen.held_s,
        }


def reason_codes(reasons: Sequence[Reason]) -> tuple[str, ...]:
    """The reason codes with their signals, in a fixed order."""
    return tuple(sorted(f"{reason.code}:{reason.signal or ''}" for reason in reasons))
