"""Where each partition of a log ends."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from confluent_kafka import Consumer, TopicPartition

from streams.broker import EMBEDDED_PREFIX, BrokerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from producers.wire.topics import Topic

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
