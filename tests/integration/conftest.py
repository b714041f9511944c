"""What integration tests share: one broker with its topics, and a fresh lake root for each test."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from streams.broker import EmbeddedBroker, ensure_topics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def unused_port() -> int:
    """A TCP port on the loopback interface that nothing uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """An embedded broker with every topic. Its log is shared by all tests of the session: tell your events apart."""
    started = EmbeddedBroker.start(tmp_path_factory.mktemp("broker"), port=unused_port())
    try:
        ensure_topics(started.address)
        yield started
    finally:
        started.stop()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """An embedded broker of this test's own, with every topic: empty logs, and free to be stopped."""
    started = EmbeddedBroker.start(tmp_path / "own-broker", port=unused_port())
    try:
        ensure_topics(started.address)
        yield started
    finally:
        started.stop()


@pytest.fixture
def lake_root(tmp_path: Path) -> str:
    """Root of a lake that does not exist yet."""
    return str(tmp_path / "lake")
