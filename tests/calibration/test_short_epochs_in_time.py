"""Epochs that end before their outcomes come: how often a sound one is rolled back; through the engine."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from simulated import margin
from timed_streams import Streams, after, crossings, intervals

from analytics.backtest.history import History, run
from analytics.gates.gate_file import GateFile

pytestmark = pytest.mark.slow

LIMIT, ALPHA = 0.03, 0.05
LIFE, EPOCHS, DELAY = 30, 6, 40
GATES = GateFile.parse(
    f"""\
version: 1
freshness: 30d
gates:
  - name: g
    unit: action
    ladder: [draft_write, approval_gated]
    signals: [{{signal: undo, role: guardrail, limit: {LIMIT}, maturity: 1h}}]
""".encode()
)


def deployed(streams: int, rate: float) -> History:
    """Streams of eight actions a minute in which a new epoch begins every half hour, and undos come after it."""
    whole = Streams(streams, EPOCHS * LIFE, 8, rate, after(DELAY), after(0.05), failure="undone").history(
        np.random.default_rng(29)
    )
    since = (pl.col("bucket") - pl.col("bucket").min()).dt.total_minutes()
    return History.from_rows(
        whole.increments.with_columns(pl.format("e{}", since // LIFE).alias("epoch")), whole.events.lazy()
    )


@pytest.mark.parametrize("streams", [60, pytest.param(600, marks=pytest.mark.exhaustive)])
def test_a_sound_epoch_is_rolled_back_within_alpha(streams: int) -> None:
    rolled_back = {
        (turn.verdict.inputs.cell, turn.verdict.inputs.epoch)
        for turn in run(deployed(streams, LIMIT), GATES, every=timedelta(minutes=10))
        if turn.verdict.result.verdict.value == "ROLL_BACK"
    }
    share = len(rolled_back) / (streams * (EPOCHS - 1))  # of the first one nothing is known while it decides
    assert share <= ALPHA + margin(ALPHA, streams)


def test_a_bad_one_is_found_as_soon_as_its_first_outcomes_come() -> None:
    found = crossings(deployed(20, 5 * LIMIT), GATES, 20, every=timedelta(minutes=10))
    assert intervals(found.rollbacks, 20)[1] == pytest.approx(1.0)
    assert np.median(found.rolled_back) <= DELAY + 21
