"""The split of traffic, checked after every assignment: exact figures by dynamic programme."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from dynamic import critical_failures, crossing_curve, median_look

from analytics.evidence.sample_ratio import ALPHA, log_mismatch
from analytics.evidence.sequential import crosses

if TYPE_CHECKING:
    from dynamic import BoolArray, FloatArray, IntArray, Side

SHARE = 0.1


def curve(rate: float, side: Side, looks: int) -> FloatArray:
    """The chance of having found too many (or too few) in the arm of a tenth, by each assignment."""

    def stops(assigned: IntArray, total: IntArray) -> BoolArray:
        found = crosses(log_mismatch(np.stack([assigned, total - assigned], axis=-1), [SHARE, 1 - SHARE]), ALPHA)
        return np.asarray(found & ((assigned > SHARE * total) == (side == "many")))

    return crossing_curve(critical_failures(stops, looks, side=side), rate, side=side)


def test_a_split_as_declared_is_hardly_ever_called_a_mismatch() -> None:
    either = curve(SHARE, "many", 10_000)[-1] + curve(SHARE, "few", 10_000)[-1]
    assert either <= ALPHA
    assert either == pytest.approx(0.00065, abs=5e-6)


@pytest.mark.slow
def test_eleven_percent_instead_of_ten_are_found_after_some_fifteen_thousand() -> None:
    found = curve(0.11, "many", 17_500)
    median = median_look(found)
    assert median == 15_596
    assert round(float(found[15_000 - 1]), 2) == 0.47


@pytest.mark.slow
def test_fifteen_percent_instead_of_ten_are_found_after_680() -> None:
    assert median_look(curve(0.15, "many", 2_000)) == 680


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_what_is_counted_must_be_what_is_assigned(share: float) -> None:
    # 2 000 users who keep their arm, with ten actions each on average; a look after every twenty users.
    runs, users = 400, 2_000
    rng = np.random.default_rng([21, round(10 * share)])
    mine = rng.random((runs, users)) < share
    actions = rng.geometric(0.1, (runs, users))

    def called_a_mismatch(each: IntArray) -> float:
        both = np.stack([(mine * each).cumsum(axis=1), (~mine * each).cumsum(axis=1)], axis=-1)[:, 19::20]
        return float(crosses(log_mismatch(both, [share, 1 - share]), ALPHA).any(axis=1).mean())

    assert called_a_mismatch(np.ones_like(actions)) <= ALPHA + 4 * np.sqrt(ALPHA / runs)
    assert abs(called_a_mismatch(actions) - 0.95) <= 0.05
