"""Whenever events arrive, by whatever clocks: what comes in time after its decision arrived is not missing."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from verdict_cases import NOON, a_row, increments

from analytics.signals.missing_outcomes import HISTORY_AFTER
from analytics.signals.state import CellState, microseconds

DEADLINE = timedelta(minutes=2)
DELAYS_S = st.integers(-300, round(HISTORY_AFTER.total_seconds()))  # of reading, by clocks that run fast or slow


@st.composite
def actions(draw: st.DrawFn) -> list[tuple[timedelta, timedelta, timedelta]]:
    """When each was decided by its router's clock, and when decision and outcome were read."""
    after = st.integers(60, 120) | st.integers(-7_200, 120)
    drawn = draw(st.lists(st.tuples(st.integers(0, 7_200), DELAYS_S, after), min_size=1, max_size=8))
    return [
        (timedelta(seconds=at), timedelta(seconds=at + late), timedelta(seconds=at + late + after))
        for at, late, after in drawn
    ]


@given(actions(), st.integers(-60, 60), st.sampled_from([0, 1, 60, 7_200]))
@settings(max_examples=examples(100), deadline=None)
def test_nothing_is_missing_before_it_could_be_seen(
    acts: list[tuple[timedelta, timedelta, timedelta]], later_s: int, behind_s: int
) -> None:
    looked = acts[0][2] + timedelta(seconds=later_s)
    watermark = NOON + looked - timedelta(seconds=behind_s)
    rows = []
    for at, decision_read, outcome_read in acts:
        minute, told = int(at.total_seconds() // 60), NOON + at
        if decision_read <= looked:
            counts = dict.fromkeys(("decisions", "allowed", "expected"), 1)
            rows.append(a_row(minute=minute, last_event_at=told, last_ingested_at=NOON + decision_read, **counts))
        if outcome_read <= looked:
            rows.append(a_row(minute=minute, last_event_at=told, last_ingested_at=NOON + outcome_read, executed=1))
    state = CellState.from_increments(increments(*rows))
    deadline_us = DEADLINE // timedelta(microseconds=1)
    missing = state.missing_outcomes(microseconds(watermark), deadline_us)
    assert not missing.missing.any()
    # In the end nothing waits any more.
    later = state.missing_outcomes(microseconds(NOON + timedelta(days=3)), deadline_us)
    assert not later.pending.any()
    assert np.array_equal(later.missing, np.maximum(missing.unreported, 0))
