"""Leave to run one action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from producers.wire.decision import Decision
    from producers.wire.receipt import Receipt


@dataclass(frozen=True)
class Permit:
    """Leave to run one action once, as decided.

    Attributes:
        receipt: Names the decision.
        token: The receipt as it travels; whoever reports what came of the action needs it.
        decision: What was decided, and why.
        constrained_to: The variant that runs in the action's place; None where it runs as asked.
    """

    receipt: Receipt
    token: str
    decision: Decision
    constrained_to: str | None
