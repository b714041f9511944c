from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from streams.ingest.errors import LogIdentityError
from streams.ingest.records import Batch
from streams.ingest.source import BATCH_RECORDS, Source, StoppedError
from streams.metrics import Progress

if TYPE_CHECKING:
    from collections.abc import Callable


def a_message(offset: int = 7) -> Message:
    return Message(topic="agent.decisions", partition=0, offset=offset, key=b"k", value=b"{}", timestamp=(1, 1))


class _Consumer:
    """Hands out one record, then tells nothing of its identity for a while."""

    def __init__(self, identities: list[str | None], on_empty: Any) -> None:
        self._identities = identities
        self._messages = [[a_message()]]
        self._on_empty = on_empty

    def consume(self, *_: object) -> list[Message]:
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


def a_source(destination: _Kept, progress: Progress | None = None) -> Source:
    said = progress or Progress()
    none: Any = None  # no lake is asked
    return Source("nowhere:1", "log", none, destination.put, said, on_failure=lambda _: None, commit_every_s=0.0)


class _Waits(Progress):
    """Notes what is waited for, and what had been handed over by then."""

    def __init__(self, kept: _Kept) -> None:
        super().__init__()
        self._kept = kept
        self.waited: list[tuple[int, int]] = []

    def wait_for(self, number: int, timeout_s: float, given_up: Callable[[], bool]) -> bool:
        self.waited.append((len(self._kept.items), number))
        return True


class _Endless(_Consumer):
    """Hands out a record at a time, with so many more in the log."""

    def __init__(self, batches: int, waiting: int, on_empty: Any) -> None:
        super().__init__(["log"] * batches, on_empty)
        self._offset = 0
        self._waiting = waiting

    def consume(self, *_: object) -> list[Message]:
        self._offset += 1
        return [a_message(self._offset)]

    def get_watermark_offsets(self, _place: TopicPartition, **_: object) -> tuple[int, int]:
        return 0, self._offset + 1 + self._waiting


@pytest.mark.parametrize("behind", [False, True])
def test_where_nothing_more_waits_a_batch_is_taken_when_the_plane_can_begin_with_it(behind: bool) -> None:
    kept = _Kept()
    waits = _Waits(kept)
    source = a_source(kept, waits)
    waiting = BATCH_RECORDS if behind else BATCH_RECORDS - 1
    source._read(_Endless(3, waiting, source._stopping.set))  # type: ignore[arg-type]  # noqa: SLF001
    assert [batch.number for batch in kept.items] == [1, 2, 3]
    # One batch may be on its way while the next is taken; where more waits, the queue before the plane stays full.
    assert waits.waited == ([] if behind else [(1, 0), (2, 1), (3, 2)])


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
