"""Rules that somebody would like to try: a flag file and an authorization file, decided by the code that routers run.

A decision under them can be said where the recorded contract has everything that they look at. What a contract lacks,
or has only as `[redacted]`, may be anything in the next one: where that could change the decision, nothing is guessed.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

from producers.boundary.authorization import FileAuthorizer
from producers.boundary.canonical_json import REDACTED
from producers.boundary.decision_rules import apply_rules, authorize
from producers.boundary.flag_edit import FlagText
from producers.boundary.flagd_file import TARGETING_KEY, attributes_read
from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import DENYLIST, FLAGS, GOVERNANCE_ENABLED, flag_context
from producers.boundary.possible_values import values_where
from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from producers.wire.contract import ActionContract
    from producers.wire.decision import Decision

_UNTOLD = ("something other than attributes, such as the time",)
_DEADLINE_S = 10.0  # nobody waits for the decision but whoever compares


class UnusableRulesError(StagekeeperError):
    """A flag file decides nothing, so that there is nothing to compare."""


class Unsaid(NamedTuple):
    """Why it cannot be said how a contract would be decided."""

    reason: str


class CandidateRules:
    """A flag file and an authorization file; open them with `opened`."""

    def __init__(self, authorizer: FileAuthorizer, evaluator: FlagEvaluator, flags: FlagText) -> None:
        self._authorizer, self._evaluator, self._flags = authorizer, evaluator, flags
        self._sha256 = flags.sha256
        stated = {flag: flags.flags.get(flag.key) for flag in FLAGS}
        self._read = {
            flag: attributes_read(one.get("targeting") if isinstance(one, dict) else None)
            for flag, one in stated.items()
        }

    @classmethod
    @contextmanager
    def opened(cls, flags: Path, authorization: Path) -> Iterator[Self]:
        """Read both; raises `FlagFileError`, `SettingsError`, `ConfigurationFileError` and `UnusableRulesError`."""
        text, authorizer = FlagText.load(flags), FileAuthorizer.load(authorization)
        evaluator = FlagEvaluator.from_file(flags, deadline_s=_DEADLINE_S)
        try:
            if (error := evaluator.rules().error) is not None:
                raise UnusableRulesError(f"the flag file {flags} decides nothing: {error}")
            yield cls(authorizer, evaluator, text)
        finally:
            evaluator.close()

    def decide(self, contract: ActionContract) -> Decision | Unsaid:
        """How a router decides it; raises `UnusableRulesError` where the rules changed or were not read in time."""
        known = _without_redacted(contract)
        if missing := self._authorizer.missing(known):
            return Unsaid(f"authorization looks at {_listed(missing)}, which the contract lacks")
        authorization, sha256 = authorize(known, self._authorizer)
        if authorization.permitted and (missing := self._missing_of_flags(known)):
            return Unsaid(f"flags look at {_listed(missing)}, which the contract lacks")
        values = self._evaluator.evaluate(flag_context(known))
        if values.rules is None:
            why = next((flag.error for flag in values.evaluations if flag.error), "they change")
            raise UnusableRulesError(f"the flag file {self._flags.path} cannot be decided by: {why}")
        if values.ruleset_sha256 != self._sha256:
            raise UnusableRulesError(f"the flag file {self._flags.path} has changed meanwhile; start anew")
        # Which lesser variants a router has is not on record, and nothing of what is compared rests on it.
        return apply_rules(known, authorization, sha256, values, frozenset()).decision

    @property
    def on_safe_values(self) -> dict[str, str]:
        """The flags that would decide by their safe values whatever the contract, and why: missing or disabled."""
        stated = {flag.key: self._flags.flags.get(flag.key) for flag in FLAGS}
        return {
            key: "it is missing" if flag is None else "it is disabled"
            for key, flag in stated.items()
            if not isinstance(flag, dict) or flag.get("state") != "ENABLED"
        }

    def _missing_of_flags(self, contract: ActionContract) -> tuple[str, ...]:
        """What the flags look at and the contract lacks, where it could change what they answer; in their order."""
        targeting_key, attributes = flag_context(contract)
        known = {name: str(value) for name, value in attributes} | {TARGETING_KEY: targeting_key}
        missing = {
            flag: _UNTOLD if read is None else tuple(sorted(read - known.keys())) for flag, read in self._read.items()
        }
        for flag in FLAGS if any(missing.values()) else ():
            stated = self._flags.flags.get(flag.key)
            targeting = stated.get("targeting") if isinstance(stated, dict) else None
            values = values_where(self._flags.flags, flag, known, targeting)
            if missing[flag] and len(values) > 1:
                return missing[flag]
            # Nothing that comes later matters to what is denied.
            if (flag is GOVERNANCE_ENABLED and values == (False,)) or (flag is DENYLIST and values == (True,)):
                break
        return ()


def _without_redacted(contract: ActionContract) -> ActionContract:
    """A contract in which what was redacted is as missing as what was never there."""
    parts = {}
    for name in ("actor", "scope"):
        part = getattr(contract, name)
        hidden = {field: None for field, value in part if value == REDACTED and field != "agent"}
        parts[name] = part.model_copy(update=hidden) if hidden else part
    hides_record = contract.target.record == REDACTED
    parts["target"] = contract.target.model_copy(update={"record": None}) if hides_record else contract.target
    return contract.model_copy(update=parts)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(name.removesuffix("s") if name != "service_identities" else "service_identity" for name in names)
