from __future__ import annotations

import itertools
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from verdict_cases import CELL, NOON, a_row, executions, increments, latest_documents

from analytics.gates.gate_file import GateFile
from analytics.judging import ledger_writes
from analytics.judging.judge import Judge
from analytics.lake.table_schemas import JUDGE_HEARTBEATS, VERDICTS
from analytics.lake.tables import Lake
from analytics.verdicts.gate_check import gate_check
from analytics.verdicts.ledger import newest_watermark
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from analytics.verdicts.gate_check import GateAnswer

pytestmark = pytest.mark.slow

GATES = "version: 1\ngates: [{name: g, signals: [{signal: execution_error, role: guardrail, limit: 0.1}]}]"
BUSY = CELL._replace(tool="busy")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


@pytest.fixture
def gate_path(tmp_path: Path) -> Path:
    path = tmp_path / "gates.yaml"
    path.write_text(GATES)
    return path


def at(minute: float) -> datetime:
    return NOON + timedelta(minutes=minute)


def rows_of(lake: Lake, tool: str) -> list[datetime]:
    rows = lake.scan(VERDICTS).sort("judged_at").collect().to_dicts()
    return [row["judged_at"] for row in rows if row["tool"] == tool]


def asked(lake: Lake, gate_path: Path, minute: float, freshness_s: float = 900.0) -> GateAnswer:
    return gate_check(
        lake,
        GateFile.load(gate_path),
        environment=CELL.environment,
        workflow=CELL.workflow,
        tool=CELL.tool,
        to_stage="approval_gated",
        now=at(minute),
        freshness_s=freshness_s,
    )


@pytest.mark.slow
def test_a_cell_whose_numbers_move_gets_a_row_now_and_then(lake: Lake, gate_path: Path) -> None:
    gate_path.write_text(GATES.replace("0.1", "0.001"))
    judge = Judge(lake, gate_path, settle_s=0)
    for second in range(0, 120, 2):
        lake.append("signals", increments(a_row(**executions(1, last_event_at=at(second / 60)))))
        judge.tick(at(1 + second / 60))
    written = rows_of(lake, CELL.tool)
    gaps = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(written)]
    assert min(gaps) >= 10, "no more than the page needs"
    assert max(gaps) <= 14
    assert latest_documents(lake)[0]["confirmed_at"] > latest_documents(lake)[0]["judged_at"]


def test_all_cells_together_get_a_bounded_number_of_rows(lake: Lake, gate_path: Path) -> None:
    judge = Judge(lake, gate_path, settle_s=0)
    cells = [CELL._replace(tool=f"tool-{number}") for number in range(40)]
    for second in range(0, 60, 2):
        lake.append("signals", increments(*(a_row(cell, **executions(1)) for cell in cells)))
        judge.tick(at(1 + second / 60))
    written = lake.scan(VERDICTS).collect().height
    assert len(cells) < written <= len(cells) + 60


def test_an_unchanged_verdict_stays_fresh_for_as_long_as_the_judge_looks(lake: Lake, gate_path: Path) -> None:
    judge = Judge(lake, gate_path, settle_s=0)
    lake.append("signals", increments(a_row(**executions(377)), a_row(BUSY, **executions(20))))
    judge.tick(at(1))
    for minute in range(1, 9):
        lake.append("signals", increments(a_row(BUSY, minute=minute, **executions(1))))
        judge.tick(at(minute + 1))
    (row,) = (each for each in latest_documents(lake) if each["tool"] == CELL.tool)
    assert rows_of(lake, CELL.tool)[-1] < at(6), "its own row is old"
    found = asked(lake, gate_path, 9.5, freshness_s=90)
    assert (found.answer, found.verdict_id) == (VerdictName.PROMOTE, row["verdict_id"])
    assert found.age_s == 31.0, "since the newest event that was known at the last look"


def test_a_verdict_is_stale_once_nobody_looks_any_more(lake: Lake, gate_path: Path) -> None:
    judge = Judge(lake, gate_path, settle_s=0)
    lake.append("signals", increments(a_row(**executions(377))))
    judge.tick(at(1))
    assert asked(lake, gate_path, 2, freshness_s=120).answer is VerdictName.PROMOTE
    stale = asked(lake, gate_path, 4, freshness_s=120)
    assert (stale.answer, stale.reasons[0].code) == (VerdictName.INVALID, "stale_verdict")


def test_a_look_under_another_gate_file_confirms_nothing(lake: Lake, gate_path: Path) -> None:
    judge = Judge(lake, gate_path, settle_s=0)
    lake.append("signals", increments(a_row(**executions(377))))
    judge.tick(at(1))
    (before,) = latest_documents(lake)
    gate_path.write_text(f"{GATES}\n# edited\n")
    assert asked(lake, gate_path, 1.5).reasons[0].code == "other_gate_file"
    judge.tick(at(2))
    (after,) = latest_documents(lake)
    assert after["gate_sha256"] != before["gate_sha256"], "a row of its own"
    assert asked(lake, gate_path, 2.5).answer is VerdictName.PROMOTE


def test_nothing_is_confirmed_while_what_changed_is_not_written(
    lake: Lake, gate_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_writes, "MOST_ROWS", 1)
    judge = Judge(lake, gate_path, settle_s=0)
    cells = [CELL, BUSY, CELL._replace(tool="third")]
    lake.append("signals", increments(*(a_row(cell, **executions(2)) for cell in cells)))
    for second, looks in ((0, 0), (2, 0), (4, 1)):
        assert judge.has_more == bool(second)
        assert len(judge.tick(at(1 + second / 60))) == 1
        assert lake.scan(JUDGE_HEARTBEATS).collect().height == looks
    assert not judge.has_more
    harmful = a_row(BUSY, **executions(100, 90))
    lake.append("signals", increments(*(a_row(cell, **executions(400)) for cell in (CELL, cells[2])), harmful))
    (first,) = judge.tick(at(2))
    assert (first.data.tool, first.data.verdict.value) == ("busy", "ROLL_BACK"), "harm is written first"
    assert lake.scan(JUDGE_HEARTBEATS).collect().height == 1
    assert judge.has_more


def test_a_restart_knows_the_watermark_of_the_last_look(lake: Lake, gate_path: Path) -> None:
    judge = Judge(lake, gate_path, settle_s=0)
    lake.append("signals", increments(a_row(**executions(377)), a_row(BUSY, **executions(20))))
    judge.tick(at(1))
    lake.append("signals", increments(a_row(BUSY, minute=5, last_event_at=at(6), **executions(0))))
    judge.tick(at(7))
    assert newest_watermark(lake) == at(6)
    before = lake.version(VERDICTS)
    again = Judge(lake, gate_path, settle_s=0)
    assert again.tick(at(7.1), caught_up=False) != [], "what never came back is published again"
    assert lake.version(VERDICTS) == before, "and nothing is written that stands there already"
    assert newest_watermark(lake) == at(6)
