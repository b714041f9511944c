"""Old minutes summed to hours: whatever is rolled, in whatever rounds, every reader finds the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from verdict_cases import CELL, NOON, a_row, gate_file

from analytics.judging.engine import judge
from analytics.lake.rollup import is_rolled, roll
from analytics.lake.table_schemas import COLUMNS, SIGNALS
from analytics.signals.alive_epochs import AliveEpochs
from analytics.signals.cells import EPOCH
from analytics.signals.definitions import COUNTERS, HISTOGRAMS
from analytics.signals.state import CellState, microseconds
from analytics.verdicts.document import VerdictDocument

if TYPE_CHECKING:
    from collections.abc import Sequence

LATER = NOON + timedelta(days=3)
DEADLINE_S = 900.0
GATES = gate_file(
    "signal: undo, role: guardrail, limit: 0.1, maturity: 1h",
    "signal: missing_outcome, role: guardrail, limit: 0.2",
    "signal: latency_p95, role: promote, limit_ms: 3",
    minimum_exposure="{days: 2, hours: 3, timezone: Asia/Kolkata}",
)


@st.composite
def increments(draw: st.DrawFn) -> dict[str, Any]:
    minute = 60 * draw(st.integers(-1, 1)) + draw(st.integers(0, 3))
    allowed = draw(st.integers(0, 3))
    executed = draw(st.integers(0, allowed) | st.just(allowed) | st.just(allowed + 1))
    counts = dict.fromkeys(("decisions", "allowed", "expected"), allowed)
    counts |= {"executed": executed, "undone": draw(st.integers(0, executed))}
    seen = NOON + timedelta(minutes=minute, seconds=draw(st.integers(0, 20_000)))
    return a_row(
        CELL._replace(cohort=draw(st.sampled_from(["all", "all", "all", "eu"]))),
        epoch=draw(st.sampled_from(["e1", "e1", "e1", "e2"])),
        minute=minute,
        last_event_at=seen,
        last_ingested_at=draw(st.none() | st.integers(0, 2_000).map(lambda minutes: seen + timedelta(minutes=minutes))),
        risk_rank=draw(st.none() | st.integers(0, 6)),
        latencies_ms=draw(st.lists(st.integers(1, 5), max_size=3)),
        **counts,
    )


def frame(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=COLUMNS[SIGNALS])


def may_go(rows: pl.DataFrame) -> pl.Series:
    """Not rolled, and neither the first nor the last minute of the epoch."""
    first, last = pl.col("bucket").min().over(EPOCH), pl.col("bucket").max().over(EPOCH)
    return rows.select((pl.col("bucket") > first) & (pl.col("bucket") < last) & ~is_rolled()).to_series()


def by_hour(rows: pl.DataFrame) -> pl.DataFrame:
    """Every sum that a reader can make of an epoch and an hour."""
    key = [*EPOCH, pl.col("bucket").dt.truncate("1h").alias("hour")]
    sums = rows.group_by(key).agg(pl.col(COUNTERS).sum(), pl.col("risk_rank").max(), pl.col("last_event_at").max())
    for name in HISTOGRAMS:
        bins = (
            rows.explode(f"{name}_bins", f"{name}_counts")
            .drop_nulls(f"{name}_bins")
            .group_by(*key, f"{name}_bins")
            .agg(pl.col(f"{name}_counts").sum())
            .sort(f"{name}_bins")
            .group_by(*EPOCH, "hour", maintain_order=True)
            .agg(f"{name}_bins", f"{name}_counts")
        )
        sums = sums.join(bins, on=[*EPOCH, "hour"], how="left")
    return sums.sort(*EPOCH, "hour")


def what_is_said(rows: pl.DataFrame) -> list[Any]:
    """Everything that verdicts rest on, long after."""
    state = CellState.from_increments(rows)
    epochs = np.arange(state.epochs)
    names = state.names(epochs).rows()
    missing = state.missing_outcomes(microseconds(LATER), round(DEADLINE_S * 1_000_000))
    numbers = np.stack(
        [missing.expected, missing.missing, missing.pending, state.first_us, state.last_us, state.event_us]
    )
    histograms = [
        {names[row]: (bins.tolist(), counts.tolist()) for row, (bins, counts) in state.histograms(name, epochs).items()}
        for name in HISTOGRAMS
    ]
    verdicts = judge(state, GATES, watermark=LATER, lake_version=7, judged_at=LATER)
    alive = AliveEpochs.from_state(state, np.ones(len(state.cells), dtype=np.bool_), LATER, GATES.horizon_s)
    by_epoch = dict(zip(names, numbers.T.tolist(), strict=True))
    documents = [VerdictDocument.from_verdict(verdict).to_dict() for verdict in verdicts]
    return [by_epoch, histograms, sorted(names[row] for row in alive.epochs), documents]


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(increments(), min_size=12, max_size=40), st.data())
@pytest.mark.slow
def test_a_rolled_table_says_what_it_said_before(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    table = frame(rows)
    for _ in range(3):
        chosen = pl.Series([data.draw(st.booleans()) for _ in range(table.height)], dtype=pl.Boolean)
        going = may_go(table) & chosen
        rolled = pl.concat([table.filter(~going), roll(table.filter(going))])
        assert rolled.height <= table.height + table.filter(going).height  # never more than a row and its minute's rest
        assert by_hour(rolled).equals(by_hour(table))
        assert what_is_said(rolled) == what_is_said(table)
        table = rolled
        late = data.draw(st.lists(increments(), max_size=4))
        if late:
            table = pl.concat([table, frame(late)])


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(increments(), min_size=12, max_size=30), st.lists(increments(), min_size=1, max_size=10))
def test_what_comes_after_counts_as_if_nothing_had_been_rolled(
    rows: list[dict[str, Any]], late: list[dict[str, Any]]
) -> None:
    table = frame(rows)
    going = may_go(table)
    rolled = pl.concat([table.filter(~going), roll(table.filter(going)), frame(late)])
    whole = pl.concat([table, frame(late)])
    assert by_hour(rolled).equals(by_hour(whole))
    assert what_is_said(rolled) == what_is_said(whole)


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(increments(), min_size=12, max_size=40))
def test_what_was_known_at_a_full_hour_is_still_known(rows: list[dict[str, Any]]) -> None:
    table = frame(rows)
    rolled = roll(table)
    for hour in range(-3, 12):
        known = pl.col("last_event_at") < NOON + timedelta(hours=hour)
        assert by_hour(rolled.filter(known)).equals(by_hour(table.filter(known)))


def test_a_busy_day_of_one_cell_becomes_a_row_an_hour() -> None:
    noon = datetime(2026, 3, 14, 12, tzinfo=UTC)
    rows = frame([a_row(minute=m, decisions=9, allowed=9, expected=9, executed=9) for m in range(24 * 60)] * 3)
    rolled = roll(rows)
    assert rolled.height == 24
    assert rolled.select(is_rolled().all()).item()
    assert rolled["bucket"].min() == noon + timedelta(minutes=59, microseconds=1)
    assert rolled["decisions"].to_list() == [9 * 60 * 3] * 24


def test_a_minute_with_an_execution_missing_keeps_those_two_counts() -> None:
    rows = frame(
        [
            a_row(minute=1, decisions=5, expected=5, executed=4, latencies_ms=[1.0]),
            a_row(minute=2, decisions=2, expected=2, executed=3),
            a_row(minute=3, decisions=1, expected=1, executed=1),
        ]
    )
    rolled = roll(rows)
    hours = {row["bucket"] - NOON: row for row in rolled.iter_rows(named=True)}
    shown = {
        at: (row["decisions"], row["expected"], row["executed"], row["latency_counts"]) for at, row in hours.items()
    }
    assert shown == {
        timedelta(minutes=1): (0, 5, 4, []),
        timedelta(minutes=2): (0, 2, 3, []),
        timedelta(minutes=3, microseconds=1): (8, 1, 1, [1]),
    }
