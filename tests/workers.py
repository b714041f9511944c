"""A worker in a process of its own, for tests that start, stop and kill it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException, Producer
from fakes import a_decided, a_receipt

from analytics.lake.tables import Lake
from producers.wire.events import event_to_bytes
from producers.wire.topics import DECISIONS
from streams.broker import BrokerError
from streams.lag import Backlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from brokers import Broker

PATIENCE_S = float(os.environ.get("STAGEKEEPER_TEST_PATIENCE_S", "120"))
"""How long something that must happen is waited for; a machine that is busy with other work may need more."""


def await_that(condition: Callable[[], bool], what: str, every_s: float = 0.05) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen in {PATIENCE_S:.0f} s")
        time.sleep(every_s)


def frozen(pid: int) -> None:
    """SIGSTOP, and wait until all threads have stopped: the signal takes its time where the machine is busy."""
    os.kill(pid, signal.SIGSTOP)

    def stopped() -> bool:
        threads = Path(f"/proc/{pid}/task").glob("*/stat")
        return all(thread.read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)

    await_that(stopped, "the process to stop", every_s=0.005)


class WorkerProcess:
    """One life of a worker.

    Args:
        folder: For its log and its ready file.
        broker: Where it reads.
        lake_root: Where it writes.
        receipt_key: The key that it checks receipts with.
        arguments: Further arguments of the command.
        environment: Further variables.
    """

    def __init__(
        self,
        folder: Path,
        broker: Broker,
        lake_root: str,
        receipt_key: str = "",
        *arguments: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        life = len(list(folder.glob("worker-*.log")))
        self.log = folder / f"worker-{life}.log"
        self._ready = folder / f"ready-{life}.json"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stagekeeper", "worker", "--json", "--ready-file", str(self._ready), *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS": broker.address,
                    "STAGEKEEPER_LAKE_ROOT": lake_root,
                    "STAGEKEEPER_GATE_FILE": str(folder / "no-gates.yaml"),
                    "STAGEKEEPER_RECEIPT_KEY": receipt_key,
                    "STAGEKEEPER_HOME": str(folder),
                    **(environment or {}),
                },
            )

    def await_ready(self) -> dict[str, object]:
        """Wait until it reads; what it says of itself."""
        await_that(lambda: self._ready.exists() or self.process.poll() is not None, "the worker's start")
        assert self.process.poll() is None, self.log.read_text()
        said: dict[str, object] = json.loads(self._ready.read_text())
        return said

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)


def metrics(worker: WorkerProcess) -> dict[str, float]:
    """What a worker says at /metrics."""
    with urllib.request.urlopen(f"{worker.await_ready()['web']}/metrics", timeout=10) as answer:  # noqa: S310 - our own address
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name.removeprefix("stagekeeper_"): float(value) for name, value in pairs}


@contextmanager
def a_worker(folder: Path, broker: Broker, lake_root: str, receipt_key: str = "") -> Iterator[WorkerProcess]:
    """A worker that reads; killed at the end, if it still runs."""
    worker = WorkerProcess(folder, broker, lake_root, receipt_key)
    try:
        worker.await_ready()
        yield worker
    finally:
        worker.kill()


class Spoken:
    """Writes decisions that nobody wrote before."""

    def __init__(self, broker: Broker) -> None:
        self._producer = Producer({"bootstrap.servers": broker.address, "linger.ms": 5})
        self.count = 0

    def say(self, count: int) -> None:
        for number in range(self.count, self.count + count):
            receipt = a_receipt(decision_id=f"d-{number}", decided_at=datetime.now(UTC))
            event = a_decided(receipt, event_id=f"e-{number}")
            self._producer.produce(DECISIONS, event_to_bytes(event), key=receipt.decision_id.encode())
        assert self._producer.flush(30) == 0
        self.count += count


def await_drained(broker: Broker, lake_root: str, meanwhile: Callable[[], None] = lambda: None) -> Lake:
    """Wait until the lake covers all that the broker holds."""

    def covered() -> bool:
        meanwhile()
        try:
            return backlog.records_left(lake) == 0
        except (BrokerError, KafkaException):  # it is busy, and is asked again
            return False

    lake = Lake.existing(lake_root)
    assert lake is not None
    with Backlog(broker.address, broker.cluster_id) as backlog:
        await_that(covered, "the end of the backlog")
    return lake
