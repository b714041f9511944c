"""Judges and keepers as processes that die, sleep and wake up: one ledger, and every count once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from verdict_cases import CELL, a_row, executions, increments
from workers import await_that

from analytics.lake.rollup import is_rolled
from analytics.lake.table_schemas import SIGNALS, VERDICTS
from analytics.lake.tables import Lake
from analytics.signals.cells import EPOCH
from analytics.signals.definitions import COUNTERS
from analytics.verdicts import ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LEASE_S = 4.0
GATES_TEXT = """\
version: 1
gates:
  - name: errors
    ladder: [draft_write, approval_gated]
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.1}
"""


class JudgeProcess:
    """A judge that can be stopped, woken and killed."""

    def __init__(self, folder: Path, root: str, gates: Path) -> None:
        folder.mkdir(parents=True)
        self._said = folder / "said.jsonl"
        with self._said.open("wb") as said, (folder / "errors.log").open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).parents[1] / "judge_process.py"), root, str(gates), str(LEASE_S)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=errors,
            )

    def said(self, what: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._said.read_text().splitlines() if line.endswith("}")]
        return [line for line in lines if line["what"] == what]

    def epochs(self) -> list[int]:
        """The epochs in which it has judged, oldest first."""
        return [line["epoch"] for line in self.said("judges")]

    def end(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    path = tmp_path / "gates.yaml"
    path.write_text(GATES_TEXT)
    return path


@pytest.fixture
def judges(tmp_path: Path, either_lake: str, gates: Path) -> Iterator[list[JudgeProcess]]:
    Lake.open(either_lake)
    started = [JudgeProcess(tmp_path / f"judge-{number}", either_lake, gates) for number in range(2)]
    try:
        for judge in started:
            await_that(lambda judge=judge: bool(judge.said("ready")), "a judge's start")  # type: ignore[misc] # bound
        yield started
    finally:
        for judge in started:
            judge.end()


def now_row(minute: int) -> dict[str, Any]:
    at = datetime.now(UTC) - timedelta(minutes=30 - minute)
    bucket = at.replace(second=0, microsecond=0)
    return a_row(**executions(20, minute % 3)) | {"bucket": bucket, "last_event_at": at}


def verdicts(root: str) -> pl.DataFrame:
    return Lake.open(root).scan(VERDICTS).select("verdict_id", "lake_version", "judged_at").collect()


def holder_first(judges: list[JudgeProcess]) -> tuple[JudgeProcess, JudgeProcess]:
    """The judge of the latest tenure, and the other; a slow machine may have seen more than one by now."""
    other, holder = sorted(judges, key=lambda judge: max(judge.epochs(), default=-1))
    return holder, other


def test_a_judge_that_wakes_up_after_its_lease_writes_nothing(either_lake: str, judges: list[JudgeProcess]) -> None:
    lake = Lake.open(either_lake)
    lake.append(SIGNALS, increments(now_row(0)))
    await_that(lambda: any(judge.epochs() for judge in judges), "one to judge")
    await_that(lambda: verdicts(either_lake).height > 0, "a verdict")
    zombie, heir = holder_first(judges)
    zombie.process.send_signal(signal.SIGSTOP)
    slept_in = zombie.epochs()[-1]
    lake.append(SIGNALS, increments(now_row(1)))
    await_that(lambda: max(heir.epochs(), default=-1) > slept_in, "the other to judge")
    taken_over_in = heir.epochs()[-1]
    await_that(lambda: ledger.newest_lake_version(lake) == lake.version(SIGNALS), "its verdict")
    zombie.process.send_signal(signal.SIGCONT)
    for minute in range(2, 8):  # both have something to say from now on
        lake.append(SIGNALS, increments(now_row(minute)))
        await_that(lambda: ledger.newest_lake_version(lake) == lake.version(SIGNALS), "the next verdict")
    assert not [epoch for epoch in zombie.epochs() if slept_in < epoch < taken_over_in]
    assert not set(zombie.epochs()) & set(heir.epochs())
    assert not verdicts(either_lake)["verdict_id"].is_duplicated().any()


def test_a_dead_judge_is_replaced_and_nothing_is_said_twice(either_lake: str, judges: list[JudgeProcess]) -> None:
    lake = Lake.open(either_lake)
    lake.append(SIGNALS, increments(now_row(0)))
    await_that(lambda: verdicts(either_lake).height > 0, "a verdict")
    dead, heir = holder_first(judges)
    dead.process.kill()
    await_that(lambda: max(heir.epochs(), default=-1) > max(dead.epochs()), "the other to judge")
    lake.append(SIGNALS, increments(now_row(1)))
    await_that(lambda: ledger.newest_lake_version(lake) == lake.version(SIGNALS), "its verdict")
    assert not verdicts(either_lake)["verdict_id"].is_duplicated().any()


def sums(lake: Lake) -> list[tuple[Any, ...]]:
    hour = pl.col("bucket").dt.truncate("1h").alias("hour")
    counted = lake.scan(SIGNALS).group_by(*EPOCH, hour).agg(pl.col(COUNTERS).sum()).collect()
    return sorted(counted.rows())


def test_maintenance_killed_at_any_moment_changes_no_count(either_lake: str, gates: Path, tmp_path: Path) -> None:
    random, lake = Random(7), Lake.open(either_lake)
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    everything: list[dict[str, Any]] = []

    def append(count: int) -> None:
        rows = []
        for _ in range(count):
            at = now - timedelta(minutes=random.randint(0, 5 * 24 * 60))
            cell = CELL._replace(tool=f"tool-{random.randint(0, 2)}")
            counts = executions(random.randint(1, 5), 1)
            if random.random() < 0.1:  # one execution that is still missing, or that nobody expected
                counts["executed"] += random.choice([-1, 1])
            row = a_row(cell, **counts)
            rows.append(row | {"bucket": at, "last_event_at": at + timedelta(seconds=random.randint(0, 3_000))})
        everything.extend(rows)
        lake.append(SIGNALS, increments(*rows))

    for _ in range(40):
        append(300)
    command = [
        sys.executable,
        "-m",
        "stagekeeper",
        "maintenance",
        "--lake",
        either_lake,
        "--gates",
        str(gates),
        "--json",
    ]
    began = time.monotonic()
    run = subprocess.run(command, capture_output=True, timeout=120, check=False)
    lasts_s = time.monotonic() - began
    assert run.returncode == 0, run.stderr
    for _ in range(5):
        append(400)  # late minutes, which the next round rolls
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + random.uniform(0.4, 1.0) * lasts_s
        while process.poll() is None and time.monotonic() < until:
            append(5)  # while it is at it
        process.kill()
        process.wait()
    expected = pl.DataFrame(everything, schema=increments().schema)
    hour = pl.col("bucket").dt.truncate("1h").alias("hour")
    assert sums(lake) == sorted(expected.group_by(*EPOCH, hour).agg(pl.col(COUNTERS).sum()).rows())
    assert lake.scan(SIGNALS).filter(is_rolled()).collect().height > 0
    assert lake.scan(SIGNALS).collect().height < len(everything)
