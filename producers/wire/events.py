"""The events: CloudEvents 1.0 in structured mode, one model for each type."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from producers.errors import StagekeeperError
from producers.wire.contract import ActionContract
from producers.wire.decision import Decision, Provenance
from producers.wire.model import NAME_PATTERN, Moment, Name, Ratio, Sha256, Text, WireModel
from producers.wire.topics import DECISIONS, OUTCOMES, POLICY_CHANGES, RECOMMENDATIONS, REVIEWS, ROUTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTENT_TYPE = "application/cloudevents+json; charset=UTF-8"  # the Kafka header `content-type` of every event
HEADERS: Sequence[tuple[str, bytes]] = (("content-type", CONTENT_TYPE.encode()),)

ReceiptToken = Annotated[
    str, Field(min_length=5, max_length=4_000, pattern=r"^sk1\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)?$")
]

# What an event is about: as long as a name, but for a cell's key, which holds five of them
Subject = Annotated[str, Field(min_length=1, max_length=2_100, pattern=NAME_PATTERN)]

Traceparent = Annotated[str, Field(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]  # W3C trace context

# The number that an incarnation of a source gave an event: `<incarnation>.<number>`, counted from 1
RecordNumber = Annotated[str, Field(max_length=51, pattern=r"^[0-9a-z]{1,32}\.[1-9][0-9]{0,17}$")]

# JSON is UTF-8 whether it says so or not; these are the ways in which clients say it
JsonContentType = Literal[
    "application/json",
    "application/json; charset=utf-8",
    "application/json; charset=UTF-8",
    "application/json;charset=utf-8",
    "application/json;charset=UTF-8",
]

# Above these limits an amount is a mistake, and sums of it would leave 64 bits
Milliseconds = Annotated[float, Field(ge=0.0, le=1e12, allow_inf_nan=False)]
Dollars = Annotated[float, Field(ge=0.0, le=1e6, allow_inf_nan=False)]


class ActionDecidedData(WireModel):
    """What was asked, and what was decided about it."""

    receipt: ReceiptToken
    contract: ActionContract
    decision: Decision


class ExecutionStatus(StrEnum):
    """How an execution ended; each is exclusive of the others."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    """Whoever asked called it off, or was asked for more input; what it did until then is not known."""
    REFUSED = "refused"
    """The tool did not take its arguments: nothing ran."""


class ActionExecutedData(WireModel):
    """How the action ran. What is not known is null, never zero."""

    receipt: ReceiptToken
    status: ExecutionStatus
    latency_ms: Milliseconds | None = None
    """Wall time of the side effect in milliseconds."""
    cost_usd: Dollars | None = None
    """What the execution cost, in US dollars."""
    error_type: Name | None = None
    """`error.type`: the class of the failure, never its message."""
    provenance: Provenance | None = None
    """How the execution came to be known; null for one that a router let run. What was only observed needs no decision
    that lets it run; what is imported has one beside it."""


class UndoResult(StrEnum):
    """What came of taking an action back."""

    UNDONE = "undone"
    FAILED = "failed"
    NOT_UNDOABLE = "not_undoable"


class ActionUndoneData(WireModel):
    """The execution was taken back, or could not be. At most one for each execution, once the result is final."""

    receipt: ReceiptToken
    result: UndoResult
    reason: Text | None = None


class Incident(WireModel):
    """A downstream incident that the action took part in."""

    kind: Literal["incident"] = "incident"
    severity: Annotated[int, Field(ge=1, le=5)]
    """1 is the worst."""
    reference: Name | None = None


class Support(WireModel):
    """A support signal: a ticket, a complaint, a call back."""

    kind: Literal["support"] = "support"
    reference: Name | None = None


class Quality(WireModel):
    """A quality evaluation of the action or of the task that it was part of."""

    kind: Literal["quality"] = "quality"
    passed: bool
    score: Ratio | None = None
    evaluator: Name | None = None


Impact = Annotated[Incident | Support | Quality, Field(discriminator="kind")]


class ActionImpactData(WireModel):
    """What the action led to downstream."""

    receipt: ReceiptToken
    impact: Impact


class Resolution(StrEnum):
    """What a reviewer said."""

    APPROVED = "approved"
    REJECTED = "rejected"


class EarlierApproval(WireModel):
    """An approval that counted before the word that settled it."""

    reviewer: Name
    rationale: Text
    at: Moment


class ReviewResolvedData(WireModel):
    """A person's word on a queued action: the one that settled it."""

    receipt: ReceiptToken
    resolution: Resolution
    reviewer: Name
    rationale: Text
    wait_ms: Milliseconds | None = None
    """From queueing to the resolution, in milliseconds."""
    authenticated: bool | None = None
    """Whether somebody has checked that it is this reviewer, and not only the name."""
    earlier_approvals: tuple[EarlierApproval, ...] | None = None
    """Where more than one person must approve: what the others said before."""


class PolicyChangedData(WireModel):
    """Who changed which flag, from what to what, and why."""

    flag_key: Name
    changed_by: Name
    reason: Text
    before: Text | None = None
    after: Text | None = None
    environment: Name | None = None
    workflow: Name | None = None
    tool: Name | None = None
    """Set where the change touches one action only."""
    ruleset_sha256: Sha256 | None = None
    """The policy in force after the change."""
    verdict_id: Name | None = None
    """The verdict that led to it."""
    recommendation_id: Name | None = None
    """The recommendation that it carries out."""
    signoff_id: Name | None = None
    """The sign-off that allowed it: an approval or an override."""


class VerdictName(StrEnum):
    """What follows from the evidence about a cell."""

    PROMOTE = "PROMOTE"
    HOLD = "HOLD"
    ROLL_BACK = "ROLL_BACK"
    INVALID = "INVALID"


class Reason(WireModel):
    """One reason of a verdict: a code for programs, a sentence with its numbers for people."""

    code: Name
    message: Text
    signal: Name | None = None


class StageRecommendedData(WireModel):
    """A published verdict."""

    verdict_id: Name
    environment: Name
    workflow: Name
    tool: Name
    stage: Name
    cohort: Name
    epoch: Name
    verdict: VerdictName
    to_stage: Name | None = None
    """Where the action should go; null when it should stay."""
    reasons: tuple[Reason, ...]
    gate_sha256: Sha256
    lake_version: Annotated[int, Field(ge=0)]
    watermark: Moment
    """The latest event time that the verdict knows of."""


class RouterStatusData(WireModel):
    """What a router decides by at this moment."""

    environment: Name | None = None
    """Of the actions that name none; null where it decides in every environment."""
    provider: Name
    """Who answers for its flags."""
    ready: bool
    """Whether decisions follow the provider; while they do not, safe values are in force."""
    flags_sha256: Sha256 | None = None
    """The flags' rules; null where the provider does not show them."""
    since: Moment | None = None
    """When these came into force there."""
    confirmed_at: Moment | None = None
    """When they were last seen to be the ones in force; null where the provider does not say."""
    tells_every_s: Annotated[float, Field(gt=0.0, le=3600.0)]
    """In how many seconds the next status comes at the latest."""


class CloudEvent(WireModel):
    """The envelope that all events share (CloudEvents 1.0, structured mode)."""

    topic: ClassVar[str]
    """The topic that carries this type."""

    specversion: Literal["1.0"] = "1.0"
    id: Name
    """Unique for each event; a repeated id is counted once."""
    recordnumber: RecordNumber | None = None
    """Which incarnation of the source recorded it, a dot, and its number there, from 1 without a gap.
    An incarnation ends with its process. A number that never comes is an event that was lost."""
    source: Annotated[str, Field(min_length=1, max_length=500)]
    """Who emitted it, as a URI reference, for example `/routers/crm-eu-1`."""
    time: Moment
    """When it happened (event time)."""
    subject: Subject
    """The decision id; for a policy change the flag key, for a recommendation the cell, for a status the source."""
    datacontenttype: JsonContentType = "application/json"
    dataschema: Annotated[str, Field(max_length=500)] | None = None
    """Identifier of the published schema."""
    traceparent: Traceparent | None = None
    """W3C trace context of the call, where there is one."""
    tracestate: Annotated[str, Field(max_length=512)] | None = None
    partitionkey: Annotated[str, Field(min_length=1, max_length=2_100)] | None = None
    """CloudEvents' extension: what the record is keyed by, which some clients write; the same as `subject`."""


class ActionDecided(CloudEvent):
    """An action was allowed, constrained, queued for review, denied or answered with its fallback."""

    topic = DECISIONS
    type: Literal["stagekeeper.action.decided.v1"] = "stagekeeper.action.decided.v1"
    data: ActionDecidedData


class ActionExecuted(CloudEvent):
    """A decided action ran."""

    topic = OUTCOMES
    type: Literal["stagekeeper.action.executed.v1"] = "stagekeeper.action.executed.v1"
    data: ActionExecutedData


class ActionUndone(CloudEvent):
    """An execution was taken back, or could not be."""

    topic = OUTCOMES
    type: Literal["stagekeeper.action.undone.v1"] = "stagekeeper.action.undone.v1"
    data: ActionUndoneData


class ActionImpact(CloudEvent):
    """An incident, a support signal or a quality evaluation followed from an action."""

    topic = OUTCOMES
    type: Literal["stagekeeper.action.impact.v1"] = "stagekeeper.action.impact.v1"
    data: ActionImpactData


class ReviewResolved(CloudEvent):
    """A person approved or rejected a queued action."""

    topic = REVIEWS
    type: Literal["stagekeeper.review.resolved.v1"] = "stagekeeper.review.resolved.v1"
    data: ReviewResolvedData


class PolicyChanged(CloudEvent):
    """Somebody changed a flag."""

    topic = POLICY_CHANGES
    type: Literal["stagekeeper.policy.changed.v1"] = "stagekeeper.policy.changed.v1"
    data: PolicyChangedData


class StageRecommended(CloudEvent):
    """The verdict on a cell changed."""

    topic = RECOMMENDATIONS
    type: Literal["stagekeeper.stage.recommended.v1"] = "stagekeeper.stage.recommended.v1"
    data: StageRecommendedData


class RouterStatus(CloudEvent):
    """A router tells what it decides by; of each instance only the latest counts."""

    topic = ROUTERS
    type: Literal["stagekeeper.router.status.v1"] = "stagekeeper.router.status.v1"
    data: RouterStatusData


Event = (
    ActionDecided
    | ActionExecuted
    | ActionUndone
    | ActionImpact
    | ReviewResolved
    | PolicyChanged
    | StageRecommended
    | RouterStatus
)

# Every type of event, in the order of an action's life
EVENT_CLASSES: tuple[type[Event], ...] = (
    ActionDecided,
    ActionExecuted,
    ActionUndone,
    ActionImpact,
    ReviewResolved,
    PolicyChanged,
    StageRecommended,
    RouterStatus,
)

EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])  # reads any event by its `type`


def type_of(event_class: type[Event]) -> str:
    """The CloudEvents `type` of an event class."""
    return str(event_class.model_fields["type"].default)


def schema_id(event_class: type[Event]) -> str:
    """The `dataschema` of an event class: a stable name of the published schema of its whole envelope."""
    return f"urn:stagekeeper:schema:{type_of(event_class).removeprefix('stagekeeper.')}"


class EventError(StagekeeperError):
    """Bytes that are not an event as published."""


def event_to_bytes(event: Event) -> bytes:
    """Write an event as compact UTF-8 JSON; unknown values are left out."""
    return event.model_dump_json(exclude_none=True).encode()


def event_from_bytes(value: bytes) -> Event:
    """Read an event, strictly as published; else `EventError` names the field."""
    try:
        return EVENT.validate_json(value)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'event'}: {fault['msg']}" for fault in error.errors())
        raise EventError(f"not an event as published: {faults}") from error


class EventRecord(NamedTuple):
    """A Kafka record that carries an event."""

    topic: str
    key: bytes
    """The event's subject: decision id, flag key or cell."""
    value: bytes

    @classmethod
    def from_event(cls, event: Event) -> EventRecord:
        """The record of an event."""
        return cls(event.topic, event.subject.encode(), event_to_bytes(event))
