"""Trying again until it passes: a cell exactly at its limit, retried, with and without a budget; through the engine."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from simulated import margin
from timed_streams import Streams, after, crossings, intervals

from analytics.backtest.history import History
from analytics.gates.gate_file import GateFile

pytestmark = pytest.mark.slow

LIMIT = 0.02
BUDGET = 0.1
AT_ONCE = after(0.05)


def gates(attempts: str) -> GateFile:
    return GateFile.parse(
        f"""\
version: 1
freshness: 30d
gates:
  - name: g
    unit: action
    ladder: [draft_write, approval_gated]{attempts}
    signals: [{{signal: execution_error, role: promote, limit: {LIMIT}}}]
""".encode()
    )


def retried(attempts: int, minutes: int, streams: int, *, rate: float = LIMIT) -> History:
    """Streams of ten actions a minute in which every so many minutes a new attempt begins."""
    whole = Streams(streams, attempts * minutes, 10, rate, AT_ONCE, AT_ONCE).history(np.random.default_rng(11))
    since = (pl.col("bucket") - pl.col("bucket").min()).dt.total_minutes()
    epoch = pl.format("e{}", since // minutes).alias("epoch")
    return History.from_rows(whole.increments.with_columns(epoch), whole.events.lazy())


def promotions(history: History, streams: int, attempts: str) -> float:
    return crossings(history, gates(attempts), streams).promotions


@pytest.mark.parametrize(
    ("attempts", "minutes", "streams"),
    [(14, 60, 80), pytest.param(14, 400, 400, marks=pytest.mark.exhaustive)],
)
def test_what_is_tried_until_it_passes_does_not_pass_where_there_is_a_budget(
    attempts: int, minutes: int, streams: int
) -> None:
    history = retried(attempts, minutes, streams)
    without = promotions(history, streams, "")
    assert intervals(without, streams)[0] > 2 * BUDGET  # the fault that the budget mends
    spent = promotions(history, streams, f"\n    attempts: {{budget: {BUDGET}}}")
    assert spent <= BUDGET + margin(BUDGET, streams)


def test_a_healthy_action_passes_at_its_seventh_attempt() -> None:
    history = retried(7, 60, 20, rate=LIMIT / 10)
    assert promotions(history, 20, f"\n    attempts: {{budget: {BUDGET}}}") == 1.0
