from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from verdict_cases import CELL, a_row, executions, increments, judge_lately

from analytics.gates.gate_file import GateFile
from analytics.judging.judge import Judge
from analytics.lake.tables import Lake
from analytics.verdicts.gate_check import gate_check
from stagekeeper.commands import cli
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

pytestmark = pytest.mark.slow

GATES = "version: 1\ngates: [{name: errors, signals: [{signal: execution_error, role: guardrail, limit: 0.1}]}]"
NARROW = CELL._replace(stage="approval_gated")
THERE = CELL._replace(stage="narrow_autonomy")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lake, a gate file, and settings that name them."""
    (tmp_path / "gates.yaml").write_text(GATES)
    monkeypatch.setenv("STAGEKEEPER_LAKE_ROOT", str(tmp_path / "lake"))
    monkeypatch.setenv("STAGEKEEPER_GATE_FILE", str(tmp_path / "gates.yaml"))
    monkeypatch.setenv("STAGEKEEPER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("STAGEKEEPER_FRESHNESS_S", raising=False)
    return tmp_path


def judged(place: Path, *rows: dict[str, Any], ago_s: float = 0.0) -> None:
    """Judge rows whose events lie just before `ago_s` seconds ago."""
    judge_lately(Lake.open(str(place / "lake")), place / "gates.yaml", *rows, ago_s=ago_s)


def asked(*more: str, to: str = "narrow_autonomy", tool: str = "issue_refund") -> Result:
    action = ["--environment", "production", "--workflow", "refunds", "--tool", tool]
    return CliRunner().invoke(cli, ["gate", "check", *action, "--to", to, *more])


def answer(*more: str, to: str = "narrow_autonomy", tool: str = "issue_refund") -> tuple[int, str, list[str]]:
    result = asked("--json", *more, to=to, tool=tool)
    document = json.loads(result.stdout)
    assert document["exit_code"] == result.exit_code
    assert document["to_stage"] == to
    return result.exit_code, document["answer"], [reason["code"] for reason in document["reasons"]]


@pytest.mark.parametrize(
    ("executed", "failed", "expected"),
    [
        (377, 0, (0, "PROMOTE", ["shown_safe"])),
        (14, 1, (10, "HOLD", ["more_evidence_needed"])),
        (104, 42, (20, "ROLL_BACK", ["harm"])),
        (1, 2, (30, "INVALID", ["contradictory_counts"])),
    ],
)
def test_each_verdict_has_its_exit_code(
    place: Path, executed: int, failed: int, expected: tuple[int, str, list[str]]
) -> None:
    judged(place, a_row(NARROW, **executions(executed, failed)))
    assert answer() == expected


def test_the_answer_says_what_it_rests_on(place: Path) -> None:
    judged(place, a_row(NARROW, **executions(377)))
    document = json.loads(asked("--json").stdout)
    assert document["from_stage"] == "approval_gated"
    assert document["lake_version"] == 1
    assert document["gate_sha256"] == GateFile.load(place / "gates.yaml").sha256
    assert 10 <= document["age_s"] < 300
    words = asked().stdout
    assert words.startswith("PROMOTE (approval_gated → narrow_autonomy)")
    assert document["verdict_id"] in words
    assert "0 of 377" in words


def test_no_lake_no_verdict_and_no_such_action_are_no(place: Path) -> None:
    assert answer() == (30, "INVALID", ["no_lake"])
    judged(place, a_row(NARROW, **executions(377)))
    assert answer(tool="close_account") == (30, "INVALID", ["no_verdict"])
    assert "the action is unknown" in asked(tool="close_account").stdout
    assert answer(to="draft_write") == (30, "INVALID", ["no_verdict"])
    assert "verdicts exist at approval_gated" in asked(to="draft_write").stdout
    assert answer(to="observe_only") == (30, "INVALID", ["nothing_below"])


def test_the_worst_cohort_answers(place: Path) -> None:
    judged(
        place,
        a_row(NARROW._replace(cohort="eu"), **executions(377)),
        a_row(NARROW._replace(cohort="us"), **executions(14, 1)),
    )
    assert answer()[0] == 10
    assert answer("--cohort", "eu")[0] == 0
    assert answer("--cohort", "asia") == (30, "INVALID", ["no_verdict"])


def test_harm_at_the_stage_itself_shuts_the_gate(place: Path) -> None:
    judged(place, a_row(NARROW, **executions(377)), a_row(THERE, **executions(104, 42)))
    assert answer() == (20, "ROLL_BACK", ["harm"])


def test_too_little_seen_at_the_stage_itself_does_not(place: Path) -> None:
    judged(place, a_row(NARROW, **executions(377)), a_row(THERE, **executions(2)))
    assert answer()[0] == 0


def test_old_evidence_opens_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(place, a_row(NARROW, **executions(377)), ago_s=1_000)
    code, word, reasons = answer()
    assert (code, word, reasons[0]) == (30, "INVALID", "stale_verdict")
    assert answer("--max-age", "99999d")[2][0] == "stale_verdict", "it is narrowed, never widened"
    for widest in ("inf", "1e12", "1e300"):
        monkeypatch.setenv("STAGEKEEPER_FRESHNESS_S", widest)
        assert answer()[2][0] == "stale_verdict"
        assert Settings.load().freshness_limit(900.0) == timedelta(seconds=900), "doctor, checklist and page likewise"
        assert Settings.load().freshness_limit(None) > timedelta(seconds=900)
    for unusable in ("nan", "-1", "0", "-inf"):
        monkeypatch.setenv("STAGEKEEPER_FRESHNESS_S", unusable)
        assert answer() == (30, "INVALID", ["error"])
    monkeypatch.delenv("STAGEKEEPER_FRESHNESS_S")
    (place / "gates.yaml").write_text(GATES.replace("version: 1", "version: 1\nfreshness: 1h"))
    judged(place, a_row(NARROW, **executions(1)), ago_s=1_000)
    assert answer()[0] == 0
    assert answer("--max-age", "1m")[0] == 30


def test_a_worker_that_restarts_does_not_make_old_evidence_new(place: Path) -> None:
    judged(place, a_row(NARROW, **executions(377)), ago_s=1_000)
    lake = Lake.open(str(place / "lake"))
    lake.append("signals", increments(a_row(CELL._replace(tool="old"), **executions(1))))
    Judge(lake, place / "gates.yaml", settle_s=0).tick(datetime.now(UTC))
    assert answer()[2][0] == "stale_verdict"


def test_the_freshness_of_the_settings_is_heard(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(place, a_row(NARROW, **executions(377)), ago_s=60)
    assert answer()[0] == 0
    monkeypatch.setenv("STAGEKEEPER_FRESHNESS_S", "30")
    assert answer()[2][0] == "stale_verdict"


def test_another_gate_file_than_the_judged_one_opens_nothing(place: Path) -> None:
    judged(place, a_row(NARROW, **executions(377)))
    other = place / "other.yaml"
    other.write_text(GATES + "\n")
    assert answer("--gates", str(other))[2][0] == "other_gate_file"


@pytest.mark.parametrize("broken", [None, "version: 1\ngates: [{name: a, alfa: 1}]"])
def test_a_gate_file_that_cannot_be_read_opens_nothing(place: Path, broken: str | None) -> None:
    judged(place, a_row(NARROW, **executions(377)))
    if broken is None:
        (place / "gates.yaml").unlink()
    else:
        (place / "gates.yaml").write_text(broken)
    assert answer() == (30, "INVALID", ["error"])


def test_a_lake_that_cannot_be_read_opens_nothing(place: Path) -> None:
    judged(place, a_row(NARROW, **executions(377)))
    for part in (place / "lake" / "verdicts").rglob("*.parquet"):
        part.write_bytes(b"not parquet")
    assert answer() == (30, "INVALID", ["error"])


def test_a_promotion_elsewhere_is_none_here(place: Path) -> None:
    judged(place, a_row(NARROW, **executions(377)))
    (place / "gates.yaml").write_text(GATES)
    lake = Lake.existing(str(place / "lake"))
    shorter = GateFile.load(place / "gates.yaml").model_copy(deep=True)
    ladder = tuple(stage for stage in shorter.gates[0].ladder if stage != "narrow_autonomy")
    changed = shorter.model_copy(update={"gates": (shorter.gates[0].model_copy(update={"ladder": ladder}),)})
    found = gate_check(
        lake,
        changed,
        environment="production",
        workflow="refunds",
        tool="issue_refund",
        to_stage="progressive_expansion",
        now=datetime.now(UTC),
        freshness_s=900,
    )
    assert found.reasons[0].code == "other_destination"
    assert found.exit_code == 30


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "narow_autonomy"], "did you mean `narrow_autonomy`?"),
        (["--to", "narrow_autonomy", "--max-age", "soon"], "is not a duration"),
        (["--to", "narrow_autonomy", "--max-age", "-5m"], "is not a duration"),
        (["--to", "narrow_autonomy", "--max-age", "99999999999999d"], "longer than the 365,000 days"),
        (["--to", "narrow_autonomy", "--max-age", f"{'9' * 400}s"], "longer than the 365,000 days"),
        ([], "Missing option"),
    ],
)
def test_misuse_is_told_apart_from_no(place: Path, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(
        cli, ["gate", "check", "--environment", "p", "--workflow", "w", "--tool", "t", *arguments]
    )
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize("name", ["signals", "verdicts"])
def test_the_tables_say_what_to_do_without_a_lake_and_without_data(place: Path, name: str) -> None:
    without = CliRunner().invoke(cli, [name])
    assert without.exit_code == 0
    assert "There is no lake" in without.output
    assert "stagekeeper up" in without.output
    Lake.open(str(place / "lake"))
    empty = CliRunner().invoke(cli, [name])
    assert "holds no events yet" in empty.output
    document = json.loads(CliRunner().invoke(cli, [name, "--json"]).stdout)
    marks = {"false_discovery_rate": 0.05, "cells": 0, "harm": [], "safe": []}
    rejects = {"total": 0, "by_reason": {}, "latest": []}
    assert document == {"signals": [], "verdicts": [], "marks": marks, "rejects": rejects}


def test_signals_that_nobody_judged_are_told_apart_from_no_signals(place: Path) -> None:
    Lake.open(str(place / "lake")).append("signals", increments(a_row(**executions(3))))
    assert "Nothing was judged yet" in CliRunner().invoke(cli, ["verdicts"]).output
    assert "issue_refund" in CliRunner().invoke(cli, ["signals"]).output


def test_both_commands_print_the_same_document(place: Path) -> None:
    judged(place, a_row(NARROW, **executions(377)))
    signals, verdicts = (
        CliRunner().invoke(cli, [name, "--json", "--lake", str(place / "lake")]) for name in ("signals", "verdicts")
    )
    assert json.loads(signals.stdout) == json.loads(verdicts.stdout)
    assert "PROMOTE" in CliRunner().invoke(cli, ["verdicts"]).output


@pytest.mark.parametrize("command", ["gate override", "recommendations accept", "recommendations dismiss"])
@pytest.mark.parametrize(("who", "why"), [("", "why"), ("a\nb", "why"), ("ada", ""), ("ada", "x" * 4_001)])
def test_a_ruling_without_words_is_misuse(place: Path, command: str, who: str, why: str) -> None:
    action = ["--environment", "p", "--workflow", "w", "--tool", "t", "--to", "narrow_autonomy", "--expires", "1d"]
    result = CliRunner().invoke(cli, [*command.split(), *action, "--as", who, "--because", why])
    assert result.exit_code == 2
    assert "Invalid value for '--" in result.output


def test_a_ruling_under_another_gate_file_than_the_judged_one_is_refused(place: Path) -> None:
    judged(place, a_row(NARROW, **executions(377)))
    other = place / "other.yaml"
    other.write_text(GATES + "\n")
    action = ["--environment", "production", "--workflow", "refunds", "--tool", "issue_refund", "--expires", "1d"]
    words = ["recommendations", "accept", *action, "--to", "narrow_autonomy", "--as", "maria", "--because", "reviewed"]
    refused = CliRunner().invoke(cli, [*words, "--gates", str(other)])
    assert "would open and shut nothing" in str(refused.exception)
    assert CliRunner().invoke(cli, words).exit_code == 0
