"""The detector steps by days, hours, ten minutes and minutes, and knows the same however it came to know it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from verdict_cases import CELL, NOON, a_row, gate_file

from analytics.evidence.change_detector import Watch
from analytics.judging.regression import Watched
from analytics.judging.window_sums import WindowSums
from analytics.lake.rollup import roll
from analytics.lake.table_schemas import COLUMNS, SIGNALS
from analytics.signals.state import CellState

PROMOTED = CELL._replace(stage="narrow_autonomy")
DAYS = 9
HOUR_MINUTES = 60
WATCHED = Watched("execution_error", 0.05, 1e4)
GATES = gate_file("signal: execution_error, role: guardrail, limit: 0.05")
END = NOON + timedelta(days=DAYS, hours=3, minutes=7)


def history(rng: np.random.Generator, rate: float = 0.04) -> list[dict[str, Any]]:
    """Three actions in every seventh minute of nine days."""
    rows = []
    for minute in range(0, DAYS * 24 * HOUR_MINUTES + 180, 7):
        failed = int(rng.binomial(3, rate))
        counts = {"decisions": 3, "allowed": 3, "expected": 3, "executed": 3, "failed": failed}
        rows.append(a_row(PROMOTED, minute=minute, **counts))
    return rows


def frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=COLUMNS[SIGNALS])


def level(sums: WindowSums) -> float:
    (regression,) = sums.detector.regressions(WATCHED, np.arange(1))
    assert regression.log_level is not None
    return regression.log_level


def plain(rows: list[dict[str, Any]]) -> float:
    """The same level, from the counts by themselves."""
    spans_end = (END - timedelta(hours=6)).replace(minute=0)
    hours_end = spans_end - timedelta(hours=36)
    days_end = (hours_end - timedelta(hours=96)).replace(hour=0)
    batches: dict[Any, list[int]] = {}
    for row in rows:
        at = row["bucket"]
        if at < days_end:
            at = at.replace(hour=0, minute=0)
        elif at < hours_end:
            at = at.replace(minute=0)
        elif at < spans_end:
            at = at.replace(minute=at.minute // 10 * 10)
        batch = batches.setdefault(at, [0, 0])
        batch[0] += row["failed"]
        batch[1] += row["executed"]
    watch = Watch.start(1, threshold=WATCHED.limit, run_length=WATCHED.run_length)
    for at, before in zip(sorted(batches), [None, *sorted(batches)], strict=False):
        new_hour = before is None or at.replace(minute=0) != before.replace(minute=0)
        new_ten = new_hour or (before is not None and at.minute // 10 != before.minute // 10)
        restarts = np.array([[0.15 + 8.0 * new_ten + 3.0 * new_hour]])
        watch = watch.after([batches[at][0]], [batches[at][1]], restarts=restarts)
    return float(watch.log_level[0])


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return history(np.random.default_rng(3), rate=0.06)


def test_it_steps_by_days_and_in_the_end_by_minutes(rows: list[dict[str, Any]]) -> None:
    assert level(WindowSums(CellState.from_increments(frame(rows)), GATES, END)) == plain(rows)


@pytest.mark.slow
def test_it_is_the_same_when_kept_up_look_by_look_and_let_go_of(rows: list[dict[str, Any]]) -> None:
    state, first = CellState(), NOON + timedelta(hours=1)
    state.add(frame([row for row in rows if row["bucket"] < first]))
    sums = WindowSums(state, GATES, first)
    before = first
    while before < END:
        now = min(before + timedelta(hours=5, minutes=11), END)
        increment = state.add(frame([row for row in rows if before <= row["bucket"] < now]))
        sums.advance(increment, now)
        sums.detector.near(WATCHED, np.arange(1))
        state.settle(now, GATES.horizon_s, whole=np.zeros(1, dtype=np.bool_))
        before = now
    assert level(sums) == plain(rows)


@pytest.mark.parametrize("hours_ago", [1, 30, 100, 200])
def test_what_comes_late_changes_the_batch_of_its_decision(rows: list[dict[str, Any]], hours_ago: int) -> None:
    state = CellState.from_increments(frame(rows))
    sums = WindowSums(state, GATES, END)
    level(sums)
    at = max(row["bucket"] for row in rows if row["bucket"] <= END - timedelta(hours=hours_ago) and not row["failed"])
    late = {**a_row(PROMOTED, failed=2), "bucket": at}
    # The executions were counted before; their failures are heard of now.
    sums.advance(state.add(frame([late])), END)
    assert level(sums) == level(WindowSums(CellState.from_increments(frame([*rows, late])), GATES, END))
    assert level(sums) != level(WindowSums(CellState.from_increments(frame(rows)), GATES, END))


def test_minutes_that_were_rolled_up_are_the_same_hours(rows: list[dict[str, Any]]) -> None:
    until = END - timedelta(seconds=GATES.unrolled_s)
    old = frame([row for row in rows if row["bucket"] < until.replace(minute=0)])
    new = frame([row for row in rows if row["bucket"] >= until.replace(minute=0)])
    state = CellState.from_increments(pl.concat([roll(old).select(new.columns), new]))
    assert level(WindowSums(state, GATES, END)) == plain(rows)


def test_a_past_that_cannot_have_alarmed_is_not_stepped_through() -> None:
    sums = WindowSums(CellState.from_increments(frame(history(np.random.default_rng(4), rate=0.005))), GATES, END)
    assert not sums.detector.near(replace(WATCHED, run_length=1e6), np.arange(1)).any()


def test_an_alarm_of_days_ago_stands_and_says_when() -> None:
    rng = np.random.default_rng(4)
    rows = history(rng, rate=0.01)
    began = NOON + timedelta(days=1)
    for row in rows:
        if began <= row["bucket"] < began + timedelta(hours=10):
            row["failed"] = 2
    sums = WindowSums(CellState.from_increments(frame(rows)), GATES, END)
    (regression,) = sums.detector.regressions(WATCHED, np.arange(1))
    assert sums.detector.near(WATCHED, np.arange(1)).all()
    assert regression.since is not None
    assert began - timedelta(hours=12) <= regression.since <= began + timedelta(hours=10)
