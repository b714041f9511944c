"""Publish records to a topic: every one is acknowledged, or it is an error."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from confluent_kafka import KafkaError, Message, Producer

from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.broker import KafkaSettings

CLIENT_LOG: Final = logging.getLogger("streams.librdkafka")  # of connections; what matters is raised anyway

_FLUSH_S: Final = 30.0


class PublicationError(StagekeeperError):
    """Not every record was acknowledged."""


class Record(NamedTuple):
    """One record to publish."""

    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]


class Publisher:
    """Publishes to one topic: idempotent, acks=all, keyed as Java and Faust do it. One thread at a time may use it."""

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        *,
        client_id: str,
        settings: KafkaSettings | None = None,
        patience_s: float = _FLUSH_S,  # how long to wait for the acknowledgement of what is published together
    ) -> None:
        self._topic = topic
        self._patience_s = patience_s
        self._producer = Producer(
            {
                "compression.type": "gzip",  # the one that every client reads with nothing added to it
                "linger.ms": 2,
                **(settings or {}),
                "bootstrap.servers": bootstrap_servers,
                "client.id": client_id,
                "enable.idempotence": True,
                "acks": "all",
                "partitioner": "murmur2_random",
                "message.timeout.ms": int(patience_s * 1_000),
            },
            logger=CLIENT_LOG,
        )

    def publish(self, records: Sequence[Record]) -> None:
        """Publish and wait for the acknowledgement of all of them.

        Raises:
            PublicationError: One was not acknowledged in time. Others may have been.
        """
        failures: list[str] = []

        def note(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failures.append(error.str())

        for record in records:
            while True:
                try:
                    self._producer.produce(
                        self._topic, key=record.key, value=record.value, headers=list(record.headers), on_delivery=note
                    )
                except BufferError:
                    self._producer.poll(0.1)  # the local queue is full: let some go out
                else:
                    break
        left = self._producer.flush(self._patience_s)
        if left or failures:
            reason = failures[0] if failures else "no acknowledgement in time"
            raise PublicationError(
                f"{left + len(failures)} of {len(records)} records were not taken by {self._topic}: {reason}. "
                "Check the broker and that the topic exists; they are published again."
            )
