"""Laws of the log histogram: one relative error, merging by addition, and exact counts at a bound."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from histograms import exceeding, value_of
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples

from analytics.evidence.histogram import (
    BOUNDS,
    LARGEST_BOUND,
    SMALLEST_BOUND,
    bin_of,
    quantile,
    snap,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

laws = settings(deadline=None, max_examples=examples(100))
# Spread over the decades, so that the fine bins near the smallest bound are searched as hard as the wide ones.
inside = st.one_of(
    st.floats(math.log(SMALLEST_BOUND + 1), math.log(LARGEST_BOUND)).map(
        lambda log: min(round(math.exp(log)), LARGEST_BOUND)
    ),
    st.sampled_from(BOUNDS[1:].tolist()),
    st.sampled_from((BOUNDS[:-1] + 1).tolist()),
)
anywhere = st.one_of(inside, st.integers(0, SMALLEST_BOUND), st.integers(LARGEST_BOUND + 1, 2**62))
ratios = st.one_of(st.sampled_from([0.5, 0.95, 0.99]), st.floats(0.0, 1.0))


def _fold(observations: Iterable[int]) -> Counter[int]:
    return Counter(int(bin_of(observation)) for observation in observations)


def _sparse(histogram: Counter[int]) -> tuple[list[int], list[int]]:
    return list(histogram.keys()), list(histogram.values())


@laws
@given(inside)
def test_a_bin_stands_for_its_observations_within_one_percent(observation: int) -> None:
    # The margin is the rounding of one float division; the bound itself is proved in exact arithmetic elsewhere.
    assert abs(float(value_of(bin_of(observation))) - observation) <= (0.01 + 1e-15) * observation


@laws
@given(anywhere, anywhere)
def test_bins_keep_the_order(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert bin_of(low) <= bin_of(high)
    assert value_of(bin_of(low)) <= value_of(bin_of(high))


@laws
@given(st.lists(inside, min_size=1, max_size=100), st.integers(0, 1000))
def test_a_quantile_is_within_one_percent_of_the_exact_one(observations: list[int], permille: int) -> None:
    rank = max(1, -(-permille * len(observations) // 1000))
    exact = sorted(observations)[rank - 1]
    estimate = quantile(*_sparse(_fold(observations)), permille / 1000)
    assert estimate is not None
    assert abs(estimate - exact) <= (0.01 + 1e-15) * exact


@laws
@given(st.lists(anywhere, max_size=100), st.randoms(use_true_random=False), ratios, inside)
def test_shuffled_split_and_merged_streams_read_the_same(
    observations: list[int], random: Random, q: float, limit: int
) -> None:
    shuffled = list(observations)
    random.shuffle(shuffled)
    cut = random.randint(0, len(shuffled))
    whole = _sparse(_fold(observations))
    merged = _sparse(_fold(shuffled[:cut]) + _fold(shuffled[cut:]))
    unmerged = np.concatenate([bin_of(np.array(part, dtype=np.int64)) for part in (shuffled[cut:], shuffled[:cut])])
    each_once = np.ones(unmerged.size, dtype=np.int64)
    assert quantile(*whole, q) == quantile(*merged, q) == quantile(unmerged, each_once, q)
    assert exceeding(*whole, limit) == exceeding(*merged, limit) == exceeding(unmerged, each_once, limit)


@laws
@given(st.lists(anywhere, max_size=100), inside)
def test_exceedances_are_counted_exactly_at_the_snapped_limit(observations: list[int], limit: int) -> None:
    in_force = snap(limit)
    assert exceeding(*_sparse(_fold(observations)), limit) == sum(observed > in_force for observed in observations)
    assert abs(in_force - limit) <= 0.014 * limit
    assert snap(in_force) == in_force


@laws
@given(st.lists(anywhere, min_size=1, max_size=100), inside, st.integers(1, 1000))
def test_a_quantile_is_within_the_limit_iff_few_enough_exceed_it(
    observations: list[int], limit: int, permille: int
) -> None:
    histogram = _sparse(_fold(observations))
    in_force = snap(limit)
    allowed = len(observations) - -(-permille * len(observations) // 1000)
    estimate = quantile(*histogram, permille / 1000)
    assert estimate is not None
    assert (estimate <= in_force) == (exceeding(*histogram, limit) <= allowed)
