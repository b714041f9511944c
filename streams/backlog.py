"""What the broker holds that the lake does not have yet."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Self

from confluent_kafka import Consumer, TopicPartition

from analytics.lake.schemas import EVENTS, SIGNALS
from analytics.lake.tables import SourcePartition
from producers.wire.topics import SOURCE_TOPICS

if TYPE_CHECKING:
    from types import TracebackType

    from analytics.lake.tables import Lake

_TABLES: Final = (EVENTS, SIGNALS)
_TIMEOUT_S = 10.0


class Backlog:
    """Compares the ends of the source topics with the offsets that the lake stores.

    Args:
        bootstrap_servers: The broker.
        log_id: Its cluster id.
    """

    def __init__(self, bootstrap_servers: str, log_id: str) -> None:
        self._log_id = log_id
        # Only asks for offsets: it joins no group and commits nothing.
        self._client = Consumer(
            {"bootstrap.servers": bootstrap_servers, "group.id": "stagekeeper-backlog", "enable.auto.commit": False},
            logger=logging.getLogger(__name__),
        )

    def records_left(self, lake: Lake) -> int:
        """How many records are in the source topics and not yet covered by the lake.

        Raises:
            confluent_kafka.KafkaException: The broker does not answer.
        """
        ends = self._ends()
        stored = [lake.stored_offsets(table, ends) for table in _TABLES]
        reached = {partition: min(offsets.get(partition, -1) for offsets in stored) for partition in ends}
        return sum(max(0, end - 1 - reached[partition]) for partition, end in ends.items())

    def _ends(self) -> dict[SourcePartition, int]:
        """The offset that each partition's next record will get."""
        topics = self._client.list_topics(timeout=_TIMEOUT_S).topics
        ends = {}
        for topic in SOURCE_TOPICS:
            for number in topics[topic.name].partitions:
                first, end = self._client.get_watermark_offsets(TopicPartition(topic.name, number), timeout=_TIMEOUT_S)
                if end > first:  # an emptied partition leaves nothing to wait for
                    ends[SourcePartition(self._log_id, topic.name, number)] = end
        return ends

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
