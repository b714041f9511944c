"""Evidence that a rate rises from day to day, or differs by hour of day."""

from __future__ import annotations

import numpy as np
import pytest

from analytics.evidence.drift import WARNING, log_rising, log_uneven_hours
from analytics.evidence.errors import EvidenceError


@pytest.mark.parametrize(
    ("failures", "trials", "log_e"),
    [([2, 8, 1], [100] * 3, 0.840800884), ([10, 40], [1000] * 2, 5.780301384), ([0, 0], [5, 5], 0.0), ([], [], 0.0)],
)
def test_hours_are_weighed_as_a_split_is(failures: list[int], trials: list[int], log_e: float) -> None:
    ints = np.array(failures, dtype=np.int64), np.array(trials, dtype=np.int64)
    assert float(log_uneven_hours(*ints)) == pytest.approx(log_e, abs=1e-8)
    # An hour in which nothing ran has no say.
    padded = (np.append(counts, 0) for counts in ints)
    assert float(log_uneven_hours(*padded)) == pytest.approx(log_e, abs=1e-8)


@pytest.mark.parametrize(
    ("new", "before", "log_e"),
    [((20, 500), (30, 3000), 8.535060515), ((40, 1000), (10, 1000), 8.449004597), ((9, 9), (0, 0), 0.0)],
)
def test_the_newest_day_is_weighed_against_all_before(
    new: tuple[int, int], before: tuple[int, int], log_e: float
) -> None:
    assert float(log_rising(*new, *before)[0]) == pytest.approx(log_e, abs=1e-8)


def test_a_rate_that_falls_is_no_warning() -> None:
    assert float(log_rising(1, 1000, 60, 1000)[0]) < 0


def test_many_rows_are_weighed_at_once() -> None:
    assert log_rising([20, 40], [500, 1000], [30, 10], [3000, 1000]) == pytest.approx([8.535060515, 8.449004597])
    hours = log_uneven_hours([[10, 40], [0, 0]], [[1000, 1000], [7, 9]])
    assert hours == pytest.approx([5.780301384, 0.0])


def test_more_failures_than_observations_are_refused() -> None:
    with pytest.raises(EvidenceError):
        log_uneven_hours([3], [2])
    with pytest.raises(EvidenceError):
        log_rising(3, 2, 0, 2)


def test_what_is_alike_is_rarely_warned_of() -> None:
    rng = np.random.default_rng(5)
    x = rng.binomial(30, 0.05, (4_000, 24))
    assert (log_uneven_hours(x, np.full_like(x, 30)) >= WARNING).mean() <= 0.01
    new, old = rng.binomial(120, 0.05, 4_000), rng.binomial(1_200, 0.05, 4_000)
    assert (log_rising(new, np.full(4_000, 120), old, np.full(4_000, 1_200)) >= WARNING).mean() <= 0.01
