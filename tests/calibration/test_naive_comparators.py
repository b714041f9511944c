"""What the common rules would have decided on the same actions: the reason this engine does not use them.

Every failure rate is exact (a dynamic programme or a binomial sum), so the tolerance is the rounding of the two
digits quoted; the one simulated test says how far chance may carry it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from dynamic import critical_failures, crossing_curve
from scipy import stats

from analytics.evidence.sequential import crosses, log_e_value, trials_to_decision

if TYPE_CHECKING:
    from dynamic import BoolArray, IntArray

THRESHOLD = 0.02
ALPHA = 0.05


def peeked_binomial(failures: IntArray, trials: IntArray) -> BoolArray:
    """Roll back at the first look whose fixed-sample binomial p-value is at most alpha."""
    return np.asarray(stats.binom.sf(failures - 1, trials, THRESHOLD) <= ALPHA)


def evidence(failures: IntArray, trials: IntArray) -> BoolArray:
    return crosses(log_e_value(failures, trials, THRESHOLD, direction="above"), ALPHA)


def window_fails(rate: float, window: int) -> float:
    """Give the chance that one window's observed rate is above the threshold."""
    return float(stats.binom.sf(np.floor(THRESHOLD * window), window, rate))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first_look", "expected"),
    [
        # A patient controller that waits for 50 actions before its first look.
        (50, (0.20, 0.29, 0.37)),
        (1, (0.25, 0.34, 0.41)),
    ],
)
def test_a_peeked_binomial_test_rolls_back_a_harmless_action(
    first_look: int, expected: tuple[float, float, float]
) -> None:
    looks = np.arange(1, 20_001)
    critical = critical_failures(peeked_binomial, looks.size, side="many")
    critical = np.where(looks < first_look, looks + 1, critical)
    curve = crossing_curve(critical, THRESHOLD, side="many")
    by = curve[[999, 4_999, 19_999]]
    assert by.round(2).tolist() == list(expected)
    assert np.all(by > 4 * ALPHA - 0.005)


def test_on_the_very_same_streams_the_evidence_keeps_its_word() -> None:
    runs, actions = 2_000, 1_000
    failures = (np.random.default_rng(20_240_601).random((runs, actions)) < THRESHOLD).cumsum(axis=1, dtype=np.int64)
    naive = critical_failures(peeked_binomial, actions, side="many")
    sound = critical_failures(evidence, actions, side="many")
    naive_share = float((failures >= naive).any(axis=1).mean())
    sound_share = float((failures >= sound).any(axis=1).mean())
    exact = [float(crossing_curve(critical, THRESHOLD, side="many")[-1]) for critical in (naive, sound)]
    # Four standard errors of a share of 2 000 runs: chance alone leaves them once in 16 000 seeds.
    for share, chance in zip((naive_share, sound_share), exact, strict=True):
        assert abs(share - chance) <= 4 * np.sqrt(chance * (1 - chance) / runs)
    assert sound_share < ALPHA < naive_share


@pytest.mark.parametrize(("window", "expected"), [(50, 0.63), (100, 0.54), (200, 0.24)])
def test_three_strikes_over_windows_roll_back_an_action_at_half_its_limit(window: int, expected: float) -> None:
    # As progressive-delivery controllers count: 48 windows, roll back when more than 3 of them fail.
    rolled_back = float(stats.binom.sf(3, 48, window_fails(0.01, window)))
    assert round(rolled_back, 2) == expected


def test_on_as_many_actions_the_evidence_leaves_a_healthy_action_alone() -> None:
    critical = critical_failures(evidence, 48 * 200, side="many")
    curve = crossing_curve(critical, 0.01, side="many")
    assert curve[[48 * 50 - 1, 48 * 100 - 1, 48 * 200 - 1]].max() < 0.005


def test_five_short_windows_promote_an_action_at_twice_its_limit() -> None:
    # Promoted unless more than 3 of 5 windows of 20 actions fail: one failure of 20 is already above 2 %.
    promoted = float(stats.binom.cdf(3, 5, window_fails(0.04, 20)))
    assert round(promoted, 2) == 0.73


def test_on_as_many_actions_the_evidence_cannot_promote_at_all() -> None:
    assert float(trials_to_decision(0, 5 * 20, THRESHOLD, direction="below", alpha=ALPHA)) == 89
