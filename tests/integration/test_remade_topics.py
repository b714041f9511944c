"""Topics that are deleted and made anew, or get more partitions, while a worker reads and while none does."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl
import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewPartitions
from fakes import a_decided, a_receipt
from workers import Spoken, WorkerProcess, a_worker, await_drained, await_that

from analytics.lake.table_schemas import EVENTS, SIGNALS
from analytics.lake.tables import Lake
from producers.wire.events import event_to_bytes
from producers.wire.topics import DECISIONS
from streams.broker import EMBEDDED_PREFIX, ensure_topics
from streams.lag import Backlog

if TYPE_CHECKING:
    from pathlib import Path

    from brokers import Broker

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def make_anew(broker: Broker) -> None:
    client = AdminClient({"bootstrap.servers": broker.address})
    client.delete_topics([DECISIONS], operation_timeout=10)[DECISIONS].result()

    def made() -> bool:
        try:
            ensure_topics(broker.address)
        except (KafkaException, OSError):
            return False
        return DECISIONS in client.list_topics(timeout=5).topics

    await_that(made, "the topic to be made anew", every_s=0.2)


def counted(root: str) -> tuple[int, int]:
    lake = Lake.open(root)
    decided = lake.scan(EVENTS).filter(pl.col("type").str.contains("decided")).select("id").collect()
    assert decided["id"].n_unique() == decided.height
    return decided.height, lake.scan(SIGNALS).select(pl.col("decisions").sum()).collect().item()


@pytest.mark.parametrize("while_it_reads", [True, False], ids=["while it reads", "while none reads"])
def test_a_topic_that_was_made_anew_is_read_from_its_beginning(
    either_broker: Broker, lake_root: str, tmp_path: Path, *, while_it_reads: bool
) -> None:
    if while_it_reads and either_broker.cluster_id.startswith(EMBEDDED_PREFIX):
        pytest.skip("the embedded broker answers nobody any more once a topic is deleted that somebody reads")
    spoken = Spoken(either_broker)
    worker = WorkerProcess(tmp_path, either_broker, lake_root)
    try:
        worker.await_ready()
        spoken.say(110)
        lake = await_drained(either_broker, lake_root)
        if not while_it_reads:
            assert worker.stop() == 0
        make_anew(either_broker)
        again = Spoken(either_broker)
        again.count = spoken.count
        again.say(110)
        if not while_it_reads:
            with Backlog(either_broker.address, either_broker.cluster_id) as backlog:
                assert backlog.records_left(lake) == 110
            worker = WorkerProcess(tmp_path, either_broker, lake_root)
            worker.await_ready()
        await_that(lambda: counted(lake_root)[1] >= 220, "the new log to be read")
        assert counted(lake_root) == (220, 220)
        assert worker.process.poll() is None
    finally:
        worker.kill()
    said = worker.log.read_text()
    assert f"the topic {DECISIONS} was deleted and made anew" in said
    # And nothing of it is read twice by the next one.
    with a_worker(tmp_path, either_broker, lake_root):
        await_drained(either_broker, lake_root)
    assert counted(lake_root) == (220, 220)


def test_partitions_that_were_added_are_read_and_counted_at_once(
    emptied_kafka: Broker, lake_root: str, tmp_path: Path
) -> None:
    client = AdminClient({"bootstrap.servers": emptied_kafka.address})
    before = len(client.list_topics(DECISIONS, timeout=5).topics[DECISIONS].partitions)
    with a_worker(tmp_path, emptied_kafka, lake_root):
        lake = Lake.open(lake_root)
        client.create_partitions([NewPartitions(DECISIONS, before + 2)])[DECISIONS].result()
        producer = Producer({"bootstrap.servers": emptied_kafka.address})
        began_s = time.monotonic()
        for number in range(20):
            receipt = a_receipt(decision_id=f"new-{number}", decided_at=datetime.now(UTC))
            event = a_decided(receipt, event_id=f"new-{number}")
            producer.produce(DECISIONS, event_to_bytes(event), key=receipt.decision_id.encode(), partition=before)
        assert producer.flush(30) == 0
        with Backlog(emptied_kafka.address, emptied_kafka.cluster_id) as backlog:
            if counted(lake_root)[0] == 0:
                assert backlog.records_left(lake) == 20
        await_that(lambda: counted(lake_root)[0] == 20, "the added partition to be read")
        assert time.monotonic() - began_s < 60, "within thirty seconds, and as many again for a busy machine"
