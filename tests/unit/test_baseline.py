"""Against a baseline: the equation, what it says where it equals the rate test, and how history is matched."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import special

from analytics.evidence.errors import EvidenceError
from analytics.evidence.rate_ratio import LABELS, Batches, RatioEvidence, match_history, ratio_bounds
from analytics.evidence.sequential import BETS, bounds, log_e_value

if TYPE_CHECKING:
    from analytics.evidence.sequential import Direction

DIRECTIONS: tuple[Direction, ...] = ("above", "below")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_evidence_is_the_mean_of_eight_products_over_the_batches(direction: Direction) -> None:
    rows = [(3, 40, 1, 60), (0, 7, 2, 90), (5, 50, 5, 10), (1, 1, 0, 0), (0, 0, 1, 4)]
    ratio, logs = 1.5, []
    for bet in BETS[direction]:
        total = 0.0
        for x1, n1, x0, n0 in rows:
            share = ratio * n1 / (ratio * n1 + n0)
            total += x1 * math.log(bet) - (x1 + x0) * math.log(1 + (bet - 1) * share)
        logs.append(total)
    evidence = RatioEvidence.none(1, ratio=ratio, direction=direction)
    for x1, n1, x0, n0 in rows:
        evidence = evidence.after(Batches.of([x1], [n1], [x0], [n0]))
    # A batch's cost is rounded up to 2^-32, which only ever takes evidence away.
    expected = float(special.logsumexp(logs)) - math.log(8)
    assert expected - len(rows) * 2**-32 <= evidence.log_e[0] <= expected + 1e-12
    counted = (evidence.failures, evidence.trials, evidence.base_failures, evidence.base_trials)
    assert [int(count[0]) for count in counted] == [9, 98, 9, 164]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_with_one_split_it_is_the_rate_test_of_whose_failure_each_failure_was(direction: Direction) -> None:
    rng = np.random.default_rng(3)
    base_failures, failures = rng.binomial(20, 0.2, (30, 1)), rng.binomial(10, 0.4, (30, 1))
    batches = Batches.of(failures, np.full((30, 1), 10), base_failures, np.full((30, 1), 20))
    log_e = RatioEvidence.none(1, ratio=1.2, direction=direction).after(batches).log_e
    share = 1.2 * 10 / (1.2 * 10 + 20)
    both = failures.sum() + base_failures.sum()
    assert log_e[0] == pytest.approx(float(log_e_value(failures.sum(), both, share, direction=direction)), abs=1e-7)
    lower, upper = ratio_bounds(batches, alpha=0.05)
    shares = np.array(bounds(failures.sum(), both, alpha=0.05))
    assert [lower[0], upper[0]] == pytest.approx((2 * shares / (1 - shares)).tolist(), rel=1e-6)
    assert lower[0] < (failures.sum() / 300) / (base_failures.sum() / 600) < upper[0]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_against_a_baseline_without_end_it_is_the_rate_test(direction: Direction) -> None:
    # A base rate known to the last digit leaves only the new arm's chance; rare failures make it Poisson.
    rate, base = 1e-4, 10**12
    batches = Batches.of([37], [200_000], [round(base * rate)], [base])
    log_e = RatioEvidence.none(1, ratio=1.0, direction=direction).after(batches).log_e
    assert log_e[0] == pytest.approx(float(log_e_value(37, 200_000, rate, direction=direction)), abs=0.05)


def test_no_batches_say_nothing() -> None:
    evidence = RatioEvidence.none(3, ratio=[0.5, 1, 2], direction="above")
    assert evidence.log_e.tolist() == [0, 0, 0]
    nothing = Batches.of(np.zeros((0, 3), int), np.zeros((0, 3), int), np.zeros((0, 3), int), np.zeros((0, 3), int))
    assert evidence.after(nothing).log_e.tolist() == [0, 0, 0]
    lower, upper = ratio_bounds(nothing, alpha=0.05)
    assert (lower.tolist(), upper.tolist()) == ([0, 0, 0], [math.inf] * 3)


def test_a_batch_in_which_one_arm_was_idle_says_nothing() -> None:
    evidence = RatioEvidence.none(2, ratio=2.0, direction="above").after(Batches.of([5, 0], [9, 0], [0, 7], [0, 9]))
    assert evidence.log_e == pytest.approx([0, 0], abs=1e-8)


def test_twice_the_base_rate_is_harm_and_the_same_rate_is_not_inferior() -> None:
    harm = RatioEvidence.none(1, ratio=1.0, direction="above").after(Batches.of([60], [1000], [25], [1000]))
    safe = RatioEvidence.none(1, ratio=1.5, direction="below").after(Batches.of([40], [1000], [60], [1000]))
    assert harm.log_e[0] > math.log(20)
    assert safe.log_e[0] > math.log(20)


def test_history_is_matched_in_order_once_and_at_the_ratio() -> None:
    # Two historic actions a new one: the minutes of history end at 10, 20, 30, 40, 50 actions.
    blocks = match_history(
        failures=[1, 0, 0, 2, 0, 1],
        trials=[5, 2, 2, 9, 1, 4],
        base_failures=[1, 2, 3, 4, 5],
        base_trials=[10, 10, 10, 10, 10],
        share=2.0,
    )
    # New actions so far 5, 7, 9, 18, 19, 23 ask for 10, 14, 18, 36, 38, 46 historic ones: minutes 1, 2, 2, 4, 4, 5.
    assert blocks.trials[:, 0].tolist() == [5, 4, 10]
    assert blocks.failures[:, 0].tolist() == [1, 0, 2]
    assert blocks.base_trials[:, 0].tolist() == [10, 10, 20]
    assert blocks.base_failures[:, 0].tolist() == [1, 2, 7]


def test_a_block_once_closed_is_not_touched_by_what_comes_later() -> None:
    rng = np.random.default_rng(11)
    trials, base_trials = rng.integers(0, 9, 200), rng.integers(0, 30, 60)
    failures, base_failures = rng.binomial(trials, 0.2), rng.binomial(base_trials, 0.2)
    whole = match_history(failures, trials, base_failures, base_trials, share=1.0)
    assert whole.base_trials.sum() <= base_trials.sum()
    for now in range(0, 200, 7):
        early = match_history(failures[:now], trials[:now], base_failures, base_trials, share=1.0)
        closed = early.trials.shape[0]
        for ours, theirs in (
            (early.trials, whole.trials),
            (early.failures, whole.failures),
            (early.base_trials, whole.base_trials),
            (early.base_failures, whole.base_failures),
        ):
            assert ours.tolist() == theirs[:closed].tolist()


def test_a_used_up_history_ends_the_comparison() -> None:
    blocks = match_history([0] * 9, [10] * 9, [0, 0], [10, 10], share=1.0)
    assert blocks.base_trials.sum() == 20
    assert blocks.trials.sum() == 20
    assert match_history([], [], [0], [10], share=1.0).trials.shape == (0, 1)
    assert match_history([0], [10], [], [], share=1.0).trials.shape == (0, 1)


def test_a_comparison_with_history_says_so() -> None:
    evidence = RatioEvidence.none(1, ratio=1.0, direction="above", comparison="history")
    assert evidence.label.startswith("non-concurrent")
    assert evidence.after(Batches.of([1], [2], [0], [2])).label == LABELS["history"]


def test_misuse_is_refused() -> None:
    evidence = RatioEvidence.none(2, ratio=1.0, direction="above")
    with pytest.raises(EvidenceError, match="3 of 2"):
        Batches.of([3], [2], [0], [1])
    with pytest.raises(EvidenceError, match="whole numbers"):
        Batches.of([0.5], [2], [0], [1])
    with pytest.raises(EvidenceError, match="-1 was given"):
        Batches.of([0], [2], [-1], [1])
    with pytest.raises(EvidenceError, match="positive number, but 0 was"):
        RatioEvidence.none(1, ratio=0.0, direction="above")
    with pytest.raises(EvidenceError, match="direction is 'up'"):
        RatioEvidence.none(1, ratio=1.0, direction="up")  # type: ignore[arg-type]
    with pytest.raises(EvidenceError, match="about 1 cells, the evidence about 2"):
        evidence.after(Batches.of([1], [2], [0], [1]))


@pytest.mark.parametrize(
    ("direction", "failed", "base_failed"), [("above", 9, 3), ("above", 6, 3), ("below", 3, 3), ("below", 2, 4)]
)
def test_the_forecast_is_the_growth_at_which_the_evidence_suffices(
    direction: Direction, failed: int, base_failed: int
) -> None:
    def after(minutes: int) -> RatioEvidence:
        rows = [np.full((minutes, 1), count) for count in (failed, 100, base_failed, 100)]
        return RatioEvidence.none(1, ratio=1.5, direction=direction).after(Batches.of(*rows))

    growth = float(after(4).growth_to_decision(alpha=0.05)[0])
    enough = math.ceil(4 * growth)
    assert growth > 1
    assert after(enough).log_e[0] >= -math.log(0.05) > after(enough - 1).log_e[0]
    assert after(enough).growth_to_decision(alpha=0.05)[0] == 1.0


def test_what_these_rates_never_decide_is_forecast_as_never() -> None:
    evidence = RatioEvidence.none(3, ratio=1.5, direction="below").after(
        Batches.of([[15, 0, 0]], [[100, 0, 100]], [[10, 0, 0]], [[100, 0, 100]])
    )
    assert np.isinf(evidence.growth_to_decision(alpha=0.05)).all(), "at the ratio, without data, without a failure"
