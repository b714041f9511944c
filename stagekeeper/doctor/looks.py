"""Looks at broker, lake and workers: one tells how it stands, two of them where it goes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaException

from analytics.lake.schemas import EVENTS, REJECTS, SIGNALS
from producers.errors import StagekeeperError
from stagekeeper.doctor.workers import WorkerWords, ask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from analytics.lake.tables import Lake
    from streams.backlog import Backlog

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
