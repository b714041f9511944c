"""Was the traffic split as declared? If not, nothing that compares the arms can be believed.

With counts n_i of the arms and the declared shares rho_i, and a Dirichlet prior a_i = 100 rho_i around them,

    E = Gamma(100) / Gamma(100 + n) * prod_i Gamma(a_i + n_i) / Gamma(a_i) * rho_i^(-n_i)

is an e-value against "every assignment is an independent draw with the shares rho" (Lindon & Malek, "Anytime-valid
inference for multinomial count data", NeurIPS 2022). A mismatch holds a verdict up; it never promotes. What is counted
must be what is assigned: where a user keeps the arm, count users.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.evidence.errors import EvidenceError
from analytics.evidence.mixture import whole

if TYPE_CHECKING:
    import numpy.typing as npt

    from analytics.evidence.sequential import FloatArray

ALPHA: Final = 0.001
"""Error level of the check: it runs in every cell at every look, and a false one holds up a sound stage."""

CONCENTRATION: Final = 100.0  # how many assignments the prior is worth

# NumPy has no log-gamma; the arms of a fleet are few enough for the standard library's.
_lgamma: Final = np.frompyfunc(math.lgamma, 1, 1)


def log_mismatch(assigned: npt.ArrayLike, shares: npt.ArrayLike) -> FloatArray:
    """Weigh the evidence that assignments do not follow the declared shares; compare with `crosses(..., ALPHA)`.

    Assignments have the shape (..., arms), shares (arms,) and the sum 1. Gives natural logarithms, 0 without
    assignments. Raises `EvidenceError` where a count is negative or not whole, or the shares are not shares of
    everything.
    """
    counts = whole(assigned, "assignments")
    rho = np.asarray(shares, dtype=np.float64)
    if rho.ndim == 0 or counts.ndim == 0 or rho.shape[-1] != counts.shape[-1] or rho.shape[-1] < 2:
        raise EvidenceError("give the assignments and the declared share of at least two arms, the same arms in both")
    if not (np.all((rho > 0) & (rho < 1)) and np.all(np.abs(rho.sum(axis=-1) - 1.0) <= 1e-9)):
        raise EvidenceError("declared shares must lie strictly between 0 and 1 and add up to 1")
    prior = CONCENTRATION * rho
    arms = log_gamma(prior + counts) - log_gamma(prior) - counts * np.log(rho)
    total = counts.sum(axis=-1)
    return np.asarray(math.lgamma(CONCENTRATION) - log_gamma(CONCENTRATION + total) + arms.sum(axis=-1))


def log_gamma(values: FloatArray) -> FloatArray:
    """The logarithm of the gamma function, element by element."""
    return np.asarray(_lgamma(values), dtype=np.float64)
