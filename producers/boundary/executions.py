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
from producers.boundary.decision_rules import READS
from producers.boundary.telemetry import ExecutionSpan
from producers.delivery.outbox import OutboxError
from producers.errors import UsageError
from producers.wire.events import ExecutionStatus, UndoResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from opentelemetry.trace import TracerProvider

    from producers.boundary.action import Action, Permit
    from producers.delivery.recorder import Recorder
    from producers.wire.events import Impact
    from producers.wire.receipt import Receipt

LOG = logging.getLogger(__name__)

_REMEMBERED = 10_000
"""Executions that are remembered, so that `undo` needs only the receipt."""

_NO_UNDO = "the action has no undo"


@dataclass(frozen=True, slots=True)
class Execution:
    """One action that ran here and can be taken back; of what cannot be, neither arguments nor result are kept.

    Attributes:
        action: What ran.
        undo: Takes it back.
        arguments: With what it ran.
        result: What it returned.
    """

    action: Action
    undo: Callable[..., Any]
    arguments: Mapping[str, Any]
    result: Any


class Executions:
    """Runs and undoes on behalf of one router. Safe to use from many threads.

    Args:
        recorder: Takes the record.
        clock: Measures latency, in seconds.
        tracer_provider: Makes spans; None for the process-wide one.
    """

    def __init__(self, recorder: Recorder, clock: Callable[[], float], tracer_provider: TracerProvider | None) -> None:
        self.recorder = recorder
        self.clock = clock
        self.tracer_provider = tracer_provider
        self._lock = Lock()
        self._known: OrderedDict[str, Execution | str] = OrderedDict()

    def running(self, action: Action, arguments: Mapping[str, Any], permit: Permit) -> Running:
        """The block in which an action runs."""
        return Running(self, action, arguments, permit)

    def remember(self, decision_id: str, execution: Execution | str) -> None:
        """Keep an execution for its undo, or why there is none."""
        with self._lock:
            self._known[decision_id] = execution
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def undo(self, receipt: Receipt) -> UndoResult:
        """Take an execution back by a plain function.

        Raises:
            UsageError: This process does not remember such an execution, or its undo is async.
        """
        execution = self._recall(receipt, awaited=False)
        if isinstance(execution, str):
            return self._undone(receipt, UndoResult.NOT_UNDOABLE, execution)
        try:
            given = execution.undo(execution.result, **execution.arguments)
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
        if isinstance(execution, str):
            return self._undone(receipt, UndoResult.NOT_UNDOABLE, execution)
        try:
            given = execution.undo(execution.result, **execution.arguments)
            if inspect.isawaitable(given):
                await given
        except Exception as error:  # as above
            LOG.warning("the undo of %s failed", execution.action.tool, exc_info=True)
            return self._undone(receipt, UndoResult.FAILED, type(error).__name__)
        return self._undone(receipt, UndoResult.UNDONE, None)

    def impact(self, receipt: Receipt, impact: Impact) -> None:
        """Record what followed from an action."""
        _kept_if_possible(functools.partial(self.recorder.impact, receipt, impact), receipt.decision_id, self.recorder)

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
            self.recorder.executed,
            running.permit.issued,
            status,
            latency_ms=latency_ms,
            error_type=error_type,
            traceparent=running.span.traceparent,
        )
        running.span.end(error_type)
        if running.action.risk_class in READS:
            record()
        else:
            _kept_if_possible(record, running.permit.decision_id, self.recorder)

    def _recall(self, receipt: Receipt, *, awaited: bool) -> Execution | str:
        with self._lock:
            execution = self._known.get(receipt.decision_id)
            if isinstance(execution, Execution) and not awaited and is_async(execution.undo):
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
            functools.partial(self.recorder.undone, receipt, result, reason=reason), receipt.decision_id, self.recorder
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
        self.span: ExecutionSpan

    def __enter__(self) -> Self:
        self.span = ExecutionSpan(self._executions.tracer_provider, self.action, self.permit)
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
        constrained_to = self.permit.constrained_to
        kept: Execution | str
        if constrained_to is not None:
            # The undo of the action itself would take back what never happened.
            kept = f"the lesser variant {constrained_to} ran, and it has no undo"
        elif self.action.undo is None:
            kept = _NO_UNDO
        else:
            kept = Execution(self.action, self.action.undo, self.arguments, result)
        self._executions.remember(self.permit.decision_id, kept)
        return result


def _kept_if_possible(record: Callable[..., None], decision_id: str, recorder: Recorder) -> None:
    """Record an outcome on disk, or in memory where the disk does not take it: what happened has happened."""
    if not recorder.can_keep:
        record()
        return
    try:
        record(durable=True)
    except OutboxError:
        LOG.exception("an outcome of decision %s cannot be kept on disk", decision_id)
        record()
