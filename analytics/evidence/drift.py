"""Does a rate rise from day to day, or differ by hour of day, by more than chance? Two heuristics for a warning.

Both are e-values at one fixed look for independent observations: given how many failures there are in all, they are
spread over the parts as the observations are. They are not anytime-valid, and decide nothing. Logarithms are natural.
Golden values: tests/unit/test_drift.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.evidence.mixture import average, bets, failures_among
from analytics.evidence.sample_ratio import log_gamma

if TYPE_CHECKING:
    import numpy.typing as npt

    from analytics.evidence.sequential import FloatArray

WARNING: Final = math.log(100.0)
"""Evidence from which on a person is warned: wrong at one look in a hundred at most, where observations are alike."""

HOURS: Final = 24  # hours of a day; how many failures the prior is worth


def log_rising(
    failures: npt.ArrayLike, trials: npt.ArrayLike, failures_before: npt.ArrayLike, trials_before: npt.ArrayLike
) -> FloatArray:
    """Weigh the newest observations against all before: with q = n_new / n, E = mean_k w^x_new / (1 + (w - 1) q)^X.

    The eight bets w are those of `sequential` for "above"; by Hoeffding ("Probability inequalities for sums of bounded
    random variables", JASA 58, 1963) drawing without replacement varies less than the binomial that this bounds.
    One value a row; 0 where either part has no observations. Raises `EvidenceError` for counts that are none.
    """
    new, trials_new = failures_among(np.atleast_1d(failures), np.atleast_1d(trials))
    old, trials_old = failures_among(np.atleast_1d(failures_before), np.atleast_1d(trials_before))
    share = trials_new / np.maximum(trials_new + trials_old, 1)
    omega = bets("above")
    log_e = average(new * np.log(omega) - (new + old) * np.log1p((omega - 1.0) * share))
    return np.asarray(np.where((trials_new > 0) & (trials_old > 0), log_e, 0.0))


def log_uneven_hours(failures: npt.ArrayLike, trials: npt.ArrayLike) -> FloatArray:
    """Weigh the failures of each hour of day against its share of the observations, as a declared split is weighed.

    With a_h = 24 n_h / n: E = Gamma(24) / Gamma(24 + X) * prod_h Gamma(a_h + x_h) / Gamma(a_h) * (n_h / n)^-x_h, as in
    `sample_ratio`. Shape (..., hours); one value a row, 0 without failures. Raises `EvidenceError` likewise.
    """
    x, n = failures_among(failures, trials)
    failed = x.sum(axis=-1)
    share = n / np.maximum(n.sum(axis=-1, keepdims=True), 1)
    hit = x > 0
    prior = HOURS * np.where(hit, share, 1.0)
    terms = np.zeros(x.shape)
    # Hours without a failure add nothing, and most have none: gamma is worked out for the others alone.
    terms[hit] = log_gamma(prior[hit] + x[hit]) - log_gamma(prior[hit]) - x[hit] * np.log(share[hit])
    log_e = math.lgamma(HOURS) - log_gamma(HOURS + failed) + terms.sum(axis=-1)
    return np.asarray(np.where(failed > 0, log_e, 0.0))
