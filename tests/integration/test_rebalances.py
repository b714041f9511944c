"""A reader whose group is rebalanced over and over goes on, whatever its client has to say meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer
from workers import await_that, frozen

from producers.wire.topics import SOURCE_TOPICS
from streams.broker import DATA_GROUP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brokers import Broker

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ALL = sum(topic.partitions for topic in SOURCE_TOPICS)
READER = Path(__file__).parents[1] / "reading_process.py"


class Reader:
    """A source in a process of its own."""

    def __init__(self, broker: Broker, lake_root: str, folder: Path) -> None:
        self._said, self._errors = folder / "said.txt", folder / "errors.txt"
        with self._said.open("wb") as said, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(READER), broker.address, lake_root], stdout=said, stderr=errors
            )

    @property
    def assignments(self) -> list[int]:
        """How many partitions it was given, time after time."""
        assert self.process.poll() is None, self._errors.read_text()
        return [int(line) for line in self._said.read_text().splitlines()]

    def await_assigned(self, after: int, *, everything: bool) -> None:
        """Wait until it has been given all partitions, or fewer, once more."""
        await_that(
            lambda: any((count == ALL) == everything for count in self.assignments[after:]),
            "an assignment of all partitions" if everything else "an assignment of fewer partitions",
        )


@contextmanager
def another_member(broker: Broker) -> Iterator[Consumer]:
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": DATA_GROUP, "session.timeout.ms": 6_000})
    consumer.subscribe([topic.name for topic in SOURCE_TOPICS])
    try:
        yield consumer
    finally:
        consumer.close()


def await_share(member: Consumer, share: int) -> None:
    def has() -> bool:
        member.poll(0.05)
        return len(member.assignment()) >= share

    await_that(has, "a share for the other member", every_s=0)


@pytest.fixture
def reader(emptied_kafka: Broker, lake_root: str, tmp_path: Path) -> Iterator[Reader]:
    started = Reader(emptied_kafka, lake_root, tmp_path)
    try:
        started.await_assigned(0, everything=True)
        yield started
    finally:
        started.process.send_signal(signal.SIGCONT)
        started.process.kill()
        started.process.wait()


def test_members_that_join_and_leave_do_not_end_it(reader: Reader, emptied_kafka: Broker) -> None:
    for _ in range(4):
        before = len(reader.assignments)
        with another_member(emptied_kafka) as member:
            await_share(member, 1)
            reader.await_assigned(before, everything=False)
            before = len(reader.assignments)
        reader.await_assigned(before, everything=True)


def test_waking_up_after_its_session_does_not_end_it(reader: Reader, emptied_kafka: Broker) -> None:
    before = len(reader.assignments)
    with another_member(emptied_kafka) as member:
        frozen(reader.process.pid)
        await_share(member, ALL)
        reader.process.send_signal(signal.SIGCONT)
        await_share(member, 1)
    reader.await_assigned(before, everything=True)
