"""Logs of source topics with everything that can be in them, a worker's life on one, and what must hold afterwards."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

import polars as pl
from fakes import KEY, NOON, FakeClock, a_decided, a_receipt, an_executed

from analytics.lake.table_schemas import EVENTS, REJECTS, SIGNALS
from analytics.lake.tables import Lake, SourcePartition
from analytics.signals.definitions import COUNTERS
from producers.wire.events import event_to_bytes
from producers.wire.topics import DECISIONS, OUTCOMES
from streams.ingest.pipeline import Assignment, Pipeline
from streams.ingest.records import Batch, PartitionRecords
from streams.ingest.recovery import resume
from streams.publisher import PublicationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from analytics.lake.tables import Advance
    from streams.ingest.rejects import Reject

FIRST = SourcePartition("embedded-1", DECISIONS, 0)
SECOND = SourcePartition("embedded-1", OUTCOMES, 0)
REAL = SourcePartition("a-real-cluster", DECISIONS, 0)


class KilledError(Exception):
    """Stands for SIGKILL."""


@dataclass
class Letters:
    """Remembers dead letters."""

    sent: list[Reject] = field(default_factory=list)
    broken: bool = False

    def publish(self, rejects: Sequence[Reject]) -> None:
        if self.broken:
            raise PublicationError("the broker is away")
        self.sent += rejects


class MortalLake(Lake):
    """A lake whose writer dies at one of its appends: before it, or right after it."""

    lives: float = float("inf")
    after: bool = False

    def append(
        self, table: str, rows: pl.DataFrame, *, advances: Mapping[SourcePartition, Advance] | None = None
    ) -> int:
        self.lives -= 1
        if self.lives < 0 and not self.after:
            raise KilledError
        version = super().append(table, rows, advances=advances or {})
        if self.lives < 0:
            raise KilledError
        return version


@dataclass
class Log:
    """The records of some partitions; None is an offset at which nothing can be read."""

    records: dict[SourcePartition, list[bytes | None]]

    def bounds(self) -> dict[SourcePartition, tuple[int, int]]:
        return {partition: (0, len(values)) for partition, values in self.records.items()}

    def batch(self, number: int, begin: dict[SourcePartition, int], size: int) -> Batch:
        """The next records of every partition, up to `size` of each."""
        partitions = {}
        for partition, values in self.records.items():
            records = PartitionRecords()
            start = begin[partition]
            for offset, value in enumerate(values[start : start + size], start):
                if value is not None:
                    records.add(offset, b"key", value, 1_700_000_000_000)
            begin[partition] = records.end = min(start + size, len(values))
            if begin[partition] > start:
                partitions[partition] = records
        return Batch(number, partitions)


def work(log: Log, lake: Lake, letters: Letters, clock: FakeClock, *, cuts: Random, key: bytes | None = KEY) -> None:
    """One life of a worker: resume, read to the end of the log, commit everything."""
    pipeline = Pipeline(lake, letters, key=key, now=clock)
    resumed = resume(lake, log.bounds())
    pipeline.assign(Assignment(1, resumed))
    begin = {partition: each.start for partition, each in resumed.items()}
    number = 1
    while any(begin[partition] < len(values) for partition, values in log.records.items()):
        number += 1
        clock.advance(60)
        pipeline.commit(pipeline.fold(log.batch(number, begin, cuts.randint(1, 9))))
    pipeline.commit(pipeline.fold(Batch(number + 1, {})))  # as the source says that nothing more is there


def value_of(number: int, *, minutes: float = 0, event_id: str | None = None, key: bytes | None = KEY) -> bytes:
    receipt = a_receipt(decision_id=f"d-{number}", decided_at=NOON + timedelta(minutes=minutes))
    make = a_decided if number % 2 else an_executed
    return event_to_bytes(make(receipt, event_id=event_id or f"e-{number}", key=key))


def a_log(seed: int, length: int = 24) -> Log:
    """Events, repeats, gaps, malformed records, forged receipts, and events that the clock has not reached yet."""
    random = Random(seed)

    def record(number: int) -> bytes | None:
        return random.choice(
            [
                value_of(number),
                value_of(number, minutes=random.uniform(-90, 3)),
                value_of(random.randrange(max(1, number)), event_id=f"e-{random.randrange(number + 1)}"),
                value_of(number, minutes=random.uniform(5, 40)),
                value_of(number, key=b"not the key"),
                b"not an event",
                None,
            ]
        )

    return Log({partition: [record(number) for number in range(length)] for partition in (FIRST, SECOND)})


def rows(lake: Lake, table: str) -> pl.DataFrame:
    frame = lake.scan(table).collect()
    return frame.sort("log_id", "topic", "offset") if "offset" in frame.columns else frame


def totals(lake: Lake) -> dict[str, int]:
    return {name: int(rows(lake, SIGNALS)[name].sum()) for name in COUNTERS}


def recomputed(lake: Lake) -> dict[str, int]:
    """What the stored events count, read off their JSON."""
    counted = dict.fromkeys(COUNTERS, 0)
    for value in rows(lake, EVENTS)["value"]:
        if json.loads(value)["type"].endswith("decided.v1"):
            for name in ("decisions", "allowed", "expected"):
                counted[name] += 1
        else:
            counted["executed"] += 1
    return counted


def places(frame: pl.DataFrame) -> list[tuple[str, int]]:
    return list(zip(frame["topic"], frame["offset"], strict=True))


def hold_all_promises(log: Log, lake: Lake) -> None:
    """Each offset is stored, rejected or a repeat of what is stored; nothing is there twice; the counters agree."""
    stored, rejected = rows(lake, EVENTS), rows(lake, REJECTS)
    assert len(set(places(stored))) == stored.height
    assert len(set(places(rejected))) == rejected.height
    assert not set(places(stored)) & set(places(rejected))
    for partition, values in log.records.items():
        accepted = set(stored.filter(pl.col("topic") == partition.topic)["offset"])
        mine = rejected.filter(pl.col("topic") == partition.topic)
        refused = dict(zip(mine["offset"], mine["reason"], strict=True))
        seen: set[tuple[str, str]] = set()
        for offset, value in enumerate(values):
            if refused.get(offset, "conflicting_event") != "conflicting_event":
                continue
            assert value is not None
            document = json.loads(value)
            identity = document["type"], document["subject"]
            assert (offset in accepted) == (identity not in seen), f"offset {offset}: {identity} counts once, for ever"
            seen.add(identity)
    assert totals(lake) == recomputed(lake)
