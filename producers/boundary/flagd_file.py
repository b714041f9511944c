"""OpenFeature provider for a flagd file: evaluated in this process, watched, and swapped as a whole.

The evaluation is flagd's own (`openfeature-flagd-core`). The watching is ours: rules and their digest come from one
read, and a file that is put back with an older date is noticed too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.event import ProviderEventDetails
from openfeature.exception import ErrorCode, OpenFeatureError, ParseError
from openfeature.provider import AbstractProvider, Metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from openfeature.evaluation_context import EvaluationContext
    from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType

LOG = logging.getLogger(__name__)

_POLL_S = 0.1  # how often the file is looked at; a change is in force well within a second
_FRESH_NS = 2_000_000_000  # a younger file is read again even when its date stands still: a date has coarse steps

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Ruleset:
    """The rules in force, told apart by identity: equal bytes that come back are new rules."""

    sha256: str | None  # digest of what decides; None where the provider does not show it


@dataclass(frozen=True, eq=False)
class _Rules(Ruleset):
    core: FlagdCore | None
    error: str | None = None
    timeless: bool = True  # False where targeting sees the clock: each look at the file puts the rules in force anew


class FlagFile(AbstractProvider):
    """Flags from a flagd JSON file. An unreadable file makes every evaluation fail, so that safe values apply."""

    def __init__(self, path: Path, *, poll_s: float = _POLL_S) -> None:
        super().__init__()
        self._path = path
        self._poll_s = poll_s
        self._stop = threading.Event()
        self._stamp: tuple[int, int, int] | None = None
        self._rules = _Rules(_digest_of_absence("not read yet"), None, "the flag file has not been read yet")
        self._watcher = threading.Thread(target=self._watch, name="stagekeeper-flags", daemon=True)

    @property
    def rules(self) -> Ruleset:
        """The rules in force. From the moment this names new rules, no evaluation follows the old ones."""
        return self._rules

    def initialize(self, evaluation_context: EvaluationContext) -> None:  # noqa: ARG002 - the interface has it
        """Read the file and watch it, also where it cannot be used yet, which is a `ParseError`."""
        self._poll()
        self._watcher.start()
        if self._rules.error is not None:
            raise ParseError(self._rules.error)

    def shutdown(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def get_metadata(self) -> Metadata:
        """The provider's name."""
        return Metadata(name="flagd")

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,  # noqa: FBT001 - the interface has it so
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        """A boolean flag."""
        return self._resolve(lambda core: core.resolve_boolean_value(flag_key, default_value, evaluation_context))

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """A string flag."""
        return self._resolve(lambda core: core.resolve_string_value(flag_key, default_value, evaluation_context))

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """An integer flag."""
        return self._resolve(lambda core: core.resolve_integer_value(flag_key, default_value, evaluation_context))

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """A number flag."""
        return self._resolve(lambda core: core.resolve_float_value(flag_key, default_value, evaluation_context))

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        """A structured flag."""
        return self._resolve(lambda core: core.resolve_object_value(flag_key, default_value, evaluation_context))

    def _resolve(self, resolve: Callable[[FlagdCore], Value]) -> Value:
        rules = self._rules
        if rules.core is None:
            raise ParseError(rules.error)
        return resolve(rules.core)

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_s):
            self._poll()

    def _poll(self) -> None:
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp == self._stamp and time.time_ns() - stat.st_mtime_ns > _FRESH_NS:
                self._renew_if_time_dependent()
                return
            text = self._path.read_bytes()
        except OSError as error:
            self._stamp = None
            self._enforce(_Rules(_digest_of_absence(str(error)), None, f"the flag file cannot be read: {error}"))
            return
        self._stamp = stamp
        if hashlib.sha256(text).hexdigest() != self._rules.sha256:
            self._enforce(_read(text))
        else:
            self._renew_if_time_dependent()

    def _renew_if_time_dependent(self) -> None:
        if not self._rules.timeless:
            self._rules = replace(self._rules)  # another object: answers by the one before are not reused

    def _enforce(self, rules: _Rules) -> None:
        before = self._rules
        if rules.sha256 == before.sha256:
            return
        if rules.error is not None:
            LOG.error("%s: safe values are in force until it is mended", rules.error)
            self._rules = rules
            self.emit_provider_error(ProviderEventDetails(message=rules.error, error_code=ErrorCode.PARSE_ERROR))
            return
        if before.core is None:
            # Before the swap: whoever asks the new rules must find the provider ready.
            self.emit_provider_ready(ProviderEventDetails())
        self._rules = rules
        self.emit_provider_configuration_changed(ProviderEventDetails())


def _read(text: bytes) -> _Rules:
    sha256 = hashlib.sha256(text).hexdigest()
    core = FlagdCore()
    try:
        document = flags_document(text)
        core.set_flags(document)
    except (OpenFeatureError, ValueError, TypeError, KeyError, AttributeError) as error:
        # flagd's reader names few of its errors; whatever it stumbles over, the file is not usable.
        reason = getattr(error, "error_message", None) or str(error)
        return _Rules(sha256, None, f"the flag file is not a flagd file: {reason}")
    return _Rules(sha256, core, timeless=_is_timeless(document))


def _is_timeless(rules: object) -> bool:
    """Whether no rule can see the clock: every variable is named outright, and none is flagd's own."""
    if isinstance(rules, list):
        return all(map(_is_timeless, rules))
    if not isinstance(rules, dict):
        return True
    variable = rules.get("var", "named")
    name = variable[0] if isinstance(variable, list) and variable else variable
    if not isinstance(name, str) or not name or name.startswith("$flagd"):
        return bool(name == "$flagd.flagKey")
    return all(map(_is_timeless, rules.values()))


def flags_document(text: bytes) -> dict[str, Any]:
    """Read a flagd document strictly, with a `ValueError` or `TypeError` where it is ambiguous or not a flagd file."""
    document = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    if not isinstance(document, dict) or not isinstance(document.get("flags"), dict):
        raise TypeError("there is no object `flags` at its top")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"there twice: {', '.join(sorted({name for name in names if names.count(name) > 1}))}")
    return members


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is not a number that can decide")


def _digest_of_absence(why: str) -> str:
    return hashlib.sha256(f"unreadable\x00{why}".encode()).hexdigest()
