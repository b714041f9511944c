"""The thin SDK of a tool router: says what was decided and what came of it, as signed events."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from producers.delivery.kafka_emitter import DurableEmitter, Emitter, EncodedEmitter, EncodedKeeper
from producers.errors import UsageError
from producers.wire import events
from producers.wire.events import of_bytes
from producers.wire.forms import Call, Outcome, executed
from producers.wire.ids import random_id
from producers.wire.receipt import receipt_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from producers.wire.contract import ActionContract
    from producers.wire.decision import Decision
    from producers.wire.events import Encoded
    from producers.wire.forms import Asked, DecisionForm
    from producers.wire.receipt import Receipt
    from producers.wire.stage import Stage


def system_clock() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)


class Issued:
    """What was given out with a decision.

    Attributes:
        decision_id: Id of the decision.
        token: The receipt as it travels.
    """

    __slots__ = ("_call", "_form", "_receipt", "decision_id", "token")

    def __init__(self, form: DecisionForm, call: Call, token: str) -> None:
        self.decision_id = call.decision_id
        self.token = token
        self._form = form
        self._call = call
        self._receipt: Receipt | None = None

    @property
    def receipt(self) -> Receipt:
        """The receipt; built when somebody asks, for most callers only pass the token on."""
        if self._receipt is None:
            self._receipt = self._form.receipt(self._call)
        return self._receipt


class Recorder:
    """Builds the events of an action's life and hands them to an emitter.

    It holds no state about actions: the receipt that `decided` returns is all that later calls need, and it may travel
    (as `receipt.token(key)`) to whichever process sees the outcome.

    Args:
        emitter: Takes the events.
        source: Who records, as a URI reference, for example `/routers/crm-eu-1`.
        key: Signs receipts; None leaves them unsigned.
        now: The clock.
        new_id: Makes decision and event ids; each must be unique for ever.
    """

    def __init__(
        self,
        emitter: Emitter,
        *,
        source: str,
        key: bytes | None = None,
        now: Callable[[], datetime] = system_clock,
        new_id: Callable[[], str] = random_id,
    ) -> None:
        self._emitter = emitter
        self.can_keep = isinstance(emitter, DurableEmitter)
        self._raw = emitter if isinstance(emitter, EncodedEmitter) else None
        self._raw_keeper = emitter if isinstance(emitter, EncodedKeeper) else None
        self._source = source
        self._quoted_source = json.dumps(source, ensure_ascii=False)
        self._key = key
        self._now = now
        self._new_id = new_id

    def token(self, receipt: Receipt) -> str:
        """The receipt as it travels: an opaque token, signed if this recorder signs."""
        return receipt.token(self._key)

    def decided(
        self,
        contract: ActionContract,
        decision: Decision,
        *,
        stage: Stage,
        cohort: str = "all",
        decided_at: datetime | None = None,
        traceparent: str | None = None,
        durable: bool = False,
    ) -> Receipt:
        """Record a decision, before anything is executed.

        Args:
            contract: What was asked.
            decision: What was decided, and why.
            stage: The stage that the action is in.
            cohort: The segment of the roll-out; keep their number small.
            decided_at: Event time; the clock's moment when left out.
            traceparent: W3C trace context of the call.
            durable: Return only once the event is on this machine's disk.

        Raises:
            OutboxError: It should be on disk and is not; the action must not run.
            UsageError: It should be on disk, and the emitter has no outbox.

        Returns:
            The receipt that every later event about this action needs.
        """
        moment = decided_at if decided_at is not None else self._now()
        receipt = receipt_of(
            contract, decision, stage=stage, cohort=cohort, decision_id=self._new_id(), decided_at=moment
        )
        self._hand_over(
            events.ActionDecided(
                id=self._new_id(),
                source=self._source,
                time=moment,
                subject=receipt.decision_id,
                dataschema=events.schema_id(events.ActionDecided),
                traceparent=traceparent,
                data=events.ActionDecidedData(receipt=receipt.token(self._key), contract=contract, decision=decision),
            ),
            durable=durable,
        )
        return receipt

    def filled(self, form: DecisionForm, asked: Asked, *, durable: bool = False) -> Issued:
        """As `decided`, from a form that was filled in ahead: for routers, where every microsecond is the caller's.

        Raises:
            OutboxError: It should be on disk and is not; the action must not run.
            UsageError: It should be on disk, and the emitter has no outbox.
        """
        moment = self._now()
        if moment.tzinfo is not UTC:
            moment = moment.astimezone(UTC)
        call = Call(self._new_id(), moment, asked)
        record, token = form.encoded(call, source=self._quoted_source, key=self._key)
        self._hand_over_encoded(record, durable=durable)
        return Issued(form, call, token)

    def ran(
        self,
        decision_id: str,
        token: str,
        status: events.ExecutionStatus,
        *,
        latency_ms: float,
        error_type: str | None = None,
        traceparent: str | None = None,
        durable: bool = False,
    ) -> None:
        """As `executed`, for routers: by the receipt's token, and without a model.

        Raises:
            OutboxError: It should be on disk and is not.
            UsageError: It should be on disk, and the emitter has no outbox.
        """
        record = executed(
            Outcome(status, latency_ms, error_type),
            event_id=self._new_id(),
            source=self._quoted_source,
            at=self._now().astimezone(UTC),
            decision_id=decision_id,
            token=token,
            traceparent=traceparent,
        )
        self._hand_over_encoded(record, durable=durable)

    def executed(
        self,
        receipt: Receipt,
        status: events.ExecutionStatus,
        *,
        latency_ms: float | None = None,
        cost_usd: float | None = None,
        error_type: str | None = None,
        at: datetime | None = None,
        traceparent: str | None = None,
        durable: bool = False,
    ) -> None:
        """Record how an execution ended. Leave out what is not known; never say zero for it."""
        self._hand_over(
            events.ActionExecuted(
                id=self._new_id(),
                source=self._source,
                time=at if at is not None else self._now(),
                subject=receipt.decision_id,
                dataschema=events.schema_id(events.ActionExecuted),
                traceparent=traceparent,
                data=events.ActionExecutedData(
                    receipt=receipt.token(self._key),
                    status=status,
                    latency_ms=latency_ms,
                    cost_usd=cost_usd,
                    error_type=error_type,
                ),
            ),
            durable=durable,
        )

    def undone(
        self,
        receipt: Receipt,
        result: events.UndoResult,
        *,
        reason: str | None = None,
        at: datetime | None = None,
        durable: bool = False,
    ) -> None:
        """Record that an execution was taken back, or could not be; once for each execution."""
        self._hand_over(
            events.ActionUndone(
                id=self._new_id(),
                source=self._source,
                time=at if at is not None else self._now(),
                subject=receipt.decision_id,
                dataschema=events.schema_id(events.ActionUndone),
                data=events.ActionUndoneData(receipt=receipt.token(self._key), result=result, reason=reason),
            ),
            durable=durable,
        )

    def impact(
        self, receipt: Receipt, impact: events.Impact, *, at: datetime | None = None, durable: bool = False
    ) -> None:
        """Record an incident, a support signal or a quality evaluation that followed from an action."""
        self._hand_over(
            events.ActionImpact(
                id=self._new_id(),
                source=self._source,
                time=at if at is not None else self._now(),
                subject=receipt.decision_id,
                dataschema=events.schema_id(events.ActionImpact),
                data=events.ActionImpactData(receipt=receipt.token(self._key), impact=impact),
            ),
            durable=durable,
        )

    def review_resolved(
        self,
        receipt: Receipt,
        resolution: events.Resolution,
        *,
        reviewer: str,
        rationale: str,
        wait_ms: float | None = None,
        at: datetime | None = None,
        durable: bool = False,
    ) -> None:
        """Record a person's word on a queued action; `wait_ms` runs from queueing to that word."""
        self._hand_over(
            events.ReviewResolved(
                id=self._new_id(),
                source=self._source,
                time=at if at is not None else self._now(),
                subject=receipt.decision_id,
                dataschema=events.schema_id(events.ReviewResolved),
                data=events.ReviewResolvedData(
                    receipt=receipt.token(self._key),
                    resolution=resolution,
                    reviewer=reviewer,
                    rationale=rationale,
                    wait_ms=wait_ms,
                ),
            ),
            durable=durable,
        )

    def _hand_over_encoded(self, record: Encoded, *, durable: bool) -> None:
        if durable and self._raw_keeper is not None:
            self._raw_keeper.keep_encoded(record)
        elif not durable and self._raw is not None:
            self._raw.emit_encoded(record)
        else:
            self._hand_over(of_bytes(record.value), durable=durable)

    def _hand_over(self, event: events.Event, *, durable: bool) -> None:
        if not durable:
            self._emitter.emit(event)
        elif isinstance(self._emitter, DurableEmitter):
            self._emitter.keep(event)
        else:
            raise UsageError(
                f"{type(self._emitter).__name__} cannot keep a record on disk; give the recorder an OutboxEmitter"
            )

    def policy_changed(
        self, change: events.PolicyChangedData, *, at: datetime | None = None, durable: bool = False
    ) -> None:
        """Record who changed which flag, from what to what, and why."""
        self._hand_over(
            events.PolicyChanged(
                id=self._new_id(),
                source=self._source,
                time=at if at is not None else self._now(),
                subject=change.flag_key,
                dataschema=events.schema_id(events.PolicyChanged),
                data=change,
            ),
            durable=durable,
        )
