"""Work out once what calls of one action in one context share: contract, authorization and decision."""

from __future__ import annotations

from dataclasses import fields, replace
from operator import attrgetter
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from producers.boundary.action import Action, CallContext
from producers.boundary.canonical_json import published
from producers.boundary.decision_rules import apply_rules, authorize
from producers.boundary.policy_flags import flag_context
from producers.boundary.provider_calls import after_fork
from producers.errors import UsageError
from producers.wire.event_writer import CallDetails, SharedDecision
from producers.wire.model import Name

if TYPE_CHECKING:
    from producers.boundary.authorization import Authorizer
    from producers.boundary.flags import FlagEvaluator, FlagValues
    from producers.wire.contract import ActionContract, ArgumentsDigest
    from producers.wire.decision import Authorization, Outcome

_LIMIT = 2_000  # combinations of action and context that are kept; the oldest go first

_shared_context = attrgetter(*(item.name for item in fields(CallContext) if item.name not in CallDetails.model_fields))


Kept = TypeVar("Kept")

_COHORT: TypeAdapter[str] = TypeAdapter(Name)
_NO_DETAILS: dict[str, Any] = dict.fromkeys(CallDetails.model_fields)


class SharedCall:
    """One action in one context.

    Flags and authorization are asked for every call (a steady authorizer for each of its policies), and a decision is
    reused only for the same flag values and the same authorization.
    """

    def __init__(self, action: Action, context: CallContext, decisions: SharedDecisions, *, steady: bool) -> None:
        self.action = action
        self._decisions = decisions
        self._contract = action.contract(replace(context, **_NO_DETAILS))
        self.flag_context = flag_context(self._contract)
        try:
            self._cohort = _COHORT.validate_python(context.cohort, strict=True)
        except ValidationError as error:
            raise UsageError(f"{action.tool}: {str(context.cohort)[:200]!r} cannot be a cohort") from error
        self._steady = steady
        self._variants = frozenset(action.variants)
        self._details: tuple[tuple[str | None, ...], CallDetails] = ((None,) * 4, CallDetails())
        self._authorization: tuple[Authorization, str] | None = None
        self._flag_values: FlagValues | None = None
        self._decision: tuple[Authorization, str, FlagValues, SharedDecision] | None = None

    def details(self, context: CallContext) -> CallDetails:
        """What is particular to one call, beside its arguments; `UsageError` where it fits no contract."""
        given = (context.intent, context.conversation, context.tool_call, context.requested_tool)
        last_given, details = self._details
        if given == last_given:
            return details
        try:
            details = CallDetails(
                intent=self.action.intent(context),
                conversation=context.conversation,
                tool_call=context.tool_call,
                requested_tool=context.requested_tool,
            )
        except ValidationError:
            self.action.contract(context)  # says what is wrong
            raise
        self._details = (given, details)
        return details

    def contract(self, arguments: ArgumentsDigest, details: CallDetails) -> ActionContract:
        """The contract of one call."""
        particular = details.model_dump() | arguments._asdict()
        return self._contract.model_copy(update=particular)

    def recall(self, flags: FlagEvaluator) -> FlagValues | None:
        """The flags' values of the last call, where they still are in force; never waits."""
        values = self._flag_values
        return values if values is not None and values.rules is flags.rules() else None

    def decide(self, authorized: tuple[Authorization, str], values: FlagValues) -> SharedDecision:
        """Decide one call by what authorization and flags have answered."""
        authorization, authorizer_sha256 = authorized
        self._flag_values = values
        last = self._decision
        if (
            last is not None
            and last[2] is values
            and last[1] == authorizer_sha256
            and (last[0] is authorization or last[0] == authorization)
        ):
            return last[3]
        actor, confidence = self._contract.actor, self._contract.evidence.confidence
        # All that can tell decisions on one action apart, and their receipts.
        kind = (values, authorizer_sha256, confidence, actor.model, actor.prompt_version, self._cohort)
        # Each answer of an authorizer that is not steady is an object of its own, which no other call has.
        like = self._decisions.get(self.action, authorization, kind) if self._steady else None
        if like is not None:
            shared = like.for_contract(self._contract)
        else:
            staged = apply_rules(self._contract, authorization, authorizer_sha256, values, self._variants)
            shared = SharedDecision(self._contract, staged.decision, stage=staged.stage, cohort=self._cohort)
            if self._steady:
                self._decisions.put(self.action, authorization, kind, shared)
        self._decision = (authorization, authorizer_sha256, values, shared)
        return shared

    def refuse(self, shared: SharedDecision, result: Outcome) -> SharedDecision:
        """A decision with a lesser result in its place."""
        decision = shared.decision.model_copy(update={"result": result})
        return SharedDecision(self._contract, decision, stage=shared.stage, cohort=self._cohort)

    def authorize(
        self, authorizer: Authorizer, arguments: ArgumentsDigest, details: CallDetails
    ) -> tuple[Authorization, str]:
        """What hard authorization says of one call, and the digest of its policy."""
        if not self._steady:
            return authorize(self.contract(published(arguments), details), authorizer)
        last = self._authorization
        if last is None or last[1] != authorizer.sha256:
            last = self._authorization = authorize(self._contract, authorizer)
        return last


class CallFault(NamedTuple):
    """Why a call cannot be decided as it is."""

    reason: str  # the code that is recorded
    message: str
    cause: Exception | None = None


class AskedCall(NamedTuple):
    """A call of which the flags are still to be asked."""

    started: float  # by the router's clock
    call: SharedCall
    details: CallDetails
    arguments: dict[str, Any]  # what was digested
    injected: dict[str, Any]  # what else it runs with
    digest: ArgumentsDigest
    authorized: tuple[Authorization, str]
    fault: CallFault | None


class _Shelf(Generic[Kept]):
    """A bounded dictionary, the oldest entries of which go first. Safe to use from many threads, and after a fork."""

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], Kept] = {}
        self.get = self._kept.get
        self.begin_anew()
        after_fork(self)

    def begin_anew(self) -> None:
        """Forget, in a process that is forked, who holds the lock."""
        self._lock = Lock()

    def put(self, key: tuple[object, ...], kept: Kept) -> None:
        """Keep a value, in the place of the oldest where there are too many."""
        with self._lock:
            if len(self._kept) >= _LIMIT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = kept


class SharedDecisions:
    """Decisions that differ only in contexts on which nothing of them rests."""

    def __init__(self) -> None:
        self._shelf: _Shelf[tuple[Action, Authorization, SharedDecision]] = _Shelf()

    def get(self, action: Action, authorization: Authorization, kind: tuple[object, ...]) -> SharedDecision | None:
        """The decision of one kind."""
        kept = self._shelf.get((id(action), id(authorization), kind))
        return None if kept is None else kept[2]

    def put(
        self, action: Action, authorization: Authorization, kind: tuple[object, ...], shared: SharedDecision
    ) -> None:
        """Keep a decision, with what its key names by id."""
        self._shelf.put((id(action), id(authorization), kind), (action, authorization, shared))


class SharedCalls:
    """The `SharedCall`s of one router, whose authorizer is `steady` or not."""

    def __init__(self, *, steady: bool) -> None:
        self._steady = steady
        self._calls: _Shelf[SharedCall] = _Shelf()
        self._decisions = SharedDecisions()

    def get(self, action: Action, context: CallContext) -> SharedCall:
        """What calls of an action in a context share."""
        key = (id(action), _shared_context(context))  # the action is kept with the call, so its id is its own
        shared = self._calls.get(key)
        if shared is None:
            shared = SharedCall(action, context, self._decisions, steady=self._steady)
            self._calls.put(key, shared)
        return shared
