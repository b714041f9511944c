"""Laws of the evidence that hold for every count, threshold and error level."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from laws import examples
from scipy import stats

from analytics.evidence.sequential import bounds, crosses, log_e_value, trials_to_decision

if TYPE_CHECKING:
    from random import Random

    from analytics.evidence.sequential import Direction

laws = settings(deadline=None, max_examples=examples(100))
directions = st.sampled_from(["above", "below"])
open_ratios = st.floats(0.0, 1.0, exclude_min=True, exclude_max=True)
thresholds = st.one_of(open_ratios, st.integers(1, 999).map(lambda permille: permille / 1000))
alphas = st.one_of(st.sampled_from([0.001, 0.05, 0.2]), st.floats(1e-12, 0.99))
counts = st.integers(0, 10**7).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
small_counts = st.integers(0, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
any_counts = st.one_of(counts, small_counts)


def _excludes(cell: tuple[float, float], threshold: float, alpha: float, direction: Direction) -> bool:
    lower, upper = bounds(*cell, alpha=alpha)
    return bool(lower > threshold) if direction == "above" else bool(upper < threshold)


def _decides(cell: tuple[float, float], threshold: float, alpha: float, direction: Direction) -> bool:
    return bool(crosses(log_e_value(*cell, threshold, direction=direction), alpha))


@laws
@given(any_counts, thresholds, alphas, directions)
def test_bounds_exclude_a_threshold_iff_the_evidence_crosses(
    cell: tuple[int, int], threshold: float, alpha: float, direction: Direction
) -> None:
    assert _excludes(cell, threshold, alpha, direction) == _decides(cell, threshold, alpha, direction)


@laws
@given(any_counts, alphas, directions, st.integers(-40, 40), st.sampled_from([2.0**-60, 2.0**-42, 2.0**-41, 2.0**-40]))
def test_they_agree_next_to_the_bound_itself(
    cell: tuple[int, int], alpha: float, direction: Direction, steps: int, step: float
) -> None:
    lower, upper = bounds(*cell, alpha=alpha)
    threshold = float(lower if direction == "above" else upper) + steps * step
    assume(0 < threshold < 1)
    for nearby in (threshold, np.nextafter(threshold, 0), np.nextafter(threshold, 1)):
        assume(0 < nearby < 1)
        assert _excludes(cell, nearby, alpha, direction) == _decides(cell, nearby, alpha, direction)


@laws
@given(any_counts, thresholds, directions)
def test_one_more_failure_is_evidence_for_above_and_against_below(
    cell: tuple[int, int], threshold: float, direction: Direction
) -> None:
    failures, trials = cell
    assume(failures < trials)
    before, after = log_e_value([failures, failures + 1], trials, threshold, direction=direction)
    assert after > before if direction == "above" else after < before


@laws
@given(any_counts, thresholds, thresholds, alphas, directions)
def test_a_harder_claim_has_no_more_evidence(
    cell: tuple[int, int], one: float, other: float, alpha: float, direction: Direction
) -> None:
    easy, hard = sorted((one, other), reverse=direction == "below")
    if _decides(cell, hard, alpha, direction):
        assert _decides(cell, easy, alpha, direction)


@laws
@given(any_counts, alphas, alphas)
def test_a_stricter_level_gives_wider_bounds_around_the_observed_rate(
    cell: tuple[int, int], one: float, other: float
) -> None:
    strict, loose = sorted((one, other))
    (lower_strict, lower_loose), (upper_strict, upper_loose) = bounds(*cell, alpha=[strict, loose])
    assert 0 <= lower_strict <= lower_loose <= upper_loose <= upper_strict <= 1
    if cell[1]:
        assert lower_loose <= cell[0] / cell[1] <= upper_loose


@laws
@given(st.lists(st.booleans(), max_size=200), st.randoms(use_true_random=False), thresholds, directions)
def test_a_shuffled_split_and_merged_stream_gives_the_same_evidence(
    outcomes: list[bool], random: Random, threshold: float, direction: Direction
) -> None:
    shuffled = list(outcomes)
    random.shuffle(shuffled)
    cuts = sorted(random.sample(range(len(shuffled) + 1), k=min(3, len(shuffled) + 1)))
    batches = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(shuffled)], strict=True)]
    merged = (sum(map(sum, reversed(batches))), sum(map(len, reversed(batches))))
    whole = (sum(outcomes), len(outcomes))
    assert log_e_value(*merged, threshold, direction=direction) == log_e_value(*whole, threshold, direction=direction)
    assert bounds(*merged, alpha=0.05) == bounds(*whole, alpha=0.05)


@laws
@given(st.lists(any_counts, min_size=1, max_size=40), thresholds, alphas, directions)
def test_a_cell_does_not_depend_on_its_batch(
    cells: list[tuple[int, int]], threshold: float, alpha: float, direction: Direction
) -> None:
    failures, trials = np.array(cells).T
    together = log_e_value(failures, trials, threshold, direction=direction)
    lowers, uppers = bounds(failures, trials, alpha=alpha)
    forecasts = trials_to_decision(failures, trials, threshold, direction=direction, alpha=alpha)
    for i, cell in enumerate(cells[:5]):
        assert together[i] == log_e_value(*cell, threshold, direction=direction)
        assert (lowers[i], uppers[i]) == bounds(*cell, alpha=alpha)
        assert forecasts[i] == trials_to_decision(*cell, threshold, direction=direction, alpha=alpha)


@laws
@given(small_counts, st.floats(0.001, 0.999), st.floats(1e-6, 0.9), directions)
def test_the_forecast_is_the_first_crossing(
    cell: tuple[int, int], threshold: float, alpha: float, direction: Direction
) -> None:
    failures, trials = cell
    rate = failures / trials if trials else 0.0
    more = float(trials_to_decision(*cell, threshold, direction=direction, alpha=alpha))
    assert more >= 0
    if more < 1e7:
        assert more == int(more)
        assert _decides((failures + rate * more, trials + more), threshold, alpha, direction)
        probes = {m for m in (0, more // 2, more - 3, more - 2, more - 1) if 0 <= m < more}
        assert not any(_decides((failures + rate * m, trials + m), threshold, alpha, direction) for m in probes)
    elif more == np.inf:
        assert not _decides((failures + rate * 1e7, trials + 1e7), threshold, alpha, direction)


@laws
@given(st.integers(0, 60), st.floats(0.001, 0.999), st.integers(0, 1000).map(lambda k: k / 1000), directions)
def test_evidence_for_a_false_claim_averages_at_most_one(
    trials: int, threshold: float, share: float, direction: Direction
) -> None:
    rate = threshold * share if direction == "above" else 1 - (1 - threshold) * share
    failures = np.arange(trials + 1)
    e_values = np.exp(log_e_value(failures, trials, threshold, direction=direction))
    assert float(stats.binom.pmf(failures, trials, rate) @ e_values) <= 1 + 1e-9
