"""The flags that hold runtime policy, evaluated through OpenFeature; values are reused while their ruleset stands."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import threading
import time
import uuid
from concurrent.futures import wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import ErrorCode, OpenFeatureError
from openfeature.flag_evaluation import FlagEvaluationDetails, Reason
from openfeature.provider import FeatureProvider, ProviderStatus
from pydantic import ValidationError

from producers.boundary.canonical_json import digest
from producers.boundary.flagd_file import TARGETING_KEY, FlagFile, Ruleset
from producers.boundary.policy_flags import ATTEMPT, DENYLIST, FLAGS, Context, Flag, FlagValue
from producers.boundary.provider_calls import CircuitBreaker, ProviderCalls, after_fork
from producers.errors import SettingsError
from producers.wire.decision import FlagEvaluation, FlagReason
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from concurrent.futures import Future
    from pathlib import Path


LOG = logging.getLogger(__name__)
_log_once = functools.lru_cache(maxsize=100)(LOG.error)

Key = TypeVar("Key")
Value = TypeVar("Value")

Evaluated = tuple[FlagValue, FlagEvaluation]

_ALL_FLAGS: Final = (*FLAGS, ATTEMPT)
_CACHE_SIZE = 20_000  # contexts whose values are kept for one ruleset; the oldest go first
DEADLINE_S: Final = 0.25  # for all flags of one decision together
_NOT_FOUND: Final = ErrorCode.FLAG_NOT_FOUND.value
_ATTEMPTS = 5  # how often a context is evaluated anew because the rules changed meanwhile, before the safe values apply
_DETAILS: Final = {bool: "get_boolean_details", float: "get_float_details", str: "get_string_details"}


@dataclass(frozen=True, eq=False)
class FlagValues:
    """Every flag's value for one context under one ruleset. Equal values of one ruleset are one object."""

    ruleset_sha256: str  # the rules that all of the values come from
    enabled: bool  # whether actions are decided at all
    denied: bool  # whether the action is switched off
    mode: Mode  # the authority that it has
    approval_required: bool  # whether consequential actions wait for a person
    confidence_threshold: float  # the confidence below which an action waits for a person
    evaluations: tuple[FlagEvaluation, ...]  # how each came about, in the order of `FLAGS`; `ATTEMPT` if not the first
    rules: Ruleset | None = None  # they are good while these are in force; None where for one call only


# A flag's key, and of a context the targeting key and the attributes that the flag looks at
_Question = tuple[str, str | None, tuple[tuple[str, str | float], ...]]


class _Cache:
    """What one ruleset has answered."""

    def __init__(self, rules: Ruleset | None) -> None:
        self.rules = rules
        self.values: dict[Context | tuple[Evaluated, ...], FlagValues] = {}
        # So that a new account costs only the flags that look at it
        self.answers: dict[_Question, Evaluated] = {}
        self._attributes = {flag.key: None if rules is None else rules.attributes_of(flag.key) for flag in _ALL_FLAGS}
        listed = self._attributes[DENYLIST.key]
        if listed is not None:
            self._attributes[DENYLIST.key] = listed | {"tool"}  # its value may be a list of tools

    def question(self, flag: Flag, context: Context) -> _Question | None:
        """What a flag is asked about a context: equal questions have equal answers. None where it sees everything."""
        names = self._attributes[flag.key]
        if names is None:
            return None
        targeting_key, attributes = context
        looked_at = tuple(item for item in attributes if item[0] in names) if names else ()
        return flag.key, targeting_key if TARGETING_KEY in names else None, looked_at

    def answer(self, flag: Flag, context: Context) -> Evaluated | None:
        """What a flag answered in a context that it cannot tell from this one."""
        question = self.question(flag, context)
        return None if question is None else self.answers.get(question)

    def keep(self, context: Context, answers: tuple[Evaluated, ...]) -> None:
        """Reuse these; but not failures, which need not come again though the question does."""
        for flag, answer in zip(_ALL_FLAGS, answers, strict=False):
            question = self.question(flag, context)
            if question is not None and _is_found_or_missing(answer):
                _put(self.answers, question, answer)


def _is_found_or_missing(answer: Evaluated) -> bool:
    return (answer[1].error or _NOT_FOUND).startswith(_NOT_FOUND)


def _is_first(answers: tuple[Evaluated, ...]) -> bool:
    """Whether it is the first attempt: whoever never tried anew has no such flag, which is no error."""
    value, _ = answers[-1]
    return len(answers) == len(_ALL_FLAGS) and value == ATTEMPT.safe and _is_found_or_missing(answers[-1])


def _put(cache: dict[Key, Value], key: Key, value: Value) -> None:
    if len(cache) >= _CACHE_SIZE:
        del cache[next(iter(cache))]
    cache[key] = value


class FlagEvaluator:
    """Evaluates the flags for contexts, with a safe value for everything that can go wrong.

    All flags of one decision come from one ruleset: from the moment `sha256` names new rules, nothing is decided by the
    old ones. Safe to use from many threads, and after a fork. Close it when done.
    """

    def __init__(
        self,
        provider: FeatureProvider | Callable[[], FeatureProvider],
        *,
        ruleset: Callable[[], Ruleset] | None = None,
        max_age_s: float = 1.0,
        deadline_s: float = DEADLINE_S,
        stale_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put a provider in force for this evaluator's own domain, never for the whole process.

        Args:
            provider: The provider, or a function that makes it, which is called again in a process that is forked;
                without one, safe values apply there, since nothing confirms what a provider knew before the fork. A
                `FlagFile` sees to its own rules, and needs neither.
            ruleset: Returns the rules in force, the same object for as long as they are; it is called for every
                decision. For a provider that evaluates in this process, since it is asked without a deadline. Without
                it a ruleset lasts until the provider announces a change, at most `max_age_s`, since not every one does;
                and a decision's digest covers the values themselves, since many providers show neither rules nor a
                version.
            max_age_s: How long values are reused, in seconds.
            deadline_s: How long a decision waits for all of its flags together, in seconds; then safe values apply.
            stale_s: How long a provider that says it is STALE is believed, in seconds; then safe values apply.
            clock: Seconds that never go back.
        """
        self._provider = provider() if callable(provider) else provider
        self._name = self._provider.get_metadata().name
        file = self._file = self._provider if isinstance(self._provider, FlagFile) else None
        self._make = provider if callable(provider) and file is None else None
        self._in_process = file is not None or ruleset is not None
        self._announced = Ruleset(None)
        self._max_age_s = math.inf if self._in_process else max_age_s
        self._deadline_s = deadline_s
        self._stale_s = stale_s
        self._clock = clock
        self._ruleset: Callable[[], Ruleset]
        self._ruleset = file.get_rules if file is not None else ruleset or (lambda: self._announced)
        self.begin_anew()
        self._inherited = False
        self._register()
        after_fork(self)

    def begin_anew(self) -> None:
        """Forget, in a process that is forked, the threads that kept the provider up, and those that hold a lock."""
        self._inherited = True  # the provider was made in the process of which this one is a fork
        self._lock = threading.Lock()
        self._cache = _Cache(None)
        self._announced = Ruleset(None)
        self._renewed_at = self._clock()
        self._stale_since: float | None = None
        self._calls = ProviderCalls()
        self._breaker = CircuitBreaker(self._name, self._clock)

    def _register(self) -> None:
        domain = f"stagekeeper-{uuid.uuid4().hex}"
        self._client = api.get_client(domain)
        try:
            api.set_provider_and_wait(self._provider, domain)
        except OpenFeatureError as error:
            LOG.error("the flag provider %s is not ready, safe values apply until it is: %s", self._name, error)  # noqa: TRY400
        for event in ProviderEvent:
            self._client.add_handler(event, self._announce)

    @classmethod
    def from_file(cls, path: Path, *, deadline_s: float = DEADLINE_S) -> Self:
        """Flags from a flagd file, where a change is in force within a second; `SettingsError` if there is none."""
        if not path.is_file():
            raise SettingsError(
                f"the flag file {path} does not exist, or is none; `examples/flags.json` is one to start from"
            )
        return cls(FlagFile(path), deadline_s=deadline_s)

    @property
    def sha256(self) -> str | None:
        """Digest of the rules in force; None where the provider does not show them."""
        return self._ruleset().sha256

    @property
    def provider_name(self) -> str:
        """What the provider calls itself."""
        return self._name

    @property
    def confirmed_age_s(self) -> float | None:
        """Seconds since the rules were last seen to be the ones in force; None where the provider does not say."""
        file = self._file
        age_s = math.inf if file is None else self._clock() - (file.confirmed_until - file.lease_s)
        return age_s if math.isfinite(age_s) else None

    @property
    def ready(self) -> bool:
        """Whether decisions follow the provider; while they do not, the safe values are in force."""
        if self._file is not None:
            self._file.confirm(self._deadline_s)
        return self._ruleset().error is None and self._breaker.closed and self._unready() is None

    def rules(self) -> Ruleset:
        """The rules in force, the same object for as long as they are."""
        if self._max_age_s < math.inf and self._clock() - self._renewed_at > self._max_age_s:
            self._renewed_at = self._clock()
            self._announced = Ruleset(None)
        return self._ruleset()

    def evaluate(self, context: Context) -> FlagValues:
        """Every flag's value for a context, all from one ruleset, each with the record of how it came about.

        It is the safe value when the provider fails, has no such flag, has it disabled, does not answer by the
        deadline, or answers with another type or a value that cannot decide; the record's reason says which.
        """
        ends_at = time.monotonic() + self._deadline_s
        if self._file is not None:
            self._file.confirm(self._deadline_s)
        steps = self._steps(context)
        try:
            while True:
                wait((next(steps),), max(0.0, ends_at - time.monotonic()))
        except StopIteration as end:
            return cast("FlagValues", end.value)

    async def evaluate_async(self, context: Context) -> FlagValues:
        """As `evaluate`, without holding up the event loop."""
        ends_at = time.monotonic() + self._deadline_s
        if self._file is not None and self._file.lapsed:
            await asyncio.wrap_future(self._calls.submit(functools.partial(self._file.confirm, self._deadline_s)))
        steps = self._steps(context)
        try:
            while True:
                answer = asyncio.wrap_future(next(steps))
                await asyncio.wait((answer,), timeout=max(0.0, ends_at - time.monotonic()))
                answer.cancel()
        except StopIteration as end:
            return cast("FlagValues", end.value)

    def _steps(self, context: Context) -> Generator[Future[Any], None, FlagValues]:
        """Yield the answers that have to be waited for, until the decision's deadline."""
        rules = self.rules()
        for _ in range(_ATTEMPTS):
            if rules.error is not None:
                return self._safe_values(rules, rules.error)
            cache = self._cache
            if cache.rules is not rules:
                cache = self._cache = _Cache(rules)
            values = cache.values.get(context)
            if values is not None:
                return values
            if self._in_process:
                answers = self._evaluate(context, cache)
            elif not self._breaker.admit():
                return self._safe_values(rules, "GENERAL: the provider does not answer in time, and is left alone")
            else:
                answer = self._calls.submit(functools.partial(self._evaluate, context, cache))
                yield answer
                if not answer.done():
                    answer.cancel()
                    self._breaker.fail()
                    return self._safe_values(rules, f"GENERAL: no answer within {self._deadline_s * 1000:g} ms")
                self._breaker.succeed()
                answers = answer.result()
            evaluated = answers[: len(FLAGS)] if _is_first(answers) else answers
            values = cache.values.get(evaluated) or self._flag_values(rules, evaluated, good_for=rules)
            now = self._ruleset()
            if now is rules:
                with self._lock:
                    _put(cache.values, context, values)
                    _put(cache.values, evaluated, values)
                    cache.keep(context, answers)
                return values
            rules = now  # values of two rulesets may be among them
        return self._safe_values(rules, "the rules change faster than they can be evaluated")

    def close(self) -> None:
        """Stop watching, and forget the provider."""
        self._provider.shutdown()

    def _evaluate(self, context: Context, cache: _Cache) -> tuple[Evaluated, ...]:
        if self._inherited and self._make is not None:
            self._make_anew(self._make)
        why = self._unready()
        if why is not None:
            return self._all_safe(why)
        targeting_key, attributes = context
        asked = EvaluationContext(targeting_key, dict(attributes))
        return tuple(cache.answer(flag, context) or self._evaluate_one(flag, asked) for flag in _ALL_FLAGS)

    def _unready(self) -> str | None:
        if self._file is not None:
            return None  # its rules say themselves whether they decide
        if self._inherited:
            return "PROVIDER_NOT_READY: made before the fork; give the evaluator a function that makes it"
        status = self._client.get_provider_status()
        if status is not ProviderStatus.STALE:
            self._stale_since = None
            return None if status is ProviderStatus.READY else "PROVIDER_NOT_READY: the provider is not ready"
        if self._stale_since is None:
            self._stale_since = self._clock()
        stale_for_s = self._clock() - self._stale_since
        return (
            None if stale_for_s < self._stale_s else f"PROVIDER_NOT_READY: the provider is stale for {stale_for_s:g} s"
        )

    def _make_anew(self, make: Callable[[], FeatureProvider]) -> None:
        with self._lock:
            if self._inherited:
                self._provider = make()
                self._register()
                self._inherited = False
                self._announced = Ruleset(None)

    def _evaluate_one(self, flag: Flag, context: EvaluationContext) -> Evaluated:
        ask = getattr(self._client, _DETAILS[type(flag.safe)])
        details: FlagEvaluationDetails[Any] = ask(flag.key, flag.safe, context)
        if flag is DENYLIST and details.error_code is ErrorCode.TYPE_MISMATCH:
            listed: FlagEvaluationDetails[Any] = self._client.get_object_details(flag.key, [], context)
            if isinstance(listed.value, list) and all(isinstance(tool, str) for tool in listed.value):
                details = replace(listed, value=context.attributes["tool"] in listed.value)
        if details.error_code is not None or details.reason == Reason.ERROR:
            code = details.error_code.value if details.error_code is not None else "ERROR"
            return self._safe(flag, FlagReason.ERROR, f"{code}: {details.error_message or ''}")
        if details.reason == Reason.DISABLED:
            return self._safe(flag, FlagReason.DISABLED, "the flag is disabled")
        if not flag.accepts(details.value):
            why = f"{str(details.value)[:100]!r} is no value of this flag"
            _log_once("%s: %s; its safe value applies", flag.key, why)
            return self._safe(flag, FlagReason.ERROR, why)
        # An attempt is told by its number, however somebody calls the variant.
        variant = None if flag is ATTEMPT else details.variant or None
        value = None if variant is not None else str(details.value).lower()
        try:
            return details.value, _evaluation(flag.key, variant, value, str(details.reason or ""), self._name)
        except ValidationError as error:
            return self._safe(flag, FlagReason.ERROR, f"the answer cannot be recorded: {error.errors()[0]['msg']}")

    def _safe_values(self, rules: Ruleset, why: str) -> FlagValues:
        return self._flag_values(rules, self._all_safe(why))

    def _all_safe(self, why: str) -> tuple[Evaluated, ...]:
        return tuple(self._safe(flag, FlagReason.ERROR, why) for flag in FLAGS)

    def _safe(self, flag: Flag, reason: FlagReason, why: str) -> Evaluated:
        evaluation = FlagEvaluation(
            key=flag.key, value=str(flag.safe).lower(), reason=reason, provider=self._name, error=why[:500]
        )
        return flag.safe, evaluation

    def _announce(self, _event: EventDetails) -> None:
        self._announced = Ruleset(None)
        self._unready()  # notes since when it is stale

    def _flag_values(
        self, rules: Ruleset, evaluated: tuple[Evaluated, ...], *, good_for: Ruleset | None = None
    ) -> FlagValues:
        (enabled, denied, mode, approval_required, threshold, *_), evaluations = zip(*evaluated, strict=True)
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
