"""Apache Kafka for tests: a node whose jars are fetched once for the checkout."""

from __future__ import annotations

from pathlib import Path

from streams.apache_broker import ApacheBroker
from streams.ports import available_port

JARS = Path(__file__).parents[1] / ".stagekeeper" / "kafka-jars"


def start_kafka(home: Path, *, port: int = 0, controller_port: int = 0, extra: str = "") -> ApacheBroker:
    """A node at free ports, unless they are given."""
    ports = (port or available_port(), controller_port or available_port())
    return ApacheBroker.start(home, port=ports[0], controller_port=ports[1], jars=JARS, extra=extra)
