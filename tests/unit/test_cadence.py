"""When something is committed, and that what is committed later is exact all the same."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Message
from fakes import KEY, FakeClock
from laws import some
from source_logs import FIRST, SECOND, KilledError, Letters, Log, MortalLake, hold_all_promises, rows, value_of, work
from verdict_cases import a_row, increments

from analytics.lake.table_schemas import EVENTS, REJECTS, SIGNALS
from analytics.lake.tables import Lake
from streams.ingest import source as source_module
from streams.ingest.cadence import IDLE_S, LARGE_RECORDS, MOST_IN_HASTE, SOONEST_S, Haste, may_cross
from streams.ingest.pipeline import ALONE, Assignment, Pipeline
from streams.ingest.records import Batch
from streams.ingest.recovery import resume
from streams.ingest.source import BATCH_RECORDS, Source
from streams.metrics import Progress

if TYPE_CHECKING:
    from pathlib import Path

TABLES = (REJECTS, EVENTS, SIGNALS)


class Writer:
    """One life of a worker that reads a log batch by batch."""

    def __init__(self, lake: Lake, log: Log) -> None:
        self.lake, self.log, self.clock, self.letters = lake, log, FakeClock(), Letters()
        self.pipeline = Pipeline(lake, self.letters, key=KEY, now=self.clock)
        resumed = resume(lake, log.bounds())
        self.pipeline.assign(Assignment(1, resumed))
        self.begin = {partition: each.start for partition, each in resumed.items()}
        self.number = 1

    def batch(self, size: int) -> tuple[int, int, int]:
        """Commit the next records of each partition; how many versions each table went on by."""
        self.number += 1
        before = self.versions()
        batch = self.log.batch(self.number, self.begin, size) if size else Batch(self.number, {})
        self.pipeline.commit(self.pipeline.fold(batch))
        rejects, events, signals = (new - old for new, old in zip(self.versions(), before, strict=True))
        return rejects, events, signals

    def versions(self) -> list[int]:
        return [self.lake.version(table) for table in TABLES]

    def offsets(self) -> list[int | None]:
        return [self.lake.stored_offsets(table, [FIRST]).get(FIRST) for table in TABLES]


def test_a_table_to_which_nothing_is_added_gets_no_commit(tmp_path: Path) -> None:
    log = Log({FIRST: [value_of(1), value_of(2), value_of(1), b"x", value_of(2), value_of(3), b"y", value_of(4)]})
    writer = Writer(Lake.open(str(tmp_path)), log)
    assert writer.batch(2) == (0, 1, 1)  # events alone
    assert writer.offsets() == [None, 1, 1]
    assert writer.batch(1) == (0, 0, 0)  # a repeat
    assert writer.batch(1) == (1, 0, 0)  # a reject
    assert writer.offsets() == [3, 1, 1]
    assert writer.batch(1) == (0, 0, 0)
    assert writer.batch(1) == (0, 1, 1)
    assert writer.offsets() == [3, 5, 5], "the offsets of what added nothing travel with what does"
    assert writer.batch(2) == (1, 1, 1)
    assert writer.offsets() == [7, 7, 7]
    hold_all_promises(log, writer.lake)


@pytest.mark.slow
@pytest.mark.parametrize("read", some(range(9)))
def test_a_restart_after_any_batch_is_exact(tmp_path: Path, read: int) -> None:
    log = Log({FIRST: [value_of(1), value_of(1), b"x", value_of(1), b"y", value_of(2), None, value_of(2)]})
    log.records[SECOND] = [value_of(4), b"z", value_of(4), value_of(6), value_of(6), None, value_of(6), b"z"]
    first = Writer(Lake.open(str(tmp_path)), log)
    for _ in range(read):
        first.batch(1)
    lake, letters = Lake.open(str(tmp_path)), Letters()
    work(log, lake, letters, FakeClock(), cuts=Random(read))
    hold_all_promises(log, lake)
    assert rows(lake, EVENTS)["id"].to_list() == ["e-1", "e-2", "e-4", "e-6"]
    assert rows(lake, REJECTS).height == 6
    sent = {(reject.partition, reject.offset) for reject in first.letters.sent + letters.sent}
    assert len(sent) == 6
    for table in (EVENTS, SIGNALS):
        assert lake.stored_offsets(table, [FIRST, SECOND]) == {FIRST: 7, SECOND: 7}


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("lives", some(range(6)))
def test_a_kill_at_a_commit_that_brings_earlier_offsets_along_is_exact(tmp_path: Path, lives: int, after: bool) -> None:
    log = Log({FIRST: [value_of(1), value_of(1), b"x", value_of(2), value_of(1), value_of(3), b"y"]})
    lake = MortalLake.open(str(tmp_path))
    assert isinstance(lake, MortalLake)
    lake.lives, lake.after = lives, after
    writer = Writer(lake, log)
    with suppress(KilledError):
        for size in (1, 1, 1, 1, 1, 1, 1, 0):
            writer.batch(size)
    alive = Lake.open(str(tmp_path))
    work(log, alive, Letters(), FakeClock(), cuts=Random(lives))
    hold_all_promises(log, alive)
    assert rows(alive, EVENTS)["offset"].to_list() == [0, 3, 5]
    assert rows(alive, REJECTS)["offset"].to_list() == [2, 6]


def test_offsets_that_nothing_comes_for_are_committed_alone_in_the_end(tmp_path: Path) -> None:
    log = Log({FIRST: [value_of(1)] * 12})
    writer = Writer(Lake.open(str(tmp_path)), log)
    assert writer.batch(1) == (0, 1, 1)
    assert writer.batch(0) == (0, 0, 0), "everything is covered"
    assert writer.batch(1) == (0, 0, 0)
    assert writer.batch(0) == (0, 1, 1), "nothing more is there"
    assert writer.offsets() == [None, 1, 1]
    alone = []
    for _ in range(9):  # nothing but repeats, for a while
        writer.clock.advance(ALONE.total_seconds() / 4)
        alone.append(writer.batch(1))
    assert alone == [(0, 0, 0)] * 4 + [(0, 1, 1)] + [(0, 0, 0)] * 4
    assert rows(writer.lake, EVENTS).height == 1


def harm(failed: int, executed: int, tool: str = "tool") -> dict[str, Any]:
    return a_row(tool=tool, executed=executed, failed=failed)


def test_failures_in_a_row_in_one_cell_hurry_and_single_ones_do_not() -> None:
    assert not may_cross(increments())
    assert not may_cross(increments(harm(0, 40)))
    assert not may_cross(increments(harm(2, 2)))
    assert not may_cross(increments(harm(3, 40)))
    assert not may_cross(increments(*(harm(1, 1, f"tool-{n}") for n in range(9))))
    assert may_cross(increments(harm(1, 1), harm(2, 2)))  # two minutes of one epoch
    assert may_cross(increments(a_row(incidents=1, severe_incidents=1)))
    assert may_cross(increments(a_row(undone=3)))
    assert not may_cross(increments(a_row(decisions=9, denied=9), a_row(decisions=9, queued=9)))


def test_what_fails_for_long_is_committed_once_a_second_again() -> None:
    haste, failing, fine = Haste(), increments(harm(9, 9)), increments(harm(0, 9))
    assert [haste.after(failing) for _ in range(60)] == [True] * (MOST_IN_HASTE - 1) + [False] * (61 - MOST_IN_HASTE)
    assert not haste.after(fine)
    assert not haste.after(failing)
    for _ in range(10):
        assert not haste.after(fine)
    assert haste.after(failing)


class Traffic:
    """A broker to which records come at a steady rate, on a clock that only waiting moves."""

    def __init__(self, per_s: float, *, until_s: float, waiting: int = 0) -> None:
        self.now_s, self._per_s, self._until_s, self._waiting, self._taken = 100.0, per_s, until_s, waiting, 0

    def monotonic(self) -> float:
        return self.now_s

    def _there(self) -> int:
        return self._waiting + int((min(self.now_s, 100.0 + self._until_s) - 100.0) * self._per_s)

    def consume(self, most: int, timeout_s: float) -> list[Message]:
        deadline_s = self.now_s + timeout_s
        while self._there() - self._taken < most and self.now_s < deadline_s:
            self.now_s = min(self.now_s + 0.001, deadline_s)
        count = min(most, self._there() - self._taken)
        self._taken += count
        place = "agent.decisions", 0
        return [
            Message(topic=place[0], partition=place[1], offset=self._taken - count + n, value=b"{}", timestamp=(1, 1))
            for n in range(count)
        ]

    def list_topics(self, *_: object, **__: object) -> Any:
        return type("Topics", (), {"cluster_id": "log"})

    def get_watermark_offsets(self, *_: object, **__: object) -> tuple[int, int]:
        return 0, self._there()


class Ready(Progress):
    """A plane that takes no time."""

    def wait_for(self, *_: object) -> bool:
        return True


def handed_over(
    monkeypatch: pytest.MonkeyPatch, traffic: Traffic, *, seconds: float, progress: Progress | None = None
) -> list[tuple[float, int]]:
    """When each batch was handed over, in seconds, and with how many records."""
    batches: list[tuple[float, int]] = []
    none: Any = None

    def put(item: Any) -> None:
        size = sum(len(records.offsets) for records in item.partitions.values())
        batches.append((round(traffic.now_s - 100, 3), size))

    class Clock:
        monotonic = staticmethod(traffic.monotonic)

    monkeypatch.setattr(source_module, "time", Clock)
    source = Source("nowhere:1", "log", none, put, progress or Ready(), on_failure=lambda _: None)
    consume = traffic.consume

    def until_the_end(most: int, timeout_s: float) -> list[Message]:
        if traffic.now_s >= 100 + seconds:
            source._stopping.set()  # noqa: SLF001
        return consume(most, timeout_s)

    monkeypatch.setattr(traffic, "consume", until_the_end)
    source._read(traffic)  # type: ignore[arg-type]  # noqa: SLF001
    return batches


def test_a_steady_stream_is_committed_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = handed_over(monkeypatch, Traffic(40, until_s=30), seconds=20)
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(batches)]
    assert batches[0][0] <= SOONEST_S + 0.01, "the first record after a pause does not wait for the second to pass"
    assert all(0.99 <= gap <= 1.3 for gap in gaps[:-1])
    assert len(batches) in range(17, 23)


def test_a_large_batch_goes_early(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = handed_over(monkeypatch, Traffic(20_000, until_s=10), seconds=4)
    assert [size for _, size in batches[1:-1]] == [LARGE_RECORDS] * (len(batches) - 2)
    assert all(later - earlier <= 0.51 for (earlier, _), (later, _) in pairwise(batches))


@pytest.mark.slow
def test_where_much_waits_batches_are_as_large_as_they_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = handed_over(monkeypatch, Traffic(0, until_s=1, waiting=200_000), seconds=0)
    assert [size for _, size in batches] == [LARGE_RECORDS]
    batches = handed_over(monkeypatch, Traffic(0, until_s=1, waiting=200_000), seconds=0.5)
    assert max(size for _, size in batches) == BATCH_RECORDS


def test_in_a_hurry_batches_follow_as_soon_as_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Ready()
    progress.hurry_is(hurry=True)
    batches = handed_over(monkeypatch, Traffic(40, until_s=30), seconds=3, progress=progress)
    assert all(later - earlier <= 2 * SOONEST_S for (earlier, _), (later, _) in pairwise(batches))


def test_the_source_says_once_that_nothing_more_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = handed_over(monkeypatch, Traffic(40, until_s=3), seconds=20)
    (at_s,) = [at_s for at_s, size in batches if size == 0]
    assert batches[-1][0] == at_s
    assert IDLE_S <= at_s - batches[-2][0] <= IDLE_S + 2 * SOONEST_S
