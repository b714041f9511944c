"""Route actions: decide before the side effect, enforce the decision, measure and record what ran."""

from __future__ import annotations

import asyncio
import inspect
import time
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

from producers.boundary.action import Action, ActionResult, BindingError, Permit
from producers.boundary.call_decisions import CallDecisions
from producers.boundary.canonical_json import ArgumentDigester
from producers.boundary.endings import await_finished, require_finished
from producers.boundary.executions import Executions, Running
from producers.boundary.review_queue import ReviewQueue
from producers.boundary.routed_function import is_method, routed_function
from producers.errors import UsageError
from producers.wire.contract import Fallback, Reversibility, RiskClass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from opentelemetry.trace import TracerProvider

    from producers.boundary import errors
    from producers.boundary.approvals import Review
    from producers.boundary.authorization import Authorizer
    from producers.boundary.decision_rules import StagedDecision
    from producers.boundary.flags import FlagEvaluator
    from producers.boundary.review_store import ReviewStore
    from producers.delivery.recorder import Recorder
    from producers.wire.events import Impact, UndoResult
    from producers.wire.receipt import IssuedReceipt, Receipt

ARGUMENTS_NOT_ACCEPTED: Final = "arguments_not_accepted"  # why a call is denied for what it is

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
        self._environment = environment
        digester = ArgumentDigester(recorder.key)
        self._reviews = ReviewQueue(reviews, approval_holds, authorizer, flags, recorder, digester=digester)
        self._calls = CallDecisions(
            authorizer,
            flags,
            recorder,
            self._reviews,
            digester,
            agent=agent,
            clock=clock,
            tracer_provider=tracer_provider,
        )
        self._executions = Executions(recorder, clock, tracer_provider)
        self._actions: dict[tuple[str, str], Action] = {}
        self._last: ContextVar[IssuedReceipt | None] = ContextVar("stagekeeper-last", default=None)

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
        exclude: tuple[str, ...] = (),
        on_refusal: Callable[[errors.RefusedError], Any] | None = None,  # what to return, or raise, in its place
    ) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
        """Put a function or a method, plain or async, behind the router; see `Action` for what the arguments mean.

        The decorated function returns what it (or its lesser variant) returns, or raises a `RefusedError`. Its
        attribute `perform` returns an `ActionResult` instead, with the receipt.
        """
        variants = {"draft": draft, "search_only": search_only}

        def behind(run: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
            instance = tuple(inspect.signature(run).parameters)[:1] if is_method(run) else ()
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
                    exclude=frozenset((*exclude, *instance)),
                    fallback=fallback or Fallback(),
                    consequence=consequence,
                )
            )
            routed = routed_function(action, self.perform, self.perform_async, on_refusal)
            return cast("Callable[Parameters, Result]", routed)

        return behind

    def call(self, action: Action, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Decide, and run the action or its lesser variant.

        Raises the `RefusedError` that says why it did not run as asked, `InvalidCallError` where the arguments do not
        fit; `UsageError` where the action is async.
        """
        return self.perform(action, *args, **kwargs).value

    async def call_async(self, action: Action, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """As `call`, for an async function; a plain one is fine, too."""
        return (await self.perform_async(action, *args, **kwargs)).value

    def perform(self, action: Action, *args: Any, **kwargs: Any) -> ActionResult:  # noqa: ANN401
        """As `call`; what it returned comes with its receipt."""
        _require_plain(action)
        try:
            arguments = action.bind(args, kwargs)
        except BindingError as error:
            raise self.deny(action, ARGUMENTS_NOT_ACCEPTED, str(error)) from error
        permit = self._calls.permit(action, arguments)
        with Running(self._executions, action, permit) as running:
            value = running.remember(require_finished(action.tool, running.function()(**permit.arguments)))
        self._last.set(permit.issued)
        return ActionResult(value, permit)

    async def perform_async(self, action: Action, *args: Any, **kwargs: Any) -> ActionResult:  # noqa: ANN401
        """As `perform`, for an async function; a plain one is fine, too."""
        try:
            arguments = action.bind(args, kwargs)
        except BindingError as error:
            raise await self.deny_async(action, ARGUMENTS_NOT_ACCEPTED, str(error)) from error
        permit = await self._calls.permit_async(action, arguments)
        with Running(self._executions, action, permit) as running:
            value = running.remember(await await_finished(action.tool, running.function()(**permit.arguments)))
        self._last.set(permit.issued)
        return ActionResult(value, permit)

    @property
    def last(self) -> Receipt | None:
        """The receipt of the last action that ran in this thread or task; None before any has."""
        issued = self._last.get()
        return None if issued is None else issued.receipt

    @contextmanager
    def attempt(self, action: Action, /, **arguments: Any) -> Iterator[Permit]:  # noqa: ANN401
        """Decide, and let the block perform the side effect; its end or exception is the execution's.

        The block must honour `permit.constrained_to`, since the action's own function is not called, and use
        `permit.arguments`, which are what was decided. Raises a `RefusedError` where it may not run.
        """
        with Running(self._executions, action, self._calls.permit(action, arguments)) as running:
            yield running.permit
            running.remember(None)

    @asynccontextmanager
    async def attempt_async(self, action: Action, /, **arguments: Any) -> AsyncIterator[Permit]:  # noqa: ANN401
        """As `attempt`, without holding up the event loop."""
        with Running(self._executions, action, await self._calls.permit_async(action, arguments)) as running:
            yield running.permit
            running.remember(None)

    @contextmanager
    def attempt_approved(self, receipt: Receipt, action: Action, /, **arguments: Any) -> Iterator[Permit]:  # noqa: ANN401
        """As `attempt`, for a queued action that a person has approved; raises as `resume` does."""
        with self._redeemed(action, self._reviews.redeem(receipt, action, arguments)) as running:
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
        with self._redeemed(action, await self._reviews.redeem_async(receipt, action, arguments)) as running:
            yield running.permit
            running.remember(None)

    async def decide_async(self, action: Action, /, **arguments: Any) -> Permit:  # noqa: ANN401
        """Decide, for whoever performs the action elsewhere, and has its execution recorded by the permit's receipt.

        Raises a `RefusedError` where it may not run.
        """
        return await self._calls.permit_async(action, arguments)

    async def foresee_async(self, action: Action) -> StagedDecision:
        """What would be decided about a call now; it is not recorded, and permits nothing."""
        return await self._calls.foresee_async(action)

    async def redeem_async(self, receipt: Receipt, action: Action, /, **arguments: Any) -> Permit:  # noqa: ANN401
        """As `decide_async`, for a queued action that a person has approved; raises as `resume` does."""
        return await self._reviews.redeem_async(receipt, action, arguments)

    def deny(self, action: Action, reason: str, message: str) -> errors.InvalidCallError:
        """Record that a call is denied for what it is, whatever the policy says; returns the error to raise."""
        return self._calls.deny(action, reason, message)

    async def deny_async(self, action: Action, reason: str, message: str) -> errors.InvalidCallError:
        """As `deny`, without holding up the event loop."""
        return await self._calls.deny_async(action, reason, message)

    def register(self, action: Action) -> Action:
        """Make an action known by its workflow and tool, so that a receipt is enough to resume it.

        Raises `UsageError` where another action has this name: an approval of one of them would run the other.
        """
        known = self._actions.setdefault((action.workflow, action.tool), action)
        if known is not action and known != action:
            raise UsageError(
                f"{action.tool} of workflow {action.workflow} is {known.function_name} already, and cannot be "
                f"{action.function_name} as well; give one of them another `tool=` or `workflow=`"
            )
        return action

    def resume(self, receipt: Receipt, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Run an approved action, in any process that shares the review store, with the arguments that were asked for.

        Raises a `ReviewError` where the approval does not hold for this, `ActionDeniedError` where the action is
        refused by now, `UsageError` where it is not registered here, or is async.
        """
        action = self._registered(receipt)
        _require_plain(action)
        permit = self._reviews.redeem(receipt, action, action.bind(args, kwargs))
        with self._redeemed(action, permit) as running:
            value = running.remember(require_finished(action.tool, action.run(**permit.arguments)))
        self._last.set(permit.issued)
        return value

    async def resume_async(self, receipt: Receipt, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """As `resume`, for an async function; a plain one is fine, too."""
        action = self._registered(receipt)
        permit = await self._reviews.redeem_async(receipt, action, action.bind(args, kwargs))
        with self._redeemed(action, permit) as running:
            value = running.remember(await await_finished(action.tool, action.run(**permit.arguments)))
        self._last.set(permit.issued)
        return value

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

    def _redeemed(self, action: Action, permit: Permit) -> Running:
        return Running(self._executions, action, permit, self._reviews.give_back)

    def _registered(self, receipt: Receipt) -> Action:
        self._reviews.require_store()
        action = self._actions.get((receipt.workflow, receipt.tool))
        if action is None:
            raise UsageError(f"no action {receipt.tool} of workflow {receipt.workflow} is registered at this router")
        return action


def _require_plain(action: Action) -> None:
    if action.is_async:
        raise UsageError(f"{action.tool} is async; use call_async, resume_async, or the decorated function")
