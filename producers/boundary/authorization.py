"""Hard authorization: what may never run, whatever the flags say.

It is asked before any flag. The default is a policy file; an external authorizer (OPA, Cedar, a service of your own)
takes its place by implementing `Authorizer`.
"""

from __future__ import annotations

import hashlib
import re
from fnmatch import translate
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from producers.strict_yaml import ConfigurationFileError, parse_yaml, read_file
from producers.wire.contract import ActionContract, Reversibility, RiskClass
from producers.wire.decision import Authorization
from producers.wire.model import Name, Text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


DEFAULT_DENY = Authorization(permitted=False, rule="default-deny", reason="no authorization rule permits this action")

_WILD = frozenset("*?[")


class Authorizer(Protocol):
    """Decides what may ever run, before any flag."""

    @property
    def sha256(self) -> str:
        """Digest of the policy in force; part of the ruleset hash of every decision."""

    def authorize(self, contract: ActionContract) -> Authorization:
        """Say whether the action may ever run. An exception counts as a refusal."""


class SteadyAuthorizer(Authorizer, Protocol):
    """An authorizer that is blind to the time and to what is particular to one call.

    That is the arguments' digest, the intent, the conversation and the model's id of the call. A router reuses its
    answers for calls that differ only in these, for as long as `sha256` stays the same.
    """

    steady: Literal[True]


class _PolicyModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AuthorizationRule(_PolicyModel):
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
    approvers: Annotated[int, Field(ge=1, le=20)] | None = None
    """How many persons must approve each action that this rule permits, whatever the flags release."""
    because: Text | None = None


class ToolPin(_PolicyModel):
    """What a tool is, whoever asks: a contract that says otherwise is denied, whatever the rules permit."""

    tools: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Which tools, as globs."""
    risk_class: RiskClass | None = None
    reversibility: Reversibility | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.risk_class is None and self.reversibility is None:
            raise ValueError("a pin says the tools' risk_class, their reversibility, or both")
        return self


# A field, the names that it may have, and the globs.
_Check = tuple[str, frozenset[str], tuple[re.Pattern[str], ...]]


def _compiled(field: str, patterns: tuple[str, ...]) -> _Check:
    return (
        field,
        frozenset(pattern for pattern in patterns if not set(pattern) & _WILD),
        tuple(re.compile(translate(pattern)) for pattern in patterns if set(pattern) & _WILD),
    )


class _CompiledRule:
    """A rule compiled for many calls: only fields that it restricts are checked."""

    __slots__ = ("answer", "checks", "rank")

    def __init__(self, rule: AuthorizationRule) -> None:
        self.rank = rule.highest_risk_class.rank
        self.answer = Authorization(permitted=True, rule=rule.name, reason=rule.because, approvers=rule.approvers)
        self.checks = tuple(
            _compiled(field, patterns)
            for field, patterns in rule
            if isinstance(patterns, tuple) and "*" not in patterns
        )

    def missing(self, values: Mapping[str, str | None]) -> list[str]:
        """The fields that it restricts and that have no value, where it permits everything else; else nothing."""
        unknown = [field for field, _, _ in self.checks if values[field] is None]
        known = [check for check in self.checks if check[0] not in unknown]
        return unknown if all(_matches(check, values[check[0]]) for check in known) else []

    def permits(self, values: Mapping[str, str | None]) -> bool:
        # A loop, since it runs for every call.
        for check in self.checks:  # noqa: SIM110
            if not _matches(check, values[check[0]]):
                return False
        return True


def _matches(check: _Check, value: str | None) -> bool:
    """Whether a value is one that a rule names. An unknown one satisfies only "anything", which is no check."""
    _, names, globs = check
    return value is not None and (value in names or any(glob.match(value) for glob in globs))


class AuthorizationFile(_PolicyModel):
    """The whole policy file."""

    version: Literal[1]
    rules: tuple[AuthorizationRule, ...]
    pins: tuple[ToolPin, ...] = ()


class FileAuthorizer:
    """Authorization from a policy file; default deny. The file is read once: a new one takes a new router."""

    steady: Literal[True] = True

    def __init__(self, policy: AuthorizationFile, sha256: str) -> None:
        names = [rule.name for rule in policy.rules]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ConfigurationFileError(f"authorization rules need distinct names; twice there: {', '.join(repeated)}")
        self._rules = tuple(_CompiledRule(rule) for rule in policy.rules)
        self._pins = tuple((_compiled("tools", pin.tools), pin) for pin in policy.pins)
        self.sha256 = sha256  # of the file's bytes

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the policy file; `ConfigurationFileError` where it is missing or says something that it may not."""
        hint = "STAGEKEEPER_AUTHORIZATION_FILE names it; examples/authorization.yaml is one to start from."
        text = read_file(path, name="the authorization file", hint=hint)
        return cls(parse_yaml(text, AuthorizationFile, origin=str(path)), hashlib.sha256(text).hexdigest())

    def authorize(self, contract: ActionContract) -> Authorization:
        """The first rule that permits the action, else the default deny; before them, what is pinned."""
        if (denied := self._pinned_otherwise(contract)) is not None:
            return denied
        values, rank = _values(contract), contract.risk_class.rank
        for rule in self._rules:
            if rank <= rule.rank and rule.permits(values):
                return rule.answer
        return DEFAULT_DENY

    def missing(self, contract: ActionContract) -> tuple[str, ...]:
        """What would have to be known of an action to tell which rule decides; nothing where the answer is certain."""
        if self._pinned_otherwise(contract) is not None:
            return ()
        values, rank = _values(contract), contract.risk_class.rank
        for rule in self._rules:
            if rank <= rule.rank:
                if unknown := rule.missing(values):
                    return tuple(unknown)
                if rule.permits(values):
                    break
        return ()

    def _pinned_otherwise(self, contract: ActionContract) -> Authorization | None:
        for check, pin in self._pins:
            if not _matches(check, contract.tool):
                continue
            for name, pinned, said in (
                ("risk class", pin.risk_class, contract.risk_class),
                ("reversibility", pin.reversibility, contract.reversibility),
            ):
                if pinned not in {None, said}:
                    reason = f"the {name} of {contract.tool} is pinned to {pinned}, and the contract says {said}"
                    return Authorization(permitted=False, rule="pinned-claim", reason=reason)
        return None


def _values(contract: ActionContract) -> dict[str, str | None]:
    """What rules restrict, by the names of their fields."""
    actor, target = contract.actor, contract.target
    return {
        "tools": contract.tool,
        "environments": target.environment,
        "systems": target.system,
        "records": target.record,
        "workflows": contract.workflow,
        "agents": actor.agent,
        "users": actor.user,
        "accounts": actor.account,
        "service_identities": actor.service_identity,
    }
