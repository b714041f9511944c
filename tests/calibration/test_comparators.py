"""Our engine and the rules in use elsewhere on the same seeded streams, and the page that shows the figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from comparators import (
    ALPHA,
    OURS,
    RATES,
    STREAMS,
    THRESHOLD,
    TOLD,
    Row,
    compare,
    table,
)
from dynamic import critical_failures, crossing_curve
from promotion_rules import normal_sequence
from simulated import NEVER, margin

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"


def row(name: str) -> Row:
    (found,) = (row for row in compare() if row.name == name)
    return found


def keeps_both_levels(row: Row) -> bool:
    """Whether neither error exceeds its level by more than chance, at the limit and beyond it."""
    allowed = ALPHA + margin(ALPHA, STREAMS)
    rollbacks = [row.rollbacks(rate) for rate in RATES if rate <= THRESHOLD]
    promotions = [row.promotions(rate) for rate in RATES if rate >= THRESHOLD]
    return max(rollbacks + promotions) <= allowed


@pytest.mark.slow
def test_only_our_rule_and_the_one_that_is_told_the_truth_keep_both_levels() -> None:
    assert {row.name for row in compare() if keeps_both_levels(row)} == {OURS, TOLD.name}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_our_shares_on_the_streams_are_the_exact_ones() -> None:
    for share, exact in ((row(OURS).rollbacks(THRESHOLD), 0.034), (row(OURS).promotions(THRESHOLD), 0.049)):
        assert abs(share - exact) <= margin(exact, STREAMS) + 0.0005


@pytest.mark.slow
def test_our_delays_stay_within_1_6_of_the_rule_that_is_told_the_truth() -> None:
    ours, informed = row(OURS), row(TOLD.name)
    for rate in RATES:
        if rate > THRESHOLD:
            assert informed.median_rollback(rate) <= ours.median_rollback(rate) < 1.6 * informed.median_rollback(rate)
        if rate < THRESHOLD:
            assert (
                informed.median_promotion(rate) <= ours.median_promotion(rate) < 1.6 * informed.median_promotion(rate)
            )
    assert ours.median_rollback(0.04) < NEVER


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first_look", "by_1_000", "by_20_000"), [(1, 0.98, 0.98), (9, 0.84, 0.85), (50, 0.41, 0.43), (300, 0.10, 0.13)]
)
def test_a_normal_sequence_promotes_what_has_not_failed_yet(first_look: int, by_1_000: float, by_20_000: float) -> None:
    # Exact. Without a failure so far the estimated spread is zero, and the interval a point.
    _, below = normal_sequence(first_look)
    curve = crossing_curve(critical_failures(below, 20_000, side="few"), THRESHOLD, side="few")
    assert np.round(curve[[999, 19_999]], 2).tolist() == [by_1_000, by_20_000]


@pytest.mark.slow
def test_the_page_shows_the_table_of_these_streams() -> None:
    # `python docs/statistics_tables.py` writes it.
    assert table(compare()) in PAGE.read_text(encoding="utf-8")
