"""Actions that wait for a person's approval, and approvals that bind.

An approval holds for one execution of exactly what was shown: contract and arguments (by their digests), ruleset, and a
time limit. Whoever asked cannot approve, and where a second person is needed a name alone is none. All of it is checked
when a word is given, and again right before the action runs.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from producers.boundary.canonical_json import PROCESS_KEY_ID, digest
from producers.boundary.reviewers import Reviewer, person_of
from producers.errors import StagekeeperError
from producers.wire.contract import ActionContract
from producers.wire.events import Resolution
from producers.wire.model import Moment, Name, Sha256, Text, WireModel

if TYPE_CHECKING:
    from datetime import datetime

    from producers.wire.contract import ArgumentsDigest


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
    approvers: Annotated[int, Field(ge=1)] | None = None
    """How many persons authorization asks for; null where one is enough, and nobody has said who that may be."""

    @property
    def binding(self) -> str:
        """What an approval binds to: SHA-256 over the canonical contract (with its arguments' digest) and ruleset."""
        asked = [self.contract, self.ruleset_sha256, self.expires_at]
        return digest(asked if self.approvers is None else [*asked, self.approvers])

    @property
    def needs_authentication(self) -> bool:
        """Whether a name alone is not enough: persons are asked for, or one who is not the contract's user."""
        return self.approvers is not None or self.contract.actor.user is not None

    def is_asked_by(self, name: str) -> bool:
        """Whether a name is that of the agent, the user or the service identity that asks."""
        actor = self.contract.actor
        askers = (actor.agent, actor.user, actor.service_identity)
        return person_of(name) in {person_of(asker) for asker in askers if asker is not None}


class ReviewResolution(WireModel):
    """A reviewer's approval or rejection."""

    resolution: Resolution
    reviewer: Annotated[str, Field(min_length=1, max_length=200)]
    rationale: Annotated[str, Field(min_length=1, max_length=4_000)]
    at: Moment
    binding: Sha256
    """Of the queued action as the reviewer saw it."""
    authenticated: bool = False
    """Whether somebody has checked that it is this person."""


class Review(WireModel):
    """A queued action with its state, and what reviewers have said about it, in that order."""

    state: ReviewState
    queued: QueuedAction
    words: tuple[ReviewResolution, ...] = ()

    @property
    def resolution(self) -> ReviewResolution | None:
        """The word that settled it; None while it waits."""
        return None if self.state is ReviewState.WAITING or not self.words else self.words[-1]

    @property
    def approvals(self) -> list[ReviewResolution]:
        """The approvals that count, each of another person: what the asker says, or a mere name, may not."""
        queued, counted = self.queued, dict[str, ReviewResolution]()
        for word in self.words:
            if (
                word.resolution is Resolution.APPROVED
                and word.binding == queued.binding
                and (word.authenticated or not queued.needs_authentication)
                and not queued.is_asked_by(word.reviewer)
            ):
                counted.setdefault(person_of(word.reviewer), word)
        return list(counted.values())

    @property
    def missing_approvals(self) -> int:
        """How many more persons must approve."""
        return max(0, (self.queued.approvers or 1) - len(self.approvals))


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
    """Another reviewer has decided already, or the same one has approved."""


class SelfApprovalError(ReviewError):
    """Whoever asked for an action has approved it."""


class UnauthenticatedReviewerError(ReviewError):
    """A second person must approve, and nobody has checked who it is."""


class AlteredReviewError(ReviewError):
    """A row of the review store is not as a holder of the key wrote it."""


class ApprovalExpiredError(ReviewError):
    """The time limit has passed."""


class ApprovalMismatchError(ReviewError):
    """What would run, or the policy it would run under, is not what was approved."""


class ApprovalUsedError(ReviewError):
    """The approval has been used; each holds for one execution."""


def approval_used(decision_id: str) -> ApprovalUsedError:
    """The error for an approval that was spent before."""
    return ApprovalUsedError(f"the approval of {decision_id} has been used; each holds for one execution")


def require_approver(review: Review, reviewer: Reviewer) -> None:
    """Check whether a reviewer may approve; which `ReviewError` it raises says why not."""
    queued = review.queued
    if queued.is_asked_by(reviewer.name):
        raise SelfApprovalError(
            f"{reviewer.name} asks for {queued.decision_id}, and cannot approve it; another one must"
        )
    if queued.needs_authentication and not reviewer.authenticated:
        user = queued.contract.actor.user
        why = f"it is asked for by {user}" if queued.approvers is None else f"it needs {queued.approvers} approver(s)"
        raise UnauthenticatedReviewerError(
            f"{queued.decision_id} needs another person: {why}, and the name {reviewer.name} alone is none. Approve it "
            "with a reviewer's token (STAGEKEEPER_REVIEWER_TOKEN); `stagekeeper review enrol` makes one"
        )
    if any(person_of(word.reviewer) == person_of(reviewer.name) for word in review.approvals):
        raise ReviewResolvedError(
            f"{reviewer.name} has approved {queued.decision_id} already; another person must, too"
        )


def require_redeemable(review: Review, *, at: datetime, arguments: ArgumentsDigest, ruleset_sha256: str) -> None:
    """Check every condition under which an approval may be spent; which `ReviewError` it raises says why not."""
    queued, resolution = review.queued, review.resolution
    name = queued.decision_id
    if review.state is ReviewState.USED:
        raise approval_used(name)
    if resolution is None:
        raise ReviewPendingError(pending_message(review))
    reviewer = resolution.reviewer
    if resolution.resolution is Resolution.REJECTED:
        raise ReviewRejectedError(f"{name} was rejected by {reviewer}: {resolution.rationale}")
    if at >= queued.expires_at:
        raise ApprovalExpiredError(f"the approval of {name} expired at {queued.expires_at.isoformat()}")
    if resolution.binding != queued.binding:
        raise ApprovalMismatchError(f"what is queued as {name} is not what {reviewer} approved")
    if review.missing_approvals:
        raise ApprovalMismatchError(
            f"{name} is marked as approved, and {review.missing_approvals} approval(s) that count are missing"
        )
    approved = queued.contract.arguments_digest
    if arguments.key_id != approved.key_id:
        raise ApprovalMismatchError(f"the arguments of {name} cannot be compared: {_other_key(approved, arguments)}")
    if arguments != approved:
        raise ApprovalMismatchError(f"the arguments of {name} are not those that {reviewer} approved")
    if ruleset_sha256 != queued.ruleset_sha256:
        raise ApprovalMismatchError(f"the ruleset has changed since {reviewer} approved {name}")


def _other_key(approved: ArgumentsDigest, arguments: ArgumentsDigest) -> str:
    if PROCESS_KEY_ID in {approved.key_id, arguments.key_id}:
        return (
            "some are redacted, and without STAGEKEEPER_RECEIPT_KEY only the process that queued them can tell whether "
            "they are the same. Set it for routers and reviewers, and ask for the action anew"
        )
    return (
        f"they were digested under the key {approved.key_id}, and this router's is {arguments.key_id}. Give routers "
        "the same STAGEKEEPER_RECEIPT_KEY, or ask for the action anew where it was changed"
    )


def pending_message(review: Review) -> str:
    """Say what a queued action still waits for."""
    queued = review.queued
    given = len(review.approvals)
    people = f"{review.missing_approvals} more of {queued.approvers} persons" if given else "a person"
    return f"{queued.decision_id} still waits for {people}: {queued.rule}"
