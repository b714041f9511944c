"""The queue of reviews: queue an action for review, and redeem what a person approved."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from producers.boundary.action import Action, Permit
from producers.boundary.approvals import ApprovalMismatchError, QueuedAction, ReviewError
from producers.boundary.canonical_json import canonical, copied, redacted
from producers.boundary.decision_rules import decide, decide_async
from producers.boundary.errors import ActionDeniedError
from producers.errors import UsageError
from producers.wire.receipt import IssuedReceipt, Receipt

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from producers.boundary.authorization import Authorizer
    from producers.boundary.canonical_json import ArgumentDigester
    from producers.boundary.flags import FlagEvaluator
    from producers.boundary.review_store import ReviewStore
    from producers.delivery.recorder import Recorder
    from producers.wire.contract import ActionContract
    from producers.wire.decision import Decision

LOG = logging.getLogger(__name__)


class ReviewQueue:
    """Queues one router's actions for review, and redeems their approvals, which hold for a time after queueing."""

    def __init__(
        self,
        store: ReviewStore | None,
        holds: timedelta,
        authorizer: Authorizer,
        flags: FlagEvaluator,
        recorder: Recorder,
        *,
        digester: ArgumentDigester,
    ) -> None:
        self._store = store
        self._holds = holds
        self._authorizer = authorizer
        self._flags = flags
        self._recorder = recorder
        self._digester = digester
        if store is not None and not store.is_protected:
            LOG.warning(
                "the rows of the review store %s are unprotected: whoever can write that file can approve. "
                "Set STAGEKEEPER_RECEIPT_KEY for routers and reviewers",
                store.name,
            )

    def submit(
        self,
        action: Action,
        arguments: Mapping[str, Any],
        contract: ActionContract,
        receipt: Receipt,
        decision: Decision,
    ) -> None:
        """Queue an action; `ActionDeniedError` where the store does not take it. Without a store it stays refused."""
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
                    expires_at=self._store.moment() + self._holds,
                    approvers=decision.authorization.approvers if decision.authorization is not None else None,
                )
            )
        except ReviewError as error:
            message = f"{action.tool} is denied: it needs a review and cannot be queued ({error})"
            raise ActionDeniedError(message, receipt, decision) from error

    def redeem(self, receipt: Receipt, action: Action, arguments: dict[str, Any]) -> Permit:
        """Use a person's approval: authorization and flags are asked again, then it is spent.

        Raises a `ReviewError` where the approval does not hold, `ActionDeniedError` where the action is refused by now.
        """
        contract = self._approved(receipt, action)
        # Asked again, so that what was switched off after the approval stays off.
        again = decide(contract, self._authorizer, self._flags, variants=frozenset(action.variants)).decision
        return self._spend(receipt, action, arguments, again)

    async def redeem_async(self, receipt: Receipt, action: Action, arguments: dict[str, Any]) -> Permit:
        """As `redeem`, without holding up the event loop where the flags' provider hangs."""
        contract = self._approved(receipt, action)
        staged = await decide_async(contract, self._authorizer, self._flags, variants=frozenset(action.variants))
        return self._spend(receipt, action, arguments, staged.decision)

    def _approved(self, receipt: Receipt, action: Action) -> ActionContract:
        queued = self.require_store().get(receipt.decision_id).queued
        _require_same(queued, action, self._recorder.token(receipt))
        return queued.contract

    def _spend(self, receipt: Receipt, action: Action, arguments: dict[str, Any], again: Decision) -> Permit:
        if again.result.outcome not in {"queue_for_review", "allow"} or not again.enforced:
            message = f"{action.tool} was approved, and is refused by now: {again.result.reason}"
            raise ActionDeniedError(message, receipt, again)
        asked, injected = action.split(arguments)
        asked = copied(asked)  # what is digested is what runs
        digest = self._digester.digest(asked, action.redact)
        self.require_store().redeem(receipt.decision_id, digest, ruleset_sha256=again.ruleset_sha256 or "")
        return Permit(
            IssuedReceipt(receipt.decision_id, self._recorder.token(receipt)), again, arguments=asked | injected
        )

    def give_back(self, permit: Permit) -> None:
        """Let an approval that was spent hold again, since the action asked for more input in place of running."""
        self.require_store().give_back(permit.decision_id)

    def require_store(self) -> ReviewStore:
        """The review store; `UsageError` where there is none."""
        if self._store is None:
            raise UsageError("this router has no review store; pass `reviews=` when it is made")
        return self._store


def _require_same(queued: QueuedAction, action: Action, token: str) -> None:
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
