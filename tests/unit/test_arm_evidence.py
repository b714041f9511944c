"""Evidence about two arms by user, and about the difference of their rates: golden numbers of the design, and laws."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from verdict_cases import NOON

from analytics.evidence.clustered_rate import UserWindows
from analytics.evidence.errors import EvidenceError
from analytics.evidence.histogram import BIN_COUNT, bin_of
from analytics.evidence.quantile_ratio import Observed, quantile_ratio_bounds, quantile_ratio_log_e
from analytics.evidence.rate_difference import (
    CountedRate,
    WindowedRate,
    difference_bounds,
    difference_log_e,
    growth_to_decision,
)
from analytics.evidence.rate_ratio import Batches, RatioEvidence
from analytics.evidence.sequential import crosses
from analytics.evidence.window_ratio import ArmWindows
from analytics.judging.baseline import match_windows

if TYPE_CHECKING:
    from analytics.evidence.sequential import Direction


def one_batch(new: list[float], base: list[float]) -> ArmWindows:
    shares = np.round(np.array([*new, *base]) * 10).astype(np.int64)
    return ArmWindows.of(0, [1] * len(new) + [0] * len(base), np.full(shares.size, 10), shares)


@pytest.mark.parametrize(
    ("new", "base", "ratio", "direction", "log_e"),
    [
        ([0.4, 0.0, 0.2], [0.0, 0.0, 0.2], 1.0, "above", 0.174914986),
        ([0.4, 0.0, 0.2], [0.0, 0.0, 0.2], 1.5, "below", -0.213703264),
        ([1.0, 0.0], [0.0, 1.0, 0.0], 1.0, "above", -0.245712291),
    ],
)
def test_golden_numbers_of_a_batch(
    new: list[float], base: list[float], ratio: float, direction: Direction, log_e: float
) -> None:
    assert one_batch(new, base).log_e(ratio, direction) == pytest.approx(log_e, abs=1e-9)


def test_with_one_action_a_window_it_is_the_evidence_by_action() -> None:
    rng = np.random.default_rng(3)
    x1, x0 = rng.binomial(9, 0.3, 30), rng.binomial(6, 0.2, 30)
    counted = Batches.of(*(column[:, np.newaxis] for column in (x1, np.full(30, 9), x0, np.full(30, 6))))
    rows = [
        (batch, new, 1, failed, count)
        for batch in range(30)
        for new, failures, trials in ((1, x1[batch], 9), (0, x0[batch], 6))
        for failed, count in ((1, failures), (0, trials - failures))
    ]
    for side in ("above", "below"):
        direction: Direction = side
        by_action = RatioEvidence.none(1, ratio=1.2, direction=direction).after(counted)
        found = ArmWindows.of(*zip(*rows, strict=True)).log_e(1.2, direction)
        assert found == pytest.approx(float(by_action.log_e[0]), abs=1e-6)


def test_a_batch_with_one_arm_alone_says_nothing() -> None:
    alone = ArmWindows.of([0, 0, 1], [1, 1, 0], [5, 5, 5], [5, 0, 0])
    assert alone.log_e(1.0, "above") == 0.0
    both = ArmWindows.of([0, 0, 1, 1], [1, 0, 1, 1], [5, 5, 5, 5], [2, 0, 5, 5])
    assert both.log_e(1.0, "above") == one_batch([0.4], [0.0]).log_e(1.0, "above")


def test_windows_may_come_in_any_order_and_counted_or_not() -> None:
    rng = np.random.default_rng(1)
    batch, new, m = rng.integers(0, 5, 80), rng.integers(0, 2, 80), rng.integers(1, 4, 80)
    y = rng.integers(0, m + 1)
    whole = ArmWindows.of(batch, new, m, y)
    order = rng.permutation(80)
    rows, count = np.unique(np.stack([batch, new, m, y])[:, order], axis=1, return_counts=True)
    counted = ArmWindows.of(*rows, count)
    for side in ("above", "below"):
        assert whole.log_e(1.3, side) == pytest.approx(counted.log_e(1.3, side), rel=1e-12)
    assert ArmWindows.of(*rows, count).log_e(2.0, "above") == counted.log_e(2.0, "above")


def test_the_bounds_of_a_ratio_are_its_evidence_turned_around() -> None:
    rng = np.random.default_rng(2)
    rows = [
        (b, arm, 5, int(rng.binomial(5, 0.4 if arm else 0.1))) for b in range(40) for arm in (0, 1) for _ in range(3)
    ]
    found = ArmWindows.of(*zip(*rows, strict=True))
    lower, upper = found.bounds(alpha=0.05, beta=0.05)
    assert 1.0 < lower < 4.0 < upper
    assert crosses(found.log_e(lower * 0.999, "above"), 0.05)
    assert not crosses(found.log_e(lower * 1.001, "above"), 0.05)
    assert crosses(found.log_e(upper * 1.001, "below"), 0.05)
    assert not crosses(found.log_e(upper * 0.999, "below"), 0.05)


def test_impossible_windows_are_refused() -> None:
    with pytest.raises(EvidenceError, match="at least one action"):
        ArmWindows.of([0], [1], [0], [0])


def test_golden_numbers_of_a_difference() -> None:
    """At a level of .05, so that each arm has .025."""
    lower, _ = difference_bounds(CountedRate(60, 1000), CountedRate(10, 1000), alpha=0.05, beta=0.05)
    assert lower == pytest.approx(0.014924281, abs=1e-8)
    lower, _ = difference_bounds(CountedRate(30, 1000), CountedRate(20, 1000), alpha=0.05, beta=0.05)
    assert lower == pytest.approx(-0.021945052, abs=1e-8)
    _, upper = difference_bounds(CountedRate(5, 2000), CountedRate(20, 2000), alpha=0.05, beta=0.05)
    assert upper == pytest.approx(0.003353793, abs=1e-8)


@pytest.mark.parametrize(("x1", "x0"), [(60, 10), (30, 20), (5, 20), (0, 0), (100, 100)])
@pytest.mark.parametrize("margin", [0.0, 0.001, 0.01, 0.05])
def test_the_evidence_of_a_difference_crosses_where_its_bounds_do(x1: int, x0: int, margin: float) -> None:
    for new, base in (
        (CountedRate(x1, 1000), CountedRate(x0, 1000)),
        (windowed(x1), windowed(x0)),
    ):
        lower, upper = difference_bounds(new, base, alpha=0.05, beta=0.05)
        if abs(lower - margin) > 1e-6:
            assert bool(crosses(difference_log_e(new, base, margin, "above"), 0.05)) == (lower >= margin)
        if abs(upper - margin) > 1e-6:
            assert bool(crosses(difference_log_e(new, base, margin, "below"), 0.05)) == (upper <= margin)


def windowed(failures: int) -> WindowedRate:
    counts = [1000 - failures, failures]
    return WindowedRate(UserWindows.of(1, cell=[0, 0], actions=[1, 1], failures=[0, 1], count=counts))


def test_a_difference_is_forecast_like_a_rate() -> None:
    new, base = CountedRate(50, 1000), CountedRate(20, 1000)
    factor = growth_to_decision(new, base, 0.01, "above", alpha=0.05)
    assert 2.0 < factor < 4.0, "the design says 3,500 actions an arm in the median"
    assert growth_to_decision(new, base, 0.01, "below", alpha=0.05) == float("inf")


def windows_at(*periods: tuple[int, int, int]) -> pl.DataFrame:
    """User-windows of one action: the hour in which they closed, whether they failed, and how many."""
    rows = [(NOON + timedelta(hours=hour), 1, failed, count) for hour, failed, count in periods]
    schema = {"closed_at": pl.Datetime("us", "UTC"), "m": pl.Int64, "y": pl.Int64, "count": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_windows_that_close_together_are_one_batch() -> None:
    found = match_windows(windows_at((1, 1, 2), (2, 0, 3)), windows_at((2, 0, 4), (3, 1, 1)), "hold_back")
    assert (found.arm(new=True).windows[0], found.arm(new=False).windows[0]) == (3, 4)
    nothing = match_windows(windows_at(), windows_at((2, 0, 4)), "hold_back")
    assert nothing.log_e(1.0, "above") == 0.0


def test_history_is_taken_in_blocks_of_windows_before_the_first_of_the_cell() -> None:
    before = windows_at((1, 0, 3), (2, 1, 3), (3, 0, 3), (5, 1, 9))
    found = match_windows(windows_at((4, 1, 2), (5, 0, 2), (6, 0, 2)), before, "history")
    base = found.arm(new=False)
    assert base.windows[0] <= 9, "what came with the cell, or after it, is no history"
    assert found.arm(new=True).windows[0] >= 2
    alone = match_windows(windows_at((4, 1, 2)), windows_at((4, 0, 3), (5, 0, 3)), "history")
    assert alone.log_e(1.0, "above") == 0.0


def test_a_quantile_ratio_is_bounded_by_both_arms() -> None:
    def observed(ms: float, count: int, unreported: int = 0) -> Observed:
        counts = np.zeros(BIN_COUNT, dtype=np.int64)
        counts[int(bin_of(round(ms * 1_000)))] = count
        return Observed(counts, unreported)

    new, base = observed(300.0, 600), observed(100.0, 600)
    lower, upper = quantile_ratio_bounds(new, base, 0.05, alpha=0.05, beta=0.05)
    assert lower is not None
    assert upper is not None
    assert 2.9 < lower <= 3.0 <= upper < 3.1
    for ratio in (0.5, 1.0, 2.0, 2.8, 3.2, 5.0):
        broken = bool(crosses(quantile_ratio_log_e(new, base, ratio, 0.05, "above"), 0.05))
        kept = bool(crosses(quantile_ratio_log_e(new, base, ratio, 0.05, "below"), 0.05))
        assert (broken, kept) == (ratio < lower, ratio > upper)
    # What is not known stands against whoever has to be shown within something.
    unsure = observed(100.0, 600, unreported=100)
    assert quantile_ratio_log_e(unsure, base, 1.5, 0.05, "below") < 0
    assert quantile_ratio_log_e(new, unsure, 1.5, 0.05, "above") < 3
    nothing = observed(1.0, 0)
    assert quantile_ratio_bounds(nothing, base, 0.05, alpha=0.05, beta=0.05) == (None, None)
    assert quantile_ratio_log_e(nothing, base, 1e9, 0.05, "above") > -np.inf
