"""Readings of sparse histograms that only tests need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analytics.evidence.histogram import bin_of, quantile, snap

if TYPE_CHECKING:
    import numpy.typing as npt


def value_of(bins: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The value that stands for each bin, in micro-units."""
    return np.vectorize(lambda entry: quantile([entry], [1], 0.5), otypes=[np.float64])(np.asarray(bins))


def exceeding(bins: npt.ArrayLike, counts: npt.ArrayLike, limit_micro: int) -> int:
    """The observations strictly above a limit in force, as window sums count them."""
    return int(np.asarray(counts, dtype=np.int64)[np.asarray(bins) > int(bin_of(snap(limit_micro)))].sum())
