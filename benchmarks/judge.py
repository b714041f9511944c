"""What a tick of the judge costs, over fleets with a week behind them: all of it, from the lake to the ledger.

A tick reads what was appended since the one before, folds it, judges, and appends to the ledger. The lake of each fleet
holds seven days of buckets of every cell, as many in an hour as asked for, written as the data plane writes them. Then
come ticks, between which the clock moves by twenty seconds, so that a minute closes in every third:

    all      every cell has a new increment
    few      one cell in a hundred has one
    none     nothing was appended

Ticks in which everything is new (the first one, and the one after an edit of the gate file) write a row of the ledger
for every cell, in portions of five hundred; they are shown apart. Everything is measured in one run, by the median and
the slowest tick, under the gate file of the demonstration (ten signals, the detector at work).

    python benchmarks/judge.py [--cells 1000,10000] [--buckets-an-hour 6]
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from asking import add_cells, ask, over_fleets

from analytics.gates.gate_file import GateFile
from analytics.judging.judge import Judge
from analytics.lake.table_schemas import COLUMNS, SIGNALS, VERDICTS
from analytics.lake.tables import Lake
from analytics.signals.definitions import COUNTERS
from analytics.verdicts import heartbeats
from analytics.verdicts.heartbeats import JudgeHeartbeat

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

NOON = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)
DAYS = 7
GATES = Path(__file__).parents[1] / "stagekeeper" / "embedded" / "demo_gates.yaml"
TICK = timedelta(seconds=2)
ROUNDS = 12
"""Ticks of each kind."""


def increments(cells: np.ndarray, minutes: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    """Rows of the table `signals`: healthy cells by number, minutes counted from a week before noon."""
    rows = cells.size
    executed = rng.poisson(20, rows).astype(np.int64)
    counts = dict.fromkeys(COUNTERS, np.zeros(rows, dtype=np.int64))
    counts |= dict.fromkeys(("decisions", "allowed", "expected", "executed"), executed)
    counts |= {name: rng.binomial(executed, p) for name, p in (("failed", 0.01), ("undone", 0.004))}
    start = NOON - timedelta(days=DAYS)
    frame = pl.DataFrame(
        {"cell": cells, "bucket": pl.Series(minutes * 60_000_000 + int(start.timestamp()) * 1_000_000), **counts}
    ).with_columns(
        pl.col("bucket").cast(pl.Datetime("us", "UTC")),
        pl.format("tool-{}", "cell").alias("tool"),
        pl.lit("production").alias("environment"),
        *(pl.lit(value).alias(name) for name, value in (("workflow", "w"), ("stage", "draft_write"))),
        *(pl.lit(value).alias(name) for name, value in (("cohort", "all"), ("epoch", "e"))),
        pl.lit(4, dtype=pl.Int8).alias("risk_rank"),
        pl.lit([300, 320], dtype=pl.List(pl.Int16)).alias("latency_bins"),
        pl.lit([15, 5], dtype=pl.List(pl.Int64)).alias("latency_counts"),
        pl.lit([], dtype=pl.List(pl.Int16)).alias("cost_bins"),
        pl.lit([], dtype=pl.List(pl.Int64)).alias("cost_counts"),
    )
    known_at = pl.col("bucket") + timedelta(seconds=59)
    frame = frame.with_columns(last_event_at=known_at, last_ingested_at=known_at)
    return frame.select(pl.col(name).cast(kind) for name, kind in COLUMNS[SIGNALS].items())


def since_the_first(moment: datetime) -> int:
    """Whole minutes from a week before noon."""
    return int((moment - NOON + timedelta(days=DAYS)).total_seconds() // 60)


def a_week(lake: Lake, cells: int, an_hour: int, rng: np.random.Generator) -> int:
    """Fill a lake hour by hour; the rows that it holds."""
    rows = 0
    portion = max(1, 400_000 // (cells * an_hour))
    for first in range(0, DAYS * 24, portion):
        hours = np.arange(first, min(first + portion, DAYS * 24))
        # Each cell at minutes of its own, so that no minute has them all.
        within = (np.arange(an_hour) * (60 // an_hour) + rng.integers(0, 60 // an_hour, (cells, 1))) % 60
        minutes = (hours[:, None, None] * 60 + within[None, :, :]).ravel()
        number = np.broadcast_to(np.arange(cells)[None, :, None], (hours.size, cells, an_hour)).ravel()
        lake.append(SIGNALS, increments(number, minutes, rng))
        rows += minutes.size
    return rows


def ticks(
    judge: Judge, lake: Lake, cells: int, *, share: int, now: datetime, rng: np.random.Generator
) -> Iterator[tuple[float, datetime]]:
    """Seconds of ticks before each of which some cells (one in `share`) got an increment; none where it is 0."""
    for _ in range(ROUNDS):
        now += timedelta(seconds=20)
        if share:
            changed = np.flatnonzero(rng.integers(0, share, cells) == 0)
            lake.append(SIGNALS, increments(changed, np.full(changed.size, since_the_first(now)), rng))
        begun = time.perf_counter()
        judge.tick(now)
        yield time.perf_counter() - begun, now


def measure(cells: int, an_hour: int, root: Path) -> dict[str, Any]:
    """What ticks of each kind take in one fleet."""
    rng = np.random.default_rng(20)
    lake = Lake.open(str(root / f"lake-{cells}"))
    rows = a_week(lake, cells, an_hour, rng)
    gate_path = root / "gates.yaml"
    gate_path.write_bytes(GATES.read_bytes())
    gates = GateFile.load(gate_path)
    # As after a restart: the judge before this one stood here.
    heartbeats.append(lake, JudgeHeartbeat(NOON, NOON, lake.version(SIGNALS), gates.sha256, 0))
    judge = Judge(lake, gate_path, settle_s=0)
    print(f"{cells:,} cells, {rows:,} rows of signals", file=sys.stderr, flush=True)
    now, first = NOON + TICK, time.perf_counter()
    judge.tick(now)
    kinds = {"start": _summed([time.perf_counter() - first], lake)}
    kinds["new rows"] = _summed(until_written(judge, lake, now), lake)
    now += timedelta(minutes=1)
    for name, share in (("all", 1), ("few", 100), ("none", 0)):
        found = list(ticks(judge, lake, cells, share=share, now=now, rng=rng))
        now = found[-1][1]
        kinds[name] = _summed([seconds for seconds, _ in found], lake)
    gate_path.write_bytes(GATES.read_bytes() + b"\n# edited\n")
    kinds["edited"] = _summed(until_written(judge, lake, now), lake)
    return {"cells": cells, "rows": rows, "ticks": kinds}


def until_written(judge: Judge, lake: Lake, now: datetime) -> list[float]:
    """Seconds of each tick until the ledger has a row for every cell."""
    seconds, before = [], lake.scan(VERDICTS).select(pl.len()).collect().item()
    while True:
        begun = time.perf_counter()
        judge.tick(now)
        seconds.append(time.perf_counter() - begun)
        after = lake.scan(VERDICTS).select(pl.len()).collect().item()
        if after == before:
            return seconds
        before = after


def _summed(seconds: list[float], lake: Lake) -> dict[str, float]:
    return {
        "count": len(seconds),
        "median_s": statistics.median(seconds),
        "slowest_s": max(seconds),
        "ledger_rows": lake.scan(VERDICTS).select(pl.len()).collect().item(),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Measure fleets of several sizes; the numbers."""
    return over_fleets(asked.cells, lambda cells, root: measure(cells, asked.buckets_an_hour, root))


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What was found, for people."""
    yield found["machine"]
    for fleet in found["fleets"]:
        yield f"{fleet['cells']:,} cells, {fleet['rows']:,} rows of signals"
        for name, each in fleet["ticks"].items():
            yield (
                f"  {name:<9} {each['count']:>3} ticks  median {1e3 * each['median_s']:>8.0f} ms  slowest "
                f"{1e3 * each['slowest_s']:>8.0f} ms  {1e6 * each['median_s'] / fleet['cells']:>7.1f} us a cell  "
                f"ledger {each['ledger_rows']:>8,} rows  peak {each['peak_mb']:>6,.0f} MB"
            )


def options(parser: argparse.ArgumentParser) -> None:
    """Add what can be asked."""
    add_cells(parser)
    parser.add_argument("--buckets-an-hour", type=int, default=6, help="minutes in which a cell acts")


if __name__ == "__main__":
    ask(__doc__, options, run, lines)
