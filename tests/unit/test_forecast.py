"""How long it takes until harm is evident: exact medians, beside drawn streams that are weighed as the judge does."""

from __future__ import annotations

import numpy as np
import pytest

from analytics.evidence.forecast import (
    first_trials_of_safety,
    forecast_safety,
    last_trials_of_harm,
    median_trials_to_harm,
)
from analytics.evidence.sequential import crosses, log_e_value

STREAMS = 2_001


def drawn_median(rate: float, threshold: float, alpha: float) -> float:
    """The median number of trials until harm, over seeded streams."""
    gaps = np.random.default_rng(12).geometric(rate, size=(STREAMS, 400))
    trials = gaps.cumsum(axis=1)
    evident = crosses(log_e_value(np.arange(1, 401), trials, threshold, direction="above"), alpha)
    assert evident.any(axis=1).all()
    return float(np.median(trials[np.arange(STREAMS), evident.argmax(axis=1)]))


@pytest.mark.parametrize(
    ("rate", "threshold", "alpha"),
    [
        (0.04, 0.02, 0.05),
        (0.1, 0.02, 0.05),
        (0.04, 0.02, 0.0125),
        (0.5, 0.1, 0.2),
        (0.002, 0.001, 0.005),
        (0.9, 0.3, 0.05),
    ],
)
def test_the_median_is_that_of_drawn_streams(rate: float, threshold: float, alpha: float) -> None:
    median = median_trials_to_harm(rate, threshold, alpha=alpha)
    assert median == pytest.approx(drawn_median(rate, threshold, alpha), rel=0.06, abs=1)


def test_the_boundary_is_that_of_the_evidence() -> None:
    failures = np.arange(1, 60)
    last = last_trials_of_harm(failures, 0.02, alpha=0.05)
    for x, n in zip(failures[last >= failures], last[last >= failures], strict=True):
        evident = crosses(log_e_value(x, [n, n + 1], 0.02, direction="above"), 0.05)
        assert evident.tolist() == [True, False]
    assert not crosses(log_e_value(1, 1, 0.02, direction="above"), 0.05)
    assert last[0] == 0


@pytest.mark.parametrize("rate", [0.001, 0.02])
def test_what_keeps_its_limit_is_never_found(rate: float) -> None:
    assert median_trials_to_harm(rate, 0.02, alpha=0.05) is None


def test_the_least_trials_of_safety_are_the_golden_ones() -> None:
    least = first_trials_of_safety(np.arange(6), 0.02, beta=0.05, most=5_000)
    assert least.tolist() == [189, 333, 442, 539, 629, 714]


@pytest.mark.parametrize(
    ("failures", "trials", "early", "late", "within"),
    [(0, 100, 89, 529, 0.9679), (2, 200, 242, None, 0.8249), (12, 800, 869, None, 0.5819)],
)
def test_the_forecast_is_the_golden_one(
    failures: int, trials: int, early: int, late: int | None, within: float
) -> None:
    """Computed once by the design's own program, from the same formula."""
    forecast = forecast_safety(failures, trials, 0.02, beta=0.05)
    assert (forecast.early, forecast.late, forecast.horizon) == (early, late, 5_000)
    assert forecast.within == pytest.approx(within, abs=5e-5)


def test_what_is_far_over_its_limit_has_no_hope_and_what_is_shown_none_left() -> None:
    assert forecast_safety(300, 1_000, 0.02, beta=0.05).within < 0.01
    shown = forecast_safety(0, 200, 0.02, beta=0.05)
    assert (shown.early, shown.late) == (0, 0)
