from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
import pytest
from verdict_cases import CELL, NOON, a_row, executions, increments, latest_documents

from analytics.gates.gate_file import GateFile
from analytics.judging.judge import Judge
from analytics.judging.watermark import Watermark
from analytics.lake.errors import ForgottenError
from analytics.lake.table_schemas import COLUMNS
from analytics.lake.tables import Lake
from analytics.lake.vacuum import vacuum
from analytics.verdicts.ledger import latches, newest_watermark
from producers.wire.events import VerdictName, event_to_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from producers.wire.events import StageRecommended

pytestmark = pytest.mark.slow

ERRORS = (
    "version: 1\ngates: [{name: errors, signals: [{signal: execution_error, role: guardrail, limit: LIMIT}]}]".replace(
        "LIMIT", "0.1"
    )
)
MISSING = ERRORS.replace("execution_error", "missing_outcome")
SOON = NOON + timedelta(minutes=2)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


@pytest.fixture
def gate_path(tmp_path: Path) -> Path:
    path = tmp_path / "gates.yaml"
    path.write_text(ERRORS)
    return path


def came_back(lake: Lake, events: list[StageRecommended]) -> list[StageRecommended]:
    """Store recommendations as the data plane does once it has read them from Kafka."""
    rows = [
        {
            "log_id": "log",
            "topic": "agent.recommendations",
            "partition": 0,
            "offset": offset,
            "id": event.id,
            "type": event.type,
            "source": event.source,
            "time": event.time,
            "subject": event.subject,
            "ingested_at": event.time,
            "kind": 0,
            "value": event_to_bytes(event),
        }
        for offset, event in enumerate(events)
    ]
    columns = dict.fromkeys(COLUMNS["events"], None)
    lake.append("events", pl.DataFrame([{**columns, **row} for row in rows], schema=COLUMNS["events"], orient="row"))
    return events


def said(events: list[StageRecommended]) -> list[tuple[str, str, str | None]]:
    return [(event.data.tool, event.data.verdict.value, event.data.to_stage) for event in events]


def at(seconds: float) -> datetime:
    return SOON + timedelta(seconds=seconds)


def test_an_empty_lake_gives_no_verdicts(lake: Lake, gate_path: Path) -> None:
    judge = Judge(lake, gate_path)
    assert judge.tick(SOON) == []
    assert judge.tick(at(2)) == []
    assert latest_documents(lake) == []
    assert newest_watermark(lake) is None
    assert lake.version("verdicts") == 0


def test_only_what_changed_is_judged_and_only_news_is_published(lake: Lake, gate_path: Path) -> None:
    judge = Judge(lake, gate_path)
    other = CELL._replace(tool="other")
    lake.append("signals", increments(a_row(**executions(377)), a_row(other, **executions(2))))
    assert said(judge.tick(SOON)) == [("issue_refund", "PROMOTE", "approval_gated"), ("other", "HOLD", None)]
    assert judge.tick(at(2)) == []
    assert lake.version("verdicts") == 1, "nothing changed, so nothing is appended"
    lake.append("signals", increments(a_row(**executions(10))))
    assert judge.tick(at(12)) == [], "the same verdict for the same reasons is no news"
    rows = lake.scan("verdicts").sort("judged_at", "tool").collect()
    assert rows["tool"].to_list() == ["issue_refund", "other", "issue_refund"]
    assert rows["changed"].to_list() == [True, True, False]
    assert rows["lake_version"].to_list() == [1, 1, 2]
    latest = {verdict["tool"]: verdict for verdict in latest_documents(lake)}
    assert latest["issue_refund"]["signals"][0]["trials"] == 387
    assert [verdict["tool"] for verdict in latest_documents(lake, actions=[("production", "refunds", "other")])] == [
        "other"
    ]
    lake.append("signals", increments(a_row(other, **executions(50, 40))))
    assert said(judge.tick(at(14))) == [("other", "ROLL_BACK", "search_only")]


@pytest.mark.slow
def test_increments_give_what_the_whole_gives(lake: Lake, gate_path: Path) -> None:
    judge = Judge(lake, gate_path, settle_s=0)
    parts = [a_row(minute=minute, **executions(30, minute)) for minute in range(5)]
    for second, part in enumerate(parts):
        lake.append("signals", increments(part))
        judge.tick(at(600 + 12 * second))
    (stepwise,) = latest_documents(lake)
    lake.compact("signals")
    fresh = Judge(lake, GateFile.load(gate_path), settle_s=0)
    fresh.tick(at(700))
    (at_once,) = latest_documents(lake)
    assert at_once["signals"] == stepwise["signals"]
    assert at_once["signals"][0]["trials"] == 150


def test_a_judge_that_was_away_for_longer_than_the_lake_keeps_begins_anew(
    lake: Lake, gate_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judge = Judge(lake, gate_path, settle_s=0)
    lake.append("signals", increments(a_row(**executions(377))))
    assert said(judge.tick(at(600))) == [("issue_refund", "PROMOTE", "approval_gated")]
    for minute in range(1, 4):
        lake.append("signals", increments(a_row(minute=minute, **executions(30, 30))))
    lake.compact("signals")
    lake.append("signals", increments(a_row(minute=4, **executions(1, 1))))
    vacuum(lake, "signals", unused_since=datetime.now(UTC) + timedelta(seconds=1), margin=timedelta())
    with pytest.raises(ForgottenError):
        lake.increments("signals", after=1, through=5)
    assert said(judge.tick(at(700))) == [("issue_refund", "ROLL_BACK", "search_only")]
    assert "begins anew" in caplog.text
    (verdict,) = latest_documents(lake)
    assert verdict["signals"][0]["trials"] == 377 + 3 * 30 + 1


def test_what_died_between_ledger_and_broker_is_published_by_the_next_judge(lake: Lake, gate_path: Path) -> None:
    lake.append(
        "signals", increments(a_row(**executions(104, 42)), a_row(CELL._replace(tool="other"), **executions(2)))
    )
    lost = Judge(lake, gate_path, settle_s=0).tick(SOON)
    assert len(lost) == 2
    again = Judge(lake, gate_path, settle_s=0)
    assert again.tick(at(1)) == lost, "the same events, to the letter"
    assert again.tick(at(2)) == []
    came_back(lake, lost[:1])
    assert Judge(lake, gate_path, settle_s=0).tick(at(3)) == lost[1:]


def test_a_restart_repeats_nothing_and_forgets_no_rollback(lake: Lake, gate_path: Path) -> None:
    first = Judge(lake, gate_path, settle_s=0)
    lake.append("signals", increments(a_row(**executions(104, 42))))
    assert said(came_back(lake, first.tick(SOON))) == [("issue_refund", "ROLL_BACK", "search_only")]
    second = Judge(lake, gate_path, settle_s=0)
    assert second.tick(at(1)) == []
    assert lake.version("verdicts") == 1
    (crossed,) = latest_documents(lake)
    lake.append("signals", increments(a_row(**executions(10_000))))
    third = Judge(lake, gate_path, settle_s=0)
    (event,) = third.tick(at(2))
    assert event.data.verdict is VerdictName.ROLL_BACK
    assert [reason.code for reason in event.data.reasons] == ["latched"]
    (stands,) = latest_documents(lake)
    assert stands["latched_by"] == crossed["verdict_id"]
    (latch,) = latches(lake).values()
    assert latch[VerdictName.ROLL_BACK].verdict_id == crossed["verdict_id"]


def test_a_changed_gate_file_is_in_force_at_the_next_tick(lake: Lake, gate_path: Path) -> None:
    judge = Judge(lake, gate_path)
    lake.append("signals", increments(a_row(**executions(100, 10))))
    assert said(judge.tick(SOON)) == [("issue_refund", "HOLD", None)]
    gate_path.write_text(ERRORS.replace("0.1", "0.4"))
    assert said(judge.tick(at(2))) == [("issue_refund", "PROMOTE", "approval_gated")]
    gate_path.write_text(ERRORS.replace("0.1", "0.01"))
    assert said(judge.tick(at(4))) == [("issue_refund", "ROLL_BACK", "search_only")]


@pytest.mark.parametrize("broken", ["version: 1\ngates: [{name: a, alfa: 1}]", "{", None])
def test_nothing_is_judged_under_a_gate_file_that_cannot_be_read(
    lake: Lake, gate_path: Path, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    judge = Judge(lake, gate_path)
    lake.append("signals", increments(a_row(**executions(2))))
    judge.tick(SOON)
    lake.append("signals", increments(a_row(**executions(377))))
    if broken is None:
        gate_path.unlink()
    else:
        gate_path.write_text(broken)
    with caplog.at_level(logging.ERROR):
        assert judge.tick(at(2)) == []
        assert judge.tick(at(4)) == []
    assert judge.gates is None
    assert judge.gate_error is not None
    assert str(gate_path) in judge.gate_error
    assert len(caplog.records) == 1, "one message, not one a tick"
    assert lake.version("verdicts") == 1
    gate_path.write_text(ERRORS)
    assert said(judge.tick(at(6))) == [("issue_refund", "PROMOTE", "approval_gated")]
    assert judge.gate_error is None


def test_time_alone_makes_an_execution_overdue(lake: Lake, gate_path: Path) -> None:
    gate_path.write_text(MISSING)
    judge = Judge(lake, gate_path)
    lake.append("signals", increments(a_row(decisions=50, allowed=50, expected=50)))
    assert said(judge.tick(SOON)) == [("issue_refund", "HOLD", None)]
    busy = CELL._replace(tool="busy")
    lake.append("signals", increments(a_row(busy, minute=4, decisions=1, denied=1)))
    late = NOON + timedelta(minutes=5)
    assert said(judge.tick(late)) == [("busy", "HOLD", None)], "not before the newest moment has settled"
    assert said(judge.tick(late + timedelta(seconds=5))) == [("issue_refund", "ROLL_BACK", "search_only")]


@pytest.mark.slow
def test_a_reader_that_lags_makes_nothing_overdue(lake: Lake, gate_path: Path) -> None:
    gate_path.write_text(MISSING)
    judge = Judge(lake, gate_path)
    # Catching up: all decisions of ten minutes are read before any execution.
    for minute in range(10):
        lake.append("signals", increments(a_row(minute=minute, decisions=40, allowed=40, expected=40)))
        judge.tick(NOON + timedelta(minutes=30, seconds=10 * minute), caught_up=False)
    for minute in range(10):
        lake.append("signals", increments(a_row(minute=minute, executed=40)))
    now = NOON + timedelta(minutes=40)
    judge.tick(now)
    assert said(judge.tick(now + timedelta(seconds=5))) == [("issue_refund", "PROMOTE", "approval_gated")]
    assert set(lake.scan("verdicts").collect()["verdict"]) == {"HOLD", "PROMOTE"}


def test_quiet_cells_are_judged_again_as_event_time_passes(lake: Lake, gate_path: Path) -> None:
    judge = Judge(lake, gate_path, settle_s=0)
    busy = CELL._replace(tool="busy")
    lake.append("signals", increments(a_row(**executions(377)), a_row(busy, **executions(1))))
    judge.tick(SOON)
    for minute in range(1, 18):
        lake.append("signals", increments(a_row(busy, minute=minute, **executions(1))))
        events = judge.tick(SOON + timedelta(minutes=minute))
    quiet = next(verdict for verdict in latest_documents(lake) if verdict["tool"] == "issue_refund")
    assert (quiet["verdict"], quiet["reasons"][0]["code"]) == ("INVALID", "stale_evidence")
    assert events == []


def test_a_failed_append_is_made_up_for(lake: Lake, gate_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge(lake, gate_path)
    lake.append("signals", increments(a_row(**executions(2))))
    judge.tick(SOON)
    lake.append("signals", increments(a_row(**executions(375))))
    with monkeypatch.context() as broken:
        broken.setattr(lake, "append", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            judge.tick(at(2))
    assert said(judge.tick(at(4))) == [("issue_refund", "PROMOTE", "approval_gated")]
    assert latest_documents(lake)[0]["signals"][0]["trials"] == 377


def test_the_ledger_holds_whole_verdicts(lake: Lake, gate_path: Path) -> None:
    lake.append("signals", increments(a_row(**executions(377))))
    (event,) = Judge(lake, gate_path).tick(SOON)
    row = lake.scan("verdicts").collect().row(0, named=True)
    (document,) = latest_documents(lake)
    for name in ("verdict_id", "verdict", "to_stage", "gate", "gate_sha256", "lake_version", "epoch", *CELL._fields):
        assert row[name] == document[name], name
    assert row["judged_at"] == SOON
    assert event.id == row["verdict_id"]
    assert lake.scan("verdicts").select(pl.col("payload").str.json_path_match("$.verdict")).collect().item() == (
        "PROMOTE"
    )


class TestWatermark:
    def test_it_follows_at_a_distance(self) -> None:
        mark = Watermark(settle_s=5)
        assert mark.follow(NOON, at(0), caught_up=True) is None
        assert mark.follow(at(-1), at(4), caught_up=True) is None
        assert mark.follow(at(-1), at(5), caught_up=True) == NOON
        assert mark.follow(at(-1), at(9), caught_up=True) == at(-1)

    def test_it_never_goes_back(self) -> None:
        mark = Watermark(settle_s=0, at=at(10))
        assert mark.follow(NOON, at(20), caught_up=True) == at(10)

    def test_it_is_never_ahead_of_the_clock(self) -> None:
        mark = Watermark(settle_s=0)
        assert mark.follow(at(300), at(0), caught_up=True) == at(0)

    def test_it_stands_while_the_reader_lags_and_then_settles_anew(self) -> None:
        mark = Watermark(settle_s=5, at=NOON)
        assert mark.follow(at(-9), at(0), caught_up=True) == NOON
        assert mark.follow(at(-5), at(6), caught_up=False) == NOON
        assert mark.follow(at(-5), at(7), caught_up=True) == NOON
        assert mark.follow(at(-5), at(12), caught_up=True) == at(-5)
