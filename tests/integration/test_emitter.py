"""The emitter against a real broker: what arrives, how it is keyed, and what is said when nothing arrives."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from fakes import KEY, a_contract, a_decision
from shared_recordings import EXAMPLES

from producers.delivery.kafka_emitter import DeliveryStats, KafkaEmitter
from producers.delivery.recorder import Recorder
from producers.wire.events import CONTENT_TYPE, ActionDecided, ExecutionStatus, event_from_bytes
from producers.wire.stage import Stage
from producers.wire.topics import DECISIONS, OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from confluent_kafka import Message

    from producers.wire.events import EventRecord
    from streams.broker import EmbeddedBroker

pytestmark = pytest.mark.integration


def _records(address: str, topic: str) -> Iterator[Message]:
    """Everything that the topic holds now, up to the end that the broker reports with the last record."""
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": str(uuid.uuid4()),
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    try:
        unread = set(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in unread])
        while unread:
            message = consumer.poll(10)
            assert message is not None, f"{topic}: no answer about partitions {unread}"
            error = message.error()
            if error is None:
                yield message
            else:
                assert error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001 - that is its public name
                unread.discard(message.partition() or 0)
    finally:
        consumer.close()


def test_every_event_arrives_once_keyed_and_labelled(broker: EmbeddedBroker) -> None:
    source = f"/tests/{uuid.uuid4()}"
    with KafkaEmitter(broker.address) as emitter:
        recorder = Recorder(emitter, source=source, key=KEY)
        receipts = [recorder.decided(a_contract(), a_decision(), stage=Stage.DRAFT_WRITE) for _ in range(500)]
        for receipt in receipts:
            recorder.executed(receipt, ExecutionStatus.SUCCEEDED, latency_ms=5.0)
    assert emitter.stats == DeliveryStats(emitted=1_000, delivered=1_000)

    partition_of: dict[bytes | None, int | None] = {}
    for topic in (DECISIONS, OUTCOMES):
        mine = [(record, event_from_bytes(record.value() or b"")) for record in _records(broker.address, topic)]
        mine = [(record, event) for record, event in mine if event.source == source]
        assert sorted(event.subject for _, event in mine) == sorted(receipt.decision_id for receipt in receipts)
        assert all(record.key() == event.subject.encode() for record, event in mine)
        assert all(record.headers() == [("content-type", CONTENT_TYPE.encode())] for record, _ in mine)
        assert len({record.partition() for record, _ in mine}) == 4
        for record, _ in mine:  # equal keys meet in equal partitions, across topics
            assert partition_of.setdefault(record.key(), record.partition()) == record.partition()


def test_events_of_one_decision_stay_in_order(broker: EmbeddedBroker) -> None:
    source = f"/tests/{uuid.uuid4()}"
    with KafkaEmitter(broker.address) as emitter:
        recorder = Recorder(emitter, source=source)
        receipt = recorder.decided(a_contract(), a_decision(), stage=Stage.DRAFT_WRITE)
        for latency_ms in range(200):
            recorder.executed(receipt, ExecutionStatus.SUCCEEDED, latency_ms=float(latency_ms))
    seen = [event_from_bytes(record.value() or b"") for record in _records(broker.address, OUTCOMES)]
    latencies = [event.data.model_dump()["latency_ms"] for event in seen if event.source == source]
    assert latencies == [float(latency_ms) for latency_ms in range(200)]


def test_a_broker_that_goes_away_is_reported_and_the_caller_goes_on(own_broker: EmbeddedBroker) -> None:
    lost: list[tuple[EventRecord, str]] = []
    reported = threading.Event()

    def undeliverable(record: EventRecord, reason: str) -> None:
        lost.append((record, reason))
        reported.set()

    emitter = KafkaEmitter(own_broker.address, message_timeout_s=5.0, on_undeliverable=undeliverable)
    recorder = Recorder(emitter, source="/tests")
    recorder.decided(a_contract(), a_decision(), stage=Stage.DRAFT_WRITE)
    assert emitter.flush(10) == 0
    own_broker.stop()
    receipt = recorder.decided(a_contract(), a_decision(), stage=Stage.DRAFT_WRITE)
    assert reported.wait(30)
    emitter.close()
    ((record, reason),) = lost
    event = event_from_bytes(record.value)
    assert isinstance(event, ActionDecided)
    assert event.subject == receipt.decision_id
    assert reason == "_MSG_TIMED_OUT"
    assert emitter.stats == DeliveryStats(emitted=2, delivered=1, failed=1, by_error={"_MSG_TIMED_OUT": 1})


def test_the_example_of_a_router_runs(broker: EmbeddedBroker, tmp_path: Path) -> None:
    environment = {"STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS": broker.address, "STAGEKEEPER_HOME": str(tmp_path)}
    example = subprocess.run(
        [sys.executable, str(EXAMPLES / "emit.py")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert example.stdout.startswith("delivered 3 events about decision "), example.stderr
    assert example.returncode == 0
