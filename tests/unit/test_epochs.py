from __future__ import annotations

from dataclasses import astuple
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from verdict_cases import NOON, a_row, executions, increments, latest_documents

from analytics.audit.replay import replay
from analytics.judging.judge import Judge
from analytics.lake.table_schemas import VERDICTS
from analytics.lake.tables import Lake
from analytics.signals.alive_epochs import AliveEpochs
from analytics.signals.state import CellState, microseconds

if TYPE_CHECKING:
    from pathlib import Path

GATES = """\
version: 1
freshness: 30d
gates:
  - name: g
    ladder: [draft_write, approval_gated]
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.1}
      - {signal: missing_outcome, role: guardrail, limit: 0.2}
      - {signal: severe_incident, role: trip}
"""


def minute(at: float) -> datetime:
    return NOON + timedelta(minutes=at)


def current(*rows: dict[str, Any], watermark_minute: float = 60) -> str:
    state = CellState.from_increments(increments(*rows))
    alive = AliveEpochs.from_state(state, np.ones(1, dtype=np.bool_), minute(watermark_minute), 86_400.0)
    (epoch,) = state.names(alive.current)["epoch"]
    return str(epoch)


def busy(epoch: str, first: int, last: int, each: int = 5) -> list[dict[str, Any]]:
    return [a_row(epoch=epoch, minute=at, **executions(each)) for at in range(first, last)]


class TestWhichIsCurrent:
    def test_a_new_epoch_takes_over_once_it_has_ten_decisions(self) -> None:
        old = busy("old", 0, 20)
        assert current(*old, a_row(epoch="new", minute=20, **executions(9)), watermark_minute=21) == "old"
        assert current(*old, a_row(epoch="new", minute=20, **executions(10)), watermark_minute=21) == "new"

    def test_a_single_odd_decision_resets_nothing(self) -> None:
        odd = a_row(epoch="odd", minute=10, **executions(1))
        for until in (11, 12, 30):
            assert current(*busy("old", 0, until), odd, watermark_minute=until) == "old"

    def test_a_rare_action_changes_its_epoch_after_a_while(self) -> None:
        old, new = a_row(epoch="old", minute=0, **executions(300)), a_row(epoch="new", minute=40, **executions(1))
        assert current(old, new, watermark_minute=49.9) == "old"
        assert current(old, new, watermark_minute=50) == "new"

    def test_late_arrivals_of_an_old_epoch_do_not_bring_it_back(self) -> None:
        rows = [*busy("old", 0, 20), *busy("new", 20, 40)]
        late = a_row(epoch="old", minute=19, last_event_at=minute(90), **executions(500))
        assert current(*rows, late, watermark_minute=91) == "new"

    def test_routers_that_change_one_by_one_do_not_make_it_flap(self) -> None:
        both = [*busy("old", 0, 24), *busy("new", 20, 24)]
        assert {current(*both[:cut], watermark_minute=30) for cut in (27, 28)} == {"new"}
        assert current(*both, a_row(epoch="old", minute=24, **executions(5)), watermark_minute=30) == "new"

    def test_a_short_outage_is_an_episode(self) -> None:
        rows = [*busy("old", 0, 10), *busy("safe-defaults", 10, 11, each=50), *busy("old", 11, 30)]
        assert current(*rows, watermark_minute=30) == "old"

    def test_going_back_to_what_was_goes_back_to_its_evidence(self) -> None:
        assert current(*busy("old", 0, 10), *busy("new", 10, 20), *busy("old", 20, 40)) == "old"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


@pytest.fixture
def judge(lake: Lake, tmp_path: Path) -> Judge:
    (tmp_path / "gates.yaml").write_text(GATES)
    return Judge(lake, tmp_path / "gates.yaml", settle_s=0)


def all_rows(lake: Lake) -> list[dict[str, Any]]:
    return lake.scan(VERDICTS).sort("judged_at", "verdict_id").collect().to_dicts()


class TestRegrading:
    @pytest.mark.slow
    def test_a_late_incident_grades_its_own_epoch_and_says_so(self, lake: Lake, judge: Judge) -> None:
        lake.append("signals", increments(*busy("old", 0, 20)))
        (promoted,) = judge.tick(minute(30))
        assert promoted.data.verdict.value == "PROMOTE"
        lake.append("signals", increments(*busy("new", 30, 31, each=50)))
        judge.tick(minute(40))
        late = a_row(epoch="old", minute=5, last_event_at=minute(49), incidents=1, severe_incidents=1)
        lake.append("signals", increments(late))
        (event,) = judge.tick(minute(50))
        assert (event.data.epoch, event.data.verdict.value) == ("new", "ROLL_BACK"), (
            "it had begun before that was known"
        )
        assert event.data.reasons[-1].code == "earlier_epoch_regraded"
        (regrade,) = [row for row in all_rows(lake) if row["verdict_id"].startswith("r")]
        assert (regrade["epoch"], regrade["verdict"]) == ("old", "ROLL_BACK")
        assert regrade["verdict_id"] in event.data.reasons[-1].message
        (latest,) = latest_documents(lake)
        assert latest["epoch"] == "new"
        (told_of,) = latest["regraded"]
        assert (told_of["epoch"], told_of["verdict_id"], told_of["verdict"]) == (
            "old",
            regrade["verdict_id"],
            "ROLL_BACK",
        )
        assert "severe_incident 1 (among 100 executions), at most 0 allowed" in event.data.reasons[-1].message
        for row in all_rows(lake):
            assert replay(lake, row["verdict_id"]).document.to_dict()["verdict"] == row["verdict"]

    def test_an_epoch_that_was_only_held_is_graded_anew_too(self, lake: Lake, judge: Judge) -> None:
        lake.append("signals", increments(*busy("old", 0, 4)))
        (held,) = judge.tick(minute(5))
        assert held.data.verdict.value == "HOLD"
        lake.append("signals", increments(*busy("new", 30, 31, each=50)))
        judge.tick(minute(40))
        late = a_row(epoch="old", minute=3, last_event_at=minute(49), incidents=1, severe_incidents=1)
        lake.append("signals", increments(late))
        (event,) = judge.tick(minute(50))
        assert (event.data.epoch, event.data.reasons[-1].code) == ("new", "earlier_epoch_regraded")

    def test_what_was_never_graded_is_not_graded_anew(self, lake: Lake, judge: Judge) -> None:
        harmful = a_row(epoch="old", minute=3, **executions(100, 90))
        lake.append("signals", increments(harmful, *busy("new", 30, 31, each=50)))
        (event,) = judge.tick(minute(40))
        assert event.data.epoch == "new"
        assert "earlier_epoch_regraded" not in [reason.code for reason in event.data.reasons]
        assert len(all_rows(lake)) == 1

    @pytest.mark.slow
    def test_what_comes_while_no_judge_runs_is_found_at_the_start(
        self, lake: Lake, judge: Judge, tmp_path: Path
    ) -> None:
        lake.append("signals", increments(*busy("old", 0, 20)))
        judge.tick(minute(30))
        lake.append("signals", increments(*busy("new", 30, 31, each=50)))
        judge.tick(minute(40))
        late = a_row(epoch="old", minute=5, last_event_at=minute(49), incidents=1, severe_incidents=1)
        lake.append("signals", increments(late))
        *_, event = Judge(lake, tmp_path / "gates.yaml", settle_s=0).tick(minute(50))
        assert event.data.reasons[-1].code == "earlier_epoch_regraded"

    @pytest.mark.slow
    def test_it_is_graded_once(self, lake: Lake, judge: Judge, tmp_path: Path) -> None:
        lake.append("signals", increments(*busy("old", 0, 20)))
        judge.tick(minute(30))
        lake.append("signals", increments(*busy("new", 30, 31, each=50)))
        judge.tick(minute(40))
        for second in range(3):
            at = minute(49) + timedelta(seconds=second)
            late = a_row(epoch="old", minute=5, last_event_at=at, incidents=1, severe_incidents=1)
            lake.append("signals", increments(late))
            judge.tick(minute(50) + timedelta(seconds=second))
        assert sum(row["verdict_id"].startswith("r") for row in all_rows(lake)) == 1
        again = Judge(lake, tmp_path / "gates.yaml", settle_s=0)
        again.tick(minute(51))
        assert latest_documents(lake)[0]["reasons"][-1]["code"] == "earlier_epoch_regraded"

    def test_an_epoch_that_is_still_current_says_that_it_had_been_promoted(self, lake: Lake, judge: Judge) -> None:
        lake.append("signals", increments(*busy("old", 0, 20)))
        judge.tick(minute(30))
        late = a_row(epoch="old", minute=5, last_event_at=minute(49), incidents=1, severe_incidents=1)
        lake.append("signals", increments(late))
        (event,) = judge.tick(minute(50))
        assert [reason.code for reason in event.data.reasons] == ["trip", "regraded"]


class TestBoundedMemory:
    @pytest.mark.slow
    def test_minutes_that_no_longer_matter_leave(self, lake: Lake, judge: Judge) -> None:
        for hour in range(10):
            lake.append("signals", increments(*busy("old", 60 * hour, 60 * hour + 60)))
            judge.tick(minute(60 * hour + 60))
        assert judge._state is not None  # noqa: SLF001 - what it keeps is the point
        # For the detector six hours by minutes, and one that goes at the next full hour; before them ten minutes each.
        assert judge._state.counts.recent.height <= 7 * 60 + 4 * 6  # noqa: SLF001

    @pytest.mark.slow
    def test_a_bounded_memory_changes_no_number(self, lake: Lake, judge: Judge) -> None:
        for hour in range(4):
            rows = busy("old", 60 * hour, 60 * hour + 60)
            rows += [a_row(epoch="old", minute=60 * hour + 7, decisions=9, allowed=9, expected=9, executed=6)]
            if hour:
                came_late = a_row(epoch="old", minute=60 * hour - 53, last_event_at=minute(60 * hour), executed=3)
                approved = a_row(epoch="old", minute=3, last_event_at=minute(60 * hour + 58), expected=2, executed=1)
                rows += [came_late, approved]
            lake.append("signals", increments(*rows))
            for later in (60, 61, 62):
                judge.tick(minute(60 * hour + later))
        recorded = all_rows(lake)
        assert len(recorded) >= 4
        for row in recorded:
            assert replay(lake, row["verdict_id"]).verdict_id == row["verdict_id"]

    def test_a_gate_file_that_watches_more_finds_what_happened_before(self, lake: Lake, tmp_path: Path) -> None:
        path = tmp_path / "gates.yaml"
        path.write_text(GATES)
        judge = Judge(lake, path, settle_s=0)
        undone = [
            a_row(epoch="old", stage="approval_gated", minute=at, undone=at < 200, **executions(5))
            for at in range(0, 600, 5)
        ]
        lake.append("signals", increments(*undone))
        judge.tick(minute(600))
        path.write_text(GATES + "      - {signal: undo, role: guardrail, limit: 0.05, maturity: 1m}\n")
        judge.tick(minute(601))
        (row,) = (row for row in all_rows(lake) if row["judged_at"] == minute(601))
        assert replay(lake, row["verdict_id"]).verdict_id == row["verdict_id"]
        (undo,) = (part for part in latest_documents(lake)[0]["signals"] if part["signal"] == "undo")
        assert undo["regression"]["since"] is not None

    def test_what_arrives_for_a_minute_that_left_stands_for_itself(self) -> None:
        rows = [a_row(minute=0, **executions(5)), a_row(minute=30, **executions(1))]
        late = [
            a_row(minute=0, last_event_at=minute(59), expected=2, executed=0),
            a_row(minute=0, last_event_at=minute(59), expected=0, executed=1),
        ]
        whole = CellState.from_increments(increments(*rows, *late))
        cut = CellState.from_increments(increments(*rows))
        cut.settle(minute(20), 600.0, whole=np.zeros(cut.epochs, dtype=np.bool_))
        cut.add(increments(*late))
        assert cut.recent.height < whole.recent.height + len(late)
        for at in (60, 61, 90):
            sums = [state.missing_outcomes(microseconds(minute(at)), 120_000_000) for state in (whole, cut)]
            for one, other in zip(*(astuple(counted) for counted in sums), strict=True):
                assert one.tolist() == other.tolist()
