"""Hard authorization: what may never happen, whatever the flags say.

It is asked before any flag, and nothing that it refuses can be released by a flag. The default is a policy file; an
external authorizer (OPA, Cedar, a service of your own) takes its place by implementing `Authorizer`.
"""

from __future__ import annotations

import hashlib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field

from producers.strict_yaml import ConfigurationFileError, parse_yaml
from producers.wire.contract import RiskClass
from producers.wire.decision import Authorization
from producers.wire.model import Name, Text

if TYPE_CHECKING:
    from pathlib import Path

    from producers.wire.contract import ActionContract

DEFAULT_DENY = Authorization(permitted=False, rule="default-deny", reason="no authorization rule permits this action")
"""What is said where no rule speaks."""


class Authorizer(Protocol):
    """Whoever holds the last word on what may run."""

    @property
    def sha256(self) -> str:
        """Digest of the policy in force; part of the ruleset hash of every decision."""
        ...

    def authorize(self, contract: ActionContract) -> Authorization:
        """Say whether the action may ever run. An exception counts as a refusal."""
        ...


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rule(_Part):
    """One permission. Every field is a glob (`*`, `?`, `[a-c]`); what is left out matches anything."""

    name: Name
    agents: tuple[Name, ...] = ("*",)
    users: tuple[Name, ...] = ("*",)
    accounts: tuple[Name, ...] = ("*",)
    service_identities: tuple[Name, ...] = ("*",)
    tools: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Which tools; there is no default, so that a permission is never wider than somebody wrote."""
    systems: tuple[Name, ...] = ("*",)
    records: tuple[Name, ...] = ("*",)
    environments: Annotated[tuple[Name, ...], Field(min_length=1)]
    workflows: tuple[Name, ...] = ("*",)
    highest_risk_class: RiskClass
    """The action is permitted up to this class."""
    because: Text | None = None

    def matches(self, contract: ActionContract) -> bool:
        """Whether this rule permits the action."""
        actor, target = contract.actor, contract.target
        return (
            contract.risk_class.rank <= self.highest_risk_class.rank
            and _any(self.tools, contract.tool)
            and _any(self.environments, target.environment)
            and _any(self.systems, target.system)
            and _any(self.records, target.record)
            and _any(self.workflows, contract.workflow)
            and _any(self.agents, actor.agent)
            and _any(self.users, actor.user)
            and _any(self.accounts, actor.account)
            and _any(self.service_identities, actor.service_identity)
        )


class AuthorizationFile(_Part):
    """The whole policy file."""

    version: Literal[1]
    rules: tuple[Rule, ...]


class FileAuthorizer:
    """Authorization from a policy file; default deny."""

    def __init__(self, policy: AuthorizationFile, sha256: str) -> None:
        names = [rule.name for rule in policy.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigurationFileError(f"authorization rules need distinct names; twice there: {', '.join(twice)}")
        self._policy = policy
        self._sha256 = sha256

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the policy file.

        Raises:
            ConfigurationFileError: The file is missing or says something that it may not say.
        """
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ConfigurationFileError(f"{path} cannot be read: {error.strerror or error}") from error
        return cls(parse_yaml(text, AuthorizationFile, origin=str(path)), hashlib.sha256(text).hexdigest())

    @property
    def sha256(self) -> str:
        """SHA-256 of the file's bytes."""
        return self._sha256

    def authorize(self, contract: ActionContract) -> Authorization:
        """The first rule that permits the action, else the default deny."""
        for rule in self._policy.rules:
            if rule.matches(contract):
                return Authorization(permitted=True, rule=rule.name, reason=rule.because)
        return DEFAULT_DENY


def _any(patterns: tuple[str, ...], value: str | None) -> bool:
    # An unknown value satisfies only "anything": a rule that names values must see one of them.
    return any(pattern == "*" or (value is not None and fnmatchcase(value, pattern)) for pattern in patterns)
