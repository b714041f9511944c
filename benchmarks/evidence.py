"""What the evidence about many cells costs, against bisecting for the bounds, measured in the same run.

Prints one line a call: milliseconds, and the share of the time that 40 bisection steps take for the same two bounds.
The bisection is the plain way to invert an e-value, and its 40 steps reach the same grid of 2^-40.

    python benchmarks/evidence.py --cells 100000
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from asking import ask

from analytics.evidence.sequential import bounds, crosses, log_e_value, trials_to_decision

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from analytics.evidence.sequential import Direction, FloatArray

THRESHOLD = 0.02
ALPHA = 0.05
REPEATS = 3


def synthetic_cells(count: int) -> tuple[FloatArray, FloatArray]:
    """Draw failures and trials of cells from one trial to 100 000, at rates from 0.1 % to 50 %."""
    rng = np.random.default_rng(20)
    trials = np.floor(10 ** rng.uniform(0, 5, count))
    return rng.binomial(trials.astype(np.int64), 10 ** rng.uniform(-3, -0.3, count)).astype(np.float64), trials


def bisected_bounds(failures: FloatArray, trials: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Invert the e-value by 40 halvings a bound, through the public functions alone."""
    found: dict[Direction, FloatArray] = {}
    directions: tuple[Direction, ...] = ("above", "below")
    for direction in directions:
        low, high = np.zeros_like(trials), np.ones_like(trials)
        for _ in range(40):
            middle = (low + high) / 2
            crossed = crosses(log_e_value(failures, trials, middle, direction=direction), ALPHA)
            up = crossed if direction == "above" else ~crossed
            low, high = np.where(up, middle, low), np.where(up, high, middle)
        found[direction] = low if direction == "above" else high
    return found["above"], found["below"]


def best_seconds(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Time a call, and take the least disturbed of a few runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def run(count: int) -> dict[str, Any]:
    """Measure; the numbers."""
    failures, trials = synthetic_cells(count)
    for exact, bisected in zip(bounds(failures, trials, alpha=ALPHA), bisected_bounds(failures, trials), strict=True):
        # One halving may still miss by the last grid step, and the claim is empty unless both find the same bound.
        if float(np.abs(exact - bisected).max()) > 2**-39:
            raise SystemExit("the bounds and their bisection disagree: the ratio would compare two different answers")
    bisection = best_seconds(lambda: bisected_bounds(failures, trials), 1)
    calls: dict[str, Callable[[], object]] = {
        "log_e_value, one threshold": lambda: log_e_value(failures, trials, THRESHOLD, direction="above"),
        "log_e_value, a threshold per cell": lambda: log_e_value(
            failures, trials, np.full(count, THRESHOLD), direction="above"
        ),
        "bounds, both": lambda: bounds(failures, trials, alpha=ALPHA),
        "trials_to_decision": lambda: trials_to_decision(failures, trials, THRESHOLD, direction="below", alpha=ALPHA),
    }
    return {
        "cells": count,
        "bisection_s": bisection,
        "calls_s": {name: best_seconds(each) for name, each in calls.items()},
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What was found, for people."""
    yield f"{found['cells']} cells; 40 bisection steps for both bounds: {found['bisection_s'] * 1e3:.0f} ms = 1"
    for name, seconds in found["calls_s"].items():
        yield f"{name:34} {seconds * 1e3:8.1f} ms   {seconds / found['bisection_s']:.3f} of the bisection"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what can be asked."""
    parser.add_argument("--cells", type=int, default=100_000)


if __name__ == "__main__":
    ask(__doc__, options, lambda asked: run(asked.cells), lines)
