"""Looks at broker, lake and workers: one tells how it stands, two of them where it goes."""

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

_TABLES: Final = (REJECTS, EVENTS, SIGNALS)


@dataclass(frozen=True)
class Look:
    """How it stood at one moment.

    Attributes:
        at_s: When, by a clock that only runs.
        left: Records on the broker that the lake does not cover; None where that could not be told.
        lost: Records that the broker deleted before they were read.
        covered: Whether all that the broker held at the look before is covered by now; None where it could not be told.
        versions: Newest version of the tables that the data plane writes.
        workers: What the workers that are known say.
        fault: Why the broker could not tell what is left.
    """

    at_s: float
    left: int | None
    lost: int
    covered: bool | None
    versions: tuple[int, ...]
    workers: tuple[WorkerWords, ...]
    fault: str | None = None


class Looker:
    """Looks again and again.

    Args:
        lake: The lake; None where there is none.
        backlog: What the broker holds; None where it cannot be asked.
        workers: Addresses of the workers' web servers.
    """

    def __init__(self, lake: Lake | None, backlog: Backlog | None, workers: Sequence[str]) -> None:
        self._lake = lake
        self._backlog = backlog
        self._workers = workers

    def look(self) -> Look:
        """Look once.

        Raises:
            UsageError: What was named as a worker's address is none.
        """
        left, lost, covered, fault = None, 0, None, None
        lake, backlog = self._lake, self._backlog
        if lake is not None and backlog is not None:
            try:
                covered = backlog.caught_up(lake)
                left, lost = backlog.records_left(lake), backlog.records_lost(lake)
            except KafkaException as error:
                fault = str(error.args[0].str())
            except StagekeeperError as error:
                fault = str(error)
        versions = () if lake is None else tuple(lake.version(table) for table in _TABLES)
        workers = tuple(ask(address) for address in self._workers)
        return Look(time.monotonic(), left, lost, covered, versions, workers, fault)


@dataclass(frozen=True)
class Course:
    """Two looks, one after the other.

    Attributes:
        before: The first.
        after: The second.
        readers: Workers that read the log; None where nobody could tell.
    """

    before: Look
    after: Look
    readers: int | None

    @property
    def seconds(self) -> float:
        """Time between the two."""
        return self.after.at_s - self.before.at_s

    @property
    def committed(self) -> bool:
        """Whether the data plane wrote anything between the two."""
        return self.after.versions != self.before.versions

    @property
    def at_work(self) -> bool | None:
        """Whether a worker is at work; None where nothing tells."""
        if self.committed or any(words.silence is None for words in self.after.workers):
            return True
        return None if self.readers is None else self.readers > 0

    @property
    def numbers(self) -> Sequence[Mapping[str, float]]:
        """The metrics of the workers that answered."""
        return [words.numbers for words in self.after.workers if words.silence is None]


_ANSWER_S: Final = 3.0
_PREFIX: Final = "stagekeeper_"


@dataclass(frozen=True)
class WorkerWords:
    """What one worker said.

    Attributes:
        address: Of its web server.
        numbers: The samples of `/metrics`, by name (without the prefix) and labels.
        judge: What `/health` says about the judge: `ok`, or what is wrong.
        clock: Its clock, to the second.
        silence: Why it did not answer; None where it did.
    """

    address: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    judge: str | None = None
    clock: datetime | None = None
    silence: str | None = None


def ask(address: str) -> WorkerWords:
    """Ask a worker how it is.

    Raises:
        UsageError: That is no address of a web server.
    """
    if not address.startswith(("http://", "https://")):
        raise UsageError(f"{address} is no address of a worker; it is like http://127.0.0.1:9101.")
    root = address.rstrip("/")
    try:
        metrics, stated = _get(f"{root}/metrics")
        health, _ = _get(f"{root}/health")
        judge = str(json.loads(health).get("judge"))
        numbers = samples(metrics.decode())
    except (URLError, OSError, ValueError, AttributeError) as error:
        return WorkerWords(root, silence=str(getattr(error, "reason", error)))
    try:
        clock = parsedate_to_datetime(stated) if stated else None
    except ValueError:
        clock = None
    return WorkerWords(root, numbers, judge, clock)


def samples(text: str) -> dict[str, float]:
    """The samples of an exposition in Prometheus's text format that are ours.

    Raises:
        ValueError: It is none.
    """
    pairs = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(_PREFIX)]
    return {name.removeprefix(_PREFIX): float(value) for name, value in pairs}


def announced(home: Path) -> str | None:
    """The address of the worker that `stagekeeper up` started in this home folder; None where it says none."""
    try:
        stated = json.loads((home / "worker.ready").read_text())
    except (OSError, ValueError):
        return None
    web = stated.get("web") if isinstance(stated, dict) else None
    return web if isinstance(web, str) else None


def _get(url: str) -> tuple[bytes, str | None]:
    with urllib.request.urlopen(url, timeout=_ANSWER_S) as answer:  # noqa: S310 - the scheme was checked
        return answer.read(), answer.headers.get("Date")
