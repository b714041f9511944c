"""A list of many actions, sorted by evidence: how many of its first rows to believe.

e-BH (Wang & Ramdas, "False discovery rate control with e-values", JRSS-B 84, 2022): of the rows it marks, at most a
share alpha is marked wrongly on average, however the actions depend on each other. It is for looking at a list. What
happens to an action is decided by that action's own evidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analytics.evidence.sequential import BoolArray, crosses

if TYPE_CHECKING:
    import numpy.typing as npt


def discoveries(log_e: npt.ArrayLike, *, alpha: float) -> BoolArray:
    """Mark the rows to believe: the k largest, for the most k with every one of them at least m / (alpha k).

    `log_e` holds natural logarithms of e-values; one that is not a number is never marked. Shape (m,). Raises
    `EvidenceError` where alpha is not in (0, 1).
    """
    evidence = np.nan_to_num(np.asarray(log_e, dtype=np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    descending = -np.sort(-evidence)
    ranks = np.arange(1, evidence.size + 1)
    enough = crosses(descending - np.log(evidence.size / ranks) if evidence.size else descending, alpha)
    if not np.any(enough):
        return np.zeros(evidence.shape, dtype=np.bool_)
    return np.asarray(evidence >= descending[np.flatnonzero(enough)[-1]])
