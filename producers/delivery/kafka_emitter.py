"""Emit events to Kafka: acknowledged by all replicas, in order, and without ever holding up the caller."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from producers.errors import StagekeeperError
from producers.wire.events import HEADERS, EventRecord
from producers.wire.topics import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


LOG = logging.getLogger(__name__)
_CLIENT_LOG = logging.getLogger(f"{__name__}.librdkafka")
# librdkafka writes a FAIL line for every attempt to connect; the same news comes, counted, through `error_cb`.
_CLIENT_LOG.addFilter(lambda line: not line.getMessage().startswith("FAIL "))

_POLL_S = 0.25  # how long the poll thread waits for the next report; closing takes at most this long before it flushes

# By these a broker says that it no longer knows this idempotent producer; some brokers never take it back
_DISOWNED = frozenset(
    {
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.PRODUCER_FENCED,
        KafkaError.UNKNOWN_PRODUCER_ID,
    }
)
# What becomes of the records of a client that died; why it died says more
_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001 - the client's own names

_FIRST_PAUSE_S = 0.05  # before a client that died is replaced once more, doubled each time
_LONGEST_PAUSE_S = 30.0
_PURGE_ATTEMPTS = 5  # how often a dead client is asked to give up what it holds: each time it may raise instead

_HEADERS: list[tuple[str, str | bytes | None]] = list(HEADERS)
CLOSED = "emitter_closed"  # reason for an event that was handed to an emitter after its end
QUEUE_FULL = "queue_full"  # reason for an event that found the local queue full: the broker is away or too slow


class UndeliveredError(StagekeeperError):
    """Some of what was emitted did not reach the broker."""


@dataclass(frozen=True)
class DeliveryStats:
    """What became of everything that was handed to an emitter."""

    emitted: int = 0  # records handed over
    delivered: int = 0  # records that the broker acknowledged
    failed: int = 0  # records that were taken and then given up
    refused: int = 0  # records that were not even taken: the queue was full, the record too large, the emitter closed
    by_error: Mapping[str, int] = field(default_factory=dict)  # failed and refused ones by librdkafka's name, or ours

    @property
    def in_flight(self) -> int:
        """Records whose fate is not yet known."""
        return self.emitted - self.delivered - self.failed - self.refused

    def require_all(self) -> None:
        """Make sure that all was delivered, for programs that only emit; else `UndeliveredError` says how many not."""
        if lost := self.emitted - self.delivered:
            reasons = [f"{count} {reason}" for reason, count in sorted(self.by_error.items())]
            reasons += [f"{self.in_flight} unanswered"] if self.in_flight else []
            raise UndeliveredError(f"{lost} of {self.emitted} records did not reach the broker: {', '.join(reasons)}.")


class Emitter(Protocol):
    """Delivers events."""

    def emit(self, record: EventRecord) -> None:
        """Hand over an event. Never blocks, and never raises for what happens to the broker."""

    def flush(self, timeout_s: float) -> int:
        """Wait until everything handed over has met its fate, at most `timeout_s` seconds; return how many are left."""

    @property
    def stats(self) -> DeliveryStats:
        """What became of everything so far."""


@runtime_checkable
class DurableEmitter(Emitter, Protocol):
    """An emitter that can put an event on disk before it returns."""

    def keep(self, record: EventRecord) -> None:
        """Put an event on disk, then see to its delivery; `OutboxError` where what it records must not happen."""


@runtime_checkable
class AsyncDurableEmitter(DurableEmitter, Protocol):
    """A durable emitter that waits for the disk without holding up the event loop."""

    async def keep_async(self, record: EventRecord) -> None:
        """As `keep`."""


class KafkaEmitter:
    """Hands events to a librdkafka producer: idempotent, acks=all, compressed, keyed by the event's subject.

    A record fails after `message_timeout_s`, and is refused where `queue_limit` others wait. `on_undeliverable` gets
    each such event and the reason, in the caller's thread for a refusal, else in the poll thread: it must be quick and
    must not raise. `settings` are further ones of librdkafka, as for TLS and SASL, and are never logged.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        client_id: str = "stagekeeper",
        message_timeout_s: float = 120.0,
        queue_limit: int = 100_000,
        on_undeliverable: Callable[[EventRecord, str], None] | None = None,
        settings: Mapping[str, str | int | float | bool] | None = None,
    ) -> None:
        self._on_undeliverable = on_undeliverable
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._client_errors: Counter[str] = Counter()
        self._closing = threading.Event()
        self._settings: dict[str, object] = {
            "linger.ms": 5,
            "compression.type": "lz4",
            **(settings or {}),
            "bootstrap.servers": bootstrap_servers,
            "client.id": client_id,
            "enable.idempotence": True,
            "acks": "all",
            "partitioner": "murmur2_random",  # Java's and Faust's: equal keys meet in equal partitions
            "message.max.bytes": MAX_RECORD_BYTES,
            "message.timeout.ms": int(message_timeout_s * 1000),
            "queue.buffering.max.messages": queue_limit,
            "error_cb": self._on_error,
        }
        self._fatal = threading.Event()
        self._died_of: str | None = None  # the error that ended the client before this one, until a record arrives
        self._producer = Producer(self._settings, logger=_CLIENT_LOG)
        self._poller = threading.Thread(target=self._poll, name=f"{client_id}-delivery", daemon=True)
        self._poller.start()

    def emit(self, record: EventRecord) -> None:
        """Hand over an event. Never blocks, never raises for what happens to the broker."""
        self.emit_flat(record)

    def emit_flat(self, parts: Sequence[Any]) -> None:
        """As `emit`, for many: topic, key and value of the first, topic, key and value of the next."""
        with self._lock:
            self._counts["emitted"] += len(parts) // 3
        on_delivery = self._on_event_delivery  # one for all: what is kept for each is the garbage collector's to see
        fields = iter(parts)
        for topic, key, value in zip(fields, fields, fields, strict=True):
            refused = self._produce(topic, key, value, on_delivery)
            if refused is not None:
                self._give_up("refused", refused, partial(self._report_undeliverable, EventRecord(topic, key, value)))

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, *, on_done: Callable[[str | None], None] | None = None
    ) -> None:
        """Hand over raw bytes, under the same rules; for an outbox, and for traffic that is wrong on purpose.

        `on_done` gets None once the record is acknowledged, else the reason, in the same threads as `on_undeliverable`.
        """
        with self._lock:
            self._counts["emitted"] += 1
        refused = self._produce(topic, key, value, partial(self._on_delivery, on_done))
        if refused is not None:
            self._give_up("refused", refused, on_done)

    def _produce(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        on_delivery: Callable[[KafkaError | None, Message], None],
    ) -> str | None:
        if self._closing.is_set():
            return CLOSED
        try:
            self._producer.produce(topic, value, key, headers=_HEADERS, on_delivery=on_delivery)
        except BufferError:
            return QUEUE_FULL
        except KafkaException as error:  # too large, or a fatal error of the idempotent producer
            return str(error.args[0].name())
        return None

    def reaches_broker(self, timeout_s: float) -> bool:
        """Whether a broker answers within so many seconds."""
        try:
            self._producer.list_topics(timeout=timeout_s)
        except KafkaException:
            return False
        return True

    def flush(self, timeout_s: float) -> int:
        """Wait until every record has met its fate, at most `timeout_s` seconds; return how many are left."""
        deadline = time.monotonic() + timeout_s
        while True:
            producer = self._producer
            left = self._flush(producer, max(0.0, deadline - time.monotonic()))
            if time.monotonic() >= deadline or (producer is self._producer and not self._fatal.is_set()):
                return left and self.stats.in_flight
            self._closing.wait(_FIRST_PAUSE_S)  # the poll thread begins anew, where what was held meets its fate
            if left == 0 and self._fatal.is_set():
                return 0

    def close(self, timeout_s: float = 10.0) -> int:
        """Take no more events, wait for those under way; how many are left: for `on_undeliverable`, else lost."""
        self._closing.set()
        self._poller.join()
        # What the client counts includes its own news, such as a broker that cannot be reached.
        left = self._flush(self._producer, timeout_s) and self.stats.in_flight
        if left:
            LOG.error("%d records were not acknowledged within %.1f s", left, timeout_s)
        if left and self._on_undeliverable is not None:
            self._purge(self._producer)
        return left

    @property
    def stats(self) -> DeliveryStats:
        """What became of everything so far."""
        with self._lock:
            return DeliveryStats(**self._counts, by_error=dict(self._errors))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reconnect(self) -> None:
        """Begin anew with a fresh producer id: an idempotent producer that the brokers have forgotten is dead for good.

        What it still held fails, which hands it to `on_undeliverable`; ids make a repeat harmless.
        """
        dead, self._producer = self._producer, Producer(self._settings, logger=_CLIENT_LOG)
        self._fatal.clear()
        self._purge(dead)

    def _flush(self, producer: Producer, timeout_s: float) -> int:
        try:
            return producer.flush(timeout_s)
        except KafkaException as error:  # as in `_poll`
            self._on_error(error.args[0])
            return len(producer)

    def _purge(self, producer: Producer) -> None:
        producer.purge()
        for _ in range(_PURGE_ATTEMPTS):
            if self._flush(producer, _POLL_S) == 0:
                return

    def _report_undeliverable(self, record: EventRecord, reason: str | None) -> None:
        if reason is not None and self._on_undeliverable is not None:
            self._on_undeliverable(record, reason)

    def _on_event_delivery(self, error: KafkaError | None, message: Message) -> None:
        on_done = None
        if error is not None:
            record = EventRecord(str(message.topic()), _bytes(message.key()), _bytes(message.value()))
            on_done = partial(self._report_undeliverable, record)
        self._on_delivery(on_done, error, message)

    def _on_delivery(
        self, on_done: Callable[[str | None], None] | None, error: KafkaError | None, _message: Message
    ) -> None:
        if error is not None:
            if error.code() in _DISOWNED:
                self._fatal.set()
            cause = self._died_of if error.code() in _PURGED else None
            self._give_up("failed", cause or error.name(), on_done)
            return
        self._died_of = None
        with self._lock:
            self._counts["delivered"] += 1
        if on_done is not None:
            on_done(None)

    def _give_up(self, fate: str, reason: str, on_done: Callable[[str | None], None] | None) -> None:
        with self._lock:
            self._counts[fate] += 1
            self._errors[reason] += 1
            count = self._errors[reason]
        if _is_power_of_two(count):
            LOG.error("%d records %s so far: %s", count, fate, reason)
        if on_done is not None:
            on_done(reason)

    def _poll(self) -> None:
        pause_s, begin_anew_at = _FIRST_PAUSE_S, 0.0
        while not self._closing.is_set():
            try:
                self._producer.poll(_POLL_S)
            except KafkaException as error:  # so the client says that it is dead
                self._on_error(error.args[0])
            if self._died_of is None:
                pause_s = _FIRST_PAUSE_S
            if self._fatal.is_set() and time.monotonic() >= begin_anew_at:
                self._reconnect()
                begin_anew_at = time.monotonic() + pause_s
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)  # who may not produce is refused again each time

    def _on_error(self, error: KafkaError) -> None:
        name = error.name()
        if error.fatal():
            self._died_of = name
            self._fatal.set()
        with self._lock:
            self._client_errors[name] += 1
            count = self._client_errors[name]
        if _is_power_of_two(count):
            LOG.warning("the Kafka client reports %s (%d times so far): %s", name, count, error.str())


def _bytes(part: bytes | str | None) -> bytes:
    return part if isinstance(part, bytes) else b""


def _is_power_of_two(count: int) -> bool:
    """Whether to log the 1st, 2nd, 4th, 8th … of a kind: an outage must not flood the log."""
    return count & (count - 1) == 0
