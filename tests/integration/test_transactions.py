"""Producers with transactions on Apache Kafka: their markers and aborted records take offsets that nobody can read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer
from fakes import a_decided, a_receipt
from workers import a_worker, await_drained, metrics

from analytics.lake.table_schemas import EVENTS, REJECTS, SIGNALS
from producers.wire.events import event_to_bytes
from producers.wire.topics import DECISIONS

if TYPE_CHECKING:
    from pathlib import Path

    from brokers import Broker

pytestmark = [pytest.mark.integration, pytest.mark.slow]


class Transactional:
    """Writes decisions in transactions, all to one partition."""

    def __init__(self, broker: Broker) -> None:
        self._producer = Producer({"bootstrap.servers": broker.address, "transactional.id": "transactions-test"})
        self._producer.init_transactions(30)

    def write(self, *ids: str, commit: bool) -> None:
        self._producer.begin_transaction()
        for event_id in ids:
            event = a_decided(a_receipt(decision_id=event_id, decided_at=datetime.now(UTC)), event_id=event_id)
            self._producer.produce(DECISIONS, event_to_bytes(event), key=event_id.encode(), partition=1)
        if commit:
            self._producer.commit_transaction(30)
        else:
            assert self._producer.flush(30) == 0  # the records must be in the log before they are taken back
            self._producer.abort_transaction(30)


def test_partitions_that_end_in_markers_count_as_caught_up(
    emptied_kafka: Broker, lake_root: str, tmp_path: Path
) -> None:
    writer = Transactional(emptied_kafka)
    with a_worker(tmp_path, emptied_kafka, lake_root) as worker:
        writer.write("a", "b", commit=True)
        await_drained(emptied_kafka, lake_root)
        writer.write("never", "ever", commit=False)
        writer.write("c", commit=True)
        await_drained(emptied_kafka, lake_root)
        assert metrics(worker)["lag_records"] == 0
        assert worker.stop() == 0
    writer.write("nor this", commit=False)  # the whole of what the next worker finds is unreadable
    with a_worker(tmp_path, emptied_kafka, lake_root) as worker:
        await_drained(emptied_kafka, lake_root)
        writer.write("d", commit=True)
        lake = await_drained(emptied_kafka, lake_root)
        assert worker.stop() == 0
    assert sorted(lake.scan(EVENTS).collect()["id"]) == ["a", "b", "c", "d"]
    assert lake.scan(SIGNALS).collect()["decisions"].sum() == 4
    assert lake.scan(REJECTS).collect().is_empty()
