"""Actions that wait for a person's approval, and approvals that bind.

An approval holds for one execution of exactly what was shown: the contract and the arguments (by their digests), the
ruleset under which it was queued, and a time limit. It is checked again right before the action runs.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from producers.boundary.action import Permit
from producers.boundary.canonical_json import canonical, digest, redacted
from producers.boundary.decision_rules import decide
from producers.boundary.errors import ActionDeniedError
from producers.errors import StagekeeperError, UsageError
from producers.wire.contract import ActionContract
from producers.wire.events import Resolution
from producers.wire.model import Moment, Name, Sha256, Text, WireModel
from producers.wire.receipt import IssuedReceipt

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from producers.boundary.action import Action
    from producers.boundary.authorization import Authorizer
    from producers.boundary.flags import FlagEvaluator
    from producers.boundary.review_store import ReviewStore
    from producers.delivery.recorder import Recorder
    from producers.wire.decision import Decision
    from producers.wire.receipt import Receipt


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
    """Check every condition under which an approval may be spent at a moment.

    Raises:
        ReviewPendingError: No reviewer has decided yet.
        ReviewRejectedError: A reviewer rejected it.
        ApprovalExpiredError: It is too late.
        ApprovalMismatchError: The arguments or the ruleset are not those that were approved.
        ApprovalUsedError: It was used before.
    """
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


class ReviewQueue:
    """Queues one router's actions for review, and redeems their approvals.

    Args:
        store: Where actions wait; None where there is none.
        holds: How long after queueing an approval may be given and used.
        authorizer: Asked again before an approved action runs.
        flags: As above.
        recorder: Writes receipts as tokens.
    """

    def __init__(
        self,
        store: ReviewStore | None,
        *,
        holds: timedelta,
        authorizer: Authorizer,
        flags: FlagEvaluator,
        recorder: Recorder,
    ) -> None:
        self._store = store
        self._holds = holds
        self._authorizer = authorizer
        self._flags = flags
        self._recorder = recorder

    def submit(
        self,
        action: Action,
        arguments: Mapping[str, Any],
        contract: ActionContract,
        receipt: Receipt,
        decision: Decision,
    ) -> None:
        """Queue an action; without a review store it stays refused.

        Raises:
            ActionDeniedError: The store does not take it, so nobody could ever approve it.
        """
        if self._store is None or decision.ruleset_sha256 is None:
            return
        try:
            self._store.submit(
                QueuedAction(
                    decision_id=receipt.decision_id,
                    receipt=self._recorder.token(receipt),
                    contract=contract,
                    arguments=json.loads(canonical(redacted(arguments, action.redact))),
                    consequence=action.consequence,
                    rule=decision.result.reason,
                    ruleset_sha256=decision.ruleset_sha256,
                    queued_at=receipt.decided_at,
                    expires_at=receipt.decided_at + self._holds,
                )
            )
        except ReviewError as error:
            message = f"{action.tool} is denied: it needs a review and cannot be queued ({error})"
            raise ActionDeniedError(message, receipt, decision) from error

    def redeem(self, receipt: Receipt, action: Action, arguments: Mapping[str, Any]) -> Permit:
        """Use a person's approval: authorization and flags are asked again, then it is spent.

        Raises:
            UsageError: The router has no review store.
            ReviewError: It is not approved, or the approval does not hold for this; which subclass says why.
            ActionDeniedError: Authorization or a flag refuses it by now.
        """
        store = self.require_store()
        queued = store.get(receipt.decision_id).queued
        _require_same(queued, action, self._recorder.token(receipt))
        # Asked again, so that what was switched off after the approval stays off.
        again = decide(queued.contract, self._authorizer, self._flags, variants=frozenset(action.variants)).decision
        if again.result.outcome not in {"queue_for_review", "allow"} or not again.enforced:
            message = f"{action.tool} was approved, and is refused by now: {again.result.reason}"
            raise ActionDeniedError(message, receipt, again)
        store.redeem(
            receipt.decision_id,
            arguments_sha256=digest(arguments),
            ruleset_sha256=again.ruleset_sha256 or "",
        )
        return Permit(IssuedReceipt(receipt.decision_id, queued.receipt), again)

    def require_store(self) -> ReviewStore:
        """The review store.

        Raises:
            UsageError: There is none.
        """
        if self._store is None:
            raise UsageError("this router has no review store; pass `reviews=` when it is made")
        return self._store


def _require_same(queued: QueuedAction, action: Action, token: str) -> None:
    """Make sure that what would run now is what was queued, by everything that describes it."""
    contract = queued.contract
    if contract.tool != action.tool:
        raise ApprovalMismatchError(f"{queued.decision_id} is about {contract.tool}, not {action.tool}")
    for name, approved, present in (
        ("workflow", contract.workflow, action.workflow),
        ("tool version", contract.tool_version, action.tool_version),
        ("system", contract.target.system, action.system),
        ("environment", contract.target.environment, action.environment),
        ("risk class", contract.risk_class, action.risk_class),
        ("reversibility", contract.reversibility, action.reversibility),
    ):
        if approved != present:
            raise ApprovalMismatchError(
                f"the {name} of {action.tool} was {approved} when {queued.decision_id} was queued, and is {present} now"
            )
    if token != queued.receipt:
        raise ApprovalMismatchError(f"the receipt of {queued.decision_id} is not the one that was given out for it")
