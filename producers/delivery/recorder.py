"""Record decisions and what came of them as signed events: the SDK of a tool router."""

from __future__ import annotations

import itertools
import os
import time
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING
from weakref import WeakSet

from pydantic import TypeAdapter
from pydantic_core import to_json

from producers.delivery.kafka_emitter import AsyncDurableEmitter, DurableEmitter, Emitter
from producers.errors import UsageError
from producers.wire import events
from producers.wire.event_writer import CallDetails, EventWriter, SharedDecision
from producers.wire.receipt import IssuedReceipt, Receipt

if TYPE_CHECKING:
    from collections.abc import Callable

    from producers.wire.contract import ActionContract, ArgumentsDigest
    from producers.wire.decision import Decision, Provenance
    from producers.wire.events import EventRecord
    from producers.wire.model import WireModel
    from producers.wire.stage import Stage

_random = Random()  # noqa: S311 - ids must differ; nothing rests on their being secret
os.register_at_fork(after_in_child=_random.seed)
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
_TRACEPARENT: TypeAdapter[str] = TypeAdapter(events.Traceparent)


def system_clock() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)


def random_id() -> str:
    """A UUID of version 4 (RFC 9562) that no other thread, forked process or copy of a frozen machine draws.

    Unlike `uuid.uuid4` it makes no system call, during which another thread would take the interpreter
    (benchmarks/decision.py). The clock is for the copies of a machine: their generators go on alike.
    """
    digits = f"{_random.getrandbits(128) ^ time.time_ns():032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"


def random_incarnation() -> str:
    """Names one life of a recorder, unlike any other."""
    return f"{_random.getrandbits(64) ^ time.time_ns():016x}"


class RecordNumbers:
    """The numbers of one recorder's events: 1, 2, … of one incarnation, which a forked process does not share."""

    __slots__ = ("__weakref__", "_count", "_new_incarnation", "_prefix")

    def __init__(self, new_incarnation: Callable[[], str]) -> None:
        self._new_incarnation = new_incarnation
        self.begin()
        _numbers.add(self)

    def begin(self) -> None:
        """Begin another incarnation."""
        self._prefix = f"{self._new_incarnation()}.".encode()
        self._count = itertools.count(1)

    def next(self) -> bytes:
        """The next one; no two threads get the same."""
        return self._prefix + b"%d" % next(self._count)


_numbers: WeakSet[RecordNumbers] = WeakSet()


def _begin_incarnations() -> None:
    for numbers in list(_numbers):
        numbers.begin()


os.register_at_fork(after_in_child=_begin_incarnations)  # after the generator has its new seed


class Recorder:
    """Builds the events of an action's life and hands them to an emitter.

    It holds no state about actions: the receipt that `decided` returns is all that later calls need, and it may travel
    (as `receipt.token(key)`) to another process. Each method takes `at`, the event's time (by default the clock's), and
    `durable`: return once the event is on this machine's disk. That raises `OutboxError` where it is not, and
    `UsageError` where the emitter has no outbox.
    """

    def __init__(
        self,
        emitter: Emitter,
        *,
        source: str,  # who records, as a URI reference, for example `/routers/crm-eu-1`
        key: bytes | None = None,  # signs receipts; None leaves them unsigned
        now: Callable[[], datetime] = system_clock,
        new_id: Callable[[], str] = random_id,  # of decisions and events; each must be unique for ever
        new_incarnation: Callable[[], str] = random_incarnation,  # under which its events are numbered; likewise
    ) -> None:
        self._emitter = emitter
        self._keeper = emitter if isinstance(emitter, DurableEmitter) else None
        self._async_keeper = emitter if isinstance(emitter, AsyncDurableEmitter) else None
        self._writers = {event_class: EventWriter(event_class, source) for event_class in events.EVENT_CLASSES}
        self._decided_writer = self._writers[events.ActionDecided]
        self._key = key
        self._now = now
        self._new_id = new_id
        self._numbers = RecordNumbers(new_incarnation)

    @property
    def can_keep(self) -> bool:
        """Whether the emitter can put an event on disk."""
        return self._keeper is not None

    @property
    def key(self) -> bytes | None:
        """What signs receipts, and digests arguments."""
        return self._key

    def token(self, receipt: Receipt) -> str:
        """The receipt as it travels: an opaque token, signed if this recorder signs."""
        return receipt.token(self._key)

    def decided(
        self,
        contract: ActionContract,
        decision: Decision,
        *,
        stage: Stage,
        cohort: str = "all",  # the segment of the roll-out; keep their number small
        decided_at: datetime | None = None,  # event time; None for the clock's moment
        traceparent: str | None = None,
        durable: bool = False,
    ) -> Receipt:
        """Record a decision before anything is executed, and return the receipt that all later events about it need."""
        shared = SharedDecision(contract, decision, stage=stage, cohort=cohort)
        token = shared.token(to_json(self._new_id()), to_json(self._moment(decided_at)), self._key)
        receipt = Receipt.from_token(token)
        details = CallDetails(
            intent=contract.intent,
            conversation=contract.conversation,
            tool_call=contract.tool_call,
            requested_tool=contract.requested_tool,
        )
        data = shared.data(token, details, contract.arguments_digest, decision.decide_ms)
        self._record(
            events.ActionDecided, receipt, data, at=receipt.decided_at, traceparent=traceparent, durable=durable
        )
        return receipt

    def write_decided_call(
        self,
        shared: SharedDecision,
        details: CallDetails,
        arguments: ArgumentsDigest,
        decide_ms: float,
        traceparent: str | None,
    ) -> tuple[events.EventRecord, IssuedReceipt]:
        """As `decided`, for one of the calls that share a contract and a decision: its event, to be handed over."""
        decision_id = self._new_id()
        id_json, time_json = to_json(decision_id), to_json(self._moment(None))
        token = shared.token(id_json, time_json, self._key)
        data = shared.data(token, details, arguments, decide_ms)
        # There is one such event for each decision: they have one id.
        record = self._decided_writer.write(
            id_json,
            time_json,
            id_json,
            decision_id.encode(),
            data,
            traceparent=traceparent,
            number=self._numbers.next(),
        )
        return record, IssuedReceipt(decision_id, token)

    def executed(
        self,
        receipt: Receipt | IssuedReceipt,
        status: events.ExecutionStatus,
        *,
        latency_ms: float | None = None,
        cost_usd: float | None = None,
        error_type: str | None = None,
        provenance: Provenance | None = None,  # of what was only observed, or imported
        at: datetime | None = None,
        traceparent: str | None = None,
        durable: bool = False,
    ) -> None:
        """Record how an execution ended. Leave out what is not known; never say zero for it."""
        data = events.ActionExecutedData(
            receipt=self._token(receipt),
            status=status,
            latency_ms=latency_ms,
            cost_usd=cost_usd,
            error_type=error_type,
            provenance=provenance,
        )
        self._record(events.ActionExecuted, receipt, data, at=at, traceparent=traceparent, durable=durable)

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
        data = events.ActionUndoneData(receipt=self._token(receipt), result=result, reason=reason)
        self._record(events.ActionUndone, receipt, data, at=at, durable=durable)

    def impact(
        self, receipt: Receipt, impact: events.Impact, *, at: datetime | None = None, durable: bool = False
    ) -> None:
        """Record an incident, a support signal or a quality evaluation that followed from an action."""
        data = events.ActionImpactData(receipt=self._token(receipt), impact=impact)
        self._record(events.ActionImpact, receipt, data, at=at, durable=durable)

    def review_resolved(
        self,
        receipt: Receipt,
        resolution: events.Resolution,
        *,
        reviewer: str,
        rationale: str,
        wait_ms: float | None = None,
        authenticated: bool | None = None,
        earlier_approvals: tuple[events.EarlierApproval, ...] | None = None,
        at: datetime | None = None,
        durable: bool = False,
    ) -> None:
        """Record the word that settles a review; `wait_ms` runs from queueing to that word."""
        data = events.ReviewResolvedData(
            receipt=self._token(receipt),
            resolution=resolution,
            reviewer=reviewer,
            rationale=rationale,
            wait_ms=wait_ms,
            authenticated=authenticated,
            earlier_approvals=earlier_approvals,
        )
        self._record(events.ReviewResolved, receipt, data, at=at, durable=durable)

    def policy_changed(
        self, change: events.PolicyChangedData, *, at: datetime | None = None, durable: bool = False
    ) -> None:
        """Record who changed which flag, from what to what, and why."""
        self._record(events.PolicyChanged, change.flag_key, change, at=at, durable=durable)

    def _record(
        self,
        event_class: type[events.Event],
        about: Receipt | IssuedReceipt | str,
        data: WireModel | bytes,
        *,
        at: datetime | None,
        traceparent: str | None = None,
        durable: bool,
    ) -> None:
        subject = about if isinstance(about, str) else about.decision_id
        record = self._writers[event_class].write(
            to_json(self._new_id()),
            to_json(self._moment(at)),
            to_json(subject),
            subject.encode(),
            data if isinstance(data, bytes) else to_json(data, exclude_none=True),
            traceparent=None if traceparent is None else _TRACEPARENT.validate_python(traceparent),
            number=self._numbers.next(),  # the last that is asked for: what cannot be written needs none
        )
        self.hand_over(record, durable=durable)

    def _moment(self, given: datetime | None) -> datetime:
        moment = given if given is not None else self._now()
        if moment.tzinfo is UTC:
            return moment
        if moment.utcoffset() is None:
            raise UsageError(f"{moment} has no time zone; pass one in UTC")
        return moment.astimezone(UTC)

    def _token(self, receipt: Receipt | IssuedReceipt) -> str:
        return receipt.token if isinstance(receipt, IssuedReceipt) else receipt.token(self._key)

    async def hand_over_async(self, record: EventRecord, *, durable: bool) -> None:
        """As `hand_over`, without holding up the event loop where the emitter can do that."""
        if durable and self._async_keeper is not None:
            await self._async_keeper.keep_async(record)
        else:
            self.hand_over(record, durable=durable)

    def hand_over(self, record: EventRecord, *, durable: bool) -> None:
        """Record an event that was written before; raises as every method here."""
        if not durable:
            self._emitter.emit(record)
        elif self._keeper is not None:
            self._keeper.keep(record)
        else:
            raise UsageError(
                f"{type(self._emitter).__name__} cannot keep a record on disk; give the recorder an OutboxEmitter"
            )
