"""The router: the only path to an action. It decides before the side effect, enforces, measures and records."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import time
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from producers.boundary.action import Action, circumstances
from producers.boundary.approvals import ApprovalMismatchError, QueuedAction
from producers.boundary.canonical import canonical, digest, redacted
from producers.boundary.decide import READS, decide, ruleset_of
from producers.boundary.refusals import (
    ActionConstrainedError,
    ActionDeniedError,
    ActionFellBackError,
    ActionObservedError,
    RefusedError,
    ReviewRequiredError,
)
from producers.delivery.outbox import OutboxError
from producers.errors import UsageError
from producers.wire.contract import Fallback, Reversibility, RiskClass
from producers.wire.decision import Deny
from producers.wire.events import ExecutionStatus, UndoResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from producers.boundary.approvals import ReviewDesk
    from producers.boundary.authorization import Authorizer
    from producers.boundary.decide import Decided
    from producers.boundary.policy import Policy
    from producers.delivery.recorder import Recorder
    from producers.wire.contract import ActionContract
    from producers.wire.decision import Decision
    from producers.wire.events import Impact
    from producers.wire.receipt import Receipt

LOG = logging.getLogger(__name__)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_REMEMBERED = 10_000
"""Executions whose arguments and result are kept in memory, so that `undo` needs only the receipt."""


@dataclass(frozen=True)
class Permit:
    """Leave to run one action once, as decided.

    Attributes:
        receipt: Names the decision.
        decision: What was decided, and why.
        constrained_to: The variant that runs in the action's place; None where it runs as asked.
    """

    receipt: Receipt
    decision: Decision
    constrained_to: str | None


@dataclass(frozen=True)
class _Execution:
    action: Action
    arguments: Mapping[str, Any]
    result: Any


class Router:
    """Puts actions behind one boundary. Safe to use from many threads and tasks.

    Args:
        authorizer: Holds the last word on what may ever run.
        policy: The flags.
        recorder: Takes the record; for anything but reads its emitter must be able to keep records on disk.
        environment: Deployment environment of the actions that do not name one.
        agent: Name of the agent where `acting` names none.
        reviews: Where actions wait for a person; without one, what needs a review stays refused.
        approval_holds: How long after queueing an approval may be given and used.
        clock: Measures latency, in seconds; never goes back.
    """

    def __init__(
        self,
        *,
        authorizer: Authorizer,
        policy: Policy,
        recorder: Recorder,
        environment: str,
        agent: str = "unknown",
        reviews: ReviewDesk | None = None,
        approval_holds: timedelta = timedelta(hours=24),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._authorizer = authorizer
        self._policy = policy
        self._recorder = recorder
        self._environment = environment
        self._agent = agent
        self._reviews = reviews
        self._approval_holds = approval_holds
        self._clock = clock
        self._lock = Lock()
        self._executions: OrderedDict[str, _Execution] = OrderedDict()
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

        The decorated function returns what the function (or its lesser variant) returns, or raises a `RefusedError`.
        """
        variants = {"draft": draft, "search_only": search_only}

        def behind(run: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
            known = self.register(
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
                return cast("Result", self.call(known, *args, **kwargs))

            @functools.wraps(run)
            async def routed_async(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Any:  # noqa: ANN401
                return await self.call_async(known, *args, **kwargs)

            chosen = routed_async if inspect.iscoroutinefunction(run) else routed
            del chosen.__wrapped__  # no way around the router
            return cast("Callable[Parameters, Result]", chosen)

        return behind

    def call(self, action: Action, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Decide, and run the action or its lesser variant.

        Raises:
            RefusedError: It did not run as asked; which subclass says why.
        """
        arguments = action.bind(args, kwargs)
        with self._running(action, arguments, self._permit(action, arguments)) as (permit, remember):
            return remember(_chosen(action, permit)(**arguments))

    async def call_async(self, action: Action, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """As `call`, for an async function; a plain lesser variant is fine."""
        arguments = action.bind(args, kwargs)
        with self._running(action, arguments, self._permit(action, arguments)) as (permit, remember):
            result = _chosen(action, permit)(**arguments)
            return remember(await result if inspect.isawaitable(result) else result)

    @contextmanager
    def attempt(self, action: Action, **arguments: Any) -> Iterator[Permit]:  # noqa: ANN401
        """Decide, and let the block perform the side effect; the block's end or exception is the execution's.

        The block must honour `permit.constrained_to`. The action's own function is not called.

        Raises:
            RefusedError: The block may not run.
        """
        with self._running(action, arguments, self._permit(action, arguments)) as (permit, _):
            yield permit

    def register(self, action: Action) -> Action:
        """Make an action known by its workflow and tool, so that a receipt is enough to resume it."""
        self._actions[action.workflow, action.tool] = action
        return action

    def resume(self, receipt: Receipt, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Run a queued action that a person has approved, in this or any other process that shares the review desk.

        Args:
            receipt: Names the decision.
            *args: The arguments that were asked for; the desk holds only their digest.
            **kwargs: As above.

        Raises:
            UsageError: No such action is registered here.
            ReviewError: It is not approved, or the approval does not hold for this; which subclass says why.
            ActionDeniedError: Authorization or policy refuse it by now.
        """
        action, arguments, permit = self._redeem(receipt, args, kwargs)
        with self._running(action, arguments, permit) as (_, remember):
            return remember(action.run(**arguments))

    async def resume_async(self, receipt: Receipt, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """As `resume`, for an async function."""
        action, arguments, permit = self._redeem(receipt, args, kwargs)
        with self._running(action, arguments, permit) as (_, remember):
            return remember(await action.run(**arguments))

    def undo(self, receipt: Receipt) -> UndoResult:
        """Take an execution back by the action's registered undo, and record what came of it.

        Raises:
            UsageError: This process does not remember such an execution.
        """
        with self._lock:
            execution = self._executions.pop(receipt.decision_id, None)
        if execution is None:
            raise UsageError(
                f"no execution of decision {receipt.decision_id} is remembered here; take it back where it ran, "
                "and record that with the recorder's `undone`"
            )
        result, reason = _take_back(execution)
        self._recorder.undone(receipt, result, reason=reason)
        return result

    def report_impact(self, receipt: Receipt, impact: Impact) -> None:
        """Record an incident, a support signal or a quality evaluation that followed from an action."""
        self._recorder.impact(receipt, impact)

    @contextmanager
    def _running(
        self, action: Action, arguments: Mapping[str, Any], permit: Permit
    ) -> Iterator[tuple[Permit, Callable[[Any], Any]]]:
        def remember(result: Any) -> Any:  # noqa: ANN401
            with self._lock:
                self._executions[permit.receipt.decision_id] = _Execution(action, arguments, result)
                if len(self._executions) > _REMEMBERED:
                    self._executions.popitem(last=False)
            return result

        started = self._clock()
        try:
            yield permit, remember
        except BaseException as error:
            self._record_execution(action, permit, started, error)
            raise
        self._record_execution(action, permit, started, None)

    def _permit(self, action: Action, arguments: Mapping[str, Any]) -> Permit:
        started = self._clock()
        known = circumstances()
        contract = action.contract(arguments, replace(known, agent=known.agent or self._agent))
        decided = decide(contract, self._authorizer, self._policy, variants=frozenset(action.variants))
        timed = decided.decision.model_copy(update={"decide_ms": (self._clock() - started) * 1000})
        decided = replace(decided, decision=timed)
        receipt = self._record_decision(contract, decided, known.cohort)
        result = timed.result
        if not timed.enforced:
            raise ActionObservedError(f"{action.tool} is only observed: nothing ran", receipt, timed)
        match result.outcome:
            case "allow":
                return Permit(receipt, timed, None)
            case "constrain":
                if not result.runs:
                    message = f"{action.tool} is constrained to {result.mode}, and has no such variant: nothing ran"
                    raise ActionConstrainedError(message, receipt, timed)
                return Permit(receipt, timed, result.mode)
            case "queue_for_review":
                self._queue(action, arguments, contract, receipt, timed)
                raise ReviewRequiredError(f"{action.tool} waits for a person: {result.reason}", receipt, timed)
            case "fallback":
                note = contract.fallback.note or f"the fallback applies: {result.mode}"
                raise ActionFellBackError(f"{action.tool} did not run; {note}", receipt, timed)
            case "deny":
                raise ActionDeniedError(f"{action.tool} is denied: {result.reason}", receipt, timed)

    def _queue(
        self,
        action: Action,
        arguments: Mapping[str, Any],
        contract: ActionContract,
        receipt: Receipt,
        decision: Decision,
    ) -> None:
        if self._reviews is None:
            return
        self._reviews.submit(
            QueuedAction(
                decision_id=receipt.decision_id,
                receipt=self._recorder.token(receipt),
                contract=contract,
                arguments=json.loads(canonical(redacted(arguments, action.redact))),
                consequence=action.consequence,
                rule=decision.result.reason,
                ruleset_sha256=ruleset_of(self._authorizer, self._policy),
                queued_at=receipt.decided_at,
                expires_at=receipt.decided_at + self._approval_holds,
            )
        )

    def _redeem(
        self, receipt: Receipt, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Action, dict[str, Any], Permit]:
        if self._reviews is None:
            raise UsageError("this router has no review desk; pass `reviews=` when it is made")
        action = self._actions.get((receipt.workflow, receipt.tool))
        if action is None:
            raise UsageError(f"no action {receipt.tool} of workflow {receipt.workflow} is registered at this router")
        arguments = action.bind(args, kwargs)
        queued = self._reviews.get(receipt.decision_id).queued
        if queued.contract.tool != action.tool:
            raise ApprovalMismatchError(f"{receipt.decision_id} is about {queued.contract.tool}, not {action.tool}")
        # Asked again, so that what was switched off after the approval stays off.
        again = decide(queued.contract, self._authorizer, self._policy, variants=frozenset(action.variants)).decision
        if again.result.outcome not in {"queue_for_review", "allow"} or not again.enforced:
            message = f"{action.tool} was approved, and is refused by now: {again.result.reason}"
            raise ActionDeniedError(message, receipt, again)
        self._reviews.redeem(
            receipt.decision_id,
            arguments_sha256=digest(arguments),
            ruleset_sha256=ruleset_of(self._authorizer, self._policy),
        )
        return action, arguments, Permit(receipt, again, None)

    def _record_decision(self, contract: ActionContract, decided: Decided, cohort: str) -> Receipt:
        decision = decided.decision
        may_run = decision.expects_execution or decision.result.outcome == "queue_for_review"
        must_be_kept = may_run and contract.risk_class not in READS
        try:
            return self._recorder.decided(contract, decision, stage=decided.stage, cohort=cohort, durable=must_be_kept)
        except OutboxError as error:
            LOG.exception("%s is denied: its decision cannot be kept on disk", contract.tool)
            refused = decision.model_copy(update={"result": Deny(reason="record_not_durable")})
            receipt = self._recorder.decided(contract, refused, stage=decided.stage, cohort=cohort)
            message = f"{contract.tool} is denied: its decision cannot be kept on disk ({error})"
            raise ActionDeniedError(message, receipt, refused) from error

    def _record_execution(self, action: Action, permit: Permit, started: float, error: BaseException | None) -> None:
        latency_ms = (self._clock() - started) * 1000
        if error is None:
            status = ExecutionStatus.SUCCEEDED
        elif isinstance(error, TimeoutError):
            status = ExecutionStatus.TIMED_OUT
        else:
            status = ExecutionStatus.FAILED
        error_type = type(error).__name__ if error is not None else None
        record = functools.partial(
            self._recorder.executed, permit.receipt, status, latency_ms=latency_ms, error_type=error_type
        )
        try:
            record(durable=action.risk_class not in READS)
        except OutboxError:
            # The side effect has happened and its decision is on disk; its outcome at least goes to memory.
            LOG.exception("the outcome of decision %s cannot be kept on disk", permit.receipt.decision_id)
            record(durable=False)


def _chosen(action: Action, permit: Permit) -> Callable[..., Any]:
    return action.run if permit.constrained_to is None else action.variants[permit.constrained_to]


def _take_back(execution: _Execution) -> tuple[UndoResult, str | None]:
    undo = execution.action.undo
    if undo is None:
        return UndoResult.NOT_UNDOABLE, "the action has no undo"
    try:
        undo(execution.result, **execution.arguments)
    except Exception as error:  # a failed undo is an outcome of its own, and is recorded as such
        LOG.warning("the undo of %s failed", execution.action.tool, exc_info=True)
        return UndoResult.FAILED, type(error).__name__
    return UndoResult.UNDONE, None


__all__ = ["Permit", "RefusedError", "Router"]
