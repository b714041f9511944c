"""Runtime policy: flags evaluated through OpenFeature, reused while the ruleset stands, dropped when it changes."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING, Self

from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.flag_evaluation import FlagEvaluationDetails
from openfeature.flag_evaluation import Reason as ProviderReason
from openfeature.provider import ProviderStatus

from producers.boundary.flags import FLAGS, Context, Flag, FlagValue
from producers.errors import SettingsError
from producers.wire.decision import FlagEvaluation, FlagReason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from openfeature.provider import FeatureProvider

_POLL_MS = 200
"""How often the flag file is looked at; a change is in force well within a second."""

_CACHE_SIZE = 50_000
"""Evaluations kept for one ruleset; the least recently used go first."""


class Policy:
    """Evaluates flags for contexts, with a safe default for everything that can go wrong.

    Safe to use from many threads. Close it when done: the default provider watches its file in a thread.
    """

    def __init__(self, provider: FeatureProvider, *, ruleset: Callable[[], bytes] | None = None) -> None:
        """Put a provider in force for this policy alone.

        Args:
            provider: Any OpenFeature provider. Only its own domain is touched, never the process-wide default.
            ruleset: Returns the bytes of the rules in force, for the ruleset hash. Without it the hash covers the
                provider's name and a count of its announced changes, which is all that some providers let one know.
        """
        self._domain = f"stagekeeper-{uuid.uuid4().hex}"
        self._provider = provider
        self._read_ruleset = ruleset
        self._lock = threading.Lock()
        self._generation = 0
        self._cache: OrderedDict[tuple[str, Context], tuple[FlagValue, FlagEvaluation]] = OrderedDict()
        self._name = provider.get_metadata().name
        # Hashed before the provider reads: a change in between is announced, and hashed again. A hash may thus name
        # newer rules than those in force for as long as one look at the file takes, but never older ones.
        self._sha256 = self._hash()
        api.set_provider_and_wait(provider, self._domain)
        self._client = api.get_client(self._domain)
        self._client.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, self._rules_changed)
        self._client.add_handler(ProviderEvent.PROVIDER_ERROR, self._rules_failed)
        for event in (ProviderEvent.PROVIDER_READY, ProviderEvent.PROVIDER_STALE):
            self._client.add_handler(event, self._forget)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Policy from a flagd JSON file, evaluated in this process; a changed file is in force within a second.

        Raises:
            SettingsError: The file cannot be read.
        """
        if not path.is_file():
            raise SettingsError(f"the flag file {path} does not exist; `examples/flags.json` is one to start from")
        provider = FlagdProvider(
            resolver_type=ResolverType.FILE, offline_flag_source_path=str(path), deadline_ms=_POLL_MS
        )
        return cls(provider, ruleset=path.read_bytes)

    @property
    def sha256(self) -> str:
        """Digest of the rules in force."""
        return self._sha256

    def evaluate(self, flag: Flag, context: Context) -> tuple[FlagValue, FlagEvaluation]:
        """The flag's value for a context, and the record of how it came about.

        The value has the type of `flag.safe`. It is `flag.safe` itself when the provider fails, has no such flag, has
        it disabled, or answers with another type; the record's reason then says which.
        """
        key = (flag.key, context)
        with self._lock:
            generation = self._generation
            cached = self._cache.get(key)
            if cached is not None:
                self._cache.move_to_end(key)
                return cached
        fresh = self._ask(flag, context)
        with self._lock:
            # An answer that was on its way while the rules changed belongs to the old rules: it is not kept.
            if generation == self._generation:
                self._cache[key] = fresh
                if len(self._cache) > _CACHE_SIZE:
                    self._cache.popitem(last=False)
        return fresh

    def close(self) -> None:
        """Stop watching, and forget the provider."""
        self._provider.shutdown()

    def _ask(self, flag: Flag, context: Context) -> tuple[FlagValue, FlagEvaluation]:
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
        if details.error_code is not None:
            return self._safe(flag, FlagReason.ERROR, f"{details.error_code.value}: {details.error_message or ''}")
        if details.reason == ProviderReason.DISABLED:
            return self._safe(flag, FlagReason.DISABLED, "the flag is disabled")
        variant = details.variant
        record = FlagEvaluation(
            key=flag.key,
            variant=variant,
            value=None if variant is not None else str(details.value).lower(),
            reason=_reason(details.reason),
            provider=self._name,
        )
        return details.value, record

    def _safe(self, flag: Flag, reason: FlagReason, why: str) -> tuple[FlagValue, FlagEvaluation]:
        record = FlagEvaluation(
            key=flag.key, value=str(flag.safe).lower(), reason=reason, provider=self._name, error=why[:500]
        )
        return flag.safe, record

    def _rules_changed(self, event: EventDetails) -> None:
        self._sha256 = self._hash()
        self._forget(event)

    def _rules_failed(self, event: EventDetails) -> None:
        # No approval and no record may name rules that were not in force.
        self._sha256 = hashlib.sha256(f"unreadable\x00{event.message}".encode()).hexdigest()
        self._forget(event)

    def _forget(self, _event: EventDetails) -> None:
        with self._lock:
            self._generation += 1
            self._cache.clear()

    def _hash(self) -> str:
        if self._read_ruleset is None:
            return hashlib.sha256(f"{self._name}\x00{self._domain}\x00{self._generation}".encode()).hexdigest()
        try:
            return hashlib.sha256(self._read_ruleset()).hexdigest()
        except OSError as error:
            # The rules are gone: a hash of their absence matches no earlier approval.
            return hashlib.sha256(f"unreadable\x00{error}".encode()).hexdigest()


def _reason(reason: object) -> FlagReason:
    try:
        return FlagReason(str(getattr(reason, "value", reason)).lower())
    except ValueError:
        return FlagReason.UNKNOWN


def missing_flags(policy: Policy, context: Context) -> list[str]:
    """Keys of the flags that the provider does not have, or cannot evaluate, for a context."""
    return [flag.key for flag in FLAGS if policy.evaluate(flag, context)[1].error is not None]
