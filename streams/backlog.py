"""What the broker holds that the lake does not have yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from analytics.lake.schemas import EVENTS, SIGNALS
from analytics.lake.tables import SourcePartition
from producers.wire.topics import SOURCE_TOPICS
from streams.ends import LogEnds, Place

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from analytics.lake.tables import Lake

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
