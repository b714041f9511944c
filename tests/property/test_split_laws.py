"""Laws of declared splits: however the increments were cut and ordered, the evidence is the same, and it only grows."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verdict_cases import CELL, NOON, a_row, document_of, executions, increments, split_gates

from analytics.evidence.sample_ratio import log_mismatch
from analytics.judging.engine import judge
from analytics.signals.state import CellState

if TYPE_CHECKING:
    from random import Random

ARMS = ("new", "held-back", "elsewhere")
GATES = split_gates("{by: cohort, shares: {new: 0.8, held-back: 0.2}, unit: action}")

counts = st.lists(st.tuples(st.sampled_from(ARMS), st.integers(0, 9), st.integers(1, 60)), min_size=1, max_size=40)


def rows(made: list[tuple[str, int, int]]) -> list[dict[str, Any]]:
    return [a_row(CELL._replace(cohort=arm), minute=minute, **executions(count)) for arm, minute, count in made]


def splits(state: CellState) -> dict[str, dict[str, Any]]:
    mark = NOON + timedelta(minutes=10)
    found = judge(state, GATES, watermark=mark, lake_version=1, judged_at=mark)
    return {verdict.inputs.cell.cohort: document_of(verdict)["split"] for verdict in found}


@settings(deadline=None)
@given(counts, st.integers(0, 40), st.randoms(use_true_random=False))
def test_shuffled_split_and_merged_increments_tell_the_same(
    made: list[tuple[str, int, int]], cut: int, random: Random
) -> None:
    all_rows = rows(made)
    whole = splits(CellState.from_increments(increments(*all_rows)))
    random.shuffle(all_rows)
    merged = CellState()
    for part in (all_rows[:cut], all_rows[cut:]):
        merged.add(increments(*part))
    assert splits(merged) == whole


@settings(deadline=None)
@given(counts)
def test_it_is_the_highest_evidence_of_all_minutes(made: list[tuple[str, int, int]]) -> None:
    for arm, found in splits(CellState.from_increments(increments(*rows(made)))).items():
        began = [
            min(minute for each, minute, _ in made if each == one)
            for one in {arm, *(one for one, *_ in made)}
            if one in {arm, "new", "held-back"}
        ]
        first = max(began) + 1
        by_minute = np.zeros((10, 2), dtype=np.int64)
        for one, minute, count in made:
            if one != "elsewhere" and first <= minute <= 9:
                by_minute[minute, ("new", "held-back").index(one)] += count
        levels = log_mismatch(by_minute.cumsum(axis=0), [0.8, 0.2])
        assert found["log_e"] == pytest.approx(float(levels[-1]), abs=1e-9)
        assert found["log_e_highest"] == pytest.approx(max(float(levels.max()), 0.0), abs=1e-9)
        expected = (
            "undeclared" if arm == "elsewhere" else "mismatch" if levels.max() >= np.log(1_000) else "as_declared"
        )
        assert found["state"] == expected
