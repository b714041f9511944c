from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from random_fleets import some_rows
from verdict_cases import NOON, increments

from analytics.judging.judge import Judge
from analytics.lake.errors import ForgottenError
from analytics.lake.table_schemas import SIGNALS
from analytics.lake.tables import Lake
from analytics.report import DEFAULT_OUTCOME_DEADLINE_S, build_report, signal_rows
from analytics.signals.state import CellState
from dashboard.data.reader import LakeReader

GATES = """version: 1
gates: [{name: g, signals: [
  {signal: execution_error, role: guardrail, limit: 0.1},
  {signal: missing_outcome, role: guardrail, limit: 0.1},
]}]"""


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=examples(5), deadline=None)
@pytest.mark.slow
def test_a_page_that_is_kept_open_shows_what_one_opened_now_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        root, gates = str(Path(folder, "lake")), Path(folder, "gates.yaml")
        gates.write_text(GATES)
        lake = Lake.open(root)
        judge, open_page = Judge(lake, gates, settle_s=0), LakeReader(root)
        for minute in (1, 2, 3, 5, 9, 40, 41, 1_500):
            earliest = 0 if minute < 41 else minute - 3
            if rng.random() < 0.9:
                lake.append(SIGNALS, increments(*some_rows(rng, int(rng.integers(1, 20)), earliest, minute)))
            if rng.random() < 0.6:
                judge.tick(NOON + timedelta(minutes=minute, seconds=rng.integers(1, 200).item()))
            if rng.random() < 0.3:
                lake.compact(SIGNALS)
            kept, fresh = open_page.snapshot(), LakeReader(root).snapshot()
            assert kept is not None
            assert kept == fresh
            state = CellState.from_increments(lake.scan(SIGNALS).collect())
            newest, cells = state.latest_event_at, np.arange(len(state.cells))
            deadline_s = DEFAULT_OUTCOME_DEADLINE_S
            whole = [] if newest is None else signal_rows(state, cells, watermark=newest, outcome_deadline_s=deadline_s)
            assert list(build_report(lake).signals) == whole


def test_a_page_that_slept_longer_than_the_log_is_kept_reads_all_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = np.random.default_rng(8)
    root = str(tmp_path / "lake")
    lake = Lake.open(root)
    lake.append(SIGNALS, increments(*some_rows(rng, 20, 0, 5)))
    page = LakeReader(root)
    assert page.snapshot() is not None
    lake.append(SIGNALS, increments(*some_rows(rng, 20, 3, 9)))

    def gone(*_: object, **__: object) -> None:
        raise ForgottenError("the log no longer reaches back")

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "increments", gone)
        assert page.snapshot() == LakeReader(root).snapshot()
    lake.append(SIGNALS, increments(*some_rows(rng, 20, 8, 12)))
    assert page.snapshot() == LakeReader(root).snapshot()
