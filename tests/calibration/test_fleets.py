"""A fleet of a thousand actions, one in twenty at three times its limit. Seeded simulations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from analytics.evidence.false_discovery import discoveries
from analytics.evidence.sequential import crosses, log_e_value

if TYPE_CHECKING:
    from simulated import BoolArray, FloatArray

THRESHOLD = 0.02
ALPHA = 0.05
ACTIONS = 1_000
BAD = 50
LOOKS = np.arange(25, 5_001, 25)


def looked_at(rng: np.random.Generator, healthy: float) -> FloatArray:
    """The evidence of harm at each look; the first `BAD` actions are the bad ones. Shape (looks, actions)."""
    rates = np.where(np.arange(ACTIONS) < BAD, 3 * THRESHOLD, healthy)
    failures = rng.binomial(25, rates, (LOOKS.size, ACTIONS)).cumsum(axis=0)
    return log_e_value(failures, LOOKS[:, np.newaxis], THRESHOLD, direction="above")


def ever(log_e: FloatArray) -> BoolArray:
    return np.asarray(crosses(log_e, ALPHA).any(axis=0))


@pytest.mark.slow
def test_every_bad_action_of_a_fleet_is_found_and_of_the_others_no_more_than_agreed() -> None:
    rng = np.random.default_rng(41)
    found, spared, first_thousand = [], [], []
    for _ in range(10):
        log_e = looked_at(rng, THRESHOLD)
        found.append(ever(log_e)[:BAD].mean())
        first_thousand.append(ever(log_e[LOOKS <= 1_000])[:BAD].mean())
        spared.append(1 - ever(log_e)[BAD:].mean())
    assert np.mean(found) > 0.999
    assert np.mean(first_thousand) > 0.99
    assert 1 - np.mean(spared) <= ALPHA


def test_a_healthy_rest_of_a_fleet_is_left_alone() -> None:
    log_e = looked_at(np.random.default_rng(42), THRESHOLD / 2)
    assert ever(log_e)[:BAD].all()
    assert ever(log_e)[BAD:].sum() <= 5


@pytest.mark.slow
def test_a_sorted_list_marks_few_that_do_not_belong() -> None:
    # Rolled back one by one, about a quarter of the fallen stood exactly at their limit: alpha is a promise to each
    # action, not about the list. The marks are a promise about the list.
    rng = np.random.default_rng(43)
    wrongly_marked, wrongly_fallen, marked_bad = [], [], []
    for _ in range(20):
        log_e = looked_at(rng, THRESHOLD)
        marks = discoveries(log_e[LOOKS.size // 4], alpha=ALPHA)
        fallen = ever(log_e)
        wrongly_marked.append(marks[BAD:].sum() / max(marks.sum(), 1))
        wrongly_fallen.append(fallen[BAD:].sum() / max(fallen.sum(), 1))
        marked_bad.append(marks[:BAD].mean())
    assert np.mean(wrongly_marked) <= ALPHA
    assert np.mean(wrongly_fallen) > 0.2
    assert np.mean(marked_bad) > 0.95
