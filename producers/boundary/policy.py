"""Runtime policy: flags evaluated through OpenFeature, reused while the ruleset stands, dropped when it changes."""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from typing import TYPE_CHECKING, Self, TypeVar

from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import OpenFeatureError
from openfeature.flag_evaluation import FlagEvaluationDetails
from openfeature.flag_evaluation import Reason as ProviderReason
from openfeature.provider import ProviderStatus
from pydantic import ValidationError

from producers.boundary.canonical_json import digest
from producers.boundary.flagd_file import FlagFile, Ruleset
from producers.boundary.flags import FLAGS, Answers, Context, Flag, FlagValue
from producers.boundary.targeting import TARGETING_KEY
from producers.errors import SettingsError
from producers.wire.decision import FlagEvaluation, FlagReason
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from openfeature.provider import FeatureProvider

Key = TypeVar("Key")
Value = TypeVar("Value")

LOG = logging.getLogger(__name__)

_CACHE_SIZE = 20_000
"""Contexts whose answers are kept for one ruleset; the oldest go first."""

_ATTEMPTS = 5
"""How often a context is asked anew because the rules changed meanwhile, before the safe values apply."""


Answered = tuple[FlagValue, FlagEvaluation]
"""One flag's value, and the record of how it came about."""

_Question = tuple[str, str | None, tuple[tuple[str, str | float], ...]]
"""A flag's key, and of a context the targeting key and the attributes that the flag looks at."""


class _Held:
    """What one ruleset has answered. Read from many threads; written under the policy's lock."""

    def __init__(self, rules: Ruleset | None) -> None:
        self.rules = rules
        self.answers: dict[Context, Answers] = {}
        self.singly: dict[_Question, Answered] = {}  # so that a new account costs only the flags that look at it
        self.alike: dict[tuple[Answered, ...], Answers] = {}  # so that what follows from equal answers is shared, too
        self._looks_at = {flag.key: rules.looks_at(flag.key) if rules is not None else None for flag in FLAGS}

    def question(self, flag: Flag, context: Context) -> _Question:
        """What a flag is asked about a context: equal questions have equal answers."""
        targeting_key, attributes = context
        names = self._looks_at[flag.key]
        if names is None:
            return flag.key, targeting_key, attributes
        looked_at = tuple(each for each in attributes if each[0] in names)
        return flag.key, targeting_key if TARGETING_KEY in names else None, looked_at

    def keep(self, context: Context, answers: Answers, answered: Iterable[tuple[_Question, Answered]]) -> None:
        """Reuse these; the oldest go first."""
        _put(self.answers, context, answers)
        pairs = tuple(answered)
        for question, each in pairs:
            if each[1].error is None:  # a failure need not come again, though the question does
                _put(self.singly, question, each)
        _put(self.alike, tuple(each for _, each in pairs), answers)


class Policy:
    """Evaluates flags for contexts, with a safe default for everything that can go wrong.

    All flags of one decision come from one ruleset, and no answer outlives its ruleset: from the moment `sha256` names
    new rules, nothing is decided by the old ones. Safe to use from many threads. Close it when done.
    """

    def __init__(
        self,
        provider: FeatureProvider,
        *,
        ruleset: Callable[[], Ruleset] | None = None,
        max_age_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put a provider in force for this policy alone.

        Args:
            provider: Any OpenFeature provider. Only its own domain is touched, never the process-wide default.
            ruleset: Returns the rules in force, the same object for as long as they are; quick, for it is called for
                every decision. Without it a ruleset lasts until the provider announces a change, and the digest in a
                decision covers the answers themselves, since many providers show neither rules nor a version.
            max_age_s: How long answers are reused without `ruleset`, in seconds: not every provider announces changes.
            clock: Seconds that never go back.
        """
        self._domain = f"stagekeeper-{uuid.uuid4().hex}"
        self._provider = provider
        self._name = provider.get_metadata().name
        self._lock = threading.Lock()
        self._announced = Ruleset(None)
        self._max_age_s = max_age_s if ruleset is None else math.inf
        self._clock = clock
        self._asked_anew = clock()
        self._ruleset = ruleset if ruleset is not None else lambda: self._announced
        self._held = _Held(None)
        self._client = api.get_client(self._domain)
        try:
            api.set_provider_and_wait(provider, self._domain)
        except OpenFeatureError as error:
            LOG.error("the flag provider %s is not ready, safe values apply until it is: %s", self._name, error)  # noqa: TRY400
        for event in (
            ProviderEvent.PROVIDER_CONFIGURATION_CHANGED,
            ProviderEvent.PROVIDER_ERROR,
            ProviderEvent.PROVIDER_READY,
            ProviderEvent.PROVIDER_STALE,
        ):
            self._client.add_handler(event, self._announce)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Policy from a flagd JSON file, evaluated in this process; a changed file is in force within a second.

        Raises:
            SettingsError: The file does not exist.
        """
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
        if self._max_age_s < math.inf and self._clock() - self._asked_anew > self._max_age_s:
            self._asked_anew = self._clock()
            self._announced = Ruleset(None)
        return self._ruleset()

    def answers(self, context: Context) -> Answers:
        """Every flag's value for a context, all from one ruleset, each with the record of how it came about.

        A value has the type of its flag's safe value. It is the safe value itself when the provider fails, has no such
        flag, has it disabled, or answers with something that cannot decide; the record's reason then says which.
        """
        rules = self.rules()
        for _ in range(_ATTEMPTS):
            held = self._held
            if held.rules is not rules:
                held = self._held = _Held(rules)
            answers = held.answers.get(context)
            if answers is not None:
                return answers
            keys = [held.question(flag, context) for flag in FLAGS]
            answered = tuple(
                held.singly.get(key) or self._ask(flag, context) for flag, key in zip(FLAGS, keys, strict=True)
            )
            answers = held.alike.get(answered) or self._answers(rules, answered, good_for=rules)
            now = self._ruleset()
            if now is rules:
                with self._lock:
                    held.keep(context, answers, zip(keys, answered, strict=True))
                return answers
            rules = now  # answers of two rulesets may be among them
        unsettled = "the rules change faster than they can be asked"
        return self._answers(rules, tuple(self._safe(flag, FlagReason.ERROR, unsettled) for flag in FLAGS))

    def evaluate(self, flag: Flag, context: Context) -> Answered:
        """One flag's value for a context, and the record of how it came about."""
        answers = self.answers(context)
        return answers.value_of(flag), answers.records[FLAGS.index(flag)]

    def close(self) -> None:
        """Stop watching, and forget the provider."""
        self._provider.shutdown()

    def _ask(self, flag: Flag, context: Context) -> Answered:
        if self._client.get_provider_status() is not ProviderStatus.READY:
            return self._safe(flag, FlagReason.ERROR, "the provider is not ready, or its rules cannot be read")
        targeting_key, attributes = context
        asked = EvaluationContext(targeting_key, dict(attributes))
        details: FlagEvaluationDetails[bool] | FlagEvaluationDetails[float] | FlagEvaluationDetails[str]
        if isinstance(flag.safe, bool):
            details = self._client.get_boolean_details(flag.key, flag.safe, asked)
        elif isinstance(flag.safe, float):
            details = self._client.get_float_details(flag.key, flag.safe, asked)
        else:
            details = self._client.get_string_details(flag.key, flag.safe, asked)
        if details.error_code is not None or details.reason == ProviderReason.ERROR:
            code = details.error_code.value if details.error_code is not None else "ERROR"
            return self._safe(flag, FlagReason.ERROR, f"{code}: {details.error_message or ''}")
        if details.reason == ProviderReason.DISABLED:
            return self._safe(flag, FlagReason.DISABLED, "the flag is disabled")
        if not flag.accepts(details.value):
            return self._safe(flag, FlagReason.ERROR, f"{str(details.value)[:100]!r} is no value of this flag")
        variant = details.variant or None
        try:
            record = FlagEvaluation(
                key=flag.key,
                variant=variant,
                value=None if variant is not None else str(details.value).lower(),
                reason=_reason(details.reason),
                provider=self._name,
            )
        except ValidationError as error:
            return self._safe(flag, FlagReason.ERROR, f"the answer cannot be recorded: {error.errors()[0]['msg']}")
        return details.value, record

    def _safe(self, flag: Flag, reason: FlagReason, why: str) -> Answered:
        record = FlagEvaluation(
            key=flag.key, value=str(flag.safe).lower(), reason=reason, provider=self._name, error=why[:500]
        )
        return flag.safe, record

    def _announce(self, _event: EventDetails) -> None:
        self._announced = Ruleset(None)

    def _answers(self, rules: Ruleset, answered: tuple[Answered, ...], *, good_for: Ruleset | None = None) -> Answers:
        (enabled, denied, mode, approval, threshold), records = zip(*answered, strict=True)
        return Answers(
            ruleset_sha256=rules.sha256
            or digest([self._name, [[record.key, record.variant or record.value] for record in records]]),
            enabled=enabled is True,
            denied=denied is not False,
            mode=Mode(mode),
            approval=approval is not False,
            threshold=float(threshold),
            records=records,
            rules=good_for,
        )


def _put(kept: dict[Key, Value], key: Key, value: Value) -> None:
    if len(kept) >= _CACHE_SIZE:
        del kept[next(iter(kept))]
    kept[key] = value


def _reason(reason: object) -> FlagReason:
    try:
        return FlagReason(str(getattr(reason, "value", reason)).lower())
    except ValueError:
        return FlagReason.UNKNOWN


def missing_flags(policy: Policy, context: Context) -> list[str]:
    """Keys of the flags that the provider does not have, or cannot evaluate, for a context."""
    return [record.key for record in policy.answers(context).records if record.error is not None]
