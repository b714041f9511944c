"""What one look of the judge costs: all cells, against the few for which something changed, measured in the same run.

Prints milliseconds a look and microseconds a cell. The cells have half an hour of minutes each, under the gate file of
the demonstration (ten signals, the detector at work).

    python benchmarks/judge.py [cells]
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from analytics.cells import Folded
from analytics.counters import COUNTERS
from analytics.lake.schemas import COLUMNS, SIGNALS
from analytics.verdicts.gates import GateFile
from analytics.verdicts.judging import judge

if TYPE_CHECKING:
    from collections.abc import Collection

    from producers.wire.receipt import Cell

NOON = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)
MINUTES = 30
GATES = Path(__file__).parents[1] / "stagekeeper" / "demo" / "gates.yaml"


def increments(cells: int) -> pl.DataFrame:
    """Rows of the table `signals`: healthy cells, one row a minute."""
    rng = np.random.default_rng(20)
    rows = cells * MINUTES
    cell, minute = np.repeat(np.arange(cells), MINUTES), np.tile(np.arange(MINUTES), cells)
    executed = rng.poisson(20, rows).astype(np.int64)
    counts = dict.fromkeys(COUNTERS, np.zeros(rows, dtype=np.int64))
    counts |= dict.fromkeys(("decisions", "allowed", "expected", "executed"), executed)
    counts |= {name: rng.binomial(executed, p) for name, p in (("failed", 0.01), ("undone", 0.004))}
    buckets = pl.Series("bucket", [NOON + timedelta(minutes=at) for at in range(MINUTES)]).gather(minute)
    frame = pl.DataFrame(
        {
            "tool": pl.Series([f"tool-{at}" for at in range(cells)]).gather(cell),
            "bucket": buckets,
            "last_event_at": buckets + timedelta(seconds=59),
            **counts,
        }
    ).with_columns(
        pl.lit("production").alias("environment"),
        *(pl.lit(value).alias(name) for name, value in (("workflow", "w"), ("stage", "draft_write"))),
        *(pl.lit(value).alias(name) for name, value in (("cohort", "all"), ("epoch", "e"))),
        pl.lit(4, dtype=pl.Int8).alias("risk_rank"),
        pl.lit([300, 320], dtype=pl.List(pl.Int16)).alias("latency_bins"),
        pl.lit([15, 5], dtype=pl.List(pl.Int64)).alias("latency_counts"),
        pl.lit([], dtype=pl.List(pl.Int16)).alias("cost_bins"),
        pl.lit([], dtype=pl.List(pl.Int64)).alias("cost_counts"),
    )
    return frame.select(pl.col(name).cast(kind) for name, kind in COLUMNS[SIGNALS].items())


def look_seconds(folded: Folded, gates: GateFile, cells: Collection[Cell]) -> float:
    """Time one look at some cells, the least disturbed of three."""
    watermark, seconds = NOON + timedelta(minutes=MINUTES), []
    for _ in range(3):
        start = time.perf_counter()
        judge(folded, gates, watermark=watermark, lake_version=1, judged_at=watermark, cells=cells)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main(cells: int) -> None:
    """Print what a look at all cells and one at every hundredth costs."""
    folded, gates = Folded.of(increments(cells)), GateFile.load(GATES)
    every = sorted(folded.cells())
    whole_s = look_seconds(folded, gates, every)
    few_s = look_seconds(folded, gates, every[::100])
    for name, count, seconds in (("all", len(every), whole_s), ("changed", len(every[::100]), few_s)):
        print(f"{name:<8} {count:>7,} cells {1e3 * seconds:>9.0f} ms a look {1e6 * seconds / count:>7.0f} us a cell")
    print(f"a look at what changed takes {few_s / whole_s:.1%} of a look at everything")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
