"""How often, and how soon, the evidence crosses: exact figures for a look after every single action.

Golden values: the medians and minima were computed from the equation alone, independently of this implementation; the
dynamic programme of dynamic.py reproduces each to the integer. No figure here is simulated, so every tolerance is the
rounding of the figure as quoted, never chance.
"""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from dynamic import critical_failures, crossing_curve, median_look

from analytics.evidence.sequential import BETS, crosses, log_e_value, trials_to_decision

if TYPE_CHECKING:
    from dynamic import BoolArray, FloatArray, IntArray, Side

    from analytics.evidence.sequential import Direction

pytestmark = pytest.mark.slow

THRESHOLD = 0.02
ALPHA = 0.05
LOOKS = 20_000
WHOLE = pytest.mark.exhaustive


def of_rates(*medians: tuple[float, int]) -> list[Any]:
    """The medians by rate; those of two rates stand for them in `make test`."""
    return [found if found[0] in {0.03, 0.1} else pytest.param(*found, marks=WHOLE) for found in medians]


@cache
def rollback_curve(
    rate: float, *, threshold: float = THRESHOLD, alpha: float = ALPHA, looks: int = LOOKS
) -> FloatArray:
    def stops(failures: IntArray, trials: IntArray) -> BoolArray:
        return crosses(log_e_value(failures, trials, threshold, direction="above"), alpha)

    return crossing_curve(critical_failures(stops, looks, side="many"), rate, side="many")


@cache
def promotion_limits(threshold: float, *, alpha: float = ALPHA, looks: int = LOOKS) -> IntArray:
    def stops(failures: IntArray, trials: IntArray) -> BoolArray:
        return crosses(log_e_value(failures, trials, threshold, direction="below"), alpha)

    return critical_failures(stops, looks, side="few")


@pytest.mark.parametrize(("side", "direction", "threshold"), [("many", "above", 0.2), ("few", "below", 0.5)])
def test_the_dynamic_programme_equals_enumerating_every_run(side: Side, direction: Direction, threshold: float) -> None:
    looks, rate, alpha = 14, 0.3, 0.3

    def stops(failures: IntArray, trials: IntArray) -> BoolArray:
        return crosses(log_e_value(failures, trials, threshold, direction=direction), alpha)

    runs = np.array(list(itertools.product([0, 1], repeat=looks)))
    failures = runs.cumsum(axis=1)
    stopped = np.maximum.accumulate(stops(failures, np.broadcast_to(np.arange(1, looks + 1), failures.shape)), axis=1)
    chances = rate ** failures[:, -1] * (1 - rate) ** (looks - failures[:, -1])
    curve = crossing_curve(critical_failures(stops, looks, side=side), rate, side=side)
    assert 0 < curve[-1] < 1
    assert curve == pytest.approx(chances @ stopped, abs=1e-13)


def test_a_harmless_action_is_rolled_back_at_most_as_often_as_agreed() -> None:
    curve = rollback_curve(THRESHOLD)
    assert curve[-1] <= ALPHA
    assert round(float(curve[-1]), 3) == 0.034


@pytest.mark.parametrize("threshold", [0.005, 0.05, 0.3])
@pytest.mark.parametrize("alpha", [0.2, 0.001])
def test_the_agreed_error_holds_at_other_thresholds_and_levels(threshold: float, alpha: float) -> None:
    looks = 5_000
    assert rollback_curve(threshold, threshold=threshold, alpha=alpha, looks=looks)[-1] <= alpha
    limits = promotion_limits(threshold, alpha=alpha, looks=looks)
    assert crossing_curve(limits, threshold, side="few")[-1] <= alpha


@pytest.mark.parametrize(("rate", "median"), of_rates((0.025, 6222), (0.03, 1585), (0.04, 427), (0.06, 118), (0.1, 41)))
def test_the_median_action_that_rolls_back(rate: float, median: int) -> None:
    assert median_look(rollback_curve(rate)) == median


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "median"), of_rates((0.025, 3906), (0.03, 1062), (0.04, 301), (0.06, 91), (0.1, 33)))
def test_the_median_of_a_test_that_is_told_the_true_rate(rate: float, median: int) -> None:
    # Wald's ratio against the true rate: the difference is what the mixture pays for not knowing it.
    def stops(failures: IntArray, trials: IntArray) -> BoolArray:
        ratio = failures * math.log(rate / THRESHOLD) + (trials - failures) * math.log((1 - rate) / (1 - THRESHOLD))
        return crosses(ratio, ALPHA)

    curve = crossing_curve(critical_failures(stops, LOOKS, side="many"), rate, side="many")
    assert median_look(curve) == median
    assert median < median_look(rollback_curve(rate)) < 1.6 * median


@pytest.mark.parametrize(("threshold", "minimum"), [(0.005, 759), (0.01, 379), (0.02, 189), (0.05, 75), (0.1, 37)])
def test_the_fewest_actions_without_failure_that_promote(threshold: float, minimum: int) -> None:
    limits = promotion_limits(threshold, looks=1_000)
    assert int(np.argmax(limits >= 0)) + 1 == minimum
    assert limits[minimum - 1] == 0
    assert trials_to_decision(0, 0, threshold, direction="below", alpha=ALPHA) == minimum


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [pytest.param(limit, marks=WHOLE) for limit in (0.005, 0.01, 0.1)] + [0.02, 0.05])
def test_an_action_just_as_bad_as_the_limit_is_promoted_at_most_as_often_as_agreed(threshold: float) -> None:
    curve = crossing_curve(promotion_limits(threshold), threshold, side="few")
    assert curve[-1] <= ALPHA


def test_how_often_an_action_at_the_limit_is_promoted() -> None:
    curve = crossing_curve(promotion_limits(THRESHOLD), THRESHOLD, side="few")
    # The chance grows with the looks and stays under 0.05: 0.045 in 5 000 actions, 0.049 in 20 000.
    assert round(float(curve[4_999]), 3) == 0.045
    assert round(float(curve[-1]), 3) == 0.049


def test_a_worse_action_is_promoted_less_often() -> None:
    limits = promotion_limits(THRESHOLD, looks=5_000)
    chances = [float(crossing_curve(limits, rate, side="few")[-1]) for rate in (0.02, 0.025, 0.03, 0.04)]
    assert chances == sorted(chances, reverse=True)
    assert chances[1] < 0.02


def median_with(bets: tuple[float, ...], side: Side, rate: float, looks: int) -> int:
    """The median look at which the same mixture of other bets decides."""
    column = np.array(bets)[:, np.newaxis]

    def stops(failures: IntArray, trials: IntArray) -> BoolArray:
        log_wealth = failures * np.log(column) - trials * np.log1p((column - 1) * THRESHOLD)
        return crosses(np.logaddexp.reduce(log_wealth) - math.log(len(bets)), ALPHA)

    return median_look(crossing_curve(critical_failures(stops, looks, side=side), rate, side=side))


CLOSER: dict[Side, tuple[float, ...]] = {
    "many": (1.05, 1.1, *BETS["above"]),
    "few": (0.95, 0.9, *BETS["below"]),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "rate", "median"),
    [
        ("many", 0.03, 1_694),
        ("many", 0.04, 457),
        ("many", 0.1, 43),
        ("few", 0.0125, 2_029),
        ("few", 0.01, 1_047),
        ("few", 0.005, 346),
    ],
)
def test_bets_that_narrow_the_zone_of_indifference_delay_every_other_decision(
    side: Side, rate: float, median: int
) -> None:
    ours = BETS["above" if side == "many" else "below"]
    assert median_with(CLOSER[side], side, rate, 4_000) == median
    assert 1.03 < median / median_with(ours, side, rate, 4_000) < 1.11


@pytest.mark.exhaustive
@pytest.mark.parametrize(("side", "rate", "median"), [("many", 0.022, 40_799), ("few", 0.018, 36_533)])
def test_and_still_need_forty_thousand_actions_for_a_tenth_of_the_limit(side: Side, rate: float, median: int) -> None:
    assert median_with(CLOSER[side], side, rate, 45_000) == median
    with pytest.raises(ValueError, match="of the runs stop within"):
        median_with(BETS["above" if side == "many" else "below"], side, rate, 45_000)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "median"), [(0.03, 1_575), (0.04, 429), (0.06, 119), (0.1, 44)])
def test_a_bet_of_a_tenth_in_place_of_the_one_on_ten_times_costs_little(rate: float, median: int) -> None:
    swapped = (1.1, *(bet for bet in BETS["above"] if bet != 10))
    assert median_with(swapped, "many", rate, 4_000) == median


@pytest.mark.parametrize("failures", [185, 200, 215])
def test_a_rate_close_to_the_limit_is_never_told_apart_from_it(failures: int) -> None:
    for direction in BETS:
        assert trials_to_decision(failures, 10_000, THRESHOLD, direction=direction, alpha=ALPHA) == math.inf
