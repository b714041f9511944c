"""The flags that hold runtime policy, with the value each falls to when nothing better is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Callable

    from producers.boundary.flagd_file import Ruleset
    from producers.wire.contract import ActionContract
    from producers.wire.decision import FlagEvaluation

FlagValue = bool | str | float
Context = tuple[str, tuple[tuple[str, str | float], ...]]
"""What flags are targeted by: the targeting key, then scalar attributes sorted by name. Hashable, to be cached."""


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        key: The flag's key in any provider.
        safe: The value that releases least: used when the flag is missing, of the wrong type, or the provider fails.
        purpose: One sentence for people.
        accepts: Whether a value of the right type is one that can decide; another one counts as an error.
    """

    key: str
    safe: FlagValue
    purpose: str
    accepts: Callable[[FlagValue], bool] = lambda _value: True


GOVERNANCE_ENABLED: Final = Flag(
    "agent-action-governance-enabled", safe=False, purpose="Master switch: while it is off, every action is denied."
)
DENYLIST: Final = Flag(
    "agent-action-denylist", safe=True, purpose="True where the action is switched off, by tool, workflow, account..."
)
MODE: Final = Flag(
    "agent-action-mode",
    safe=Mode.SEARCH_ONLY.value,
    purpose="The authority that the action has.",
    accepts=lambda value: value in set(Mode),
)
APPROVAL_REQUIRED: Final = Flag(
    "agent-action-approval-required", safe=True, purpose="Whether consequential actions wait for a person."
)
CONFIDENCE_THRESHOLD: Final = Flag(
    "agent-action-confidence-threshold",
    safe=0.8,
    purpose="Below this confidence an action waits for a person.",
    accepts=lambda value: 0.0 <= float(value) <= 1.0,  # false for NaN, too: no confidence is below that
)

FLAGS: Final = (GOVERNANCE_ENABLED, DENYLIST, MODE, APPROVAL_REQUIRED, CONFIDENCE_THRESHOLD)


@dataclass(frozen=True, eq=False)
class Answers:
    """Every flag's value for one context under one ruleset.

    Attributes:
        ruleset_sha256: The rules that all of the values come from.
        enabled: Whether actions are decided at all.
        denied: Whether the action is switched off.
        mode: The authority that it has.
        approval: Whether consequential actions wait for a person.
        threshold: The confidence below which an action waits for a person.
        records: How each value came about, in the order of `FLAGS`.
        rules: The rules that they are good for, while these are in force; None where they are good for one call only.
    """

    ruleset_sha256: str
    enabled: bool
    denied: bool
    mode: Mode
    approval: bool
    threshold: float
    records: tuple[FlagEvaluation, ...]
    rules: Ruleset | None = None

    def value_of(self, flag: Flag) -> FlagValue:
        """One flag's value."""
        values = (self.enabled, self.denied, self.mode.value, self.approval, self.threshold)
        return values[FLAGS.index(flag)]


def context_of(contract: ActionContract) -> Context:
    """What the flags may target, flat: some providers drop structured context, so every attribute is a scalar."""
    actor, target, scope = contract.actor, contract.target, contract.scope
    attributes: dict[str, str | float | None] = {
        "agent": actor.agent,
        "user": actor.user,
        "account": actor.account or scope.account,
        "service_identity": actor.service_identity,
        "model": actor.model,
        "prompt_version": actor.prompt_version,
        "tool": contract.tool,
        "tool_version": contract.tool_version,
        "workflow": contract.workflow,
        "environment": target.environment,
        "system": target.system,
        "region": scope.region,
        "risk_class": contract.risk_class.value,
        "reversibility": contract.reversibility.value,
    }
    known = tuple(sorted((name, value) for name, value in attributes.items() if value is not None))
    return actor.account or actor.user or actor.agent, known
