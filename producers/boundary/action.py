"""Actions that agents may ask for, the context of a call, and the permission to run one."""

from __future__ import annotations

import inspect
import re
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from producers.boundary.canonical_json import REDACTED
from producers.errors import UsageError
from producers.wire.contract import ActionContract, Actor, Evidence, Fallback, Reversibility, RiskClass, Scope, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from producers.wire.decision import Decision
    from producers.wire.receipt import IssuedReceipt, Receipt

_NAMED = frozenset({inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY})


@dataclass(frozen=True)
class CallContext:
    """What is known about one call beyond its arguments. Unknown stays None."""

    agent: str | None = None  # name of the agent that asks
    intent: str | None = None  # why it asks
    user: str | None = None  # on whose behalf
    account: str | None = None  # which account is touched
    service_identity: str | None = None  # the workload identity of the router
    model: str | None = None  # the model behind the agent
    prompt_version: str | None = None  # version of its instructions
    record: str | None = None  # the record that is touched
    region: str | None = None  # where
    confidence: float | None = None  # the agent's own, between 0 and 1
    source_coverage: float | None = None  # share of its claims that a source covers
    evaluator_result: str | None = None  # what an automatic evaluator said
    prior_review: str | None = None  # reference to an earlier review
    conversation: str | None = None  # id of the conversation
    tool_call: str | None = None  # the model's id of the call
    requested_tool: str | None = None  # the name that was asked for, where the action stands for all unknown ones
    traffic_ratio: float | None = None  # share of traffic that the roll-out covers
    cohort: str = "all"  # segment of the roll-out; few by rule


_NO_CONTEXT = CallContext()
_CALL_CONTEXT: ContextVar[CallContext] = ContextVar("stagekeeper-call-context", default=_NO_CONTEXT)
_FIELDS = frozenset(item.name for item in fields(CallContext))
_RATIOS = frozenset({"confidence", "source_coverage", "traffic_ratio"})
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


@contextmanager
def acting(**known: Any) -> Iterator[CallContext]:  # noqa: ANN401 - the fields of CallContext, checked below
    """Say who acts and why, for every action in the block, also across `await`; `UsageError` for an unknown field."""
    unknown = sorted(set(known) - _FIELDS)
    if unknown:
        raise UsageError(f"acting() does not know {', '.join(unknown)}; it knows {', '.join(sorted(_FIELDS))}")
    now = replace(_CALL_CONTEXT.get(), **known)
    token = _CALL_CONTEXT.set(now)
    try:
        yield now
    finally:
        _CALL_CONTEXT.reset(token)


def call_context() -> CallContext:
    """What the innermost `acting` block says."""
    return _CALL_CONTEXT.get()


def recordable(context: CallContext) -> CallContext:
    """As much of a context as a contract can hold: texts cut and without what cannot be written, the rest unknown."""
    cleaned: dict[str, Any] = {}
    for item in fields(CallContext):
        value = getattr(context, item.name)
        if item.name in _RATIOS:
            cleaned[item.name] = value if type(value) in {int, float} and 0 <= value <= 1 else None
        elif isinstance(value, str):
            cleaned[item.name] = as_text(value) if item.name == "intent" else as_name(value)
        else:
            cleaned[item.name] = item.default
    return CallContext(**cleaned)


def as_text(text: str, limit: int = 4_000) -> str:
    """Text as an event can hold it, at most so many characters of it."""
    return text[:limit].encode("utf-8", "replace").decode()


def as_name(text: str) -> str | None:
    """A name as an event can hold it: at most 200 characters, none of them a control character; None if it is empty."""
    return _CONTROLS.sub("?", as_text(text, 200)) or None


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives something to be awaited."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _is_generator(function: object) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


class BindingError(UsageError):
    """The function does not take the arguments of a call."""


@dataclass(frozen=True)
class Action:
    """One action that agents may ask for."""

    tool: str  # name of the tool
    workflow: str  # the workflow that it belongs to
    system: str  # the system that it touches
    environment: str  # deployment environment
    risk_class: RiskClass  # how much harm it can do
    reversibility: Reversibility  # what it takes to take it back
    run: Callable[..., Any]  # the function itself; reachable only through the router
    # Lesser functions with the same parameters, by constraint (`draft`, `search_only`)
    variants: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    undo: Callable[..., Any] | None = None  # takes an execution back; gets its result, and its arguments by name
    tool_version: str | None = None  # version of the tool
    redact: frozenset[str] = frozenset()  # names of arguments whose values are never stored, at any depth; `intent` too
    # Names of arguments that a framework injects, such as a context: passed on, but neither copied, digested nor stored
    exclude: frozenset[str] = frozenset()
    fallback: Fallback = field(default_factory=Fallback)  # what to do when the action may not run
    consequence: str | None = None  # what happens when it runs, in a sentence for a reviewer

    def __post_init__(self) -> None:
        """Refuse functions whose effects or arguments the router could not see."""
        for name, function in {"run": self.run, **self.variants}.items():
            if _is_generator(function) or _is_generator(getattr(function, "__call__", None)):  # noqa: B004
                raise UsageError(f"{self.tool}: {name} is a generator, and would run after its outcome was recorded")
            if is_async(function) and not self.is_async:
                raise UsageError(f"{self.tool}: the variant {name} is async, and the action is not")
        for name, variant in self.variants.items():
            self._require_same_parameters(name, variant)
        self.contract(CallContext())  # else every call of it would be refused, and none could be recorded

    def _require_same_parameters(self, name: str, variant: Callable[..., Any]) -> None:
        """A variant takes whatever the action takes, by name, and needs nothing else."""
        run, theirs = (inspect.signature(function).parameters for function in (self.run, variant))
        takes_any = any(item.kind is item.VAR_KEYWORD for item in theirs.values())
        named = {key for key, item in theirs.items() if item.kind in _NAMED}
        lacking = [
            key
            for key, item in run.items()
            if not takes_any and (item.kind is item.VAR_KEYWORD or (item.kind in _NAMED and key not in named))
        ]
        needed = [
            key
            for key, item in theirs.items()
            if item.default is item.empty
            and item.kind not in {item.VAR_KEYWORD, item.VAR_POSITIONAL}
            and (item.kind not in _NAMED or key not in run)
        ]
        if lacking or needed:
            faults = [f"does not take {', '.join(lacking)}"] if lacking else []
            faults += [f"needs {', '.join(needed)} besides"] if needed else []
            raise UsageError(
                f"{self.tool}: the variant {name} {' and '.join(faults)}; "
                "it is called with the action's arguments by name"
            )

    @cached_property
    def is_async(self) -> bool:
        """Whether the action must be awaited."""
        return is_async(self.run)

    @property
    def function_name(self) -> str:
        """Name of the function, with its module."""
        return f"{self.run.__module__}.{getattr(self.run, '__qualname__', type(self.run).__qualname__)}"

    @cached_property
    def _signature(
        self,
    ) -> tuple[inspect.Signature, tuple[str, ...], frozenset[str], tuple[tuple[str, Any], ...], bool]:
        signature = inspect.signature(self.run)
        parameters = [item for item in signature.parameters.values() if item.kind is not item.VAR_KEYWORD]
        takes_any = len(parameters) < len(signature.parameters)
        for parameter in parameters:
            if parameter.kind not in _NAMED:
                raise UsageError(
                    f"{self.tool}: the parameter {parameter.name} cannot be passed by name; "
                    "spell the parameters out, so that their digest says what was asked"
                )
        positional = tuple(item.name for item in parameters if item.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)
        defaults = tuple((item.name, item.default) for item in parameters if item.default is not item.empty)
        return signature, positional, frozenset(item.name for item in parameters), defaults, takes_any

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The call's arguments by name, defaults filled in; `BindingError` where the function does not take them."""
        signature, positional, names, defaults, takes_any = self._signature
        arguments = dict(zip(positional, args, strict=False))
        given = len(arguments) + len(kwargs)
        arguments.update(kwargs)
        if len(args) <= len(positional) and len(arguments) == given and (takes_any or arguments.keys() <= names):
            for name, default in defaults:
                arguments.setdefault(name, default)
            if len(arguments) == len(names) or (takes_any and names <= arguments.keys()):
                return arguments
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BindingError(f"{self.tool}: {error}") from error
        raise BindingError(f"{self.tool}: these arguments cannot be bound")

    def split(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arguments that are asked for, and those that a framework injects."""
        if not self.exclude:
            return arguments, {}
        injected = {name: value for name, value in arguments.items() if name in self.exclude}
        return {name: value for name, value in arguments.items() if name not in injected}, injected

    def intent(self, context: CallContext) -> str:
        """Why it is asked for, as it may be recorded."""
        return REDACTED if context.intent and "intent" in self.redact else context.intent or ""

    def contract(self, context: CallContext) -> ActionContract:
        """The contract of one call; `UsageError` where the context does not fit one, as a confidence above 1."""
        try:
            return ActionContract(
                actor=Actor(
                    agent=context.agent or "unknown",
                    user=context.user,
                    account=context.account,
                    service_identity=context.service_identity,
                    model=context.model,
                    prompt_version=context.prompt_version,
                ),
                intent=self.intent(context),
                target=Target(environment=self.environment, system=self.system, record=context.record),
                tool=self.tool,
                tool_version=self.tool_version,
                workflow=self.workflow,
                risk_class=self.risk_class,
                reversibility=self.reversibility,
                scope=Scope(
                    account=context.account,
                    region=context.region,
                    environment=self.environment,
                    workflow=self.workflow,
                    traffic_ratio=context.traffic_ratio,
                ),
                evidence=Evidence(
                    confidence=context.confidence,
                    source_coverage=context.source_coverage,
                    evaluator_result=context.evaluator_result,
                    prior_review=context.prior_review,
                ),
                fallback=self.fallback,
                conversation=context.conversation,
                tool_call=context.tool_call,
                requested_tool=context.requested_tool,
            )
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            raise UsageError(f"{self.tool}: no contract can be made of what is known of the call: {faults}") from error


@dataclass(frozen=True, slots=True)
class Permit:
    """Permission to run one action once, as decided."""

    issued: IssuedReceipt  # the decision's receipt; whoever reports what came of the action needs it
    decision: Decision  # what was decided, and why
    constrained_to: str | None = None  # the variant that runs in the action's place; None where it runs as asked
    # What was digested, and nobody else can change: who performs the action itself does it with these
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def decision_id(self) -> str:
        """Id of the decision."""
        return self.issued.decision_id

    @property
    def token(self) -> str:
        """The receipt as it travels."""
        return self.issued.token

    @property
    def receipt(self) -> Receipt:
        """The receipt as it is read."""
        return self.issued.receipt


class ActionResult(NamedTuple):
    """What an action returned, and the permit that it ran under: its receipt is what an undo or an impact needs."""

    value: Any
    permit: Permit

    @property
    def receipt(self) -> Receipt:
        """The receipt of the decision."""
        return self.permit.receipt
