"""Whether traffic was split as declared."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from analytics.evidence.errors import EvidenceError
from analytics.evidence.sample_ratio import ALPHA, log_mismatch
from analytics.evidence.sequential import crosses


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.1, 0.9), (0.2, 0.3, 0.5)])
def test_it_is_the_ratio_of_a_dirichlet_mixture_to_the_declared_split(shares: tuple[float, ...]) -> None:
    counts = np.random.default_rng(2).multinomial(500, shares)
    prior = 100 * np.array(shares)
    mixture = stats.dirichlet_multinomial.logpmf(counts, prior, counts.sum())
    declared = stats.multinomial.logpmf(counts, counts.sum(), shares)
    assert float(log_mismatch(counts, shares)) == pytest.approx(mixture - declared, abs=1e-9)


def test_two_arms_are_the_beta_binomial() -> None:
    expected = special.betaln(10 + 120, 90 + 880) - special.betaln(10, 90) - 120 * math.log(0.1) - 880 * math.log(0.9)
    assert float(log_mismatch([120, 880], [0.1, 0.9])) == pytest.approx(expected, abs=1e-9)


def test_many_cells_are_checked_together() -> None:
    counts = [[0, 0], [100, 900], [2_000, 8_000]]
    together = log_mismatch(counts, [0.1, 0.9])
    assert together[0] == pytest.approx(0, abs=1e-12)
    assert together.tolist() == [float(log_mismatch(row, [0.1, 0.9])) for row in counts]
    assert crosses(together, ALPHA).tolist() == [False, False, True]


def test_an_order_of_the_arms_does_not_matter() -> None:
    assert log_mismatch([7, 30, 63], [0.1, 0.2, 0.7]) == pytest.approx(
        float(log_mismatch([63, 7, 30], [0.7, 0.1, 0.2]))
    )


def test_on_average_a_declared_split_gives_one() -> None:
    heads = np.arange(61)
    e_values = np.exp(log_mismatch(np.stack([heads, 60 - heads], axis=-1), [0.3, 0.7]))
    assert float(stats.binom.pmf(heads, 60, 0.3) @ e_values) == pytest.approx(1.0, abs=1e-10)


def test_misuse_is_refused() -> None:
    with pytest.raises(EvidenceError, match="add up to 1"):
        log_mismatch([1, 2], [0.5, 0.6])
    with pytest.raises(EvidenceError, match="add up to 1"):
        log_mismatch([1, 2], [0.0, 1.0])
    with pytest.raises(EvidenceError, match="two arms"):
        log_mismatch([1, 2, 3], [0.5, 0.5])
    with pytest.raises(EvidenceError, match="two arms"):
        log_mismatch([1], [1.0])
    with pytest.raises(EvidenceError, match="assignments must be whole"):
        log_mismatch([1.5, 2], [0.5, 0.5])
