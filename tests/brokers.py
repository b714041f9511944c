"""What tests need of any broker, embedded or not, and an embedded one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import pytest

from streams.broker import EmbeddedBroker, ensure_topics
from streams.ports import available_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

apache_in_exhaustive = pytest.mark.parametrize(
    "either_broker", ["embedded", pytest.param("apache", marks=pytest.mark.exhaustive)], indirect=True
)
"""For a test whose promise others hold on Apache Kafka every day: exact counts, the storm; what emits, the outbox."""


class Broker(Protocol):
    """What a test needs of any broker."""

    @property
    def address(self) -> str: ...

    @property
    def cluster_id(self) -> str: ...

    @property
    def pid(self) -> int: ...


@contextmanager
def embedded_broker(folder: Path) -> Iterator[EmbeddedBroker]:
    """An embedded broker with every topic."""
    started = EmbeddedBroker.start(folder, port=available_port())
    try:
        ensure_topics(started.address)
        yield started
    finally:
        started.stop()
