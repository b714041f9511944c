"""OpenFeature provider for a flagd file: evaluated in this process, watched, and swapped as a whole.

The evaluation is flagd's own (`openfeature-flagd-core`). The watching is ours: rules and their digest come from one
read, the file is read at every look, whatever its dates say, and no rules are in force longer than their lease.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import stat
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.contrib.tools.flagd.core.model.flag import Flag
from openfeature.exception import ParseError, ProviderNotReadyError
from openfeature.provider import AbstractProvider, Metadata

from producers.boundary.provider_calls import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from openfeature.evaluation_context import EvaluationContext
    from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType

LOG = logging.getLogger(__name__)

_POLL_S = 0.1  # how often the file is looked at; a change is in force well within a second
_LEASE_S = 1.0  # how long rules decide after the file was last looked at
_FIRST_LOOK_S = 5.0  # how long a process that starts waits for its first look
_LARGEST_FILE = 1_000_000  # bytes
_DEEPEST_NESTING = 100  # brackets within brackets; evaluating more of them takes more stack than a caller may have left

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Ruleset:
    """The rules in force, told apart by identity: equal bytes that come back are new rules."""

    sha256: str | None  # digest of what decides; None where the provider does not show it
    error: str | None = None  # why they cannot decide, behind OpenFeature's code; None where they can

    def attributes_of(self, flag_key: str) -> frozenset[str] | None:  # noqa: ARG002 - not every provider shows its rules
        """What a flag looks at, as `attributes_read` says; None where it may look at anything."""
        return None


@dataclass(frozen=True, eq=False)
class _Rules(Ruleset):
    core: FlagdCore | None = None
    timeless: bool = True  # False where targeting sees the clock: each look at the file puts the rules in force anew
    broken: Mapping[str, str] = field(default_factory=dict)  # what is wrong with single flags, which do not decide
    attributes: Mapping[str, frozenset[str] | None] = field(default_factory=dict)  # by flag; those it lacks see none

    def attributes_of(self, flag_key: str) -> frozenset[str] | None:
        return self.attributes.get(flag_key, frozenset())


class FlagFile(AbstractProvider):
    """Flags from a flagd JSON file. Rules that are unreadable or not confirmed within their lease decide nothing.

    Only the watcher reads the file, so that a mount that hangs holds nobody up. A process that is forked begins anew.
    """

    def __init__(
        self,
        path: Path,
        *,
        poll_s: float = _POLL_S,
        lease_s: float = _LEASE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._path = path
        self._poll_s = poll_s
        self.lease_s = lease_s
        self._clock = clock
        self._closed = False
        self.begin_anew()
        after_fork(self)

    def begin_anew(self) -> None:
        """Forget, in a process that is forked, what its parent read, its watcher, and who holds its lock."""
        self._turn = threading.Condition()
        self._wake = threading.Event()
        self._watcher: threading.Thread | None = None
        self.confirmed_until = -math.inf
        self._unanswered_since: float | None = None  # when a caller first waited for a look that has not ended yet
        self._text: bytes | None = None
        self._last_read = self._rules = self._without("has not been read yet")

    def get_rules(self) -> Ruleset:
        """The rules in force. From the moment this names new rules, no evaluation follows the old ones."""
        if self._clock() > self.confirmed_until:
            self._lapse()
        return self._rules

    @property
    def lapsed(self) -> bool:
        """Whether nobody has looked at the file within the lease, so that `confirm` may have to wait."""
        return self._clock() > self.confirmed_until

    def confirm(self, timeout_s: float) -> None:
        """Have the file looked at where the lease is over. All who wait for one look wait so long together."""
        if not self.lapsed or self._closed:
            return
        with self._turn:
            now = time.monotonic()
            first = self._unanswered_since is None
            since = self._unanswered_since = now if self._unanswered_since is None else self._unanswered_since
            self._watch_alive()
            self._wake.set()
            confirmed = self._turn.wait_for(lambda: not self.lapsed, since + timeout_s - now)
        if first and not confirmed:
            LOG.error("the flag file %s cannot be looked at: safe values are in force until it can", self._path)

    def initialize(self, evaluation_context: EvaluationContext) -> None:  # noqa: ARG002 - the interface has it
        """Read the file and watch it, also where it cannot be used yet, which is a `ParseError`."""
        self.confirm(_FIRST_LOOK_S)
        rules = self.get_rules()
        if rules.error is not None:
            raise ParseError(rules.error)

    def shutdown(self) -> None:
        """Stop watching."""
        self._closed = True
        self._wake.set()
        if self._watcher is not None:
            self._watcher.join(_LEASE_S)  # one that hangs ends with the process

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
        return self._resolve(
            flag_key, lambda core: core.resolve_boolean_value(flag_key, default_value, evaluation_context)
        )

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """A string flag."""
        return self._resolve(
            flag_key, lambda core: core.resolve_string_value(flag_key, default_value, evaluation_context)
        )

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """An integer flag."""
        return self._resolve(
            flag_key, lambda core: core.resolve_integer_value(flag_key, default_value, evaluation_context)
        )

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """A number flag."""
        return self._resolve(
            flag_key, lambda core: core.resolve_float_value(flag_key, default_value, evaluation_context)
        )

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        """A structured flag."""
        return self._resolve(
            flag_key, lambda core: core.resolve_object_value(flag_key, default_value, evaluation_context)
        )

    def _resolve(self, flag_key: str, resolve: Callable[[FlagdCore], Value]) -> Value:
        rules = self._rules
        if rules.core is None:
            raise ProviderNotReadyError(rules.error)
        if flag_key in rules.broken:
            raise ParseError(rules.broken[flag_key])
        return resolve(rules.core)

    def _watch_alive(self) -> None:
        if self._watcher is not None and self._watcher.is_alive():
            return
        self._watcher = threading.Thread(target=self._watch, name="stagekeeper-flags", daemon=True)
        try:
            self._watcher.start()
        except RuntimeError:  # no thread can be started (any more): nothing confirms the rules
            LOG.exception("the flag file %s has no watcher", self._path)
            self._watcher = None

    def _watch(self) -> None:
        while not self._closed:
            self._look()
            self._wake.wait(self._poll_s)
            self._wake.clear()

    def _look(self) -> None:
        began = self._clock()  # what is written later than this may be missing from what is read
        text: bytes | None = None
        try:
            text = read_flag_file(self._path)
            read = self._last_read if text == self._text else parse_rules(text, self._path)
        except Exception as error:  # noqa: BLE001 - whatever a file system answers, the file is unreadable
            read = self._without(f"cannot be read: {error}")
        last = self._last_read
        if read.error is not None and read.error == last.error:
            read = last
        if read.error is not None and read is not last:
            LOG.error("%s: safe values are in force until it is mended", read.error)
        for fault in set(read.broken.values()) - set(last.broken.values()):
            LOG.error("%s; it alone has its safe value until that is mended", fault)
        with self._turn:
            if not read.timeless or (read is last and self._rules is not last):
                read = replace(read)  # another object: answers by the one before are not reused
            self._text, self._last_read, self._rules = text, read, read
            self.confirmed_until = began + self.lease_s
            self._unanswered_since = None
            self._turn.notify_all()

    def _lapse(self) -> None:
        with self._turn:
            if self.lapsed and self._rules is self._last_read:
                self._rules = self._without(f"has not been looked at for {self.lease_s:g} s")

    def _without(self, why: str) -> _Rules:
        sha256 = hashlib.sha256(f"unreadable\x00{why}".encode(errors="backslashreplace")).hexdigest()
        return _Rules(sha256, f"PROVIDER_NOT_READY: the flag file {self._path} {why}")


def read_flag_file(path: Path) -> bytes:
    """The bytes of a flag file; `OSError` where it is no regular file, is too large, or cannot be read."""
    # A FIFO that nobody writes to is opened at once, and so is a device, which is then left alone.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no regular file")
        text = os.read(descriptor, _LARGEST_FILE + 1)
        while len(text) < min(status.st_size, _LARGEST_FILE + 1) and (more := os.read(descriptor, _LARGEST_FILE + 1)):
            text += more
    finally:
        os.close(descriptor)
    if len(text) > _LARGEST_FILE:
        raise OSError(f"it is larger than {_LARGEST_FILE:,} bytes")
    return text


def parse_rules(text: bytes, path: Path) -> _Rules:
    """The rules that the content of a flag file makes; their `error` says where it makes none."""
    sha256 = hashlib.sha256(text).hexdigest()
    core = FlagdCore()
    try:
        document = flags_document(text)
        broken = _take_out_broken(document["flags"], path)
        core.set_flags(document)
        timeless = _is_timeless(document)
        attributes = {key: attributes_read(flag.get("targeting")) for key, flag in document["flags"].items()}
    except Exception as error:  # noqa: BLE001 - whatever a reader stumbles over, the file is not usable
        return _Rules(sha256, f"PARSE_ERROR: the flag file {path} is not a flagd file: {_reason(error)}")
    return _Rules(sha256, core=core, timeless=timeless, broken=broken, attributes=attributes)


def _take_out_broken(flags: dict[str, Any], path: Path) -> dict[str, str]:
    """Take out the flags that flagd's engine refuses, which would refuse all for one; gives what is wrong with each."""
    faults = {key: fault for key, flag in flags.items() if (fault := _fault(key, flag)) is not None}
    for key in faults:
        del flags[key]
    return {key: f"the flag {key!r} of {path} is broken: {fault}" for key, fault in faults.items()}


def _fault(key: str, flag: object) -> str | None:
    if not isinstance(flag, dict):
        return "it is no object"
    if missing := [name for name in ("state", "variants") if name not in flag]:
        return f"it has no {' and no '.join(f'`{name}`' for name in missing)}"
    try:
        Flag.from_dict(key, dict(flag))
    except Exception as error:  # noqa: BLE001 - whatever the engine stumbles over, this flag is not usable
        return _reason(error)
    return None


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    return getattr(error, "error_message", None) or str(error) or str(cause) or type(cause).__name__


def _is_timeless(rules: object) -> bool:
    """Whether no rule can see the clock: every variable is named outright, and none is flagd's own."""
    parts = rules.values() if isinstance(rules, dict) else rules if isinstance(rules, list) else ()
    sees_clock = isinstance(rules, dict) and "var" in rules and _named(rules["var"]) is None
    return not sees_clock and all(map(_is_timeless, parts))


def _named(variable: object) -> str | None:
    """The attribute that `var` looks at; None where its name is computed, or is flagd's own, as the clock's is."""
    name = variable[0] if isinstance(variable, list) and variable else variable
    is_named = isinstance(name, str) and name and (name == "$flagd.flagKey" or not name.startswith("$flagd"))
    return str(name) if is_named else None


TARGETING_KEY: Final = "targetingKey"  # the name under which rules see the targeting key
# Operators that see nothing but their arguments; `map`, `missing` and their like see more
_PLAIN_OPERATORS = frozenset({"if", "?:", "and", "or", "!", "!!", "in", "cat", "substr", "min", "max", "merge"}) | (
    {"==", "===", "!=", "!==", "<", "<=", ">", ">=", *"+-*/%", "starts_with", "ends_with", "sem_ver", "fractional"}
)


def attributes_read(rule: object) -> frozenset[str] | None:
    """Names of the attributes that targeting looks at, so that its answer is reused where these are alike.

    `TARGETING_KEY` is among them where a percentage may look at it. None where they cannot be told: a name is computed,
    or an operator is not known here.
    """
    parts: list[object] = []
    names: set[str] = set()
    if isinstance(rule, list):
        parts = rule
    elif isinstance(rule, dict) and rule:
        operator, arguments = next(iter(rule.items()))
        parts = arguments if isinstance(arguments, list) else [arguments]
        if operator == "var":
            if (name := _named(arguments)) is None:
                return None
            names = {name, name.partition(".")[0]}  # a dot may lead into what the first part names
        elif operator == "fractional":
            names = {TARGETING_KEY}
        if len(rule) > 1 or operator not in {"var", *_PLAIN_OPERATORS}:
            return None
    for part in parts:
        if (read := attributes_read(part)) is None:
            return None
        names |= read
    return frozenset(names)


_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)  # and strings, whose brackets are none


def flags_document(text: bytes) -> dict[str, Any]:
    """Read a flagd document strictly, with a `ValueError` or `TypeError` where it is ambiguous or not a flagd file."""
    characters = text.decode("utf-8-sig")
    _require_shallow(characters)
    document = json.loads(characters, object_pairs_hook=_unique, parse_constant=_no_number)
    if not isinstance(document, dict) or not isinstance(document.get("flags"), dict):
        raise TypeError("there is no object `flags` at its top")
    _require_small_expansion(document)
    return document


def _require_small_expansion(document: dict[str, Any]) -> None:
    """Refuse evaluators that flagd's engine, which copies each to where it is named, would blow up."""
    text, evaluators = json.dumps(document["flags"]), document.get("$evaluators") or {}
    if not isinstance(evaluators, dict):
        raise TypeError("its `$evaluators` is no object")
    for name, rule in evaluators.items():
        reference, copied = json.dumps({"$ref": name}), json.dumps(rule)
        if len(text) + text.count(reference) * len(copied) > _LARGEST_FILE:
            raise ValueError(f"its evaluators make it larger than {_LARGEST_FILE:,} characters")
        text = text.replace(reference, copied)
    _require_shallow(text)


def _require_shallow(text: str) -> None:
    depth = 0
    for match in _BRACKETS.finditer(text):
        bracket = match.group()
        depth += (bracket in "[{") - (bracket in "]}")
        if depth > _DEEPEST_NESTING:
            raise ValueError(f"it is nested deeper than {_DEEPEST_NESTING} brackets")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"there twice: {', '.join(sorted({name for name in names if names.count(name) > 1}))}")
    return members


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is not a number that can decide")
