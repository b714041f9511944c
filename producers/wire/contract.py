"""The action contract: one requested side effect, described before it runs."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from producers.wire.model import Name, Ratio, Sha256, Text, WireModel


class RiskClass(StrEnum):
    """How much harm the action can do, in rising order."""

    SEARCH = "search"
    SCOPED_READ = "scoped_read"
    SENSITIVE_READ = "sensitive_read"
    REVERSIBLE_WRITE = "reversible_write"
    EXTERNAL_EFFECT = "external_effect"
    ADMIN_ACTION = "admin_action"
    IRREVERSIBLE = "irreversible"

    @property
    def rank(self) -> int:
        """Position in the rising order, from 0."""
        return _RANKS[self]


_RANKS = {risk: rank for rank, risk in enumerate(RiskClass)}


class Reversibility(StrEnum):
    """What it takes to take the action back."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"
    EXPENSIVE = "expensive"
    NONE = "none"


class FallbackMode(StrEnum):
    """What happens in place of an action that may not run."""

    REFUSE = "refuse"
    SEARCH_ONLY = "search_only"
    DRAFT = "draft"
    HUMAN_HANDOFF = "human_handoff"


UNKNOWN_TOOL = "unknown_tool"  # the name under which all tools are counted that nobody has


class Actor(WireModel):
    """Who asks for the action."""

    agent: Name
    """Name of the agent, stable across its versions."""
    user: Name | None = None
    """The person on whose behalf the agent acts; a pseudonym is enough."""
    account: Name | None = None
    """The customer account that is touched."""
    service_identity: Name | None = None
    """The workload identity that the router runs as."""
    model: Name | None = None
    """The model behind the agent; a change of it starts a new epoch."""
    prompt_version: Name | None = None
    """Version of the agent's instructions; a change of it starts a new epoch."""


class Target(WireModel):
    """What the action touches."""

    environment: Name
    """Deployment environment, for example `production`."""
    system: Name
    """The system that is changed or read."""
    record: Name | None = None
    """The record within that system."""


class Scope(WireModel):
    """How far the action may reach."""

    account: Name | None = None
    region: Name | None = None
    environment: Name | None = None
    workflow: Name | None = None
    traffic_ratio: Ratio | None = None
    """Share of traffic that the roll-out covers."""


class Evidence(WireModel):
    """What speaks for the action, as known before it runs. Unknown stays null."""

    confidence: Ratio | None = None
    """The agent's own confidence."""
    source_coverage: Ratio | None = None
    """Share of the claims behind the action that a source covers."""
    evaluator_result: Name | None = None
    """What an automatic evaluator said, for example `passed`."""
    prior_review: Name | None = None
    """Reference to an earlier review of the same change."""


class Fallback(WireModel):
    """What to do when the action may not run."""

    mode: FallbackMode = FallbackMode.REFUSE
    note: Text | None = None
    """What the agent should be told."""


class ArgumentsDigest(NamedTuple):
    """What a contract says of its arguments, in its fields; all None where it says nothing."""

    arguments_sha256: str | None = None
    arguments_hmac: str | None = None
    key_id: str | None = None


class ActionContract(WireModel):
    """The structured description of one requested side effect, made before it runs."""

    actor: Actor
    intent: Text
    """Why the agent wants the action, in its own words."""
    target: Target
    tool: Name
    """The tool that performs the action (`gen_ai.tool.name`)."""
    tool_version: Name | None = None
    """Version of the tool; a change of it starts a new epoch."""
    workflow: Name
    """The workflow that the action belongs to (`gen_ai.workflow.name`)."""
    risk_class: RiskClass
    reversibility: Reversibility
    scope: Scope = Scope()
    evidence: Evidence = Evidence()
    fallback: Fallback = Fallback()
    arguments_sha256: Sha256 | None = None
    """Digest of the canonical JSON of the arguments, where there is no key and none of them is redacted."""
    arguments_hmac: Sha256 | None = None
    """HMAC-SHA256 of the canonical JSON of the arguments; the arguments themselves never leave the router."""
    key_id: Name | None = None
    """Names the key of `arguments_hmac` without telling it; digests under different keys cannot be compared."""
    conversation: Name | None = None
    """The conversation that the action belongs to (`gen_ai.conversation.id`)."""
    tool_call: Name | None = None
    """The model's own id of the call (`gen_ai.tool.call.id`)."""
    requested_tool: Name | None = None
    """What was asked for where `tool` is `unknown_tool`, which stands for all tools that the boundary does not know."""

    @property
    def arguments_digest(self) -> ArgumentsDigest:
        """What it says of its arguments."""
        return ArgumentsDigest(self.arguments_sha256, self.arguments_hmac, self.key_id)
