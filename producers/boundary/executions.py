"""What ran: measured, recorded whatever came of it, and remembered for its undo."""

from __future__ import annotations

import functools
import inspect
import logging
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

from producers.boundary.action import is_async
from producers.boundary.decide import READS
from producers.delivery.outbox import OutboxError
from producers.errors import UsageError
from producers.wire.events import ExecutionStatus, UndoResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from producers.boundary.action import Action
    from producers.boundary.permit import Permit
    from producers.boundary.traces import Span, Traces
    from producers.delivery.recorder import Recorder
    from producers.wire.events import Impact
    from producers.wire.receipt import Receipt

LOG = logging.getLogger(__name__)

_REMEMBERED = 10_000
"""Executions whose arguments and result are kept in memory, so that `undo` needs only the receipt."""


@dataclass(frozen=True)
class Execution:
    """One action that ran here.

    Attributes:
        action: What ran.
        arguments: With what.
        result: What it returned.
        constrained_to: The lesser variant that ran in its place, if one did.
    """

    action: Action
    arguments: Mapping[str, Any]
    result: Any
    constrained_to: str | None


class Executions:
    """Runs and undoes on behalf of one router. Safe to use from many threads.

    Args:
        recorder: Takes the record.
        clock: Measures latency, in seconds.
        traces: Makes spans where a tracer is configured.
    """

    def __init__(self, recorder: Recorder, clock: Callable[[], float], traces: Traces) -> None:
        self.recorder = recorder
        self.clock = clock
        self.traces = traces
        self._lock = Lock()
        self._known: OrderedDict[str, Execution] = OrderedDict()

    def running(self, action: Action, arguments: Mapping[str, Any], permit: Permit) -> Running:
        """The block in which an action runs."""
        return Running(self, action, arguments, permit)

    def remember(self, receipt: Receipt, execution: Execution) -> None:
        """Keep an execution for its undo."""
        with self._lock:
            self._known[receipt.decision_id] = execution
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def undo(self, receipt: Receipt) -> UndoResult:
        """Take an execution back by a plain function.

        Raises:
            UsageError: This process does not remember such an execution, or its undo is async.
        """
        execution = self._recall(receipt, awaited=False)
        undo = _undo_of(execution)
        if isinstance(undo, str):
            return self._undone(receipt, UndoResult.NOT_UNDOABLE, undo)
        try:
            given = undo(execution.result, **execution.arguments)
        except Exception as error:  # a failed undo is an outcome of its own, and is recorded as such
            LOG.warning("the undo of %s failed", execution.action.tool, exc_info=True)
            return self._undone(receipt, UndoResult.FAILED, type(error).__name__)
        if inspect.iscoroutine(given):
            given.close()
            return self._undone(receipt, UndoResult.FAILED, "the undo is async and was not awaited; use undo_async")
        return self._undone(receipt, UndoResult.UNDONE, None)

    async def undo_async(self, receipt: Receipt) -> UndoResult:
        """As `undo`; the undo may be async."""
        execution = self._recall(receipt, awaited=True)
        undo = _undo_of(execution)
        if isinstance(undo, str):
            return self._undone(receipt, UndoResult.NOT_UNDOABLE, undo)
        try:
            given = undo(execution.result, **execution.arguments)
            if inspect.isawaitable(given):
                await given
        except Exception as error:  # as above
            LOG.warning("the undo of %s failed", execution.action.tool, exc_info=True)
            return self._undone(receipt, UndoResult.FAILED, type(error).__name__)
        return self._undone(receipt, UndoResult.UNDONE, None)

    def impact(self, receipt: Receipt, impact: Impact) -> None:
        """Record what followed from an action."""
        _kept_if_possible(functools.partial(self.recorder.impact, receipt, impact), receipt, self.recorder)

    def ended(self, running: Running, error: BaseException | None) -> None:
        """Record how an execution ended."""
        latency_ms = (self.clock() - running.started) * 1000
        if error is None:
            status = ExecutionStatus.SUCCEEDED
        elif isinstance(error, TimeoutError):
            status = ExecutionStatus.TIMED_OUT
        else:
            status = ExecutionStatus.FAILED
        error_type = type(error).__name__[:200] if error is not None else None
        record = functools.partial(
            self.recorder.ran,
            running.permit.receipt.decision_id,
            running.permit.token,
            status,
            latency_ms=latency_ms,
            error_type=error_type,
            traceparent=running.span.traceparent,
        )
        running.span.end(error_type)
        if running.action.risk_class in READS:
            record()
        else:
            _kept_if_possible(record, running.permit.receipt, self.recorder)

    def _recall(self, receipt: Receipt, *, awaited: bool) -> Execution:
        with self._lock:
            execution = self._known.get(receipt.decision_id)
            if execution is not None and not awaited and execution.action.undo and is_async(execution.action.undo):
                raise UsageError(f"the undo of {execution.action.tool} is async; use undo_async")
            self._known.pop(receipt.decision_id, None)
        if execution is None:
            raise UsageError(
                f"no execution of decision {receipt.decision_id} is remembered here; take it back where it ran, "
                "and record that with the recorder's `undone`"
            )
        return execution

    def _undone(self, receipt: Receipt, result: UndoResult, reason: str | None) -> UndoResult:
        _kept_if_possible(
            functools.partial(self.recorder.undone, receipt, result, reason=reason), receipt, self.recorder
        )
        return result


class Running:
    """The block in which one action runs: its end or its exception is the execution's."""

    __slots__ = ("_executions", "action", "arguments", "permit", "span", "started")

    def __init__(self, executions: Executions, action: Action, arguments: Mapping[str, Any], permit: Permit) -> None:
        self._executions = executions
        self.action = action
        self.arguments = arguments
        self.permit = permit
        self.started = 0.0
        self.span: Span

    def __enter__(self) -> Self:
        self.span = self._executions.traces.executing(self.action, self.permit)
        self.started = self._executions.clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executions.ended(self, error)

    def function(self) -> Callable[..., Any]:
        """What may run: the action, or its lesser variant."""
        constrained_to = self.permit.constrained_to
        return self.action.run if constrained_to is None else self.action.variants[constrained_to]

    def remember(self, result: Any) -> Any:  # noqa: ANN401 - whatever the action returns
        """Keep the result for the undo, and pass it on."""
        execution = Execution(self.action, self.arguments, result, self.permit.constrained_to)
        self._executions.remember(self.permit.receipt, execution)
        return result


def _undo_of(execution: Execution) -> Callable[..., Any] | str:
    """The function that takes an execution back, or why there is none."""
    if execution.constrained_to is not None:
        # The undo of the action itself would take back what never happened.
        return f"the lesser variant {execution.constrained_to} ran, and it has no undo"
    return execution.action.undo if execution.action.undo is not None else "the action has no undo"


def _kept_if_possible(record: Callable[..., None], receipt: Receipt, recorder: Recorder) -> None:
    """Record an outcome on disk, or in memory where the disk does not take it: what happened has happened."""
    if not recorder.can_keep:
        record()
        return
    try:
        record(durable=True)
    except OutboxError:
        LOG.exception("an outcome of decision %s cannot be kept on disk", receipt.decision_id)
        record()
