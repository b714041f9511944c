"""Promotion rules in use elsewhere beside ours, on the same streams, whose truth is known.

Every rule sees every outcome as it is reported, ours through the judge that production runs. Counted are wrong
promotions and wrong rollbacks, with exact 95 % intervals, and the minutes that right decisions took. GrowthBook's test
runs from its own package where `--gbstats` names a Python that has it.

    python benchmarks/rules.py --times 0.05 --rarely 6
    python benchmarks/rules.py --page docs/promotion-rules.md --picture docs/images/promotion-rules.svg
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asking import ask
from places import machine
from rule_scenarios import SCENARIOS
from rule_trials import on_their_own_terms, tried
from rules_page import picture, summary, with_tables

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

_OWN_STREAMS = 1_000


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Every scenario, two at a time; what was found."""
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    names = [each.name for each in SCENARIOS if asked.only is None or each.name in asked.only]
    play = partial(tried, times=asked.times, rarely=asked.rarely, gbstats=asked.gbstats)
    scenarios: dict[str, Any] = {}
    # The longest are the last of them.
    with ProcessPoolExecutor(max_workers=min(2, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        for found in pool.map(play, reversed(names)):
            print(f"[rules] {found['name']}: {found['streams']} streams", file=sys.stderr, flush=True)
            scenarios[found["name"]] = found
    return {
        "machine": machine(),
        "times": asked.times,
        "scenarios": [scenarios[name] for name in names],
        "own_terms": on_their_own_terms(max(20, round(_OWN_STREAMS * min(asked.times, 4)))),
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What was found, for people."""
    for scenario in found["scenarios"]:
        yield from (f"\n{scenario['name']} ({scenario['streams']} streams): {scenario['says']}", *summary(scenario))


def options(parser: argparse.ArgumentParser) -> None:
    """Add what can be asked."""
    parser.add_argument("--times", type=float, default=1.0, help="how many times the usual numbers of streams")
    parser.add_argument("--rarely", type=int, default=1, help="how many times as rarely our engine looks")
    parser.add_argument("--only", nargs="+", choices=[each.name for each in SCENARIOS], help="these scenarios alone")
    parser.add_argument("--gbstats", type=Path, help="a Python that has GrowthBook's package")
    parser.add_argument("--page", type=Path, help="write the tables between the marks of this page")
    parser.add_argument("--picture", type=Path, help="write the share ever promoted against the true rate, as SVG")


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Measure, and write what is asked for."""
    found = run(asked)
    if asked.page is not None:
        asked.page.write_text(with_tables(asked.page.read_text(encoding="utf-8"), found), encoding="utf-8")
    if asked.picture is not None:
        asked.picture.write_text(picture(found), encoding="utf-8")
    return found


if __name__ == "__main__":
    ask(__doc__, options, measure, lines)
