"""Actions that wait for a person's approval, and approvals that bind.

An approval holds for one execution of exactly what was shown: contract and arguments (by their digests), ruleset, and a
time limit. It is checked again right before the action runs.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from producers.boundary.canonical_json import digest
from producers.errors import StagekeeperError
from producers.wire.contract import ActionContract
from producers.wire.events import Resolution
from producers.wire.model import Moment, Name, Sha256, Text, WireModel

if TYPE_CHECKING:
    from datetime import datetime


class ReviewState(StrEnum):
    """State of a queued action."""

    WAITING = "waiting"
    APPROVED = "approved"
    REJECTED = "rejected"
    USED = "used"


class QueuedAction(WireModel):
    """One action that waits for a person, with everything that person needs to decide."""

    decision_id: Name
    receipt: str
    """Token of the receipt; it resumes the action in any process."""
    contract: ActionContract
    arguments: dict[str, Any]
    """What the action would be called with; redacted fields are blanked."""
    consequence: Text | None
    """What happens when it runs."""
    rule: Name
    """Which rule sent it here."""
    ruleset_sha256: Sha256
    queued_at: Moment
    expires_at: Moment
    """An approval after this moment, or used after it, is refused."""

    @property
    def binding(self) -> str:
        """What an approval binds to: SHA-256 over the canonical contract (with its arguments' digest) and ruleset."""
        return digest([self.contract, self.ruleset_sha256, self.expires_at])


class ReviewResolution(WireModel):
    """A reviewer's approval or rejection."""

    resolution: Resolution
    reviewer: Annotated[str, Field(min_length=1, max_length=200)]
    rationale: Annotated[str, Field(min_length=1, max_length=4_000)]
    at: Moment
    binding: Sha256
    """Of the queued action as the reviewer saw it."""


class Review(WireModel):
    """A queued action with its state."""

    state: ReviewState
    queued: QueuedAction
    resolution: ReviewResolution | None = None


class ReviewError(StagekeeperError):
    """A review cannot be used as asked."""


class UnknownReviewError(ReviewError):
    """No action with this decision id waits or waited here."""

    exit_code = 2


class ReviewPendingError(ReviewError):
    """No reviewer has decided yet."""


class ReviewRejectedError(ReviewError):
    """A reviewer rejected the action; the message carries the rationale."""


class ReviewResolvedError(ReviewError):
    """Another reviewer has decided already."""


class ApprovalExpiredError(ReviewError):
    """The time limit has passed."""


class ApprovalMismatchError(ReviewError):
    """What would run, or the policy it would run under, is not what was approved."""


class ApprovalUsedError(ReviewError):
    """The approval has been used; each holds for one execution."""


def require_redeemable(review: Review, *, at: datetime, arguments_sha256: str, ruleset_sha256: str) -> None:
    """Check every condition under which an approval may be spent; which `ReviewError` it raises says why not."""
    queued, resolution = review.queued, review.resolution
    name = queued.decision_id
    if review.state is ReviewState.USED:
        raise ApprovalUsedError(f"the approval of {name} has been used; each holds for one execution")
    if resolution is None:
        raise ReviewPendingError(f"{name} still waits for a person: {queued.rule}")
    reviewer = resolution.reviewer
    if resolution.resolution is Resolution.REJECTED:
        raise ReviewRejectedError(f"{name} was rejected by {reviewer}: {resolution.rationale}")
    if at >= queued.expires_at:
        raise ApprovalExpiredError(f"the approval of {name} expired at {queued.expires_at.isoformat()}")
    if resolution.binding != queued.binding:
        raise ApprovalMismatchError(f"what is queued as {name} is not what {reviewer} approved")
    if arguments_sha256 != queued.contract.arguments_sha256:
        raise ApprovalMismatchError(f"the arguments of {name} are not those that {reviewer} approved")
    if ruleset_sha256 != queued.ruleset_sha256:
        raise ApprovalMismatchError(f"the ruleset has changed since {reviewer} approved {name}")
