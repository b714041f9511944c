"""The embedded broker and its topics, spoken to as any Kafka client would."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic
from workers import await_that

from producers.wire.topics import DECISIONS, RECOMMENDATIONS, TOPICS
from streams.broker import BrokerError, EmbeddedBroker, TopicError, ensure_topics, inspect_topics
from streams.ports import available_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brokers import Broker

pytestmark = pytest.mark.integration


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    started = EmbeddedBroker.start(tmp_path, port=available_port())
    yield started
    started.stop()


def create(address: str, topic: NewTopic) -> None:
    client = AdminClient({"bootstrap.servers": address})
    for created in client.create_topics([topic]).values():
        created.result()


def test_every_topic_is_created_with_its_partitions(broker: EmbeddedBroker) -> None:
    found = AdminClient({"bootstrap.servers": broker.address}).list_topics(timeout=10).topics
    assert {topic.name: len(found[topic.name].partitions) for topic in TOPICS} == {
        topic.name: topic.partitions for topic in TOPICS
    }


def test_ensuring_twice_changes_nothing_and_names_the_log(broker: EmbeddedBroker) -> None:
    assert ensure_topics(broker.address) == ensure_topics(broker.address) == broker.cluster_id
    assert re.fullmatch(r"embedded-[0-9a-f-]{36}", broker.cluster_id)


def test_records_pass_through(own_broker: EmbeddedBroker) -> None:
    producer = Producer({"bootstrap.servers": own_broker.address, "enable.idempotence": True})
    producer.produce(DECISIONS, b"value", key=b"key", partition=0)
    assert producer.flush(10) == 0
    consumer = Consumer({"bootstrap.servers": own_broker.address, "group.id": "reader"})
    consumer.assign([TopicPartition(DECISIONS, 0, 0)])
    (message,) = consumer.consume(1, timeout=10)
    consumer.close()
    assert (message.key(), message.value(), message.offset()) == (b"key", b"value", 0)


def test_two_starts_are_two_logs(bare: EmbeddedBroker, broker: EmbeddedBroker) -> None:
    assert bare.cluster_id != broker.cluster_id


def test_it_listens_on_the_loopback_interface_only(broker: EmbeddedBroker) -> None:
    host, port = broker.address.split(":")
    assert host == "127.0.0.1"
    # Another address of the same port can be bound: the broker does not hold the wildcard.
    with socket.socket() as other:
        other.bind(("127.0.0.2", int(port)))


def test_a_port_in_use_is_named(broker: EmbeddedBroker, tmp_path: Path) -> None:
    port = int(broker.address.rpartition(":")[2])
    with pytest.raises(BrokerError, match=rf"127\.0\.0\.1:{port}|Address in use"):
        EmbeddedBroker.start(tmp_path, port=port)
    assert ensure_topics(broker.address) == broker.cluster_id


def test_a_stopped_broker_is_gone_and_stopping_it_again_is_nothing(bare: EmbeddedBroker) -> None:
    bare.stop()
    bare.stop()
    assert not bare.child.running
    with pytest.raises(ProcessLookupError):
        os.kill(bare.pid, 0)


def test_nobody_answering_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.broker._ANSWER_TIMEOUT_S", 0.5)
    address = f"127.0.0.1:{available_port()}"
    with pytest.raises(BrokerError, match=f"no Kafka broker answers at {address}"):
        ensure_topics(address)


def test_a_topic_with_too_few_partitions_is_refused(bare: EmbeddedBroker) -> None:
    create(bare.address, NewTopic(DECISIONS, 1))
    with pytest.raises(TopicError, match=f"the topic {DECISIONS} has 1 partitions, 4 are needed"):
        ensure_topics(bare.address)


def test_a_topic_with_more_partitions_is_used(bare: EmbeddedBroker) -> None:
    create(bare.address, NewTopic(DECISIONS, 6))
    assert ensure_topics(bare.address) == bare.cluster_id


def test_a_topic_that_would_lose_or_refuse_events_is_refused(bare: EmbeddedBroker) -> None:
    create(bare.address, NewTopic(DECISIONS, 4, config={"cleanup.policy": "compact", "max.message.bytes": "1000"}))
    with pytest.raises(TopicError) as refused:
        ensure_topics(bare.address)
    assert f"{DECISIONS} has cleanup.policy=compact" in str(refused.value)
    assert f"{DECISIONS} takes records up to 1000 bytes" in str(refused.value)
    assert RECOMMENDATIONS not in str(refused.value)


def changed(address: str, **settings: str) -> None:
    """Change settings of the decisions' topic."""
    entries = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for name, value in settings.items()
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, DECISIONS, incremental_configs=entries)
    client = AdminClient({"bootstrap.servers": address})  # kept until the answer is there: it comes through this object
    (done,) = client.incremental_alter_configs([resource]).values()
    done.result()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cleanup_policy": "compact"}, "has cleanup.policy=compact: events would vanish before they are read"),
        ({"cleanup_policy": "compact,delete"}, "cleanup.policy=compact,delete"),
        ({"retention_ms": "60000"}, "has retention.ms=60000: events could be deleted before they are read"),
        ({"retention_bytes": "1000000"}, "has retention.bytes=1000000"),
        ({"max_message_bytes": "1000"}, "takes records up to 1000 bytes, events may have 1000000"),
        ({"min_insync_replicas": "2"}, "has min.insync.replicas=2 and 1 replica: every event would be refused"),
    ],
)
def test_apache_kafka_with_settings_that_lose_or_refuse_events_is_refused(
    emptied_kafka: Broker, settings: dict[str, str], said: str
) -> None:
    assert ensure_topics(emptied_kafka.address) == emptied_kafka.cluster_id
    changed(emptied_kafka.address, **settings)

    def seen() -> bool:  # the change takes its way through the log of the cluster
        return bool(inspect_topics(emptied_kafka.address).faults)

    await_that(seen, "the change")
    with pytest.raises(TopicError) as refused:
        ensure_topics(emptied_kafka.address)
    assert f"the topic {DECISIONS}" in str(refused.value)
    assert said in str(refused.value)
    assert "Mend the topics" in str(refused.value)
    assert RECOMMENDATIONS not in str(refused.value)


@pytest.mark.slow
def test_topics_on_apache_kafka_are_made_with_their_settings(emptied_kafka: Broker) -> None:
    client = AdminClient({"bootstrap.servers": emptied_kafka.address})
    for topic in TOPICS:
        (answer,) = client.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic.name)]).values()
        configured = {name: entry.value for name, entry in answer.result().items()}
        assert {name: configured[name] for name in topic.settings} == topic.settings
        assert len(client.list_topics(topic.name, timeout=10).topics[topic.name].partitions) == topic.partitions


def test_the_broker_dies_with_a_killed_parent(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import signal, pathlib
        from streams.broker import EmbeddedBroker
        broker = EmbeddedBroker.start(pathlib.Path({str(tmp_path)!r}), port={available_port()})
        print(broker.pid, flush=True)
        signal.pause()
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        watched = os.pidfd_open(pid)
        parent.kill()
    ended, _, _ = select.select([watched], [], [], 10)
    os.close(watched)
    assert ended, f"process {pid} survived its parent"
