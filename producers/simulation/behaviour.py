"""Behaviour of a simulated action, and actions drawn from it: a decision, and what follows from it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from producers.wire.decision import (
    Allow,
    Authorization,
    Constrain,
    Decision,
    Deny,
    FallBack,
    FlagEvaluation,
    FlagReason,
    QueueForReview,
)
from producers.wire.events import ExecutionStatus, Impact, Incident, Quality, Resolution, Support, UndoResult
from producers.wire.stage import MODE_OF_STAGE, Stage

if TYPE_CHECKING:
    from random import Random

    from producers.wire.contract import Reversibility, RiskClass
    from producers.wire.decision import Outcome
    from producers.wire.events import VerdictName


@dataclass(frozen=True)
class Behaviour:
    """Probabilities and typical sizes. Shares are of decisions, of reviews or of executions, as noted."""

    denied: float = 0.01  # share of decisions that are denied
    constrained: float = 0.01  # share of decisions that are constrained
    queued: float = 0.0  # share of decisions that wait for a person
    fell_back: float = 0.0  # share of decisions answered with the fallback
    rejected: float = 0.03  # share of reviews that end in a rejection
    review_wait_s: float = 90.0  # median wait for a review, seconds
    failed: float = 0.004  # share of executions that fail
    timed_out: float = 0.001  # share of executions that time out
    missing: float = 0.002  # share of due executions that are never reported
    latency_ms: float = 240.0  # median latency, milliseconds; log-normal
    latency_sigma: float = 0.5  # standard deviation of the latency's logarithm
    latency_unknown: float = 0.01  # share of executions without a latency
    cost_usd: float | None = 0.004  # median cost, dollars; None where no cost is known
    cost_unknown: float = 0.2  # share of executions without a cost
    undone: float = 0.003  # share of executions that are taken back later
    undo_failed: float = 0.0  # share of executions whose undo fails
    not_undoable: float = 0.0  # share of executions that cannot be taken back although somebody asks
    undo_after_s: float = 20 * 60.0  # median time from execution to undo, seconds
    incident: float = 0.0  # share of executions in an incident of severity 3
    severe_incident: float = 0.0  # share of executions in an incident of severity 1
    support: float = 0.002  # share of executions that lead to a support signal
    quality_checked: float = 0.3  # share of executions that are evaluated
    quality_failed: float = 0.02  # share of evaluations that fail

    def having(self, **changes: float | None) -> Behaviour:
        """A copy with other values for some fields."""
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Phase:
    """A stretch of an action's career, from its `after`-th decision on."""

    stage: Stage  # the stage that the action is in
    behaviour: Behaviour  # how it behaves there
    expected: VerdictName | None  # the verdict that this cell deserves; None where it depends on how much has been seen
    why: str  # what is right or wrong with it, in one phrase
    after: int = 0  # number of the decision (from 0) at which the phase begins
    live_after_s: float | None = None  # seconds of the present after which it begins instead, whatever the number

    def begins_by(self, decision: int, live_s: float) -> bool:
        """Whether the phase has begun by a decision's number, after so many seconds of the present."""
        return self.after <= decision if self.live_after_s is None else self.live_after_s <= live_s


@dataclass(frozen=True)
class SimulatedAction:
    """One tool of one workflow, and its career."""

    workflow: str  # the workflow it belongs to
    tool: str  # the tool
    system: str  # the system that it touches
    risk_class: RiskClass  # how much harm it can do
    reversibility: Reversibility  # what it takes to take it back
    intent: str  # why an agent asks for it
    phases: tuple[Phase, ...]  # its career, first phase first
    weight: float = 1.0  # its share of the traffic, relative to the others'
    cohorts: tuple[str, ...] = ("all",)  # segments of the roll-out; calls fall into them with equal probability

    def phase_at(self, decision: int, live_s: float = 0.0) -> Phase:
        """The phase that decision number `decision` (from 0) falls into, after so many seconds of the present."""
        return next(phase for phase in reversed(self.phases) if phase.begins_by(decision, live_s))


@dataclass(frozen=True)
class DrawnExecution:
    """How an execution ended."""

    status: ExecutionStatus
    latency_ms: float | None
    cost_usd: float | None
    error_type: str | None


@dataclass(frozen=True)
class FollowUp:
    """What came of an action, `after_s` seconds after its decision: a review, an execution, an undo or an impact."""

    after_s: float
    outcome: Resolution | DrawnExecution | UndoResult | Impact


@dataclass(frozen=True)
class DrawnAction:
    """One action from its decision to the last thing that came of it, in order of time."""

    decision: Decision
    follow_ups: tuple[FollowUp, ...]


def draw_action(phase: Phase, random: Random) -> DrawnAction:
    """Draw one action in a phase."""
    behaviour = phase.behaviour
    observed = phase.stage is Stage.OBSERVE_ONLY
    decision = Decision(
        result=(result := _outcome(behaviour, random)),
        enforced=not observed,
        authorization=Authorization(permitted=True, rule="role-allows-tool"),
        flags=_flags(phase.stage, denied=isinstance(result, Deny)),
        ruleset_sha256=_RULESET,
        decide_ms=round(random.lognormvariate(math.log(0.4), 0.4), 3),
    )
    if observed:
        return DrawnAction(decision, ())
    started_s, follow_ups = 0.0, list[FollowUp]()
    if isinstance(result, QueueForReview):
        started_s = _log_normal(random, behaviour.review_wait_s, 0.6)
        rejected = random.random() < behaviour.rejected
        follow_ups.append(FollowUp(started_s, Resolution.REJECTED if rejected else Resolution.APPROVED))
        runs = not rejected
    else:
        runs = decision.expects_execution
    if runs and random.random() >= behaviour.missing:
        follow_ups += _execution(behaviour, started_s, random)
    return DrawnAction(decision, tuple(follow_ups))


def _outcome(behaviour: Behaviour, random: Random) -> Outcome:
    drawn = random.random()
    if (drawn := drawn - behaviour.denied) < 0:
        return Deny(reason="denylisted")
    if (drawn := drawn - behaviour.constrained) < 0:
        return Constrain(mode="draft", reason="limit_exceeded")
    if (drawn := drawn - behaviour.queued) < 0:
        return QueueForReview(reason="approval_required")
    if drawn - behaviour.fell_back < 0:
        return FallBack(mode="human_handoff", reason="confidence_too_low")
    return Allow()


def _execution(behaviour: Behaviour, started_s: float, random: Random) -> list[FollowUp]:
    latency_ms = round(_log_normal(random, behaviour.latency_ms, behaviour.latency_sigma), 3)
    cost_usd = None
    if behaviour.cost_usd is not None and random.random() >= behaviour.cost_unknown:
        cost_usd = round(_log_normal(random, behaviour.cost_usd, 0.4), 6)
    drawn = random.random()
    if drawn < behaviour.failed:
        status, error_type = ExecutionStatus.FAILED, random.choice(("upstream_5xx", "conflict", "validation"))
    elif drawn < behaviour.failed + behaviour.timed_out:
        status, error_type, latency_ms = ExecutionStatus.TIMED_OUT, "deadline_exceeded", max(latency_ms, 5_000.0)
    else:
        status, error_type = ExecutionStatus.SUCCEEDED, None
    ended_s = started_s + latency_ms / 1000
    known_ms = None if random.random() < behaviour.latency_unknown else latency_ms
    return [
        FollowUp(ended_s, DrawnExecution(status, known_ms, cost_usd, error_type)),
        *_aftermath(behaviour, ended_s, random),
    ]


def _aftermath(behaviour: Behaviour, ended_s: float, random: Random) -> list[FollowUp]:
    follow_ups: list[FollowUp] = []
    if random.random() < behaviour.quality_checked:
        passed = random.random() >= behaviour.quality_failed
        quality = Quality(passed=passed, score=round(random.uniform(*((0.7, 1.0) if passed else (0.0, 0.6))), 2))
        follow_ups.append(FollowUp(ended_s + _log_normal(random, 5.0, 0.5), quality))
    drawn = random.random()
    for share, result in (
        (behaviour.undone, UndoResult.UNDONE),
        (behaviour.undo_failed, UndoResult.FAILED),
        (behaviour.not_undoable, UndoResult.NOT_UNDOABLE),
    ):
        if (drawn := drawn - share) < 0:
            follow_ups.append(FollowUp(ended_s + _log_normal(random, behaviour.undo_after_s, 0.8), result))
            break
    for share, impact in (
        (behaviour.incident, Incident(severity=3)),
        (behaviour.severe_incident, Incident(severity=1)),
        (behaviour.support, Support()),
    ):
        if random.random() < share:
            follow_ups.append(FollowUp(ended_s + _log_normal(random, 60.0, 0.7), impact))
    return sorted(follow_ups, key=lambda follow_up: follow_up.after_s)


_RULESET = hashlib.sha256(b"the simulated flag store never changes its rules").hexdigest()


@cache
def _flags(stage: Stage, *, denied: bool) -> tuple[FlagEvaluation, ...]:
    """Flag evaluations of a stage. Only switches differ from call to call, so an epoch lasts as long as its stage."""
    approval = "required" if stage is Stage.APPROVAL_GATED else "not_required"
    return (
        FlagEvaluation(key="agent-action-governance-enabled", variant="on", reason=FlagReason.STATIC),
        FlagEvaluation(
            key="agent-action-denylist",
            variant="listed" if denied else "clear",
            reason=FlagReason.TARGETING_MATCH if denied else FlagReason.DEFAULT,
        ),
        FlagEvaluation(key="agent-action-mode", variant=MODE_OF_STAGE[stage].value, reason=FlagReason.TARGETING_MATCH),
        FlagEvaluation(key="agent-action-approval-required", variant=approval, reason=FlagReason.TARGETING_MATCH),
    )


def _log_normal(random: Random, median: float, sigma: float) -> float:
    return random.lognormvariate(math.log(median), sigma)
