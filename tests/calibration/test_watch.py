"""After a promotion, through the engine that production runs: how soon a rise is found, and how often wrongly.

Limit 2 %, alpha 5 %, the defaults of the detector. A rollback for any reason counts; at these stages nearly all are the
detector's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from simulated import margin
from timed_streams import crossings, minute_rows

from analytics.backtest.history import History
from analytics.evidence.change_detector import Watch, run_length
from analytics.gates.gate_file import GateFile
from analytics.judging.user_windows import READ_OF_EVENTS
from analytics.lake.table_schemas import COLUMNS, EVENTS

if TYPE_CHECKING:
    from simulated import FloatArray

pytestmark = pytest.mark.slow

LIMIT = 0.02
ALPHA = 0.05
STAGE = "approval_gated"
MONTH = 28 * 24 * 60  # minutes


def gates(unit: str) -> GateFile:
    return GateFile.parse(
        f"""\
version: 1
freshness: 30d
gates:
  - name: g
    unit: {unit}
    ladder: [draft_write, {STAGE}]
    signals: [{{signal: execution_error, role: guardrail, limit: {LIMIT}}}]
""".encode()
    )


@dataclass(frozen=True)
class Rise:
    """Streams that fail at 1 % for some time, and at another rate afterwards."""

    per_minute: int
    healthy: int  # minutes
    bad: int  # minutes
    rate: float = 0.04
    streams: int = 100

    def history(self, seed: int) -> History:
        rng, minutes = np.random.default_rng(seed), self.healthy + self.bad
        rates = np.where(np.arange(minutes) < self.healthy, LIMIT / 2, self.rate)
        failed = rng.binomial(self.per_minute, rates, (self.streams, minutes)).ravel()
        stream, minute = np.repeat(np.arange(self.streams), minutes), np.tile(np.arange(minutes), self.streams)
        counts = dict.fromkeys(("decisions", "allowed", "expected", "executed"), np.full(failed.size, self.per_minute))
        rows = minute_rows(stream, minute, minute, {**counts, "failed": failed}, stage=STAGE)
        events = pl.DataFrame(schema={name: COLUMNS[EVENTS][name] for name in READ_OF_EVENTS})
        return History.from_rows(rows, events.lazy())

    def delays(self, seed: int, every: timedelta) -> FloatArray:
        """Minutes from the rise to the rollback, infinity where there is none; none came before the rise."""
        found = crossings(self.history(seed), gates("action"), self.streams, every=every)
        assert (found.rolled_back > self.healthy).all()
        return found.rolled_back - self.healthy


@pytest.mark.parametrize(
    ("rise", "every", "median", "slowest"),
    [
        pytest.param(Rise(1, 2_880, 4_320), 20, 1_140, 1_980, marks=pytest.mark.exhaustive),
        pytest.param(Rise(10, 720, 480), 5, 145, 240, marks=pytest.mark.exhaustive),
        (Rise(50, 240, 120, streams=60), 1, 36, 60),
    ],
)
def test_a_rise_is_found_as_soon_as_without_a_window(rise: Rise, every: int, median: int, slowest: int) -> None:
    delays = rise.delays(5, timedelta(minutes=every))
    assert np.quantile(delays, 0.5, method="lower") <= 1.15 * median + every
    assert np.quantile(delays, 0.9, method="lower") <= 1.2 * slowest + every


@pytest.mark.exhaustive
@pytest.mark.parametrize("per_minute", [1, 10, 50])
def test_at_the_limit_at_most_alpha_alarms_in_four_weeks(per_minute: int) -> None:
    # The engine's own detector, minute by minute; by hours and days its level is never higher.
    runs, length = 1_000, run_length(ALPHA, batches=MONTH)
    rng = np.random.default_rng([17, per_minute])
    watch = Watch.start(runs, threshold=LIMIT, run_length=length)
    for _ in range(28):
        trials = np.full((MONTH // 28, runs), per_minute)
        watch = watch.after(rng.binomial(trials, LIMIT), trials)
    assert watch.alarmed.mean() <= ALPHA + margin(ALPHA, runs)
