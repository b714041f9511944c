"""The log histogram: where the bins lie, what they say, and how they refuse nonsense."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from histograms import exceeding, value_of

from analytics.evidence.errors import EvidenceError
from analytics.evidence.histogram import (
    BIN_COUNT,
    BOUNDS,
    LARGEST_BOUND,
    OVERFLOW_BIN,
    SMALLEST_BOUND,
    bin_of,
    quantile,
    snap,
)


def test_the_table_is_pinned() -> None:
    # Stored bins mean what these bounds say: a changed table would silently re-read every stored histogram.
    assert (len(BOUNDS), OVERFLOW_BIN, BIN_COUNT) == (860, 860, 861)
    assert BOUNDS[:8].tolist() == [100, 103, 106, 109, 112, 115, 118, 121]
    assert BOUNDS[400:403].tolist() == [377_631, 385_260, 393_044]
    assert BOUNDS[-3:].tolist() == [3_521_120_739, 3_592_254_492, 3_600_000_000]
    assert int(BOUNDS.sum()) == 185_008_824_496
    with pytest.raises(ValueError, match="read-only"):
        BOUNDS[0] = 1


def test_every_bin_is_within_one_percent_of_all_it_holds_in_exact_arithmetic() -> None:
    for low, high in zip((BOUNDS[:-1] + 1).tolist(), BOUNDS[1:].tolist(), strict=True):
        assert low <= high
        value = Fraction(2 * low * high, low + high)
        assert max(value - low, Fraction(0)) / low <= Fraction(1, 100)
        assert (high - value) / high <= Fraction(1, 100)


def test_bins_are_as_wide_as_the_error_allows() -> None:
    # Reaching one whole micro-unit further would break the promise, except where the table ends.
    for low, high in zip((BOUNDS[:-2] + 1).tolist(), BOUNDS[1:-1].tolist(), strict=True):
        assert Fraction(high + 1 - low, high + 1 + low) > Fraction(1, 100)


def test_an_observation_on_a_bound_is_not_above_it() -> None:
    assert bin_of(BOUNDS).tolist() == list(range(860))
    assert bin_of(BOUNDS + 1).tolist() == list(range(1, 861))


def test_the_first_and_last_bins_take_the_rest() -> None:
    assert bin_of(np.array([0, 1, 99, 100])).tolist() == [0, 0, 0, 0]
    assert bin_of(np.array([LARGEST_BOUND, LARGEST_BOUND + 1, 2**62])).tolist() == [859, 860, 860]
    assert value_of([0, OVERFLOW_BIN]).tolist() == [SMALLEST_BOUND, LARGEST_BOUND + 1]


def test_bins_are_small_integers_of_the_same_shape() -> None:
    bins = bin_of(np.array([[150, 2_000], [30_000, 10**7]]))
    assert bins.dtype == np.int16
    assert bins.shape == (2, 2)
    assert value_of(bins).shape == (2, 2)
    assert bin_of(5_000).shape == ()
    assert bin_of(np.array([], dtype=np.int64)).shape == (0,)


def test_a_quantile_is_the_value_of_the_bin_that_reaches_its_rank() -> None:
    bins, counts = bin_of(np.array([1_000, 10_000, 100_000])), [90, 9, 1]
    low, middle, high = value_of(bins).tolist()
    assert quantile(bins, counts, 0.5) == low
    assert quantile(bins, counts, 0.9) == low
    assert quantile(bins, counts, 0.901) == middle
    assert quantile(bins, counts, 0.99) == middle
    assert quantile(bins, counts, 1.0) == high
    assert quantile(bins, counts, 0.0) == low


def test_a_quantile_is_read_as_the_decimal_it_is_written_as() -> None:
    # 0.07 * 100 is 7.000000000000001 in floating point, which would ask for the eighth observation.
    bins = bin_of(np.array([1_000, 10_000]))
    assert quantile(bins, [7, 93], 0.07) == float(value_of(bins)[0])


def test_order_repeats_and_empty_bins_do_not_matter() -> None:
    assert quantile([5, 9, 5, 7], [1, 4, 2, 0], 0.5) == quantile([5, 9], [3, 4], 0.5) == float(value_of(9))


def test_a_quantile_of_nothing_is_unknown() -> None:
    assert quantile([], [], 0.95) is None
    assert quantile([3, 4], [0, 0], 0.95) is None


def test_a_limit_on_a_bound_stays() -> None:
    assert [snap(int(bound)) for bound in BOUNDS] == BOUNDS.tolist()


def test_a_limit_between_bounds_moves_to_the_nearest_and_a_tie_to_the_stricter() -> None:
    assert [snap(limit) for limit in (100, 101, 102, 103)] == [100, 100, 103, 103]
    below, above = next((a, b) for a, b in zip(BOUNDS.tolist(), BOUNDS[1:].tolist(), strict=False) if (a + b) % 2 == 0)
    assert snap((below + above) // 2) == below


@pytest.mark.parametrize(("limit", "reach"), [(100, 0.014), (10_000, 0.0102), (2_000_000, 0.0102)])
def test_a_limit_moves_no_further_than_promised(limit: int, reach: float) -> None:
    limits = range(limit, limit + 2_000)
    assert max(abs(snap(asked) - asked) / asked for asked in limits) <= reach


def test_exceedances_are_strictly_above_the_limit() -> None:
    limit = snap(2_000_000)
    observed = np.array([limit - 1, limit, limit + 1, LARGEST_BOUND + 1, 0])
    assert exceeding(bin_of(observed), np.ones(5, dtype=np.int64), 2_000_000) == 2
    assert exceeding([OVERFLOW_BIN, 859], [3, 8], LARGEST_BOUND) == 3
    assert exceeding([], [], 2_000_000) == 0


@pytest.mark.parametrize("limit", [0, 99, -5, LARGEST_BOUND + 1])
def test_a_limit_no_bound_is_near_is_refused(limit: int) -> None:
    with pytest.raises(EvidenceError, match="between 100 and 3600000000"):
        snap(limit)


def test_impossible_observations_are_refused() -> None:
    with pytest.raises(EvidenceError, match="-3 was given"):
        bin_of(np.array([7, -3]))
    with pytest.raises(EvidenceError, match="float64"):
        bin_of(np.array([1.5]))


def test_impossible_histograms_are_refused() -> None:
    with pytest.raises(EvidenceError, match="bin 861 does not exist"):
        quantile([3, 861], [1, 1], 0.5)
    with pytest.raises(EvidenceError, match="bin -1 does not exist"):
        quantile([-1], [1], 0.5)
    with pytest.raises(EvidenceError, match="-2 was given"):
        quantile([1], [-2], 0.5)
    with pytest.raises(EvidenceError, match="equally long"):
        quantile([1, 2], [1], 0.5)
    for q in (-0.1, 1.1, float("nan")):
        with pytest.raises(EvidenceError, match="quantile's ratio"):
            quantile([1], [1], q)
