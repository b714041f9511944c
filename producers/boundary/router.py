"""Route actions: decide before the side effect, enforce the decision, measure and record what ran."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from producers.boundary import errors
from producers.boundary.action import Action, Permit, call_context
from producers.boundary.canonical_json import digest
from producers.boundary.decision_rules import READS
from producers.boundary.executions import Executions, Running
from producers.boundary.review_queue import ReviewQueue
from producers.boundary.shared_calls import SharedCalls
from producers.boundary.telemetry import add_decision_events, get_traceparent
from producers.delivery.outbox import OutboxError
from producers.errors import UsageError
from producers.wire.contract import Fallback, Reversibility, RiskClass
from producers.wire.decision import Decision, Deny

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from opentelemetry.trace import TracerProvider

    from producers.boundary.approvals import Review
    from producers.boundary.authorization import Authorizer
    from producers.boundary.flags import FlagEvaluator, FlagValues
    from producers.boundary.review_store import ReviewStore
    from producers.boundary.shared_calls import SharedCall
    from producers.delivery.recorder import Recorder
    from producers.wire.decision import Authorization
    from producers.wire.event_writer import CallDetails
    from producers.wire.events import Impact, UndoResult
    from producers.wire.receipt import Receipt

    # When a call began, what it shares, its details, its digest, and what authorization said; flags are still to ask.
    Asked = tuple[float, SharedCall, CallDetails, str, tuple[Authorization, str]]

LOG = logging.getLogger(__name__)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Router:
    """Puts actions behind one boundary. Safe to use from many threads and tasks.

    For anything but reads the recorder's emitter must be able to keep records on disk.
    """

    def __init__(
        self,
        *,
        authorizer: Authorizer,
        flags: FlagEvaluator,
        recorder: Recorder,
        environment: str,  # of the actions that do not name one
        agent: str = "unknown",  # where `acting` names none
        reviews: ReviewStore | None = None,  # None: what needs a review stays refused
        approval_holds: timedelta = timedelta(hours=24),  # how long after queueing an approval may be given and used
        clock: Callable[[], float] = time.perf_counter,  # seconds that never go back
        tracer_provider: TracerProvider | None = None,  # None: the one that the process has configured, if it has
    ) -> None:
        self._authorizer = authorizer
        self._flags = flags
        self._recorder = recorder
        self._environment = environment
        self._agent = agent
        self._clock = clock
        self._reviews = ReviewQueue(reviews, approval_holds, authorizer, flags, recorder)
        self._executions = Executions(recorder, clock, tracer_provider)
        self._shared_calls = SharedCalls(steady=getattr(authorizer, "steady", False) is True)
        self._actions: dict[tuple[str, str], Action] = {}

    def action(
        self,
        *,
        workflow: str,
        system: str,
        risk_class: RiskClass | str,
        reversibility: Reversibility | str,
        tool: str | None = None,
        environment: str | None = None,
        draft: Callable[..., Any] | None = None,
        search_only: Callable[..., Any] | None = None,
        undo: Callable[..., Any] | None = None,
        tool_version: str | None = None,
        redact: tuple[str, ...] = (),
        fallback: Fallback | None = None,
        consequence: str | None = None,
    ) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
        """Put a function, plain or async, behind the router; see `Action` for what the arguments mean.

        The decorated function returns what it (or its lesser variant) returns, or raises a `RefusedError`.
        """
        variants = {"draft": draft, "search_only": search_only}

        def behind(run: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
            action = self.register(
                Action(
                    tool=tool or run.__name__,
                    workflow=workflow,
                    system=system,
                    environment=environment or self._environment,
                    risk_class=RiskClass(risk_class),
                    reversibility=Reversibility(reversibility),
                    run=run,
                    variants={name: variant for name, variant in variants.items() if variant is not None},
                    undo=undo,
                    tool_version=tool_version,
                    redact=frozenset(redact),
                    fallback=fallback or Fallback(),
                    consequence=consequence,
                )
            )

            @functools.wraps(run)
            def routed(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
                return cast("Result", self.call(action, *args, **kwargs))

            @functools.wraps(run)
            async def routed_async(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Any:  # noqa: ANN401
                return await self.call_async(action, *args, **kwargs)

            chosen = routed_async if action.is_async else routed
            del chosen.__wrapped__  # no way around the router
            return cast("Callable[Parameters, Result]", chosen)

        return behind

    def call(self, action: Action, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Decide, and run the action or its lesser variant.

        Raises the `RefusedError` that says why it did not run as asked; `UsageError` where the arguments do not fit, or
        the action is async.
        """
        arguments = _bound(action, args, kwargs)
        with Running(self._executions, action, arguments, self._permit(action, arguments)) as running:
            return running.remember(_finished(action, running.function()(**arguments)))

    async def call_async(self, action: Action, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """As `call`, for an async function; a plain one is fine, too."""
        arguments = action.bind(args, kwargs)
        with Running(self._executions, action, arguments, await self._permit_async(action, arguments)) as running:
            result = running.function()(**arguments)
            return running.remember(await result if inspect.isawaitable(result) else result)

    @contextmanager
    def attempt(self, action: Action, /, **arguments: Any) -> Iterator[Permit]:  # noqa: ANN401
        """Decide, and let the block perform the side effect; its end or exception is the execution's.

        The block must honour `permit.constrained_to`, since the action's own function is not called. Raises a
        `RefusedError` where it may not run.
        """
        with Running(self._executions, action, arguments, self._permit(action, arguments)) as running:
            yield running.permit
            running.remember(None)

    @asynccontextmanager
    async def attempt_async(self, action: Action, /, **arguments: Any) -> AsyncIterator[Permit]:  # noqa: ANN401
        """As `attempt`, without holding up the event loop."""
        with Running(self._executions, action, arguments, await self._permit_async(action, arguments)) as running:
            yield running.permit
            running.remember(None)

    @contextmanager
    def attempt_approved(self, receipt: Receipt, action: Action, /, **arguments: Any) -> Iterator[Permit]:  # noqa: ANN401
        """As `attempt`, for a queued action that a person has approved; raises as `resume` does."""
        with Running(self._executions, action, arguments, self._reviews.redeem(receipt, action, arguments)) as running:
            yield running.permit
            running.remember(None)

    @asynccontextmanager
    async def attempt_approved_async(
        self,
        receipt: Receipt,
        action: Action,
        /,
        **arguments: Any,  # noqa: ANN401
    ) -> AsyncIterator[Permit]:
        """As `attempt_approved`, without holding up the event loop."""
        permit = await self._reviews.redeem_async(receipt, action, arguments)
        with Running(self._executions, action, arguments, permit) as running:
            yield running.permit
            running.remember(None)

    def register(self, action: Action) -> Action:
        """Make an action known by its workflow and tool, so that a receipt is enough to resume it."""
        self._actions[action.workflow, action.tool] = action
        return action

    def resume(self, receipt: Receipt, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Run an approved action, in any process that shares the review store, with the arguments that were asked for.

        Raises a `ReviewError` where the approval does not hold for this, `ActionDeniedError` where the action is
        refused by now, `UsageError` where it is not registered here, or is async.
        """
        action = self._registered(receipt)
        arguments = _bound(action, args, kwargs)
        with Running(self._executions, action, arguments, self._reviews.redeem(receipt, action, arguments)) as running:
            return running.remember(_finished(action, action.run(**arguments)))

    async def resume_async(self, receipt: Receipt, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """As `resume`, for an async function; a plain one is fine, too."""
        action = self._registered(receipt)
        arguments = action.bind(args, kwargs)
        permit = await self._reviews.redeem_async(receipt, action, arguments)
        with Running(self._executions, action, arguments, permit) as running:
            result = action.run(**arguments)
            return running.remember(await result if inspect.isawaitable(result) else result)

    def await_review(self, receipt: Receipt, timeout_s: float) -> Review:
        """Wait until a person has spoken about a queued action, so that `resume` runs it; else `ReviewPendingError`."""
        return self._reviews.require_store().wait_for_resolution(receipt.decision_id, timeout_s)

    async def await_review_async(self, receipt: Receipt, timeout_s: float) -> Review:
        """As `await_review`, without holding up the event loop."""
        return await asyncio.to_thread(self.await_review, receipt, timeout_s)

    def undo(self, receipt: Receipt) -> UndoResult:
        """Take an execution back, on record; `UsageError` if it is not remembered here, or its undo is async."""
        return self._executions.undo(receipt)

    async def undo_async(self, receipt: Receipt) -> UndoResult:
        """As `undo`; the registered undo may be async."""
        return await self._executions.undo_async(receipt)

    def report_impact(self, receipt: Receipt, impact: Impact) -> None:
        """Record an incident, a support signal or a quality evaluation that followed from an action."""
        self._executions.impact(receipt, impact)

    def _permit(self, action: Action, arguments: Mapping[str, Any]) -> Permit:
        asked = self._ask(action, arguments)
        call = asked[1]
        return self._answer(asked, arguments, call.recall(self._flags) or self._flags.evaluate(call.flag_context))

    async def _permit_async(self, action: Action, arguments: Mapping[str, Any]) -> Permit:
        asked = self._ask(action, arguments)
        call = asked[1]
        values = call.recall(self._flags) or await self._flags.evaluate_async(call.flag_context)
        return self._answer(asked, arguments, values)

    def _ask(self, action: Action, arguments: Mapping[str, Any]) -> Asked:
        started = self._clock()
        context = call_context()
        if context.agent is None:
            context = replace(context, agent=self._agent)
        call = self._shared_calls.get(action, context)
        details = call.details(context)
        arguments_sha256 = digest(arguments)
        authorized = call.authorize(self._authorizer, arguments_sha256, details)
        return started, call, details, arguments_sha256, authorized

    def _answer(self, asked: Asked, arguments: Mapping[str, Any], values: FlagValues) -> Permit:
        started, call, details, arguments_sha256, authorized = asked
        action = call.action
        shared = call.decide(authorized, values)
        traceparent = get_traceparent()
        decide_ms = (self._clock() - started) * 1000
        try:
            # On disk first, where what it permits changes anything.
            durable = shared.may_run and action.risk_class not in READS
            issued = self._recorder.decided_call(
                shared, details, arguments_sha256, decide_ms, traceparent, durable=durable
            )
        except OutboxError as error:
            LOG.exception("%s is denied: its decision cannot be kept on disk", action.tool)
            refused = call.refuse(shared, Deny(reason="record_not_durable"))
            issued = self._recorder.decided_call(refused, details, arguments_sha256, decide_ms, traceparent)
            message = f"{action.tool} is denied: its decision cannot be kept on disk ({error})"
            raise errors.ActionDeniedError(message, issued.receipt, refused.decision) from error
        decision = shared.decision
        result = decision.result
        if traceparent is not None:
            targeting_key, _ = call.flag_context
            add_decision_events(issued.decision_id, decision, tool=action.tool, targeting_key=targeting_key)
        if decision.enforced and result.outcome == "allow":
            return Permit(issued, decision)
        if decision.enforced and result.outcome == "constrain" and result.runs:
            return Permit(issued, decision, result.mode)
        if decision.enforced and result.outcome == "queue_for_review":
            contract = call.contract(arguments_sha256, details)
            self._reviews.submit(action, arguments, contract, issued.receipt, decision)
        raise _refusal(action, issued.receipt, decision)

    def _registered(self, receipt: Receipt) -> Action:
        self._reviews.require_store()
        action = self._actions.get((receipt.workflow, receipt.tool))
        if action is None:
            raise UsageError(f"no action {receipt.tool} of workflow {receipt.workflow} is registered at this router")
        return action


def _refusal(action: Action, receipt: Receipt, decision: Decision) -> errors.RefusedError:
    if not decision.enforced:
        return errors.ActionObservedError(f"{action.tool} is only observed: nothing ran", receipt, decision)
    result = decision.result
    match result.outcome:
        case "constrain":
            message = f"{action.tool} is constrained to {result.mode}, and has no such variant: nothing ran"
            return errors.ActionConstrainedError(message, receipt, decision)
        case "queue_for_review":
            return errors.ReviewRequiredError(f"{action.tool} waits for a person: {result.reason}", receipt, decision)
        case "fallback":
            note = action.fallback.note or f"the fallback applies: {result.mode}"
            return errors.ActionFellBackError(f"{action.tool} did not run; {note}", receipt, decision)
        case _:
            return errors.ActionDeniedError(f"{action.tool} is denied: {result.reason}", receipt, decision)


def _bound(action: Action, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    if action.is_async:
        raise UsageError(f"{action.tool} is async; use call_async, resume_async, or the decorated function")
    return action.bind(args, kwargs)


def _finished(action: Action, result: Any) -> Any:  # noqa: ANN401
    """What a plain function returned; a coroutine has not run yet, and must not be recorded as if it had."""
    if inspect.iscoroutine(result):
        result.close()
        raise UsageError(f"{action.tool} returned a coroutine, which did not run; make it an async function")
    return result
