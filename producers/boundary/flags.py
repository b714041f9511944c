"""The flags that hold runtime policy, evaluated through OpenFeature; values are reused while their ruleset stands."""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import OpenFeatureError
from openfeature.flag_evaluation import FlagEvaluationDetails, Reason
from openfeature.provider import FeatureProvider, ProviderStatus
from pydantic import ValidationError

from producers.boundary.canonical_json import digest
from producers.boundary.flagd_file import FlagFile, Ruleset
from producers.errors import SettingsError
from producers.wire.decision import FlagEvaluation, FlagReason
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from producers.wire.contract import ActionContract

LOG = logging.getLogger(__name__)

FlagValue = bool | str | float
Evaluated = tuple[FlagValue, FlagEvaluation]
# What flags are targeted by: the targeting key, then scalar attributes sorted by name. Hashable, to be cached.
Context = tuple[str, tuple[tuple[str, str | float], ...]]

_CACHE_SIZE = 20_000  # contexts whose values are kept for one ruleset; the oldest go first
_ATTEMPTS = 5  # how often a context is evaluated anew because the rules changed meanwhile, before the safe values apply


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
class FlagValues:
    """Every flag's value for one context under one ruleset. Equal values of one ruleset are one object."""

    ruleset_sha256: str  # the rules that all of the values come from
    enabled: bool  # whether actions are decided at all
    denied: bool  # whether the action is switched off
    mode: Mode  # the authority that it has
    approval_required: bool  # whether consequential actions wait for a person
    confidence_threshold: float  # the confidence below which an action waits for a person
    evaluations: tuple[FlagEvaluation, ...]  # how each value came about, in the order of `FLAGS`
    rules: Ruleset | None = None  # they are good while these are in force; None where for one call only


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


@dataclass
class _Cache:
    rules: Ruleset | None
    values: dict[Context | tuple[Evaluated, ...], FlagValues] = field(default_factory=dict)

    def put(self, key: Context | tuple[Evaluated, ...], values: FlagValues) -> None:
        if len(self.values) >= _CACHE_SIZE:
            del self.values[next(iter(self.values))]
        self.values[key] = values


class FlagEvaluator:
    """Evaluates the flags for contexts, with a safe value for everything that can go wrong.

    All flags of one decision come from one ruleset: from the moment `sha256` names new rules, nothing is decided by the
    old ones. Safe to use from many threads. Close it when done.
    """

    def __init__(
        self,
        provider: FeatureProvider,
        *,
        ruleset: Callable[[], Ruleset] | None = None,
        max_age_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put a provider in force for this evaluator's own domain, never for the whole process.

        `ruleset` returns the rules in force, the same object for as long as they are; it is called for every decision.
        Without it a ruleset lasts until the provider announces a change, at most `max_age_s`, since not every one does;
        and a decision's digest covers the values themselves, since many providers show neither rules nor a version.
        """
        domain = f"stagekeeper-{uuid.uuid4().hex}"
        self._provider = provider
        self._name = provider.get_metadata().name
        self._lock = threading.Lock()
        self._announced = Ruleset(None)
        self._max_age_s = max_age_s if ruleset is None else math.inf
        self._clock = clock
        self._renewed_at = clock()
        self._ruleset = ruleset if ruleset is not None else lambda: self._announced
        self._cache = _Cache(None)
        self._client = api.get_client(domain)
        try:
            api.set_provider_and_wait(provider, domain)
        except OpenFeatureError as error:
            LOG.error("the flag provider %s is not ready, safe values apply until it is: %s", self._name, error)  # noqa: TRY400
        for event in ProviderEvent:
            self._client.add_handler(event, self._announce)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Flags from a flagd file, where a change is in force within a second; `SettingsError` if there is none."""
        if not path.is_file():
            raise SettingsError(f"the flag file {path} does not exist; `examples/flags.json` is one to start from")
        provider = FlagFile(path)
        return cls(provider, ruleset=lambda: provider.rules)

    @property
    def sha256(self) -> str | None:
        """Digest of the rules in force; None where the provider does not show them."""
        return self._ruleset().sha256

    def rules(self) -> Ruleset:
        """The rules in force, the same object for as long as they are."""
        if self._max_age_s < math.inf and self._clock() - self._renewed_at > self._max_age_s:
            self._renewed_at = self._clock()
            self._announced = Ruleset(None)
        return self._ruleset()

    def evaluate(self, context: Context) -> FlagValues:
        """Every flag's value for a context, all from one ruleset, each with the record of how it came about.

        It is the safe value when the provider fails, has no such flag, has it disabled, or answers with another type or
        a value that cannot decide; the record's reason says which.
        """
        rules = self.rules()
        for _ in range(_ATTEMPTS):
            cache = self._cache
            if cache.rules is not rules:
                cache = self._cache = _Cache(rules)
            values = cache.values.get(context)
            if values is not None:
                return values
            evaluated = self._evaluate(context)
            values = cache.values.get(evaluated) or self._flag_values(rules, evaluated, good_for=rules)
            now = self._ruleset()
            if now is rules:
                with self._lock:
                    cache.put(context, values)
                    cache.put(evaluated, values)
                return values
            rules = now  # values of two rulesets may be among them
        unsettled = "the rules change faster than they can be evaluated"
        return self._flag_values(rules, tuple(self._safe(flag, FlagReason.ERROR, unsettled) for flag in FLAGS))

    def close(self) -> None:
        """Stop watching, and forget the provider."""
        self._provider.shutdown()

    def _evaluate(self, context: Context) -> tuple[Evaluated, ...]:
        if self._client.get_provider_status() is not ProviderStatus.READY:
            why = "the provider is not ready, or its rules cannot be read"
            return tuple(self._safe(flag, FlagReason.ERROR, why) for flag in FLAGS)
        targeting_key, attributes = context
        evaluation_context = EvaluationContext(targeting_key, dict(attributes))
        return tuple(self._evaluate_one(flag, evaluation_context) for flag in FLAGS)

    def _evaluate_one(self, flag: Flag, context: EvaluationContext) -> Evaluated:
        details: FlagEvaluationDetails[bool] | FlagEvaluationDetails[float] | FlagEvaluationDetails[str]
        if isinstance(flag.safe, bool):
            details = self._client.get_boolean_details(flag.key, flag.safe, context)
        elif isinstance(flag.safe, float):
            details = self._client.get_float_details(flag.key, flag.safe, context)
        else:
            details = self._client.get_string_details(flag.key, flag.safe, context)
        if details.error_code is not None or details.reason == Reason.ERROR:
            code = details.error_code.value if details.error_code is not None else "ERROR"
            return self._safe(flag, FlagReason.ERROR, f"{code}: {details.error_message or ''}")
        if details.reason == Reason.DISABLED:
            return self._safe(flag, FlagReason.DISABLED, "the flag is disabled")
        if not flag.accepts(details.value):
            return self._safe(flag, FlagReason.ERROR, f"{str(details.value)[:100]!r} is no value of this flag")
        variant = details.variant or None
        value = None if variant is not None else str(details.value).lower()
        try:
            return details.value, _evaluation(flag.key, variant, value, str(details.reason or ""), self._name)
        except ValidationError as error:
            return self._safe(flag, FlagReason.ERROR, f"the answer cannot be recorded: {error.errors()[0]['msg']}")

    def _safe(self, flag: Flag, reason: FlagReason, why: str) -> Evaluated:
        evaluation = FlagEvaluation(
            key=flag.key, value=str(flag.safe).lower(), reason=reason, provider=self._name, error=why[:500]
        )
        return flag.safe, evaluation

    def _announce(self, _event: EventDetails) -> None:
        self._announced = Ruleset(None)

    def _flag_values(
        self, rules: Ruleset, evaluated: tuple[Evaluated, ...], *, good_for: Ruleset | None = None
    ) -> FlagValues:
        (enabled, denied, mode, approval_required, threshold), evaluations = zip(*evaluated, strict=True)
        return FlagValues(
            ruleset_sha256=rules.sha256
            or digest([self._name, [[flag.key, flag.variant or flag.value] for flag in evaluations]]),
            enabled=enabled is True,
            denied=denied is not False,
            mode=Mode(mode),
            approval_required=approval_required is not False,
            confidence_threshold=float(threshold),
            evaluations=evaluations,
            rules=good_for,
        )


@functools.lru_cache(maxsize=1_000)  # few differ, and a new account evaluates every flag anew
def _evaluation(key: str, variant: str | None, value: str | None, reason: str, provider: str) -> FlagEvaluation:
    name = reason.lower()
    flag_reason = FlagReason(name) if name in set(FlagReason) else FlagReason.UNKNOWN
    return FlagEvaluation(key=key, variant=variant, value=value, reason=flag_reason, provider=provider)
