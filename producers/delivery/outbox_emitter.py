"""Emit events through an outbox: what must not be lost is on disk first, and what the broker refuses goes there."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from producers.delivery.kafka_emitter import DeliveryStats, KafkaEmitter
from producers.delivery.outbox import Outbox, OutboxError, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from producers.wire.events import EventRecord

LOG = logging.getLogger(__name__)

_BATCH = 2_000  # records read from disk, and handed to the client, at once
_WINDOW = 5_000  # records from disk that may wait for their acknowledgement at the same time
# How often the forwarder looks for new records. Nobody who brings one wakes it: that would cost them more than the
# record, and have the forwarder ask for the interpreter in the middle of their decision.
_LOOK_S = 0.05
_ELSEWHERE_S = 0.5  # how often it looks at the disk for records that another process left there
_REMOVAL_S = 0.2  # how long acknowledged records may stay on disk: each removal keeps those who put a record waiting
_RETRY_S = 0.5  # how long a record waits that the client gave up: the broker is away
_FLUSH_LOOK_S = 0.005  # how often it looks while somebody waits for it to be done
_TURN = 500  # buffered records that are handed to the client before others get their turn at the interpreter
_TURN_S = 0.000_1  # how long that turn is; a thread that only yields would be back before others are awake
_BUFFERED = 50_000  # records that may wait in memory for the forwarder


class OutboxOnlyEmitter:
    """Puts every event into an outbox, for another process to deliver: for programs that know no broker."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._emitted = 0

    def keep(self, record: EventRecord) -> None:
        """Put an event on disk; `OutboxError` where it is not."""
        self._outbox.put(*record)
        self._emitted += 1

    emit = keep

    def look(self) -> None:
        """Nothing, since another process looks there."""

    def flush(self, timeout_s: float) -> int:  # noqa: ARG002 - there is nothing to wait for
        """How many records wait on disk."""
        return len(self._outbox)

    @property
    def stats(self) -> DeliveryStats:
        """Everything that was handed over is still under way."""
        return DeliveryStats(emitted=self._emitted)

    def close(self) -> None:
        """Close the outbox; what is in it stays there."""
        self._outbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class OutboxEmitter:
    """Emits events through the Kafka client, or through a disk.

    `keep` puts an event on disk before it returns; `emit` hands it to the Kafka client, and to the disk only when the
    client refuses it or gives it up. A thread delivers what is on disk, also what an earlier process left there.
    Repeats are possible after a crash and harmless: an event keeps its id. `kafka` builds the client, given the hook
    for what it cannot deliver.
    """

    def __init__(self, kafka: Callable[[Callable[[EventRecord, str], None]], KafkaEmitter], outbox: Outbox) -> None:
        self._outbox = outbox
        self.lost = 0  # events that neither the broker nor the disk took: anything but 0 is an incident of its own
        lock = threading.Lock()
        self._wake = threading.Condition(lock)  # wakes the forwarder
        self._state = threading.Condition(lock)  # wakes who waits for the end of everything
        self._flushing = 0
        self._handed = 0  # the highest number handed to the client
        self._under_way: set[int] = set()
        self._acknowledged: list[int] = []
        self._failed: list[Waiting] = []
        self._retry_at = 0.0
        self._look_at = 0.0  # when the forwarder looks at the disk unasked
        self._remove_at = 0.0
        self._closing = False
        self._closed = False
        # Topic, key, value, topic, key, value: a tuple for each record that waits would bring the garbage collector on.
        self._buffer: deque[Any] = deque()
        self._emptying = threading.Lock()
        self._kept = False  # whether something was put on disk since the forwarder looked there
        self._kafka = kafka(self._on_undeliverable)
        self._forwarder = threading.Thread(target=self._forward, name="stagekeeper-outbox", daemon=True)
        self._forwarder.start()

    @classmethod
    def to_kafka(
        cls,
        bootstrap_servers: str,
        outbox: Outbox,
        *,
        client_id: str = "stagekeeper",
        settings: Mapping[str, str | int | float | bool] | None = None,
    ) -> Self:
        """An emitter to these brokers, with the Kafka client's usual settings and further ones, as for TLS and SASL."""
        return cls(
            lambda hook: KafkaEmitter(bootstrap_servers, client_id=client_id, on_undeliverable=hook, settings=settings),
            outbox,
        )

    def emit(self, record: EventRecord) -> None:
        """Hand over an event in memory: for reads and searches, whose record may die with this process.

        The forwarder empties the bounded buffer, since the Kafka client's own hand-over costs its caller ten times as
        much. What finds the buffer full goes to the client at once, which takes it or gives it to the disk.
        """
        if len(self._buffer) >= 3 * _BUFFERED:
            self._kafka.emit(record)
            return
        self._buffer.extend(record)  # in one step, whoever else extends it
        if self._closed:
            self._empty_buffer()  # nobody else will

    def keep(self, record: EventRecord) -> None:
        """Put an event on disk, then deliver it; `OutboxError` where it is not on disk, and the action must not run."""
        self._outbox.put(*record)
        self._kept = True

    def look(self) -> None:
        """Have the forwarder look at the disk: somebody else has put events into the outbox."""
        self._kept = True

    @property
    def stats(self) -> DeliveryStats:
        """The Kafka client's count of what became of everything, and what it has not been handed yet."""
        counted = self._kafka.stats
        return replace(counted, emitted=counted.emitted + len(self._buffer) // 3)

    def reaches_broker(self, timeout_s: float) -> bool:
        """Whether a broker answers within so many seconds."""
        return self._kafka.reaches_broker(timeout_s)

    @property
    def waiting(self) -> int:
        """Records on disk that the broker has not acknowledged."""
        return len(self._outbox)

    def flush(self, timeout_s: float) -> int:
        """Wait until broker and disk have nothing left to do, at most `timeout_s` seconds; return how many are left."""
        until = time.monotonic() + timeout_s
        with self._state:
            self._flushing += 1
            self._wake.notify()
            self._state.wait_for(lambda: not self._under_way and not self._buffer and not len(self._outbox), timeout_s)
            self._flushing -= 1
        return self._kafka.flush(max(0.0, until - time.monotonic())) + len(self._outbox)

    def close(self, timeout_s: float = 10.0) -> int:
        """Deliver what can be delivered within so many seconds; how many are on disk then, for the next start."""
        until = time.monotonic() + timeout_s
        self.flush(timeout_s)
        with self._state:
            self._closing = True
            self._wake.notify()
        self._forwarder.join()
        self._closed = True
        self._empty_buffer()
        self._kafka.close(max(0.0, until - time.monotonic()))
        self._forget_acknowledged(all_of_them=True)
        left = len(self._outbox)
        self._outbox.close()
        return left

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _on_undeliverable(self, record: EventRecord, reason: str) -> None:
        try:
            self._outbox.put(*record)
        except OutboxError:
            with self._state:
                self.lost += 1
            LOG.exception(
                "an event about %s is lost: the broker refused it (%s) and so did the disk", record.key.decode(), reason
            )
        else:
            self._kept = True

    def _forward(self) -> None:
        while True:
            with self._wake:
                if not self._closing:
                    self._wake.wait(_FLUSH_LOOK_S if self._flushing else _LOOK_S)
                if self._closing:
                    return
            if self._empty_buffer():
                with self._state:
                    self._state.notify_all()
            try:
                self._forget_acknowledged()
                kept = self._next_kept()
            except OutboxError:
                LOG.exception("the outbox cannot be used; delivery from disk waits")
                kept = []
            self._hand_over(self._due_again() + kept)

    def _empty_buffer(self) -> bool:
        """Hand everything that is buffered to the client; whether there was anything."""
        emptied = False
        with self._emptying:
            while waiting := min(len(self._buffer) // 3, _TURN):
                self._kafka.emit_flat([self._buffer.popleft() for _ in range(3 * waiting)])
                emptied = True
                if waiting == _TURN:
                    time.sleep(_TURN_S)
        return emptied

    def _next_kept(self) -> list[Waiting]:
        if self._kept:  # only then: who sets it between a look and a reset would be overlooked
            self._kept = False
        elif time.monotonic() < self._look_at:
            return []
        with self._state:
            room = min(_BATCH, _WINDOW - len(self._under_way) - len(self._failed))
        kept = self._outbox.after(self._handed, room) if room > 0 else []
        # No room, or no more room than records: there may be others, which the next look finds.
        self._look_at = time.monotonic() + (_ELSEWHERE_S if len(kept) < room else 0.0)
        return kept

    def _due_again(self) -> list[Waiting]:
        with self._state:
            if time.monotonic() < self._retry_at:
                return []
            due, self._failed = self._failed, []
            return due

    def _hand_over(self, batch: list[Waiting]) -> None:
        if not batch:
            return
        with self._state:
            self._under_way.update(record.seq for record in batch)
            self._handed = max(self._handed, *(record.seq for record in batch))
        for record in batch:
            self._kafka.send(record.topic, record.key, record.value, on_done=partial(self._on_done, record))

    def _on_done(self, record: Waiting, reason: str | None) -> None:
        with self._state:
            self._under_way.discard(record.seq)
            if reason is None:
                if not self._acknowledged:
                    self._remove_at = time.monotonic() + _REMOVAL_S
                self._acknowledged.append(record.seq)
            else:
                self._failed.append(record)
                self._retry_at = time.monotonic() + _RETRY_S
            if self._flushing:
                self._state.notify_all()

    def _forget_acknowledged(self, *, all_of_them: bool = False) -> None:
        """Take from the disk what the broker has, many at a time; all of it while somebody waits for that."""
        with self._state:
            few = len(self._acknowledged) < _BATCH and time.monotonic() < self._remove_at
            if not self._acknowledged or (few and not self._flushing and not all_of_them):
                return
            done, self._acknowledged = self._acknowledged, []
        try:
            self._outbox.remove(done)
        except OutboxError:
            with self._state:
                self._acknowledged += done
                self._remove_at = time.monotonic() + _RETRY_S
            raise
        with self._state:
            self._state.notify_all()
