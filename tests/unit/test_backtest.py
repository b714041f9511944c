from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from lakes_of_events import EventLake
from verdict_cases import CELL, NOON, a_row, document_of, executions, increments

from analytics.backtest.compare import Backtest, NothingInForceError, backtest, in_force
from analytics.backtest.history import History, NoHistoryError, run
from analytics.gates.gate_file import GateFile
from analytics.judging.judge import Judge
from analytics.lake.tables import Lake
from stagekeeper.commands import cli

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

OLD = "version: 1\ngates: [{name: errors, ladder: [draft_write, approval_gated], signals: [SIGNAL]}]".replace(
    "SIGNAL", "{signal: execution_error, role: guardrail, limit: 0.3}"
)
NEW = OLD.replace("0.3", "0.05")


def gates(text: str) -> GateFile:
    return GateFile.parse(text.encode())


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake.open(str(tmp_path / "lake"))
    rows = [a_row(minute=minute, **executions(10, 1)) for minute in range(60)]
    made.append("signals", increments(*rows))
    return made


def of(lake: Lake, **more: Any) -> Backtest:
    return backtest(History.from_lake(lake), gates(OLD), gates(NEW), **more)


@pytest.mark.slow
def test_where_two_gate_files_part_and_why(lake: Lake) -> None:
    found = of(lake)
    first, last = found.differences[0], found.differences[-1]
    assert first.cell == CELL
    assert [turn.verdict.result.verdict for turn in found.old[CELL]] == ["HOLD", "PROMOTE"]
    assert [turn.verdict.result.verdict for turn in found.new[CELL]] == ["HOLD", "ROLL_BACK"]
    assert first.since == found.old[CELL][1].at
    assert first.new is not None
    assert first.new.verdict.result.verdict == "HOLD"
    assert last.until is None
    assert last.new is not None
    assert last.new.verdict.result.reasons[0].code == "harm"
    assert first.until == last.since == found.new[CELL][1].at


@pytest.mark.slow
def test_a_gate_file_never_differs_from_itself(lake: Lake) -> None:
    assert backtest(History.from_lake(lake), gates(OLD), gates(OLD)).differences == []


@pytest.mark.slow
def test_it_says_what_the_judge_would_have_said_at_every_minute(lake: Lake) -> None:
    for turn in run(History.from_lake(lake), gates(OLD)):
        rows = [a_row(minute=minute, **executions(10, 1)) for minute in range(60)]
        known = [row for row in rows if row["last_event_at"] <= turn.at]
        signals = document_of(turn.verdict)["signals"]
        assert signals[0]["trials"] == sum(row["executed"] for row in known)


def test_only_the_asked_stretch_is_looked_at(lake: Lake) -> None:
    until = NOON + timedelta(minutes=3)
    assert of(lake, until=until).differences == []
    late = of(lake, since=NOON + timedelta(minutes=50))
    assert {difference.since for difference in late.differences} == {NOON + timedelta(minutes=51)}


@pytest.mark.slow
def test_a_quiet_cell_goes_stale_in_its_own_minute(lake: Lake) -> None:
    other = a_row(CELL._replace(tool="other"), minute=120, **executions(1))
    lake.append("signals", increments(other))
    turns = [turn for turn in run(History.from_lake(lake), gates(OLD)) if turn.verdict.inputs.cell == CELL]
    assert turns[-1].verdict.result.verdict == "INVALID"
    assert turns[-1].at == NOON + timedelta(minutes=75)


def test_users_are_counted_as_they_were_known(tmp_path: Path) -> None:
    event_lake = EventLake.at(tmp_path)
    for number in range(90):
        event_lake.act(number / 10, f"user-{number % 45}", failed=number < 45 and number % 9 == 0)
    event_lake.act(30, "later")
    event_lake.store()
    by_user = OLD.replace("gates:", "user_window: 10m\ngates:")
    history = History.from_lake(event_lake.lake)
    windows = [turn.verdict.inputs.signals[0].windows for turn in run(history, gates(by_user))]
    assert windows[0] == 0
    assert windows[-1] == 45


def test_what_is_in_force_is_what_the_ledger_used_last(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(NothingInForceError, match="--against"):
        in_force(lake)
    (tmp_path / "gates.yaml").write_text(OLD)
    Judge(lake, tmp_path / "gates.yaml", settle_s=0).tick(NOON + timedelta(hours=2))
    assert in_force(lake).sha256 == gates(OLD).sha256


def test_an_empty_lake_has_no_history(tmp_path: Path) -> None:
    with pytest.raises(NoHistoryError):
        History.from_lake(Lake.open(str(tmp_path / "empty")))


@pytest.mark.slow
def test_the_command(lake: Lake, tmp_path: Path) -> None:
    for name, text in (("old.yaml", OLD), ("new.yaml", NEW)):
        (tmp_path / name).write_text(text)
    asked = ["backtest", "--gates", str(tmp_path / "new.yaml"), "--against", str(tmp_path / "old.yaml")]
    event_lake = CliRunner().invoke(cli, [*asked, "--lake", lake.root])
    assert event_lake.exit_code == 0, event_lake.output
    assert "  new: ROLL_BACK: Roll back to search_only" in event_lake.output
    assert "2 differences on 1 of 1 cells" in event_lake.output
    as_json = CliRunner().invoke(cli, [*asked, "--lake", lake.root, "--json", "--to", "2026-03-14T12:30:00"])
    document = json.loads(as_json.stdout)
    assert document["until"] == "2026-03-14T12:30:00Z"
    assert {difference["tool"] for difference in document["differences"]} == {"issue_refund"}
    assert CliRunner().invoke(cli, [*asked, "--from", "yesterday"]).exit_code == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--from", "2027-01-01"], "the history ends at 2026-03-14T12:59:59Z"),
        (["--to", "2026-01-01"], "the history begins at 2026-03-14T12:00:59Z"),
        (["--from", "2026-03-14T12:30:00Z", "--to", "2026-03-14T12:30:00Z"], "must lie before"),
    ],
)
def test_what_cannot_be_asked_is_misuse(lake: Lake, tmp_path: Path, more: list[str], said: str) -> None:
    (tmp_path / "new.yaml").write_text(NEW)
    asked = ["backtest", "--gates", str(tmp_path / "new.yaml"), "--against", str(tmp_path / "new.yaml")]
    event_lake = CliRunner().invoke(cli, [*asked, "--lake", lake.root, *more])
    assert (event_lake.exit_code, said in event_lake.output) == (2, True), event_lake.output


def late_incident() -> tuple[list[dict[str, Any]], ...]:
    """An epoch that is promoted, the next one, and an incident of the first that comes when it is over."""
    old = [a_row(epoch="old", minute=minute, **executions(5)) for minute in range(20)]
    new = [a_row(epoch="new", minute=30, **executions(50))]
    late = [a_row(epoch="old", minute=5, last_event_at=NOON + timedelta(minutes=49), incidents=1, severe_incidents=1)]
    return old, new, late


def test_late_outcomes_turn_an_epoch_that_is_over_as_in_production(tmp_path: Path) -> None:
    path, lake = tmp_path / "gates.yaml", Lake.open(str(tmp_path / "lake"))
    path.write_text(
        OLD.replace("limit: 0.3}", "limit: 0.3}, {signal: severe_incident, role: trip}").replace(
            "version: 1", "version: 1\nfreshness: 30d"
        )
    )
    judge = Judge(lake, path, settle_s=0)
    produced = []
    for rows, minute in zip(late_incident(), (20, 31, 50), strict=True):
        lake.append("signals", increments(*rows))
        produced += judge.tick(NOON + timedelta(minutes=minute))
    history = History.from_lake(lake)
    turns = [turn.verdict.result for turn in run(history, GateFile.load(path))]
    event_lake = [(turn.verdict, [reason.code for reason in turn.reasons]) for turn in turns]
    assert event_lake[-1] == ("ROLL_BACK", ["late_harm", "earlier_epoch_regraded"])
    assert event_lake[-1] == (produced[-1].data.verdict, [reason.code for reason in produced[-1].data.reasons])
    assert "severe_incident 1 (among 100 executions)" in turns[-1].reasons[-1].message
