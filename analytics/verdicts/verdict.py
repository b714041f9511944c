"""A verdict: what follows from the evidence about one cell, always asked in the same order."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from analytics.signals.counted import counts_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from analytics.gates.gate_file import Gate
    from analytics.verdicts.evidence_models import RateCourseShown, Reassessment, SignalEvidence, SplitEvidence
    from producers.wire.events import Reason, VerdictName
    from producers.wire.receipt import Cell

REASSESSED: Final = "r"
"""First letter of the id of a verdict on an epoch that is over; those of all others are hexadecimal."""

REASON_CODES: Final[dict[str, str]] = {
    "no_gate": "No gate matches the action.",
    "ambiguous_gate": "Two gates match the action equally well.",
    "no_signals": "The gate decides nothing at this stage: it has no signals there, or only watched ones.",
    "contradictory_counts": "Counts contradict each other: more executions than decisions let run, for example.",
    "stale_evidence": "The newest evidence is older than the gate file's `freshness`.",
    "harm": "A guardrail's rate is evidently above its limit.",
    "combined_harm": "The guardrails together are evidently broken, although no single one is.",
    "regression": "Since its promotion a guardrail's rate has risen above its limit.",
    "trip": "A count that trips is over its maximum.",
    "late_harm": "An earlier epoch turned out harmful when it was over, and this one had begun before that was known.",
    "regraded": "The epoch had been promoted; what came later says otherwise.",
    "epoch_beside": "Of epochs that decide side by side the verdict is of the worst, and that is not the newest.",
    "latched": "An earlier look at the same epoch decided, and that stands.",
    "set_aside": "The epoch was rolled back, and an override sets that aside until it expires.",
    "late_outcomes": "The epoch was rolled back for overdue outcomes alone, and they came: the evidence decides again.",
    "hold_expired": "The epoch has been held for longer than `hold_expires`: the owner must decide.",
    "split_mismatch": "Traffic was not split as the gate declares, so nothing that compares the arms can be believed.",
    "undeclared_arm": "The gate declares how traffic is split, and the cell's cohort has no share in it.",
    "below_minimum_exposure": "Fewer actions, users, days or hours were seen than the gate asks for.",
    "missing_data": "A signal that must be shown safe has no trials.",
    "over_limit": "A promotion signal is evidently above its limit.",
    "no_maturity": "Of a signal nothing says how late a failure may still come, so nothing shows it safe.",
    "immature": "No outcome of a signal is old enough to count for a promotion.",
    "more_evidence_needed": "A signal is not yet shown to be within its limit.",
    "too_few_users": "The users seen are within a limit, and too few different ones came to speak of users to come.",
    "rates_disagree": "The average user is within a limit, and the traffic of all users together is not shown to be.",
    "no_promotion_signals": "The gate has only tripping signals at this stage, so nothing can show the action safe.",
    "not_on_ladder": "The stage is not on the gate's ladder.",
    "top_of_ladder": "There is no higher stage.",
    "is_baseline": "Others are compared with the cell, so a signal that is compared is compared with nothing here.",
    "shown_safe": "A signal is evidently within its limit.",
    "rising": "A warning: the newest day failed more often than those before, by more than chance. It decides nothing.",
    "uneven_hours": "A warning: failures differ by hour of day, by more than chance. It decides nothing.",
    "approval_required": "The gate file wants a person's approval before the gate opens.",
    "earlier_epoch_regraded": "A late outcome has turned the verdict on an earlier epoch of the cell.",
    "dry_run": "The gate, or all that it asks here, is a dry run: it says what it would do, and does nothing.",
}
"""Every reason code and what it means."""


OVERDUE_SIGNALS: Final = ("missing_outcome", "bad_outcome")
"""Signals that an outcome can show harm by for as long as it is overdue."""
OF_HARM: Final = frozenset({"harm", "combined_harm", "regression", "trip"})
"""Reasons that the evidence on an epoch itself gives for a rollback."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """How much was seen of an epoch."""

    actions: int  # decisions
    days: int  # different days on which they were made, in the time zone of the gate
    weekdays: int  # different days of the week among them
    hours: int  # different hours of the day
    held_s: float  # seconds from its first decision to the watermark
    users: int | None = None  # different users in closed user-windows; None where they were not counted
    unnamed: int | None = None  # decisions in closed user-windows that name no user; None likewise
    by_user: bool = False  # whether any decision names a user, so that users can be counted
    as_of: datetime | None = None  # end of the newest closed user-window; None likewise
    events_version: int | None = None  # version of the table `events` that the users were counted at; None likewise
    open_version: int | None = None  # version that open windows were read at; None where they were not


@dataclass(frozen=True, slots=True)
class Overdue:
    """A signal that showed harm by outcomes that were overdue."""

    signal: str
    failures: int  # when it crossed
    trials: int  # likewise
    allowed: float  # so many of the failures may be left where late outcomes refute them


@dataclass(frozen=True, slots=True)
class Regrade:
    """A rollback of an epoch that was over, reached because its outcomes came late."""

    shown: Reassessment  # as it is shown
    known_at: datetime  # the watermark at which it was reached
    signals: tuple[str, ...]  # those that showed harm; none where all did together


@dataclass(frozen=True, slots=True)
class EpochsBeside:
    """The epochs of a cell that are alive side by side."""

    current: str  # the one that began last
    others: tuple[tuple[str, int, int], ...]  # the others, what each decided of late (-1: not known), and all together

    def share_of(self, epoch: str) -> tuple[int, int] | None:
        """Of how many recent decisions an epoch made how many; None where it is not known."""
        return next(((made, among) for name, made, among in self.others if name == epoch and made >= 0), None)


@dataclass(frozen=True, slots=True)
class Latch:
    """A verdict that an earlier look reached and that stands."""

    verdict: VerdictName  # PROMOTE or ROLL_BACK
    to_stage: str | None  # where it sends the action
    verdict_id: str  # the verdict that crossed first
    content_sha256: str | None = None  # digest of the gate's content then; None where it is not known any more
    # What a rollback rests on, where that is overdue outcomes and nothing else; None where it shows nothing, but stands
    overdue: tuple[Overdue, ...] | None = ()
    refuted_by: str | None = None  # the verdict that found those outcomes reported: it stands no more
    of_earlier: bool = False  # whether a rollback rests on earlier epochs alone: it stands as long as theirs do

    def followed_by(self, made: Latch, refutes: str | None) -> Latch:
        """What stands after a later verdict on the same epoch: the latch that it makes, and the rollback it refutes."""
        if refutes == self.verdict_id and self.refuted_by is None:
            return replace(self, refuted_by=made.verdict_id)
        if made.verdict != self.verdict or made.overdue is None:
            return self
        if self.refuted_by is not None:
            return made
        if self.of_earlier:
            return replace(self, overdue=made.overdue, of_earlier=False)
        return self if made.overdue else replace(self, overdue=())


def is_of_earlier(reasons: Sequence[Reason]) -> bool:
    """Whether a rollback rests on what came of earlier epochs, and on nothing of its own."""
    codes = {reason.code for reason in reasons}
    return "late_harm" in codes and codes.isdisjoint({*OF_HARM, "latched"})


def overdue_of(reasons: Sequence[Reason], signals: Sequence[SignalEvidence]) -> tuple[Overdue, ...] | None:
    """What a rollback rests on, where that is outcomes that are overdue; empty for anything else, None for no harm.

    By action as many may be left as the limit allows of the trials; by user, where trials are windows, the same share
    of those that were overdue. Where arms are compared, nothing tells how many.
    """
    shown = [(reason.code, reason.signal) for reason in reasons if reason.code in OF_HARM]
    if not shown:
        return None
    overdue = []
    for code, name in shown:
        for part in signals:
            if part.signal != name or part.state != "fail" or (part.role == "trip") != (code == "trip"):
                continue
            of_users = part.by == "user"
            if part.signal not in OVERDUE_SIGNALS:
                return ()
            if part.limit is None or part.unit not in {"ratio", "count"}:
                return ()
            among = 1 if code == "trip" else part.failures if of_users else part.trials
            overdue.append(Overdue(part.signal, part.failures, part.trials, float(part.limit) * among))
    return tuple(overdue) if {part.signal for part in overdue} == {name for _, name in shown} else ()


@dataclass(frozen=True, slots=True)
class VerdictInputs:
    """Everything that a verdict on one cell follows from."""

    cell: Cell
    epoch: str  # its current epoch, or the worst of those that are alive
    risk_class: str | None  # highest risk class seen; None where unknown
    gate: Gate | None  # the gate that matches; None where none does, or two do
    fault: str | None  # why no gate can be named, or which counters contradict each other; None where all is well
    fault_code: str  # the reason code of `fault`
    signals: tuple[SignalEvidence, ...]  # what each signal of the gate says
    log_e_combined: float | None  # combined evidence of the weighted guardrails, a natural logarithm; None without any
    exposure: Exposure  # how much was seen of the epoch
    stale_s: float | None  # seconds from the newest event to the watermark where that is too long; None otherwise
    latches: Mapping[VerdictName, Latch]  # verdicts that earlier looks at this epoch reached
    evidence: Mapping[str, object]  # every number that was counted, by name, whether or not `signals` used it
    gate_content_sha256: str | None = None  # digest of what the gate judges by; None where no gate can be named
    split: SplitEvidence | None = None  # what the assignments say about the declared split; None where there is none
    regraded: tuple[Reassessment, ...] = ()  # what came of earlier epochs of the cell, of which outcomes came late
    late_harm: tuple[Regrade, ...] = ()  # those of them that roll this one back
    course: RateCourseShown | None = None  # how failures lie in time; None where no day of user-windows is over
    attempt: int = 1  # which attempt of the cell the epoch is
    beside: EpochsBeside | None = None  # the epochs that are alive side by side; None where one is
    is_reassessment: bool = False  # whether this is an epoch that is over

    @property
    def evidence_sha256(self) -> str:
        """Digest of every number that was counted about the epoch, whether or not a signal used it."""
        return hashlib.sha256(json.dumps(self.evidence, sort_keys=True).encode()).hexdigest()

    @property
    def counts_sha256(self) -> str:
        """Digest of what the table `signals` held about the epoch."""
        return counts_digest(self.evidence)


@dataclass(frozen=True, slots=True)
class VerdictResult:
    """What follows from the inputs of a verdict."""

    verdict: VerdictName
    to_stage: str | None  # where the action goes; None where it stays
    reasons: tuple[Reason, ...]  # Why, what matters most first
    latched_by: str | None = None  # the verdict that crossed first, where one did
    set_aside: str | None = None  # the rollback of this epoch that an override sets aside, where one does
    refuted: str | None = None  # the rollback of this epoch that late outcomes refute, where they do
    would: VerdictResult | None = None  # what would follow if dry runs counted; None where there are none


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict on one cell, with everything that is needed to reach it again."""

    inputs: VerdictInputs  # what it follows from
    result: VerdictResult  # what follows
    gate_sha256: str  # digest of the gate file
    lake_version: int  # version of the table `signals`
    watermark: datetime  # newest event time that was known
    judged_at: datetime  # when it was computed; has no part in the verdict

    @property
    def verdict_id(self) -> str:
        """Sixteen digits over what the verdict is a function of; on an epoch that is over, the first is an `r`."""
        basis = [*self.inputs.cell, self.inputs.epoch, self.lake_version, self.gate_sha256, self.watermark.isoformat()]
        if self.inputs.exposure.as_of is not None:
            basis += [self.inputs.exposure.events_version, self.inputs.exposure.as_of.isoformat()]
        if self.inputs.exposure.open_version is not None:
            basis.append(self.inputs.exposure.open_version)
        if self.result.set_aside is not None:
            basis.append(self.result.set_aside)
        digits = hashlib.sha256(json.dumps(basis, ensure_ascii=False).encode()).hexdigest()[:16]
        return f"{REASSESSED}{digits[1:]}" if self.inputs.is_reassessment else digits
