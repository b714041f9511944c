"""Errors in place of a result: refusals with the decision's id, fit to be shown to an agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from producers.errors import StagekeeperError, UsageError

if TYPE_CHECKING:
    from producers.boundary.action import Action
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


class InvalidCallError(ActionDeniedError, UsageError):
    """The call itself cannot be decided as it is: its arguments or what is said of it. It is denied, on record."""

    exit_code = UsageError.exit_code


class ReviewRequiredError(RefusedError):
    """A person must approve the action first; the receipt resumes it."""


class ActionConstrainedError(RefusedError):
    """Only a lesser variant may run, and the action has none: nothing ran."""


class ActionFellBackError(RefusedError):
    """The contract's fallback applies in place of the action."""


class ActionObservedError(RefusedError):
    """The stage only observes: the decision is on record, and nothing ran."""


def refusal_of(action: Action, receipt: Receipt, decision: Decision) -> RefusedError:
    """The error for a decision after which nothing runs."""
    if not decision.enforced:
        return ActionObservedError(f"{action.tool} is only observed: nothing ran", receipt, decision)
    result = decision.result
    match result.outcome:
        case "constrain":
            message = f"{action.tool} is constrained to {result.mode}, and has no such variant: nothing ran"
            return ActionConstrainedError(message, receipt, decision)
        case "queue_for_review":
            return ReviewRequiredError(f"{action.tool} waits for a person: {result.reason}", receipt, decision)
        case "fallback":
            note = action.fallback.note or f"the fallback applies: {result.mode}"
            return ActionFellBackError(f"{action.tool} did not run; {note}", receipt, decision)
        case _:
            return ActionDeniedError(f"{action.tool} is denied: {result.reason}", receipt, decision)
