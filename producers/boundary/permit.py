"""Leave to run one action."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from producers.wire.decision import Decision
    from producers.wire.receipt import Receipt


class Given(Protocol):
    """A receipt in its two forms."""

    @property
    def decision_id(self) -> str:
        """Id of the decision."""
        ...

    @property
    def token(self) -> str:
        """As it travels."""
        ...

    @property
    def receipt(self) -> Receipt:
        """As it is read."""
        ...


class Redeemed(NamedTuple):
    """The receipt of a queued action, come back with a person's approval."""

    receipt: Receipt
    token: str

    @property
    def decision_id(self) -> str:
        """Id of the decision."""
        return self.receipt.decision_id


class Permit:
    """Leave to run one action once, as decided.

    Attributes:
        decision: What was decided, and why.
        constrained_to: The variant that runs in the action's place; None where it runs as asked.
        decision_id: Id of the decision.
        token: The receipt as it travels; whoever reports what came of the action needs it.
    """

    __slots__ = ("_given", "constrained_to", "decision", "decision_id", "token")

    def __init__(self, given: Given, decision: Decision, constrained_to: str | None) -> None:
        self._given = given
        self.decision_id = given.decision_id
        self.token = given.token
        self.decision = decision
        self.constrained_to = constrained_to

    @property
    def receipt(self) -> Receipt:
        """Names the decision."""
        return self._given.receipt
