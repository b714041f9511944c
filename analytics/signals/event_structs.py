"""The published events as msgspec structs: the fields that are counted or stored in columns, and each event's kind.

Each struct accepts a subset of what its pydantic model in `producers.wire` accepts, field by field; a test holds both
equal on everything that our own writers produce. It is stricter where the model is lenient by convenience: numbers in
quotes, moments that are not RFC 3339, and amounts beyond the limits below. Names are checked for control characters by
the decoder, which can rule them out for many records at once.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, NamedTuple, TypeAlias, get_args

import msgspec
from msgspec import Meta, Struct

from analytics.signals.decision_structs import (
    Name,
    ProvenanceName,
    WireAllow,
    WireConstrain,
    WireContract,
    WireDecision,
    WireDeny,
    WireFallBack,
    WireQueue,
    WireResult,
)
from analytics.signals.event_kinds import EventKind
from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from collections.abc import Iterable

LARGEST_LATENCY_MS = 1e12
LARGEST_COST_USD = 1e6  # above these an amount is a mistake, and sums of it would leave 64 bits

Subject = Annotated[str, Meta(min_length=1, max_length=2_100)]
Text = Annotated[str, Meta(max_length=4_000)]
Source = Annotated[str, Meta(min_length=1, max_length=500)]
RecordNumber = Annotated[str, Meta(min_length=3, max_length=51)]  # the decoder looks at its form
Token = Annotated[str, Meta(min_length=5, max_length=4_000)]
Moment = Annotated[datetime, Meta(tz=True)]
Milliseconds = Annotated[float, Meta(ge=0, le=LARGEST_LATENCY_MS)]
Dollars = Annotated[float, Meta(ge=0, le=LARGEST_COST_USD)]
StageName: TypeAlias = Literal[
    "observe_only", "search_only", "draft_write", "approval_gated", "narrow_autonomy", "progressive_expansion"
]
ContentTypeName: TypeAlias = Literal[
    "application/json",
    "application/json; charset=utf-8",
    "application/json; charset=UTF-8",
    "application/json;charset=utf-8",
    "application/json;charset=UTF-8",
]


class UnreadableEventError(StagekeeperError):
    """The bytes of a stored event are no event to this version."""


Names: TypeAlias = tuple[tuple[str, str], ...]  # path and value of every field that must not hold a control character


class CellEpoch(NamedTuple):
    """A cell and the epoch within it: what a receipt says an event is counted under."""

    environment: str
    workflow: str
    tool: str
    stage: str
    cohort: str
    epoch: str


class ReceiptRow(Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """The array inside a receipt token, in the order of the fields of `producers.wire.receipt.Receipt`."""

    decision_id: Name
    decided_at: Moment
    environment: Name
    workflow: Name
    tool: Name
    stage: StageName
    cohort: Name
    epoch: Name
    attempt: Annotated[int, Meta(ge=1, le=9_999)] = 1
    rung: Annotated[int, Meta(ge=1, le=10)] | None = None

    def names(self) -> Names:
        """The fields that must not hold a control character."""
        fields = ("decision_id", "environment", "workflow", "tool", "cohort", "epoch")
        return tuple((f"data.receipt {field}", getattr(self, field)) for field in fields)


class WireIncident(Struct, tag_field="kind", tag="incident", frozen=True, gc=False):
    """See `producers.wire.events.Incident`."""

    severity: Annotated[int, Meta(ge=1, le=5)]


class WireSupport(Struct, tag_field="kind", tag="support", frozen=True, gc=False):
    """See `producers.wire.events.Support`."""


class WireQuality(Struct, tag_field="kind", tag="quality", frozen=True, gc=False):
    """See `producers.wire.events.Quality`."""

    passed: bool


class DecidedData(Struct, frozen=True, gc=False):
    """See `producers.wire.events.ActionDecidedData`."""

    receipt: Token
    contract: WireContract
    decision: WireDecision


class ExecutedData(Struct, frozen=True, gc=False):
    """See `producers.wire.events.ActionExecutedData`."""

    receipt: Token
    status: Literal["succeeded", "failed", "timed_out", "cancelled", "refused"]
    latency_ms: Milliseconds | None = None
    cost_usd: Dollars | None = None
    provenance: ProvenanceName | None = None


class UndoneData(Struct, frozen=True, gc=False):
    """See `producers.wire.events.ActionUndoneData`."""

    receipt: Token
    result: Literal["undone", "failed", "not_undoable"]


class ImpactData(Struct, frozen=True, gc=False):
    """See `producers.wire.events.ActionImpactData`."""

    receipt: Token
    impact: WireIncident | WireSupport | WireQuality


class ReviewData(Struct, frozen=True, gc=False):
    """See `producers.wire.events.ReviewResolvedData`."""

    receipt: Token
    resolution: Literal["approved", "rejected"]
    reviewer: Name
    rationale: Text
    wait_ms: Milliseconds | None = None


class PolicyData(Struct, frozen=True, gc=False):
    """See `producers.wire.events.PolicyChangedData`."""

    receipt: ClassVar[None] = None
    flag_key: Name
    changed_by: Name
    reason: Text


class RecommendedData(Struct, frozen=True, gc=False):
    """See `producers.wire.events.StageRecommendedData`."""

    receipt: ClassVar[None] = None
    verdict_id: Name
    environment: Name
    workflow: Name
    tool: Name
    stage: Name
    cohort: Name
    epoch: Name
    verdict: Literal["PROMOTE", "HOLD", "ROLL_BACK", "INVALID"]


class StatusData(Struct, frozen=True, gc=False):
    """See `producers.wire.events.RouterStatusData`."""

    receipt: ClassVar[None] = None
    provider: Name
    ready: bool
    tells_every_s: Annotated[float, Meta(gt=0.0, le=3600.0)]
    environment: Name | None = None


class WireEnvelope(Struct, tag_field="type", kw_only=True, frozen=True, gc=False):
    """What all events share; see `producers.wire.events.CloudEvent`."""

    id: Name
    recordnumber: RecordNumber | None = None
    source: Source
    time: Moment
    subject: Subject
    specversion: Literal["1.0"]
    datacontenttype: ContentTypeName = "application/json"

    def names(self) -> Names:
        """The fields that must not hold a control character."""
        return (("id", self.id), ("subject", self.subject))


# Where nothing runs, and where something does.
_DECISION_KINDS: Final[dict[type[WireResult], tuple[EventKind, EventKind]]] = {
    WireAllow: (EventKind.ALLOWED_UNENFORCED, EventKind.ALLOWED),
    WireConstrain: (EventKind.CONSTRAINED_UNENFORCED, EventKind.CONSTRAINED),
    WireQueue: (EventKind.QUEUED, EventKind.QUEUED),
    WireDeny: (EventKind.DENIED, EventKind.DENIED),
    WireFallBack: (EventKind.FELL_BACK, EventKind.FELL_BACK),
}
_EXECUTION_KINDS: Final[dict[str, EventKind]] = {
    "succeeded": EventKind.SUCCEEDED,
    "failed": EventKind.FAILED,
    "timed_out": EventKind.TIMED_OUT,
    "cancelled": EventKind.CANCELLED,
    "refused": EventKind.REFUSED,
}
_OBSERVED_KINDS: Final[dict[str, EventKind]] = {
    "succeeded": EventKind.OBSERVED_SUCCEEDED,
    "failed": EventKind.OBSERVED_FAILED,
    "timed_out": EventKind.OBSERVED_TIMED_OUT,
    "cancelled": EventKind.UNCOUNTED,
    "refused": EventKind.UNCOUNTED,
}
_UNDO_KINDS: Final[dict[str, EventKind]] = {
    "undone": EventKind.UNDONE,
    "failed": EventKind.UNDO_FAILED,
    "not_undoable": EventKind.NOT_UNDOABLE,
}
_REVIEW_KINDS: Final[dict[str, EventKind]] = {
    "approved": EventKind.REVIEW_APPROVED,
    "rejected": EventKind.REVIEW_REJECTED,
}


class WireDecided(WireEnvelope, tag="stagekeeper.action.decided.v1", frozen=True, gc=False):
    """An action was decided."""

    data: DecidedData

    @property
    def kind(self) -> EventKind:
        """What it counts as."""
        decision = self.data.decision
        decides = decision.enforced and decision.provenance != "observed"
        return _DECISION_KINDS[type(decision.result)][decides and decision.result.runs]

    def names(self) -> Names:
        """As in `WireEnvelope`, and those of its data."""
        contract, result = self.data.contract, self.data.decision.result
        mode = result.mode if isinstance(result, WireConstrain | WireFallBack) else ""
        return (
            *WireEnvelope.names(self),
            ("data.decision.result.reason", result.reason),
            ("data.decision.result.mode", mode),
            ("data.contract.tool", contract.tool),
            ("data.contract.workflow", contract.workflow),
            ("data.contract.target.environment", contract.target.environment),
            ("data.contract.actor.user", contract.actor.user or ""),
        )


class WireExecuted(WireEnvelope, tag="stagekeeper.action.executed.v1", frozen=True, gc=False):
    """An action ran."""

    data: ExecutedData

    @property
    def kind(self) -> EventKind:
        """What it counts as."""
        data = self.data
        return (_OBSERVED_KINDS if data.provenance == "observed" else _EXECUTION_KINDS)[data.status]


class WireUndone(WireEnvelope, tag="stagekeeper.action.undone.v1", frozen=True, gc=False):
    """An execution was taken back, or could not be."""

    data: UndoneData

    @property
    def kind(self) -> EventKind:
        """What it counts as."""
        return _UNDO_KINDS[self.data.result]


class WireImpacted(WireEnvelope, tag="stagekeeper.action.impact.v1", frozen=True, gc=False):
    """An action had a downstream impact."""

    data: ImpactData

    @property
    def kind(self) -> EventKind:
        """What it counts as."""
        impact = self.data.impact
        if isinstance(impact, WireIncident):
            return EventKind.SEVERE_INCIDENT if impact.severity == 1 else EventKind.INCIDENT
        if isinstance(impact, WireQuality):
            return EventKind.QUALITY_PASSED if impact.passed else EventKind.QUALITY_FAILED
        return EventKind.SUPPORT


class WireReviewed(WireEnvelope, tag="stagekeeper.review.resolved.v1", frozen=True, gc=False):
    """A person resolved a queued action."""

    data: ReviewData

    @property
    def kind(self) -> EventKind:
        """What it counts as."""
        return _REVIEW_KINDS[self.data.resolution]

    def names(self) -> Names:
        """As in `WireEnvelope`, and those of its data."""
        return (*WireEnvelope.names(self), ("data.reviewer", self.data.reviewer))


class WirePolicyChanged(WireEnvelope, tag="stagekeeper.policy.changed.v1", frozen=True, gc=False):
    """Somebody changed a flag."""

    kind: ClassVar[EventKind] = EventKind.UNCOUNTED
    data: PolicyData

    def names(self) -> Names:
        """As in `WireEnvelope`, and those of its data."""
        return (
            *WireEnvelope.names(self),
            ("data.flag_key", self.data.flag_key),
            ("data.changed_by", self.data.changed_by),
        )


class WireRecommended(WireEnvelope, tag="stagekeeper.stage.recommended.v1", frozen=True, gc=False):
    """A verdict was published."""

    kind: ClassVar[EventKind] = EventKind.UNCOUNTED
    data: RecommendedData

    def names(self) -> Names:
        """As in `WireEnvelope`, and those of its data."""
        data = self.data
        fields = ("verdict_id", "environment", "workflow", "tool", "stage", "cohort", "epoch")
        return (*WireEnvelope.names(self), *((f"data.{field}", getattr(data, field)) for field in fields))


class WireRouterStatus(WireEnvelope, tag="stagekeeper.router.status.v1", frozen=True, gc=False):
    """A router told what it decides by."""

    kind: ClassVar[EventKind] = EventKind.UNCOUNTED
    data: StatusData

    def names(self) -> Names:
        """As in `WireEnvelope`, and those of its data."""
        return (
            *WireEnvelope.names(self),
            ("data.environment", self.data.environment or ""),
            ("data.provider", self.data.provider),
        )


Counted: TypeAlias = WireDecided | WireExecuted | WireUndone | WireImpacted | WireReviewed
"""Events about an action: they carry a receipt and are counted."""

WireEvent: TypeAlias = Counted | WirePolicyChanged | WireRecommended | WireRouterStatus

COUNTED_TYPES: Final[frozenset[str]] = frozenset(event.__struct_config__.tag for event in get_args(Counted))
TYPES: Final[frozenset[str]] = frozenset(event.__struct_config__.tag for event in get_args(WireEvent))


def meanings(values: Iterable[bytes]) -> list[tuple[EventKind, str | None, int | None, int | None]]:
    """Kind, user, latency and cost of accepted events from their bytes, for rows stored without these columns.

    Latency and cost are whole micro-units, as the decoder rounds them.

    Raises `UnreadableEventError` where one of them is no event to this version.
    """
    parse = msgspec.json.Decoder(WireEvent).decode
    try:
        return [
            (
                event.kind,
                event.data.contract.actor.user if isinstance(event, WireDecided) else None,
                _micro(event.data.latency_ms, 1e3) if isinstance(event, WireExecuted) else None,
                _micro(event.data.cost_usd, 1e6) if isinstance(event, WireExecuted) else None,
            )
            for event in map(parse, values)
        ]
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UnreadableEventError(
            f"the table events holds an event that this version cannot read: {error}. Read the topics again into a new "
            "STAGEKEEPER_LAKE_ROOT, or use the version of Stagekeeper that stored it."
        ) from error


def _micro(amount: float | None, factor: float) -> int | None:
    return None if amount is None else round(amount * factor)
