"""Against a baseline whose rate drifts, split at random: how often the harmless arm goes, and how soon the bad one.

Seeded simulations, one cell a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from simulated import NEVER, first_look, is_median, is_share

from analytics.evidence.rate_ratio import Batches, RatioEvidence, match_history
from analytics.evidence.sequential import crosses, log_e_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulated import BoolArray, FloatArray, IntArray

    from analytics.evidence.sequential import Direction

ALPHA = 0.05


def drifting(batches: int, runs: int, size: int) -> FloatArray:
    """A base rate that swings between 0.2 % and 3.8 %, out of step from run to run."""
    phase = np.linspace(0, 2 * np.pi, runs)
    hour = size * np.arange(batches)[:, np.newaxis] / 1_900
    return 0.02 * (1 + 0.9 * np.sin(2 * np.pi * hour + phase))


def stops(
    rng: np.random.Generator,
    rates: tuple[FloatArray, FloatArray],
    shares: FloatArray,
    size: int,
    *,
    ratio: float = 1.0,
    direction: Direction = "above",
) -> IntArray:
    """How many actions of the new arm it took to cross, looking after every batch."""
    batches, runs = shares.shape
    trials = rng.binomial(size, shares)
    counts = Batches.of(rng.binomial(trials, rates[0]), trials, rng.binomial(size - trials, rates[1]), size - trials)
    exposed = trials.cumsum(axis=0)
    taken = np.full(runs, NEVER)

    def looks() -> Iterator[tuple[int, BoolArray]]:
        evidence = RatioEvidence.none(runs, ratio=ratio, direction=direction)
        for batch in range(batches):
            row = slice(batch, batch + 1)
            evidence = evidence.after(
                Batches(counts.failures[row], counts.trials[row], counts.base_failures[row], counts.base_trials[row])
            )
            yield batch, crosses(evidence.log_e, ALPHA)

    at = first_look(looks(), runs)
    crossed = np.flatnonzero(at < NEVER)
    taken[crossed] = exposed[at[crossed], crossed]
    return taken


@pytest.mark.slow
@pytest.mark.parametrize("size", [pytest.param(20, marks=pytest.mark.exhaustive), 50])
@pytest.mark.parametrize("split", ["half", "random", "tenth"])
def test_a_drifting_base_and_a_random_split_roll_back_no_more_than_agreed(size: int, split: str) -> None:
    runs, batches = 3_000, 20_000 // size
    rng = np.random.default_rng([7, size, len(split)])
    shares = {
        "half": np.full((batches, runs), 0.5),
        "random": rng.uniform(0.1, 0.9, (batches, runs)),
        "tenth": np.full((batches, runs), 0.1),
    }[split]
    base = drifting(batches, runs, size)
    rolled_back = float((stops(rng, (base, base), shares, size) < NEVER).mean())
    # Measured 0.019 to 0.039, least where the new arm gets a tenth; chance moves a share of 3 000 runs by 0.012.
    assert 0.010 < rolled_back < ALPHA


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "direction"), [(1.5, "above"), (1.5, "below"), (0.5, "above")])
def test_it_holds_at_other_ratios_and_for_non_inferiority(ratio: float, direction: Direction) -> None:
    runs, size, batches = 3_000, 50, 300
    rng = np.random.default_rng(21)
    base = drifting(batches, runs, size)
    shares = rng.uniform(0.2, 0.8, (batches, runs))
    crossed = stops(rng, (ratio * base, base), shares, size, ratio=ratio, direction=direction) < NEVER
    assert 0.005 < float(crossed.mean()) < ALPHA


@pytest.mark.slow
@pytest.mark.parametrize("size", [pytest.param(20, marks=pytest.mark.exhaustive), 50])
def test_twice_the_base_rate_is_found_in_1910_actions(size: int) -> None:
    runs, batches = 4_000, 12_000 // size
    rates = np.full((batches, runs), 0.02), np.full((batches, runs), 0.01)
    found = stops(np.random.default_rng(5), rates, np.full((batches, runs), 0.5), size)
    assert is_median(found, 1_910, rounding=30)


@pytest.mark.slow
def test_batches_of_two_actions_take_twice_as_long() -> None:
    # Half of them hold one arm only, and say nothing.
    runs, size = 300, 2
    rates = np.full((6_000, runs), 0.02), np.full((6_000, runs), 0.01)
    found = stops(np.random.default_rng(6), rates, np.full((6_000, runs), 0.5), size)
    assert 3_300 < np.median(found) < 4_100


@pytest.mark.slow
@pytest.mark.parametrize(("held_back", "share"), [(1_000, 0.21), (5_000, 0.07), (20_000, 0.03)])
def test_a_base_rate_estimated_and_then_believed_rolls_back_the_harmless(held_back: int, share: float) -> None:
    # The held-back actions give a rate, and the new arm, no worse, is tested against it as if it were a limit.
    runs = 2_000
    rng = np.random.default_rng(8)
    believed = np.maximum(rng.binomial(held_back, 0.02, runs), 1) / held_back
    looks = np.arange(50, 10_001, 50)[:, np.newaxis]
    failures = rng.binomial(50, 0.02, (looks.size, runs)).cumsum(axis=0)
    rolled_back = crosses(log_e_value(failures, looks, believed, direction="above"), ALPHA).any(axis=0)
    assert is_share(np.asarray(rolled_back), share)


def history_blocks(rng: np.random.Generator, past: float, now: float) -> Batches:
    """Three thousand actions a minute-batch at a time, matched with as many of the past."""
    new, old = rng.poisson(10, 300), rng.poisson(25, 130)
    return match_history(rng.binomial(new, now), new, rng.binomial(old, past), old, share=1.0)


def rolls_back(blocks: Batches) -> bool:
    evidence = RatioEvidence.none(1, ratio=1.0, direction="above", comparison="history")
    for block in range(blocks.trials.shape[0]):
        row = slice(block, block + 1)
        evidence = evidence.after(
            Batches(blocks.failures[row], blocks.trials[row], blocks.base_failures[row], blocks.base_trials[row])
        )
        if crosses(evidence.log_e, ALPHA)[0]:
            return True
    return False


@pytest.mark.exhaustive
@pytest.mark.slow
def test_history_holds_the_level_while_nothing_else_changed_and_only_then() -> None:
    rng = np.random.default_rng(9)
    runs = 400
    unchanged = np.array([rolls_back(history_blocks(rng, 0.02, 0.02)) for _ in range(runs)])
    doubled = np.array([rolls_back(history_blocks(rng, 0.01, 0.02)) for _ in range(runs)])
    assert float(unchanged.mean()) <= ALPHA
    # A world that got worse for everybody is held against the new arm: this is why the label says non-concurrent.
    assert float(doubled.mean()) > 0.6
