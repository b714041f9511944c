"""Errors in place of a result: refusals with the decision's id, fit to be shown to an agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from producers.wire.decision import Decision
    from producers.wire.receipt import Receipt


class RefusedError(StagekeeperError):
    """The action did not run as asked."""

    def __init__(self, message: str, receipt: Receipt, decision: Decision) -> None:
        super().__init__(f"{message} [decision {receipt.decision_id}]")
        self.receipt = receipt  # names the decision
        self.decision = decision


class ActionDeniedError(RefusedError):
    """The action may not run."""


class ReviewRequiredError(RefusedError):
    """A person must approve the action first; the receipt resumes it."""


class ActionConstrainedError(RefusedError):
    """Only a lesser variant may run, and the action has none: nothing ran."""


class ActionFellBackError(RefusedError):
    """The contract's fallback applies in place of the action."""


class ActionObservedError(RefusedError):
    """The stage only observes: the decision is on record, and nothing ran."""
