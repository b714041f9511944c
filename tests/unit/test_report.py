from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl
import pytest
from verdict_cases import CELL, NOON, a_row, executions, gate_file, increments

from analytics.judging.judge import Judge
from analytics.lake.table_schemas import COLUMNS
from analytics.lake.tables import Lake
from analytics.report import LATEST_REJECTS, build_report
from analytics.signals.definitions import COUNTERS, RATES
from stagekeeper.commands import tables

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def a_reject(offset: int, reason: str, first_bytes: bytes = b"{") -> dict[str, object]:
    return {
        "log_id": "log",
        "topic": "agent.outcomes",
        "partition": 0,
        "offset": offset,
        "reason": reason,
        "detail": "what is wrong",
        "key": None,
        "first_bytes": first_bytes,
        "size": len(first_bytes),
        "broker_at": None,
        "rejected_at": NOON + timedelta(seconds=offset),
    }


def test_no_lake_and_an_empty_lake_give_the_same_empty_document(lake: Lake) -> None:
    marks = {"false_discovery_rate": 0.05, "cells": 0, "harm": [], "safe": []}
    rejects = {"total": 0, "by_reason": {}, "latest": []}
    empty = {"signals": [], "verdicts": [], "marks": marks, "rejects": rejects}
    assert build_report(None).to_dict() == empty
    assert build_report(lake).to_dict() == empty


def test_a_cell_is_reported_over_all_its_epochs(lake: Lake) -> None:
    priced = {**a_row(minute=3, epoch="b", **executions(2)), "cost_bins": [400], "cost_counts": [2]}
    lake.append(
        "signals",
        increments(
            a_row(latencies_ms=[100.0] * 90, risk_rank=None, **executions(100, 5)),
            a_row(latencies_ms=[900.0] * 10, undone=3),
            {**priced, "cost_microusd": 50_000},
        ),
    )
    (cell,) = build_report(lake).to_dict()["signals"]
    assert {name: cell[name] for name in CELL._fields} == CELL._asdict()
    assert (cell["epochs"], cell["risk_class"]) == (2, "external_effect")
    assert set(cell["counts"]) == set(COUNTERS)
    assert set(cell["rates"]) == set(RATES)
    assert (cell["counts"]["executed"], cell["counts"]["failed"]) == (102, 5)
    assert cell["rates"]["undo"] == pytest.approx(3 / 102)
    assert cell["rates"]["review_rejection"] is None
    assert cell["latency_ms"]["p50"] == pytest.approx(100, rel=0.01)
    assert cell["latency_ms"]["p99"] == pytest.approx(900, rel=0.01)
    assert cell["latency_ms"]["known"] == 100
    assert cell["cost_usd"]["mean"] == pytest.approx(0.025)
    assert (cell["cost_usd"]["total"], cell["cost_usd"]["known"]) == (0.05, 2)
    assert cell["first_decided_at"] == "2026-03-14T12:00:00Z"
    assert cell["last_decided_at"] == "2026-03-14T12:03:00Z"
    assert cell["last_event_at"] == "2026-03-14T12:03:59Z"


def test_unknown_latency_and_cost_are_null(lake: Lake) -> None:
    lake.append("signals", increments(a_row(**executions(3))))
    (cell,) = build_report(lake).to_dict()["signals"]
    assert (cell["latency_ms"], cell["cost_usd"]) == (None, None)


def test_missing_outcomes_are_those_of_mature_minutes(lake: Lake) -> None:
    lake.append(
        "signals",
        increments(
            a_row(minute=0, decisions=10, allowed=10, expected=10, executed=9),
            a_row(minute=9, decisions=10, allowed=10, expected=10),
        ),
    )
    (cell,) = build_report(lake).to_dict()["signals"]
    assert cell["rates"]["missing_outcome"] == pytest.approx(0.1)


def test_the_document_holds_the_verdicts_and_is_json(lake: Lake) -> None:
    lake.append("signals", increments(a_row(**executions(377))))
    Judge(lake, gate_file("signal: execution_error, role: guardrail, limit: 0.1")).tick(NOON + timedelta(minutes=2))
    document = json.loads(build_report(lake).model_dump_json())
    assert [verdict["verdict"] for verdict in document["verdicts"]] == ["PROMOTE"]
    assert set(document["verdicts"][0]) >= {"summary", "reasons", "signals", "exposure", "gate", "watermark"}


def test_rejects_are_counted_by_reason_and_the_latest_are_shown(lake: Lake) -> None:
    rows = [a_reject(offset, "not_json" if offset % 3 else "too_large", b"\xff\x00ab") for offset in range(30)]
    lake.append("rejects", pl.DataFrame(rows, schema=COLUMNS["rejects"], orient="row"))
    rejects = build_report(lake).to_dict()["rejects"]
    assert rejects["total"] == 30
    assert list(rejects["by_reason"].items()) == [("not_json", 20), ("too_large", 10)]
    assert len(rejects["latest"]) == LATEST_REJECTS
    assert rejects["latest"][0]["offset"] == 29
    assert rejects["latest"][0]["first_bytes"] == "\\xff\x00ab"
    json.dumps(rejects, allow_nan=False)
    assert tables.rejects_line(build_report(lake).rejects) == "30 records were rejected: not_json 20, too_large 10."


def test_tables_name_a_shared_environment_once_and_show_every_cell(lake: Lake) -> None:
    bracketed = CELL._replace(tool="[red]x[/red]", cohort="eu")
    lake.append("signals", increments(a_row(**executions(377)), a_row(bracketed, **executions(53, 30))))
    Judge(lake, gate_file("signal: execution_error, role: guardrail, limit: 0.1")).tick(NOON + timedelta(minutes=2))
    report = build_report(lake)
    shown = tables.show(tables.signals_table(report.signals), tables.verdicts_table(report.verdicts, report.marks))
    assert shown.count("environment production") == 2
    assert "refunds/[red]x[/red] (eu)" in shown
    assert "→ search_only" in shown
    assert shown.index("ROLL_BACK") < shown.index("PROMOTE")
    assert "56.6 % (30 of 53)" in shown


def test_a_narrow_terminal_still_shows_every_action(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.append("signals", increments(a_row(**executions(12_377, 42))))
    Judge(lake, gate_file("signal: execution_error, role: guardrail, limit: 0.1")).tick(NOON + timedelta(minutes=2))
    report = build_report(lake)
    monkeypatch.setattr(tables.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    shown = tables.show(tables.signals_table(report.signals), tables.verdicts_table(report.verdicts, report.marks))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert max(map(len, lines)) <= 80
    for whole in ("refunds/issue_refund", "draft_write", "12,377", "0.339 %", "PROMOTE"):
        assert any(whole in line for line in lines), whole


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ((100, 0), "89 to 529 more executions (10-90 %); 97 % within 5,000"),
        ((200, 2), "242 to over 5,000 more executions (10-90 %); 82 % within 5,000"),
        ((800, 12), "869 to over 5,000 more executions (10-90 %); 58 % within 5,000"),
    ],
)
def test_a_cell_that_waits_for_evidence_is_foretold_as_a_range_with_its_probability(
    lake: Lake, counts: tuple[int, int], text: str
) -> None:
    lake.append("signals", increments(a_row(**executions(*counts))))
    gates = gate_file("signal: execution_error, role: promote, limit: 0.02", unit="action")
    Judge(lake, gates).tick(NOON + timedelta(minutes=10))
    report = build_report(lake)
    shown = " ".join(tables.show(tables.verdicts_table(report.verdicts, report.marks)).split())
    assert f"forecast of execution_error: {text}" in shown
    (verdict,) = report.verdicts
    assert "10-90" not in verdict.summary  # what the ledger holds does without


def test_no_more_than_twenty_cells_are_foretold(lake: Lake) -> None:
    cells = [CELL._replace(tool=f"tool-{number}") for number in range(25)]
    lake.append("signals", increments(*(a_row(cell, **executions(100)) for cell in cells)))
    gates = gate_file("signal: execution_error, role: promote, limit: 0.02", unit="action")
    Judge(lake, gates).tick(NOON + timedelta(minutes=10))
    report = build_report(lake)
    assert tables.show(tables.verdicts_table(report.verdicts, report.marks)).count("forecast of") == 20
