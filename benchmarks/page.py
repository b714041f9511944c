"""What a look of the page costs, over fleets with a week behind them, beside reading everything anew.

The lake of each fleet holds seven days of buckets of every cell and a verdict on each. A page that is open takes in
what came since its last look (before each, one cell in ten gets an increment and the judge looks); beside it stands a
page that was opened just now, in the same run.

    python benchmarks/page.py --cells 1000,10000
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from asking import add_cells, ask, over_fleets
from judge import GATES, NOON, a_week, increments, since_the_first, until_written

from analytics.judging.judge import Judge
from analytics.lake.table_schemas import SIGNALS
from analytics.lake.tables import Lake
from dashboard.data.action_rows import action_rows
from dashboard.data.needs import needs
from dashboard.data.reader import LakeReader
from dashboard.urls import PageLocation
from dashboard.views.overview import matrix, need_list

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

LOOKS = 9
STEP = timedelta(seconds=20)


def timed_look(page: LakeReader) -> float:
    """Seconds of one look and of building the overview of it."""
    began = time.perf_counter()
    snapshot = page.snapshot()
    if snapshot is None:
        raise SystemExit("there is no lake")
    here = PageLocation()
    matrix(action_rows(snapshot), snapshot, here)
    need_list(needs(page.followed(NOON), snapshot.verdicts, [], here), here, NOON)
    return time.perf_counter() - began


def measure(cells: int, root: Path) -> dict[str, Any]:
    """Looks at one fleet."""
    rng = np.random.default_rng(20)
    lake = Lake.open(str(root / f"lake-{cells}"))
    rows = a_week(lake, cells, 6, rng)
    gates = root / "gates.yaml"
    gates.write_bytes(GATES.read_bytes())
    judge = Judge(lake, gates, settle_s=0)
    until_written(judge, lake, NOON + STEP)
    print(f"{cells:,} cells, {rows:,} rows of signals", file=sys.stderr, flush=True)
    page = LakeReader(lake.root)
    opened_s, looks, now = timed_look(page), [], NOON + STEP
    for _ in range(LOOKS):
        now += STEP
        changed = np.flatnonzero(rng.integers(0, 10, cells) == 0)
        lake.append(SIGNALS, increments(changed, np.full(changed.size, since_the_first(now)), rng))
        judge.tick(now)
        looks.append(timed_look(page))
    return {
        "cells": cells,
        "rows": rows,
        "opened_s": opened_s,
        "look_s": statistics.median(looks),
        "slowest_look_s": max(looks),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Measure fleets of several sizes; the numbers."""
    return over_fleets(asked.cells, measure)


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What was found, for people."""
    yield found["machine"]
    for fleet in found["fleets"]:
        yield (
            f"{fleet['cells']:>7,} cells, {fleet['rows']:>10,} rows: opened in {fleet['opened_s']:.1f} s; a look "
            f"{fleet['look_s']:.2f} s (slowest {fleet['slowest_look_s']:.2f} s), "
            f"{fleet['look_s'] / fleet['opened_s']:.3f} of reading all anew; peak {fleet['peak_mb']:,.0f} MB"
        )


if __name__ == "__main__":
    ask(__doc__, add_cells, run, lines)
