"""What the broker holds that the lake does not have yet."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from analytics.lake.table_schemas import EVENTS, SIGNALS
from analytics.lake.tables import SourcePartition
from producers.wire.topics import SOURCE_TOPICS
from streams.broker import DATA_GROUP, EMBEDDED_PREFIX, BrokerError, admin
from streams.ingest.reader_lock import has_reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from analytics.lake.tables import Lake
    from producers.wire.topics import Topic

_TABLES: Final = (EVENTS, SIGNALS)


class Backlog:
    """Compares the ends of the source topics with the offsets that the lake stores.

    Args:
        bootstrap_servers: The broker.
        log_id: Its cluster id.
        settings: Further librdkafka settings, such as those for TLS and SASL.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        log_id: str,
        settings: Mapping[str, str | int | float | bool] | None = None,
    ) -> None:
        self._log_id = log_id
        self._looked: dict[SourcePartition, int] | None = None
        self._log = LogEnds(bootstrap_servers, log_id, settings)

    def records_left(self, lake: Lake) -> int:
        """How many records are in the source topics and not yet covered by the lake.

        Raises:
            BrokerError: The broker lacks a topic or its last records.
            confluent_kafka.KafkaException: The broker does not answer.
        """
        return self._left(self._ends(), lake)

    def caught_up(self, lake: Lake) -> bool:
        """Whether the lake covers what the broker held when this was last asked (the first time: holds now).

        While records keep coming the newest of them are always under way, so `records_left` hardly ever says 0;
        what counts is that everything older than one look has arrived.

        Raises:
            BrokerError: The broker lacks a topic or its last records.
            confluent_kafka.KafkaException: The broker does not answer.
        """
        ends = self._ends()
        earlier, self._looked = ends if self._looked is None else self._looked, ends
        return self._left(earlier, lake) == 0

    def records_lost(self, lake: Lake) -> int:
        """How many offsets the broker deleted although the lake, which covers what came before, does not cover them.

        Raises:
            BrokerError: The broker lacks a topic or its last records.
            confluent_kafka.KafkaException: The broker does not answer.
        """
        self._ends()
        firsts = {SourcePartition(self._log_id, *place): first for place, first in self._log.firsts.items()}
        stored = lake.stored_offsets(EVENTS, firsts)
        return sum(max(0, firsts[partition] - 1 - reached) for partition, reached in stored.items())

    def _left(self, ends: dict[SourcePartition, int], lake: Lake) -> int:
        stored = [lake.stored_offsets(table, ends) for table in _TABLES]
        left = 0
        for partition, end in ends.items():
            reached = min(offsets.get(partition, -1) for offsets in stored)
            first = self._log.firsts.get(Place(partition.topic, partition.partition), 0)
            left += max(0, end - max(reached + 1, first))
        return left

    def _ends(self) -> dict[SourcePartition, int]:
        return {SourcePartition(self._log_id, *place): end for place, end in self._log.ends(SOURCE_TOPICS).items()}

    def close(self) -> None:
        """Let go of the connection."""
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_ANSWER_S: Final = 10.0
_BATCH_RECORDS: Final = 10_000
_BATCH_S: Final = 0.02


class Place(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class LogEnds:
    """Asks a broker for the ends of partitions. Joins no group and commits nothing. One thread at a time may use it.

    The embedded broker answers with the first offset of the last batch, plus one, instead of the end. The true end is
    in its answer to a fetch, which is made to find out. While the answer stays the same there was no new batch, so that
    is done once for each. To wait for the records themselves would be in vain where the broker holds many: looking for
    them takes it longer than a fetch may wait, and then it answers with the end and with nothing else.

    Args:
        bootstrap_servers: The broker.
        log_id: Its cluster id.
        settings: Further librdkafka settings, such as those for TLS and SASL.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        log_id: str,
        settings: Mapping[str, str | int | float | bool] | None = None,
    ) -> None:
        self._embedded = log_id.startswith(EMBEDDED_PREFIX)
        self._found: dict[Place, tuple[int, int]] = {}
        self.firsts: dict[Place, int] = {}
        """First offset of each partition that was asked for, as of the last look: what lies before it was deleted."""
        self._client = Consumer(
            {
                **(settings or {}),
                "bootstrap.servers": bootstrap_servers,
                "group.id": "stagekeeper-ends",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 10,
            },
            logger=logging.getLogger(__name__),
        )

    def ends(self, topics: Iterable[Topic]) -> dict[Place, int]:
        """The offset that each partition's next record will get; partitions that hold nothing are left out.

        Raises:
            BrokerError: A topic does not exist, or the embedded broker does not hand out its last records.
            confluent_kafka.KafkaException: The broker does not answer.
        """
        known = self._client.list_topics(timeout=_ANSWER_S).topics
        answers: dict[Place, int] = {}
        self.firsts = {}
        for topic in topics:
            if topic.name not in known:
                raise BrokerError(f"the topic {topic.name} does not exist. `stagekeeper up` and the worker create it.")
            for partition in known[topic.name].partitions:
                place = TopicPartition(topic.name, partition)
                first, end = self._client.get_watermark_offsets(place, timeout=_ANSWER_S)
                self.firsts[Place(topic.name, partition)] = first
                if end > first:
                    answers[Place(topic.name, partition)] = end
        return self._true_ends(answers) if self._embedded else answers

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def _true_ends(self, answers: dict[Place, int]) -> dict[Place, int]:
        """The ends behind the embedded broker's answers."""
        asked = {place: end for place, end in answers.items() if self._found.get(place, (-1, -1))[0] != end}
        if asked:
            self._client.assign([TopicPartition(*place, end - 1) for place, end in asked.items()])
        waiting = dict(asked)
        deadline_s = time.monotonic() + _ANSWER_S
        while waiting:
            if time.monotonic() > deadline_s:
                raise BrokerError(f"the embedded broker did not say where its log ends in {_ANSWER_S:.0f} s.")
            self._client.consume(_BATCH_RECORDS, _BATCH_S)  # nobody wants the records
            for place, end in list(waiting.items()):
                _first, seen = self._client.get_watermark_offsets(TopicPartition(*place), cached=True)
                if seen >= end:  # what is known from an earlier look is less: a batch has come since
                    self._found[place] = (end, seen)
                    del waiting[place]
        if asked:
            self._client.unassign()
        return {place: self._found[place][1] for place in answers}


_READERS_ANSWER_S: Final = 8.0


def reader_count(
    bootstrap_servers: str, log_id: str, settings: Mapping[str, str | int | float | bool] | None = None
) -> int | None:
    """How many workers read the log.

    On the embedded broker one reads at a time, and a lock of this machine tells whether it does. Elsewhere the members
    of the consumer group are counted.

    Returns:
        None where the broker does not say, for example because this client may not see the group.
    """
    if log_id.startswith(EMBEDDED_PREFIX):
        return int(has_reader(log_id))
    client = admin(bootstrap_servers, settings)  # kept until the answer is there: it comes through this object
    (answer,) = client.describe_consumer_groups([DATA_GROUP], request_timeout=_READERS_ANSWER_S).values()
    try:
        members: list[object] = answer.result().members
    except KafkaException as error:
        return 0 if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND else None  # before the first worker ever
    return len(members)
