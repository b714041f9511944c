"""The backlog: what a real broker holds, against the offsets that a real lake stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest
from confluent_kafka import Producer

from analytics.lake.table_schemas import COLUMNS, EVENTS, SIGNALS
from analytics.lake.tables import Advance, Lake, SourcePartition
from producers.wire.topics import DEAD_LETTER, DECISIONS
from streams.broker import EMBEDDED_PREFIX
from streams.lag import Backlog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streams.broker import EmbeddedBroker

pytestmark = pytest.mark.integration


@pytest.fixture
def backlog(own_broker: EmbeddedBroker) -> Iterator[Backlog]:
    with Backlog(own_broker.address, own_broker.cluster_id) as opened:
        yield opened


def produce(broker: EmbeddedBroker, count: int, topic: str = DECISIONS) -> None:
    producer = Producer({"bootstrap.servers": broker.address})
    for _ in range(count):
        producer.produce(topic, b"x", partition=0)
    assert producer.flush(10) == 0


def cover(lake: Lake, broker: EmbeddedBroker, previous: int | None, reached: int, *tables: str) -> None:
    source = SourcePartition(broker.cluster_id, DECISIONS, 0)
    for table in tables or (EVENTS, SIGNALS):
        lake.append(table, pl.DataFrame(schema=COLUMNS[table]), advances={source: Advance(previous, reached)})


def test_an_empty_broker_leaves_nothing(backlog: Backlog, lake_root: str) -> None:
    lake = Lake.open(lake_root)
    assert backlog.records_left(lake) == 0
    assert backlog.caught_up(lake)


def test_what_is_left_is_what_the_lake_does_not_cover(
    own_broker: EmbeddedBroker, backlog: Backlog, lake_root: str
) -> None:
    lake = Lake.open(lake_root)
    produce(own_broker, 5)
    assert backlog.records_left(lake) == 5
    cover(lake, own_broker, None, 2)
    assert backlog.records_left(lake) == 2
    cover(lake, own_broker, 2, 4)
    assert backlog.records_left(lake) == 0


def test_a_table_that_lags_counts(own_broker: EmbeddedBroker, backlog: Backlog, lake_root: str) -> None:
    lake = Lake.open(lake_root)
    produce(own_broker, 5)
    cover(lake, own_broker, None, 4, EVENTS)
    assert backlog.records_left(lake) == 5


def test_dead_letters_are_not_waited_for(own_broker: EmbeddedBroker, backlog: Backlog, lake_root: str) -> None:
    produce(own_broker, 3, DEAD_LETTER)
    assert backlog.records_left(Lake.open(lake_root)) == 0


def test_offsets_of_another_log_cover_nothing(own_broker: EmbeddedBroker, lake_root: str) -> None:
    lake = Lake.open(lake_root)
    produce(own_broker, 2)
    cover(lake, own_broker, None, 1)
    with Backlog(own_broker.address, f"{EMBEDDED_PREFIX}other") as other:
        assert other.records_left(lake) == 2


def test_under_steady_traffic_a_reader_one_look_behind_has_caught_up(
    own_broker: EmbeddedBroker, lake_root: str
) -> None:
    lake, now_s = Lake.open(lake_root), 0.0
    with Backlog(own_broker.address, own_broker.cluster_id, clock=lambda: now_s) as backlog:
        produce(own_broker, 3)
        assert not backlog.caught_up(lake)
        cover(lake, own_broker, None, 2)
        produce(own_broker, 1)
        assert backlog.records_left(lake) == 1
        now_s = 2.0
        assert backlog.caught_up(lake)
        produce(own_broker, 1)
        now_s = 4.0
        assert not backlog.caught_up(lake)
