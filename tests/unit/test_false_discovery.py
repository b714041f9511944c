"""Which rows of a sorted list to believe."""

from __future__ import annotations

import numpy as np
import pytest

from analytics.evidence.errors import EvidenceError
from analytics.evidence.false_discovery import discoveries


def test_as_many_rows_as_carry_each_other_are_marked() -> None:
    # Four rows at 0.05: one alone needs 80, two need 40 each, three 26.7 each, all four 20 each.
    assert discoveries(np.log([79.0, 39.0, 26.0, 19.0]), alpha=0.05).tolist() == [False] * 4
    assert discoveries(np.log([5.0, 41.0, 40.0, 1.0]), alpha=0.05).tolist() == [False, True, True, False]
    assert discoveries(np.log([20.0, 20.0, 20.0, 20.0]), alpha=0.05).tolist() == [True] * 4


def test_an_unknown_row_is_never_marked() -> None:
    assert discoveries([np.nan, np.log(100.0), -np.inf], alpha=0.05).tolist() == [False, True, False]
    assert discoveries([np.nan], alpha=0.05).tolist() == [False]
    assert discoveries([], alpha=0.05).tolist() == []


def test_misuse_is_refused() -> None:
    with pytest.raises(EvidenceError, match="alpha"):
        discoveries([1.0], alpha=1.0)
