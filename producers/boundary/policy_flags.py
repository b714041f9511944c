"""The flags that decide about an action: their keys, safe values and purposes, and what they may target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from producers.wire.receipt import ATTEMPT_KEY, rung_of
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Callable

    from producers.wire.contract import ActionContract

FlagValue = bool | str | float
# What flags are targeted by: the targeting key, then scalar attributes sorted by name. Hashable, to be cached.
Context = tuple[str, tuple[tuple[str, str | float], ...]]


@dataclass(frozen=True)
class Flag:
    """One flag."""

    key: str  # the flag's key in any provider
    safe: FlagValue  # the value that releases least: for a flag that is missing or malformed, or a provider that fails
    purpose: str  # one sentence for people
    accepts: Callable[[FlagValue], bool] = lambda _value: True  # whether a value of the right type can decide


GOVERNANCE_ENABLED: Final = Flag(
    "agent-action-governance-enabled", safe=False, purpose="Master switch: while it is off, every action is denied."
)
DENYLIST: Final = Flag(
    "agent-action-denylist",
    safe=True,
    purpose="True where the action is switched off, by tool, workflow, account..., or a list of the tools that are.",
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
"""Those that every provider must have."""

ATTEMPT: Final = Flag(
    ATTEMPT_KEY,
    safe="1",
    purpose="Which attempt of the action it is, such as `2`, and at which rung, such as `2.3`; the first without it.",
    accepts=lambda value: rung_of(str(value)) is not None,
)


def flag_context(contract: ActionContract) -> Context:
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
    scalars = tuple(sorted((name, value) for name, value in attributes.items() if value is not None))
    return actor.account or actor.user or actor.agent, scalars
