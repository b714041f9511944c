"""Snapshots of broker, lake and workers, from outside: one tells the state, two of them the direction."""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final
from urllib.error import URLError

from confluent_kafka import KafkaException

from analytics.lake.table_schemas import EVENTS, REJECTS, SIGNALS
from producers.errors import StagekeeperError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from analytics.lake.tables import Lake
    from streams.lag import Backlog

_PREFIX: Final = "stagekeeper_"


@dataclass(frozen=True)
class WorkerReport:
    """What one worker's web server answered."""

    address: str  # of its web server
    metrics: Mapping[str, float] = field(default_factory=dict)  # by name (without the prefix) and labels
    judge: str | None = None  # what `/health` says about the judge: `ok`, or what is wrong
    clock: datetime | None = None  # its clock, to the second
    error: str | None = None  # why it did not answer; None where it did


@dataclass(frozen=True)
class Snapshot:
    """The state of broker, lake and workers at one moment."""

    at_s: float  # by a clock that only runs
    lag: int | None  # records on the broker that the lake does not cover; None where that is unknown
    lost: int  # records that the broker deleted before they were read
    covered: bool | None  # whether all that the broker held at the snapshot before is by now; None where unknown
    versions: tuple[int, ...]  # newest version of the tables that the data plane writes
    workers: tuple[WorkerReport, ...]  # what the workers' web servers answered
    error: str | None = None  # why the lag is unknown


@dataclass(frozen=True)
class SnapshotPair:
    """Two snapshots, one after the other."""

    before: Snapshot
    after: Snapshot
    readers: int | None  # workers that read the log; None where that is unknown

    @property
    def seconds(self) -> float:
        """Time between the two."""
        return self.after.at_s - self.before.at_s

    @property
    def committed(self) -> bool:
        """Whether the data plane wrote anything between the two."""
        return self.after.versions != self.before.versions

    @property
    def worker_runs(self) -> bool | None:
        """Whether a worker runs; None where nothing tells."""
        if self.committed or any(report.error is None for report in self.after.workers):
            return True
        return None if self.readers is None else self.readers > 0

    @property
    def is_under_way(self) -> bool:
        """Whether a worker answers, and what the broker held may only be waiting for its commit."""
        before, after = self.before.lag, self.after.lag
        if before is None or after is None or after > before or after == 0 or self.after.covered:
            return False
        return bool(self.worker_metrics)

    @property
    def worker_metrics(self) -> Sequence[Mapping[str, float]]:
        """The metrics of the workers that answered."""
        return [report.metrics for report in self.after.workers if report.error is None]


def take_snapshot(lake: Lake | None, backlog: Backlog | None, addresses: Sequence[str]) -> Snapshot:
    """The state of lake, broker (None where it cannot be asked) and workers; raises `UsageError` for a bad address."""
    lag, lost, covered, error = None, 0, None, None
    if lake is not None and backlog is not None:
        try:
            covered = backlog.caught_up(lake)
            lag, lost = backlog.records_left(lake), backlog.records_lost(lake)
        except KafkaException as failure:
            error = str(failure.args[0].str())
        except StagekeeperError as failure:
            error = str(failure)
    versions = () if lake is None else tuple(lake.version(table) for table in (REJECTS, EVENTS, SIGNALS))
    workers = tuple(probe_worker(address) for address in addresses)
    return Snapshot(time.monotonic(), lag, lost, covered, versions, workers, error)


def probe_worker(address: str) -> WorkerReport:
    """Ask a worker's web server for its metrics, health and clock; raises `UsageError` for what is no address."""
    if not address.startswith(("http://", "https://")):
        raise UsageError(f"{address} is no address of a worker; it is like http://127.0.0.1:9101.")
    root = address.rstrip("/")
    try:
        metrics, date = _get(f"{root}/metrics")
        health, _ = _get(f"{root}/health")
        judge = str(json.loads(health).get("judge"))
        samples = parse_metrics(metrics.decode())
    except (URLError, OSError, ValueError, AttributeError) as error:
        return WorkerReport(root, error=str(getattr(error, "reason", error)))
    try:
        clock = parsedate_to_datetime(date) if date else None
    except ValueError:
        clock = None
    return WorkerReport(root, samples, judge, clock)


def parse_metrics(text: str) -> dict[str, float]:
    """Our own samples of an exposition in Prometheus's text format; raises `ValueError` where it is none."""
    pairs = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(_PREFIX)]
    return {name.removeprefix(_PREFIX): float(value) for name, value in pairs}


def announced_worker(home: Path) -> str | None:
    """The address of the worker that `stagekeeper up` started in this home folder; None where it says none."""
    try:
        content = json.loads((home / "worker.ready").read_text())
    except (OSError, ValueError):
        return None
    web = content.get("web") if isinstance(content, dict) else None
    return web if isinstance(web, str) else None


def _get(url: str) -> tuple[bytes, str | None]:
    with urllib.request.urlopen(url, timeout=3.0) as answer:  # noqa: S310 - the scheme was checked
        return answer.read(), answer.headers.get("Date")
