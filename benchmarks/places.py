"""Brokers and workers for the benchmarks, and the machine they ran on."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from streams.apache_broker import ApacheBroker, missing
from streams.broker import EmbeddedBroker, ensure_topics
from streams.ports import available_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from confluent_kafka import Message


def machine() -> str:
    """What the numbers were measured on."""
    packages = ("confluent-kafka", "msgspec", "polars", "deltalake", "faust-streaming")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), load {load:.1f} at the start, "
        f"Python {platform.python_version()}, {versions}"
    )


@contextmanager
def a_node(kind: str, folder: Path) -> Iterator[EmbeddedBroker | ApacheBroker]:
    """A broker with empty topics: `embedded`, or `apache` (Java and Maven are needed)."""
    node: EmbeddedBroker | ApacheBroker
    if kind == "embedded":
        node = EmbeddedBroker.start(folder, port=available_port())
    else:
        if reason := missing():
            raise SystemExit(reason)
        ports = {"port": available_port(), "controller_port": available_port()}
        node = ApacheBroker.start(folder / "kafka", **ports, jars=Path(".stagekeeper") / "kafka-jars")
    try:
        ensure_topics(node.address)
        yield node
    finally:
        node.stop()


@contextmanager
def a_broker(kind: str, folder: Path) -> Iterator[str]:
    """The address of a broker as `a_node` gives it."""
    with a_node(kind, folder) as node:
        yield node.address


class WorkerLife:
    """A worker from its start to its end."""

    def __init__(self, address: str, lake: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.lake = lake
        lake.mkdir(parents=True, exist_ok=True)
        self._log = lake.parent / f"worker-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stagekeeper", "worker", "--json", *arguments],
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS": address,
                    "STAGEKEEPER_LAKE_ROOT": str(lake),
                    "STAGEKEEPER_GATE_FILE": str(lake / "no-gates.yaml"),
                    "STAGEKEEPER_HOME": str(lake.parent),
                    "STAGEKEEPER_RECEIPT_KEY": "",
                    **(environment or {}),
                },
            )

    @property
    def peak_mb(self) -> float:
        """Peak memory in MB (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1_024 for line in status.splitlines() if line.startswith("VmHWM"))

    @property
    def cpu_s(self) -> float:
        """Processor time used so far, in seconds, by all of its threads (Linux)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, *, how: int = signal.SIGTERM) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(30)

    def await_that(self, condition: Callable[[], bool], patience_s: float = 300.0) -> None:
        """Wait for something that it does."""
        deadline = time.monotonic() + patience_s
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the worker did not do it:\n{self._log.read_text()[-2_000:]}")
            time.sleep(0.05)


def commits(lake: Path, table: str) -> list[tuple[float, int]]:
    """When each commit of a table was made (seconds since 1970) and how many rows it added."""
    found = []
    for path in sorted((lake / table / "_delta_log").glob("*.json")):
        rows = sum(
            json.loads(action["add"]["stats"])["numRecords"]
            for line in path.read_text().splitlines()
            if "add" in (action := json.loads(line)) and action["add"]["dataChange"]
        )
        found.append((path.stat().st_mtime, rows))
    return found


def is_message(message: Message) -> bool:
    """Whether it is one, and not word of an error."""
    return message.error() is None


@contextmanager
def a_folder() -> Iterator[Path]:
    """A folder that goes away."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
