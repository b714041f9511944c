"""The decision within an event as msgspec structs: what of it is counted; see `analytics.signals.event_structs`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from msgspec import Meta, Struct

Name = Annotated[str, Meta(min_length=1, max_length=200)]
ProvenanceName: TypeAlias = Literal["live", "observed", "imported"]
RiskName: TypeAlias = Literal[
    "search", "scoped_read", "sensitive_read", "reversible_write", "external_effect", "admin_action", "irreversible"
]


class WireTarget(Struct, frozen=True, gc=False):
    """See `producers.wire.contract.Target`."""

    environment: Name


class WireActor(Struct, frozen=True, gc=False):
    """See `producers.wire.contract.Actor`."""

    user: Name | None = None


class WireContract(Struct, frozen=True, gc=False):
    """See `producers.wire.contract.ActionContract`."""

    actor: WireActor
    target: WireTarget
    tool: Name
    workflow: Name
    risk_class: RiskName


class WireAllow(Struct, tag_field="outcome", tag="allow", frozen=True, gc=False):
    """See `producers.wire.decision.Allow`."""

    runs: ClassVar[bool] = True
    reason: Name = "policy_allows"


class WireConstrain(Struct, tag_field="outcome", tag="constrain", frozen=True, gc=False):
    """See `producers.wire.decision.Constrain`."""

    mode: Name
    reason: Name
    runs: bool = True


class WireQueue(Struct, tag_field="outcome", tag="queue_for_review", frozen=True, gc=False):
    """See `producers.wire.decision.QueueForReview`."""

    runs: ClassVar[bool] = False
    reason: Name


class WireDeny(Struct, tag_field="outcome", tag="deny", frozen=True, gc=False):
    """See `producers.wire.decision.Deny`."""

    runs: ClassVar[bool] = False
    reason: Name


class WireFallBack(Struct, tag_field="outcome", tag="fallback", frozen=True, gc=False):
    """See `producers.wire.decision.FallBack`."""

    runs: ClassVar[bool] = False
    mode: Name
    reason: Name


WireResult: TypeAlias = WireAllow | WireConstrain | WireQueue | WireDeny | WireFallBack


class WireDecision(Struct, frozen=True, gc=False):
    """See `producers.wire.decision.Decision`."""

    result: WireResult
    enforced: bool = True
    provenance: ProvenanceName = "live"
