"""What the service is asked and what it answers; the OpenAPI document is made of these models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.alias_generators import to_camel

from producers.boundary.approvals import QueuedAction, ReviewResolution, ReviewState
from producers.wire import events
from producers.wire.contract import (
    ActionContract,
    Actor,
    Evidence,
    Fallback,
    FallbackMode,
    Reversibility,
    RiskClass,
    Scope,
    Target,
)
from producers.wire.decision import Decision
from producers.wire.model import Moment, Name, Ratio, Text, WireModel
from producers.wire.stage import Stage

Variant = Literal["draft", "search_only"]


class DecisionRequest(WireModel):
    """One action that an agent asks for."""

    contract: ActionContract
    """Without a digest of its arguments, which the service makes; its actor's agent is the token's."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """What the action would be called with; kept only where a person must review it, without what is redacted."""
    redact: Annotated[frozenset[Name], Field(max_length=100)] = frozenset()
    """Names of arguments, at any depth, that are never stored nor shown."""
    variants: frozenset[Variant] = frozenset()
    """The lesser variants that the caller can run in the action's place."""
    consequence: Text | None = None
    """What happens when it runs, for a reviewer."""
    cohort: Name = "all"
    """Segment of the roll-out; few by rule."""


class FlatContract(WireModel):
    """The contract as one flat object, its names in camel case, with what stands beside it in `DecisionRequest`."""

    model_config = WireModel.model_config | {"alias_generator": to_camel}

    agent_id: Name | None = None
    """The agent of the token, where it is said at all."""
    user_id: Name | None = None
    account_id: Name | None = None
    model: Name | None = None
    prompt_version: Name | None = None
    intent: Text = ""
    environment: Name
    system: Name
    record_id: Name | None = None
    tool: Name
    tool_version: Name | None = None
    workflow: Name
    risk_class: RiskClass
    reversibility: Reversibility
    region: Name | None = None
    traffic_ratio: Ratio | None = None
    confidence: Ratio | None = None
    source_coverage: Ratio | None = None
    evaluator_result: Name | None = None
    prior_review: Name | None = None
    fallback: FallbackMode = FallbackMode.REFUSE
    conversation_id: Name | None = None
    tool_call_id: Name | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    redact: Annotated[frozenset[Name], Field(max_length=100)] = frozenset()
    variants: frozenset[Variant] = frozenset()
    consequence: Text | None = None
    cohort: Name = "all"

    def to_request(self, agent: str) -> DecisionRequest:
        """The same request; `agent` is the token's, where it names none."""
        contract = ActionContract(
            actor=Actor(
                agent=self.agent_id or agent,
                user=self.user_id,
                account=self.account_id,
                model=self.model,
                prompt_version=self.prompt_version,
            ),
            intent=self.intent,
            target=Target(environment=self.environment, system=self.system, record=self.record_id),
            tool=self.tool,
            tool_version=self.tool_version,
            workflow=self.workflow,
            risk_class=self.risk_class,
            reversibility=self.reversibility,
            scope=Scope(region=self.region, traffic_ratio=self.traffic_ratio),
            evidence=Evidence(
                confidence=self.confidence,
                source_coverage=self.source_coverage,
                evaluator_result=self.evaluator_result,
                prior_review=self.prior_review,
            ),
            fallback=Fallback(mode=self.fallback),
            conversation=self.conversation_id,
            tool_call=self.tool_call_id,
        )
        return DecisionRequest(
            contract=contract,
            arguments=self.arguments,
            redact=self.redact,
            variants=self.variants,
            consequence=self.consequence,
            cohort=self.cohort,
        )


class RunPermit(WireModel):
    """What may run, once, until when."""

    runs: Literal["as_asked", "draft", "search_only"]
    """The action as asked, or the variant that runs in its place."""
    expires_at: Moment
    """It must have begun by then; afterwards the action is asked for anew."""


class ReviewStatus(WireModel):
    """How the review of a queued action stands."""

    state: ReviewState
    expires_at: Moment
    """An approval is given and used before this moment."""
    resolution: events.Resolution | None = None
    reviewer: Name | None = None
    rationale: Text | None = None


class DecisionAnswer(WireModel):
    """A decision, and what may run."""

    decision_id: Name
    decided_at: Moment
    outcome: Literal["allow", "constrain", "queue_for_review", "deny", "fallback"]
    reason: Name
    stage: Stage
    permit: RunPermit | None = None
    """Null where nothing may run; nothing else permits anything."""
    review: ReviewStatus | None = None
    """Where a person must approve first, and was asked."""
    decision: Decision
    """Everything that produced it."""
    receipt: events.ReceiptToken
    """Names the decision in every report about it."""


class ExecutionReport(WireModel):
    """How the action ran. What is not known is left out."""

    status: events.ExecutionStatus
    latency_ms: events.Milliseconds | None = None
    cost_usd: events.Dollars | None = None
    error_type: Name | None = None
    """The class of the failure, never its message."""


class UndoReport(WireModel):
    """What came of taking the action back; once, when the result is final."""

    result: events.UndoResult
    reason: Text | None = None


class ImpactReport(WireModel):
    """What the action led to."""

    impact: events.Impact


class ForeignImpactReport(WireModel):
    """What an action led to, from who knows it by one of these three."""

    decision_id: Name | None = None
    receipt: events.ReceiptToken | None = None
    trace_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    impact: events.Impact


class ReportAnswer(WireModel):
    """Whether a report was new; one that repeats another counts once."""

    decision_id: Name
    recorded: bool


class ReviewAnswer(WireModel):
    """A queued action with its state, and what reviewers have said."""

    state: ReviewState
    queued: QueuedAction
    words: tuple[ReviewResolution, ...]
    resolution: ReviewResolution | None
    binding: str


class ReviewWord(WireModel):
    """A reviewer's reason; it stays on record."""

    because: Annotated[str, Field(min_length=1, max_length=4_000, pattern=r"\S")]


class MoveRuling(WireModel):
    """What a person rules on a move of an action."""

    environment: Name
    workflow: Name
    tool: Name
    to: Stage
    cohort: Name | None = None
    because: Annotated[str, Field(min_length=1, max_length=4_000, pattern=r"\S")]
    expires_s: Annotated[float, Field(gt=0, le=366 * 86_400)]
    """For how long it holds."""


class StageChangeRequest(WireModel):
    """The stage that an action is to have."""

    environment: Name
    workflow: Name
    tool: Name
    to: Stage
    share: Annotated[int, Field(ge=1, le=100)] | None = None
    """With progressive_expansion: for so many percent of accounts."""
    because: Annotated[str, Field(min_length=1, max_length=4_000, pattern=r"\S")]


class AcceptedEvents(WireModel):
    """How many events are on disk, and on their way."""

    accepted: int


class Problem(WireModel):
    """Why a request was not answered (RFC 9457)."""

    type: str
    """`urn:stagekeeper:problem:` and the code."""
    title: str
    status: int
    code: Name
    detail: str
    """What is wrong, where, and how to mend it."""
