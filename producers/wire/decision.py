"""The decision: one of five outcomes, with everything that produced it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from producers.wire.model import Name, Sha256, Text, WireModel


class FlagReason(StrEnum):
    """Why a flag had its value (`feature_flag.result.reason`)."""

    STATIC = "static"
    DEFAULT = "default"
    TARGETING_MATCH = "targeting_match"
    SPLIT = "split"
    CACHED = "cached"
    DISABLED = "disabled"
    UNKNOWN = "unknown"
    STALE = "stale"
    ERROR = "error"


class FlagEvaluation(WireModel):
    """One flag as it was evaluated for this decision (OpenTelemetry `feature_flag.evaluation`)."""

    key: Name
    """`feature_flag.key`"""
    variant: Name | None = None
    """`feature_flag.result.variant`"""
    value: Text | None = None
    """`feature_flag.result.value` as text, only where the provider names no variant."""
    reason: FlagReason
    """`feature_flag.result.reason`"""
    provider: Name | None = None
    """`feature_flag.provider.name`"""
    error: Text | None = None
    """`feature_flag.error.message`"""


class Authorization(WireModel):
    """What hard authorization said, before any flag."""

    permitted: bool
    rule: Name
    """The rule that decided; `default-deny` where none matched."""
    reason: Text | None = None
    approvers: Annotated[int, Field(ge=1)] | None = None
    """How many persons must approve before it runs; null where the flags alone say whether one must."""


class Allow(WireModel):
    """The action may run as asked."""

    outcome: Literal["allow"] = "allow"
    reason: Name = "policy_allows"


class Constrain(WireModel):
    """A lesser variant of the action may run."""

    outcome: Literal["constrain"] = "constrain"
    mode: Name
    """What it was constrained to, for example `search_only` or `draft`."""
    reason: Name
    runs: bool = True
    """Whether a lesser variant exists and runs in place of the action; false where nothing runs at all."""


class QueueForReview(WireModel):
    """A person must approve the action first."""

    outcome: Literal["queue_for_review"] = "queue_for_review"
    reason: Name


class Deny(WireModel):
    """The action may not run."""

    outcome: Literal["deny"] = "deny"
    reason: Name


class FallBack(WireModel):
    """The contract's fallback is returned in place of the action."""

    outcome: Literal["fallback"] = "fallback"
    mode: Name
    reason: Name


Outcome = Annotated[Allow | Constrain | QueueForReview | Deny | FallBack, Field(discriminator="outcome")]
"""Exactly one of the five outcomes, told apart by its field `outcome`."""


class Provenance(StrEnum):
    """How the decision came to be known."""

    LIVE = "live"
    """A router decided it; its times are measured."""
    OBSERVED = "observed"
    """Only watched: the action runs whatever the decision says, and is reported as it was seen."""
    IMPORTED = "imported"
    """Read from a record that has no times: the decision's moment is the moment of the import and measures nothing."""


class Decision(WireModel):
    """Why an action was allowed or refused, on which flags, under which authorization."""

    result: Outcome
    enforced: bool = True
    """False in the observe-only stage: the outcome is what would have happened, and nothing was executed."""
    authorization: Authorization | None = None
    flags: tuple[FlagEvaluation, ...] = ()
    ruleset_sha256: Sha256 | None = None
    """Digest of the whole policy that was in force."""
    provenance: Provenance = Provenance.LIVE
    decide_ms: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None
    """How long deciding took, in milliseconds."""

    @property
    def expects_execution(self) -> bool:
        """Whether an execution must follow without any further word from a person."""
        if not self.enforced:
            return False
        return isinstance(self.result, Allow) or (isinstance(self.result, Constrain) and self.result.runs)
