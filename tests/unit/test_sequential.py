"""The evidence about one cell: its equation, its bounds, its forecast, and how it refuses nonsense."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import optimize, special, stats

from analytics.evidence.errors import EvidenceError
from analytics.evidence.sequential import BETS, bounds, crosses, log_e_value, trials_to_decision
from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from analytics.evidence.sequential import Direction

DIRECTIONS: tuple[Direction, ...] = ("above", "below")
COUNTS = [(0, 1), (1, 1), (0, 40), (3, 40), (12, 291), (40, 40), (700, 20_000), (2_000, 1_000_000)]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("failures", "trials"), COUNTS)
@pytest.mark.parametrize("threshold", [0.005, 0.02, 0.3])
def test_evidence_is_the_mean_of_eight_likelihood_ratios(
    failures: int, trials: int, threshold: float, direction: Direction
) -> None:
    # A bet is the likelihood ratio of the rate whose odds are the bet times the threshold's.
    bets = np.array(BETS[direction])
    rates = bets * threshold / (1 + (bets - 1) * threshold)
    ratios = stats.binom.logpmf(failures, trials, rates) - stats.binom.logpmf(failures, trials, threshold)
    expected = special.logsumexp(ratios) - math.log(8)
    # The threshold is read 9e-13 away at most, which moves each trial's term by less than 2e-11.
    assert float(log_e_value(failures, trials, threshold, direction=direction)) == pytest.approx(
        expected, rel=1e-9, abs=1e-9 + 2e-11 * trials
    )


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_evidence_is_what_eight_gamblers_hold_together(direction: Direction) -> None:
    threshold, outcomes = 0.1, np.random.default_rng(7).random(200) < 0.15
    purses = np.full(8, 1 / 8)
    bets = np.array(BETS[direction])
    stakes = (bets - 1) / (1 + (bets - 1) * threshold)
    for outcome in outcomes:
        purses *= 1 + stakes * (outcome - threshold)
    log_e = log_e_value(outcomes.sum(), outcomes.size, threshold, direction=direction)
    assert float(log_e) == pytest.approx(math.log(purses.sum()), abs=1e-8)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_no_trials_are_no_evidence(direction: Direction) -> None:
    assert log_e_value(0, 0, [0.001, 0.02, 0.9], direction=direction).tolist() == [0.0, 0.0, 0.0]


def test_no_trials_bound_nothing() -> None:
    lower, upper = bounds(0, 0, alpha=[0.001, 0.05, 0.5])
    assert lower.tolist() == [0.0, 0.0, 0.0]
    assert upper.tolist() == [1.0, 1.0, 1.0]


def test_everything_broadcasts() -> None:
    failures, trials = np.array([[0], [5]]), np.array([10, 20, 30])
    lower, upper = bounds(failures, trials, alpha=0.05)
    assert log_e_value(failures, trials, 0.02, direction="above").shape == (2, 3)
    assert lower.shape == upper.shape == (2, 3)
    assert trials_to_decision(failures, trials, 0.02, direction="below", alpha=0.05).shape == (2, 3)
    assert log_e_value(1, 10, 0.02, direction="above").shape == ()
    assert [bound.shape for bound in bounds(1, 10, alpha=[0.05, 0.01])] == [(2,), (2,)]
    assert bounds([], [], alpha=0.05)[0].shape == (0,)


def test_crossing_forgives_a_billionth_and_no_more() -> None:
    bar = math.log(20)
    assert crosses([bar, bar - 0.9e-9, bar - 1.1e-9, math.nan, -math.inf], 0.05).tolist() == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_lower_bound_on_the_threshold_itself_is_a_crossing() -> None:
    lower, upper = bounds(12, 291, alpha=0.05)
    below_lower, above_upper = np.nextafter(lower, 0), np.nextafter(upper, 1)
    assert crosses(log_e_value(12, 291, below_lower, direction="above"), 0.05)
    assert not crosses(log_e_value(12, 291, lower, direction="above"), 0.05)
    assert crosses(log_e_value(12, 291, above_upper, direction="below"), 0.05)
    assert not crosses(log_e_value(12, 291, upper, direction="below"), 0.05)


def test_bounds_survive_extreme_counts() -> None:
    failures = np.array([0, 1, 1, 0, 10**12, 3 * 10**10, 10**12 - 1])
    trials = np.array([1, 1, 2, 10**12, 10**12, 10**12, 10**12])
    for alpha in (1e-300, 1e-6, 0.05, 0.999):
        lower, upper = bounds(failures, trials, alpha=alpha)
        assert np.all((lower >= 0) & (lower <= upper) & (upper <= 1))
        assert np.all(lower <= failures / trials)
        assert np.all(upper >= failures / trials)


def _beta_binomial_log_e(failures: int, trials: int, threshold: float, direction: Direction) -> float:
    """Weigh the counts with a Jeffreys prior cut off at the threshold: another valid e-process, by Robbins."""
    a, b = 0.5 + failures, 0.5 + trials - failures
    tail = special.betaincc if direction == "above" else special.betainc
    two_sided = (
        special.betaln(a, b)
        - special.betaln(0.5, 0.5)
        - failures * math.log(threshold)
        - (trials - failures) * math.log1p(-threshold)
    )
    return float(two_sided + np.log(tail(a, b, threshold)) - np.log(tail(0.5, 0.5, threshold)))


@pytest.mark.parametrize("trials", [20, 100, 300, 1000, 5000])
@pytest.mark.parametrize("rate", [0.0, 0.005, 0.01, 0.02, 0.05])
def test_bounds_are_as_tight_as_the_beta_binomial_mixture(trials: int, rate: float) -> None:
    failures, alpha = round(trials * rate), 0.05
    seen = failures / trials

    def excess(threshold: float, direction: Direction) -> float:
        return _beta_binomial_log_e(failures, trials, threshold, direction) + math.log(alpha)

    lower, upper = bounds(failures, trials, alpha=alpha)
    oracle_upper = optimize.brentq(excess, max(seen, 1e-9), 1 - 1e-9, args=("below",))
    # Where actions are rare enough for this to matter the eight bets cost no more than 5 % of width.
    assert upper - seen <= 1.05 * (oracle_upper - seen)
    if failures:
        oracle_lower = optimize.brentq(excess, 1e-12, seen, args=("above",))
        assert seen - lower <= 1.05 * (seen - oracle_lower)


def _brute_force_forecast(
    cell: tuple[int, int], threshold: float, direction: Direction, *, alpha: float, horizon: int
) -> float:
    failures, trials = cell
    more = np.arange(horizon + 1)
    rate = failures / trials if trials else 0.0
    crossed = crosses(log_e_value(failures + rate * more, trials + more, threshold, direction=direction), alpha)
    return float(np.argmax(crossed)) if crossed.any() else math.inf


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("threshold", [0.01, 0.02, 0.1])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_forecast_is_the_first_crossing_at_the_present_rate(
    threshold: float, alpha: float, direction: Direction
) -> None:
    cells = [(0, 0), (0, 1), (0, 100), (1, 1), (1, 3), (1, 40), (1, 500), (3, 100), (9, 100), (30, 291), (12, 3000)]
    failures, trials = np.array(cells).T
    forecast = trials_to_decision(failures, trials, threshold, direction=direction, alpha=alpha)
    for cell, more in zip(cells, forecast.tolist(), strict=True):
        expected = _brute_force_forecast(cell, threshold, direction, alpha=alpha, horizon=30_000)
        assert more == expected or (more > 30_000 and math.isinf(expected)), cell


def test_forecast_without_trials() -> None:
    thresholds = [0.005, 0.01, 0.02, 0.05, 0.1]
    assert trials_to_decision(0, 0, thresholds, direction="below", alpha=0.05).tolist() == [759, 379, 189, 75, 37]
    assert np.all(np.isinf(trials_to_decision(0, 0, thresholds, direction="above", alpha=0.05)))


def test_forecast_counts_down_to_zero_and_stays_there() -> None:
    trials = np.array([0, 88, 188, 189, 190, 10_000])
    more = trials_to_decision(0, trials, 0.02, direction="below", alpha=0.05)
    assert more.tolist() == [189, 101, 1, 0, 0, 0]


@pytest.mark.parametrize("rate", [0.0181, 0.02, 0.0222])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_rate_too_close_to_the_threshold_never_decides(rate: float, direction: Direction) -> None:
    assert math.isinf(trials_to_decision(rate * 1000, 1000, 0.02, direction=direction, alpha=0.05))


@pytest.mark.parametrize(
    ("failures", "trials", "message"),
    [
        (-1, 10, "-1 failures of 10 trials"),
        (11, 10, "11 failures of 10 trials"),
        ([0, 3], [5, 2], "3 failures of 2 trials"),
        (0, -1, "0 failures of -1 trials"),
        (math.nan, 10, "nan failures of 10 trials"),
        (0, math.nan, "trials must be finite"),
        (0, math.inf, "trials must be finite"),
    ],
)
def test_impossible_counts_are_refused(failures: float, trials: float, message: str) -> None:
    with pytest.raises(EvidenceError, match=message):
        log_e_value(failures, trials, 0.02, direction="above")
    with pytest.raises(EvidenceError, match=message):
        bounds(failures, trials, alpha=0.05)
    with pytest.raises(EvidenceError, match=message):
        trials_to_decision(failures, trials, 0.02, direction="below", alpha=0.05)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_ratio_outside_the_open_interval_is_refused(ratio: float) -> None:
    with pytest.raises(EvidenceError, match=r"threshold must lie strictly between 0 and 1"):
        log_e_value(1, 10, ratio, direction="above")
    with pytest.raises(EvidenceError, match=r"alpha must lie strictly between 0 and 1"):
        bounds(1, 10, alpha=ratio)
    with pytest.raises(EvidenceError, match=r"alpha must lie strictly between 0 and 1"):
        crosses(1.0, ratio)


def test_the_slack_cannot_turn_no_evidence_into_a_crossing() -> None:
    assert not crosses(0.0, 1 - 3e-9)
    with pytest.raises(EvidenceError, match="alpha"):
        crosses(0.0, 1 - 1e-9)


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(EvidenceError, match="'sideways'"):
        log_e_value(1, 10, 0.02, direction="sideways")  # type: ignore[arg-type]


def test_misuse_is_a_stagekeeper_error() -> None:
    assert issubclass(EvidenceError, StagekeeperError)
