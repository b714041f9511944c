"""A broker and a worker with a lake of their own, for tests that go the whole way."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner

from analytics.lake.tables import Lake, SourcePartition
from producers.wire.topics import RECOMMENDATIONS, SOURCE_TOPICS
from stagekeeper.commands import cli
from streams.children import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from brokers import Broker

_ENOUGH_S = 90.0
"""Far more than anything here takes; only a failure waits so long."""

_PARTITIONS = [
    (topic.name, number)
    for topic in SOURCE_TOPICS
    if topic.name != RECOMMENDATIONS  # the worker's own words
    for number in range(topic.partitions)
]


@dataclass(frozen=True)
class Pipeline:
    """A broker and a worker with a lake of their own."""

    broker: Broker
    worker: Child
    lake_root: str
    environment: dict[str, str]

    def run(self, *arguments: str) -> dict[str, Any]:
        """Run a command that prints JSON."""
        result = CliRunner().invoke(cli, arguments, env=self.environment, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    def await_that(self, what: str, holds: Callable[[], bool]) -> None:
        """Return as soon as something holds; fail when the worker ends or when it takes far too long."""
        deadline, pause = time.monotonic() + _ENOUGH_S, threading.Event()
        while not holds():
            assert self.worker.running, self.worker.reason()
            assert time.monotonic() < deadline, f"it never came true that {what}"
            pause.wait(0.2)

    def stored(self) -> int:
        """Records that the lake covers, other than recommendations."""
        lake = Lake.existing(self.lake_root)
        if lake is None:
            return 0
        partitions = [SourcePartition(self.broker.cluster_id, *partition) for partition in _PARTITIONS]
        return sum(offset + 1 for offset in lake.stored_offsets("signals", partitions).values())

    def verdicts(self) -> dict[str, dict[str, Any]]:
        """The latest verdicts by tool."""
        return {verdict["tool"]: verdict for verdict in self.run("verdicts", "--json")["verdicts"]}


@contextmanager
def running_pipeline(broker: Broker, *, lake_root: str, home: Path, gates: Path) -> Iterator[Pipeline]:
    """Start a worker on a broker, wait until it reads, and stop it in the end."""
    environment = {
        "STAGEKEEPER_HOME": str(home),
        "STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS": broker.address,
        "STAGEKEEPER_LAKE_ROOT": lake_root,
        "STAGEKEEPER_GATE_FILE": str(gates),
        "STAGEKEEPER_RECEIPT_KEY": "a receipt key for tests",
    }
    ready = home / "ready"
    worker = Child.start(
        "worker", [program(), "worker", "--ready-file", str(ready)], log=home / "worker.log", environment=environment
    )
    made = Pipeline(broker, worker, lake_root, environment)
    try:
        made.await_that("the worker is ready", ready.exists)
        yield made
    finally:
        worker.stop(10.0)


def program() -> str:
    """The installed command."""
    found = shutil.which("stagekeeper", path=os.fspath(Path(sys.executable).parent))
    assert found is not None
    return found
