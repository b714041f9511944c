from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streams.data.batch import Batch
from streams.data.errors import LogIdentityError
from streams.data.progress import Progress
from streams.data.source import Source, StoppedError


class _Message:
    def error(self) -> None:
        return None

    def topic(self) -> str:
        return "agent.decisions"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 7

    def timestamp(self) -> tuple[int, int]:
        return 1, 1

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes:
        return b"{}"


class _Consumer:
    """Hands out one record, then tells nothing of its identity for a while."""

    def __init__(self, identities: list[str | None], on_empty: Any) -> None:
        self._identities = identities
        self._messages = [[_Message()]]
        self._on_empty = on_empty

    def consume(self, *_: object) -> list[_Message]:
        return self._messages.pop() if self._messages else []

    def list_topics(self, *_: object, **__: object) -> SimpleNamespace:
        identity = self._identities.pop(0) if self._identities else None
        if not self._identities:
            self._on_empty()
        if identity is None:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))  # noqa: SLF001 - as librdkafka does
        return SimpleNamespace(cluster_id=identity)

    def get_watermark_offsets(self, _place: TopicPartition, **_: object) -> tuple[int, int]:
        return 0, 8


class _Kept:
    def __init__(self) -> None:
        self.items: list[Any] = []

    def put(self, item: Any) -> None:
        self.items.append(item)


def a_source(destination: _Kept) -> Source:
    return Source("nowhere:1", "log", None, destination, Progress(), on_failure=lambda _: None)  # type: ignore[arg-type]


def test_what_was_fetched_is_handed_over_once_the_broker_is_back() -> None:
    kept = _Kept()
    source = a_source(kept)
    source._read(_Consumer([None, None, "log"], source._stopping.set))  # type: ignore[arg-type]  # noqa: SLF001
    (batch,) = kept.items
    assert isinstance(batch, Batch)
    assert [records.offsets for records in batch.partitions.values()] == [[7]]


def test_nothing_of_another_log_is_handed_over() -> None:
    kept = _Kept()
    with pytest.raises(LogIdentityError, match="replaced by other"):
        a_source(kept)._read(_Consumer([None, "other"], lambda: None))  # type: ignore[arg-type]  # noqa: SLF001
    assert kept.items == []


def test_a_worker_that_stops_while_the_broker_is_away_hands_nothing_over() -> None:
    kept = _Kept()
    source = a_source(kept)
    consumer = _Consumer([None] * 3, source._stopping.set)  # noqa: SLF001
    with pytest.raises(StoppedError):
        source._read(consumer)  # type: ignore[arg-type]  # noqa: SLF001
    assert kept.items == []
