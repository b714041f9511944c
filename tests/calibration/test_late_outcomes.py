"""Failures that become known late: what each way of counting them promotes and rolls back.

Seeded simulations at a limit of 2 %, 5 000 actions a run, a look after every ten. A failure becomes known uniformly
within the maturity window, which is as long as `window` actions take. How badly a wrong rule fails depends on that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from simulated import is_share

from analytics.evidence.sequential import crosses, log_e_value

if TYPE_CHECKING:
    from simulated import BoolArray, IntArray

THRESHOLD = 0.02
ALPHA = 0.05
RUNS = 2_000
ACTIONS = 5_000
LOOKS = np.arange(10, ACTIONS + 1, 10)


def counted(rate: float, window: int, seed: int, *, at_the_end: bool = False) -> tuple[IntArray, IntArray, IntArray]:
    """At each look: failures known so far, failures among mature actions, and mature actions (one row)."""
    rng = np.random.default_rng([seed, window])
    failed = rng.random((RUNS, ACTIONS)) < rate
    run, action = np.nonzero(failed)
    delay = np.full(action.size, window - 1) if at_the_end else rng.integers(0, window, action.size)
    known_after = action + delay + 1
    seen = known_after <= ACTIONS
    known = np.zeros((RUNS, ACTIONS + 1), dtype=np.int64)
    np.add.at(known, (run[seen], known_after[seen]), 1)
    known.cumsum(axis=1, out=known)
    final = np.zeros((RUNS, ACTIONS + 1), dtype=np.int64)
    failed.cumsum(axis=1, out=final[:, 1:])
    mature = np.maximum(LOOKS - window, 0)
    return known[:, LOOKS], final[:, mature], mature


def promoted(failures: IntArray, trials: IntArray) -> BoolArray:
    return np.asarray(crosses(log_e_value(failures, trials, THRESHOLD, direction="below"), ALPHA).any(axis=1))


def rolled_back(failures: IntArray, trials: IntArray) -> BoolArray:
    return np.asarray(crosses(log_e_value(failures, trials, THRESHOLD, direction="above"), ALPHA).any(axis=1))


@pytest.mark.slow
def test_pending_outcomes_counted_as_fine_promote_a_third_and_mature_ones_keep_the_level() -> None:
    known, final, mature = counted(THRESHOLD, 300, seed=1)
    assert is_share(promoted(known, LOOKS), 0.35)
    assert is_share(promoted(final, mature), 0.043)


@pytest.mark.slow
@pytest.mark.parametrize(("window", "share"), [(200, 0.21), (500, 0.62), (1_000, 0.93), (2_000, 0.999)])
def test_the_more_actions_a_window_holds_the_more_pending_ones_promote(window: int, share: float) -> None:
    known, final, mature = counted(THRESHOLD, window, seed=2)
    assert is_share(promoted(known, LOOKS), share, rounding=0.01)
    assert float(promoted(final, mature).mean()) <= ALPHA + 0.005


@pytest.mark.slow
def test_rolling_back_on_everything_known_is_valid_and_still_finds_harm() -> None:
    known, _, _ = counted(THRESHOLD, 300, seed=3)
    assert float(rolled_back(known, LOOKS).mean()) <= ALPHA
    known, _, _ = counted(3 * THRESHOLD, 300, seed=3)
    assert float(rolled_back(known, LOOKS).mean()) > 0.999


@pytest.mark.slow
def test_failures_at_once_and_successes_at_maturity_roll_back_every_healthy_action() -> None:
    known, final, mature = counted(0.015, 2_000, seed=4)
    assert float(rolled_back(known, known + mature - final).mean()) > 0.995
    known, final, mature = counted(0.015, 300, seed=4)
    assert is_share(rolled_back(known, known + mature - final), 0.66, rounding=0.02)


@pytest.mark.slow
def test_how_the_delays_are_spread_decides_how_wrong_a_wrong_rule_is() -> None:
    # Every failure becomes known at the very end of its window.
    known, _, _ = counted(THRESHOLD, 500, seed=5, at_the_end=True)
    assert promoted(known, LOOKS).all()
    known, final, mature = counted(0.015, 500, seed=5, at_the_end=True)
    assert float(rolled_back(known, known + mature - final).mean()) < 0.02
