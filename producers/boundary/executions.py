"""Record executions of actions, and remember them for their undo."""

from __future__ import annotations

import functools
import inspect
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

from producers.boundary.action import Action, Permit, as_name, is_async
from producers.boundary.approvals import ReviewError
from producers.boundary.decision_rules import READS
from producers.boundary.endings import NOT_RUN, InputRequiredError, status_of
from producers.boundary.telemetry import ExecutionSpan
from producers.delivery.outbox import OutboxError
from producers.errors import UsageError
from producers.wire.events import ExecutionStatus, Impact, UndoResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import TracerProvider

    from producers.delivery.recorder import Recorder
    from producers.wire.receipt import Receipt

LOG = logging.getLogger(__name__)

_LIMIT = 10_000  # executions that are remembered, so that `undo` needs only the receipt


@dataclass(frozen=True, slots=True)
class Execution:
    """An execution that can be taken back; of what cannot be, neither arguments nor result are kept."""

    action: Action
    undo: Callable[..., Any]
    arguments: Mapping[str, Any]
    result: Any


class Executions:
    """Runs and undoes on behalf of one router; safe to use from many threads. Its clock counts seconds."""

    def __init__(self, recorder: Recorder, clock: Callable[[], float], tracer_provider: TracerProvider | None) -> None:
        self.recorder = recorder
        self.clock = clock
        self.tracer_provider = tracer_provider
        self._lock = Lock()
        self._executions: OrderedDict[str, Execution | str] = OrderedDict()

    def remember(self, decision_id: str, execution: Execution | str) -> None:
        """Keep an execution for its undo, or why there is none."""
        with self._lock:
            self._executions[decision_id] = execution
            if len(self._executions) > _LIMIT:
                self._executions.popitem(last=False)

    def undo(self, receipt: Receipt) -> UndoResult:
        """Take an execution back; `UsageError` where this process does not remember it, or its undo is async."""
        execution = self._take(receipt, allow_async=False)
        if isinstance(execution, str):
            return self._record_undo(receipt, UndoResult.NOT_UNDOABLE, execution)
        try:
            result = execution.undo(execution.result, **execution.arguments)
        except Exception as error:  # noqa: BLE001 - a failed undo is an outcome of its own, and is recorded as such
            return self._record_failed_undo(receipt, execution, error)
        if inspect.iscoroutine(result):
            result.close()
            why = "the undo is async and was not awaited; use undo_async"
            return self._record_undo(receipt, UndoResult.FAILED, why)
        return self._record_undo(receipt, UndoResult.UNDONE, None)

    async def undo_async(self, receipt: Receipt) -> UndoResult:
        """As `undo`; the undo may be async."""
        execution = self._take(receipt, allow_async=True)
        if isinstance(execution, str):
            return self._record_undo(receipt, UndoResult.NOT_UNDOABLE, execution)
        try:
            result = execution.undo(execution.result, **execution.arguments)
            if inspect.isawaitable(result):
                await result
        except Exception as error:  # noqa: BLE001 - as above
            return self._record_failed_undo(receipt, execution, error)
        return self._record_undo(receipt, UndoResult.UNDONE, None)

    def impact(self, receipt: Receipt, impact: Impact) -> None:
        """Record what followed from an action."""
        self.keep_if_possible(functools.partial(self.recorder.impact, receipt, impact), receipt.decision_id)

    def keep_if_possible(self, record: Callable[..., None], decision_id: str) -> None:
        """Record an outcome on disk, or in memory where the disk does not take it: what happened has happened."""
        if self.recorder.can_keep:
            try:
                record(durable=True)
            except OutboxError:
                LOG.exception("an outcome of decision %s cannot be kept on disk", decision_id)
            else:
                return
        record()

    def _take(self, receipt: Receipt, *, allow_async: bool) -> Execution | str:
        with self._lock:
            execution = self._executions.get(receipt.decision_id)
            if isinstance(execution, Execution) and not allow_async and is_async(execution.undo):
                raise UsageError(f"the undo of {execution.action.tool} is async; use undo_async")
            self._executions.pop(receipt.decision_id, None)
        if execution is None:
            raise UsageError(
                f"no execution of decision {receipt.decision_id} is remembered here; take it back where it ran, "
                "and record that with the recorder's `undone`"
            )
        return execution

    def _record_failed_undo(self, receipt: Receipt, execution: Execution, error: Exception) -> UndoResult:
        LOG.warning("the undo of %s failed", execution.action.tool, exc_info=error)
        return self._record_undo(receipt, UndoResult.FAILED, type(error).__name__)

    def _record_undo(self, receipt: Receipt, result: UndoResult, reason: str | None) -> UndoResult:
        record = functools.partial(self.recorder.undone, receipt, result, reason=reason)
        self.keep_if_possible(record, receipt.decision_id)
        return result


@dataclass(slots=True, eq=False)
class Running:
    """The block in which one action runs: its end or its exception is the execution's."""

    executions: Executions
    action: Action
    permit: Permit
    give_back: Callable[[Permit], None] | None = None  # lets the approval hold again that the permit was spent on
    started: float = 0.0
    span: ExecutionSpan = field(init=False)

    def __enter__(self) -> Self:
        self.span = ExecutionSpan(self.executions.tracer_provider, self.action, self.permit)
        self.started = self.executions.clock()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        latency_ms: float | None = (self.executions.clock() - self.started) * 1000
        status, error_type = ExecutionStatus.SUCCEEDED, None
        if error is not None:
            status = status_of(error, self.permit.arguments)
            error_type = as_name(type(error).__name__)
            if status in NOT_RUN:
                latency_ms = None  # it says nothing of how long the action takes
        record = functools.partial(
            self.executions.recorder.executed,
            self.permit.issued,
            status,
            latency_ms=latency_ms,
            error_type=error_type,
            traceparent=self.span.traceparent,
        )
        self.span.end(error_type)
        if isinstance(error, InputRequiredError) and self.give_back is not None:
            try:
                self.give_back(self.permit)
            except ReviewError:  # it is spent, and the record says on what
                LOG.exception("the approval of decision %s cannot be given back", self.permit.decision_id)
            else:
                return  # its one execution is still to come
        if self.action.risk_class in READS:
            record()
        else:
            self.executions.keep_if_possible(record, self.permit.decision_id)

    def function(self) -> Callable[..., Any]:
        """What may run: the action, or its lesser variant."""
        constrained_to = self.permit.constrained_to
        return self.action.run if constrained_to is None else self.action.variants[constrained_to]

    def remember(self, result: Any) -> Any:  # noqa: ANN401 - whatever the action returns
        """Keep the result for the undo, and pass it on."""
        constrained_to = self.permit.constrained_to
        execution: Execution | str = "the action has no undo"
        if constrained_to is not None:
            # The undo of the action itself would take back what never happened.
            execution = f"the lesser variant {constrained_to} ran, and it has no undo"
        elif self.action.undo is not None:
            execution = Execution(self.action, self.action.undo, self.permit.arguments, result)
        self.executions.remember(self.permit.decision_id, execution)
        return result
