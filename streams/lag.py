"""Consumer lag: how many records the broker holds that the lake does not cover yet, and how many workers read them."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Self

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition

from analytics.lake.table_schemas import EVENTS, SIGNALS
from analytics.lake.tables import Lake, SourcePartition
from producers.wire.topics import SOURCE_TOPICS
from streams.broker import DATA_GROUP, EMBEDDED_PREFIX, BrokerError, KafkaSettings, admin
from streams.ingest.reader_lock import has_reader
from streams.ingest.topic_logs import known_logs, topic_ids

if TYPE_CHECKING:
    from collections.abc import Callable

_ANSWER_TIMEOUT_S: Final = 10.0
_UNDER_WAY_S: Final = 2.0  # how old a record may be that has not arrived yet: a commit a second, and the time it takes


class Backlog:
    """Compares the ends of the source topics with the offsets that the lake stores.

    Joins no consumer group and commits nothing. One thread at a time may use it.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        log_id: str,
        settings: KafkaSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log_id = log_id
        self._clock = clock
        self._admin = admin(bootstrap_servers, settings)
        self._earlier_ends: deque[tuple[float, dict[SourcePartition, int]]] = deque()
        self._firsts: dict[SourcePartition, int] = {}
        self._true_ends: dict[SourcePartition, tuple[int, int]] = {}  # by partition: an answer, and the end behind it
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

    def records_left(self, lake: Lake) -> int:
        """How many records are in the source topics and not yet covered by the lake.

        Raises:
            BrokerError: The broker lacks a topic or its last records.
            confluent_kafka.KafkaException: The broker does not answer.
        """
        return self._left(self._ends(lake), lake)

    def caught_up(self, lake: Lake) -> bool:
        """Whether the lake covers what the broker held two seconds ago, or when this was last asked, if that is longer.

        While records keep coming the newest of them are always under way, so `records_left` hardly ever says 0;
        what counts is that everything older than a commit takes has arrived. Raises as `records_left` does.
        """
        now_s, earlier = self._clock(), self._earlier_ends
        earlier.append((now_s, self._ends(lake)))
        while len(earlier) > 1 and earlier[1][0] <= now_s - _UNDER_WAY_S:
            earlier.popleft()
        return self._left(earlier[0][1], lake) == 0

    def records_lost(self, lake: Lake) -> int:
        """How many offsets the broker deleted although the lake, which covers what came before, does not cover them.

        Raises as `records_left` does.
        """
        self._ends(lake)
        stored = lake.stored_offsets(EVENTS, self._firsts)
        return sum(max(0, self._firsts[partition] - 1 - reached) for partition, reached in stored.items())

    def _left(self, ends: dict[SourcePartition, int], lake: Lake) -> int:
        stored = [lake.stored_offsets(table, ends) for table in (EVENTS, SIGNALS)]
        left = 0
        for partition, end in ends.items():
            reached = min(offsets.get(partition, -1) for offsets in stored)
            left += max(0, end - max(reached + 1, self._firsts.get(partition, 0)))
        return left

    def _ends(self, lake: Lake) -> dict[SourcePartition, int]:
        """The offset that each partition's next record will get; partitions that hold nothing are left out."""
        metadata = self._client.list_topics(timeout=_ANSWER_TIMEOUT_S).topics
        logs = known_logs(lake, self._log_id, topic_ids(self._admin))
        answers: dict[SourcePartition, int] = {}
        self._firsts = {}
        for topic in SOURCE_TOPICS:
            if topic.name not in metadata:
                raise BrokerError(f"the topic {topic.name} does not exist. `stagekeeper up` and the worker create it.")
            for number in metadata[topic.name].partitions:
                partition = SourcePartition(logs.get(topic.name, self._log_id), topic.name, number)
                watermarks = self._client.get_watermark_offsets(_topic_partition(partition), timeout=_ANSWER_TIMEOUT_S)
                self._firsts[partition], end = watermarks
                if end > self._firsts[partition]:
                    answers[partition] = end
        return self._fetched_ends(answers) if self._log_id.startswith(EMBEDDED_PREFIX) else answers

    def _fetched_ends(self, answers: dict[SourcePartition, int]) -> dict[SourcePartition, int]:
        """The true ends, where the embedded broker answers with less: the first offset of the last batch, plus one.

        The true end is in its answer to a fetch, which is made once for each such answer. The records themselves are
        not waited for: where it holds many, looking for them takes it longer than a fetch may wait.
        """
        new = {key: end for key, end in answers.items() if self._true_ends.get(key, (-1, -1))[0] != end}
        if new:
            self._client.assign([_topic_partition(partition, end - 1) for partition, end in new.items()])
        waiting = dict(new)
        deadline_s = time.monotonic() + _ANSWER_TIMEOUT_S
        while waiting:
            if time.monotonic() > deadline_s:
                raise BrokerError(f"the embedded broker did not say where its log ends in {_ANSWER_TIMEOUT_S:.0f} s.")
            self._client.consume(10_000, 0.02)  # nobody wants the records
            for partition, end in list(waiting.items()):
                _first, fetched = self._client.get_watermark_offsets(_topic_partition(partition), cached=True)
                if fetched >= end:  # what is known from an earlier look is less: a batch has come since
                    self._true_ends[partition] = (end, fetched)
                    del waiting[partition]
        if new:
            self._client.unassign()
        return {partition: self._true_ends[partition][1] for partition in answers}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _topic_partition(partition: SourcePartition, offset: int = OFFSET_INVALID) -> TopicPartition:
    return TopicPartition(partition.topic, partition.partition, offset)


def reader_count(bootstrap_servers: str, log_id: str, settings: KafkaSettings | None = None) -> int | None:
    """How many workers read the log; None where the broker does not say, as when this client may not see the group.

    On the embedded broker one reads at a time, and a lock of this machine tells whether it does. Elsewhere the members
    of the consumer group are counted.
    """
    if log_id.startswith(EMBEDDED_PREFIX):
        return int(has_reader(log_id))
    client = admin(bootstrap_servers, settings)  # kept until the answer is there: it comes through this object
    (answer,) = client.describe_consumer_groups([DATA_GROUP], request_timeout=8.0).values()
    try:
        members: list[object] = answer.result().members
    except KafkaException as error:
        return 0 if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND else None  # before the first worker ever
    return len(members)
