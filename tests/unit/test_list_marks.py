"""Marks on a list of verdicts: e-BH over the evidence of whole cells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner
from verdict_cases import CELL, NOON, a_row, executions, gate_file, increments, verdict_on, verdicts_on

from analytics.evidence.false_discovery import discoveries
from analytics.evidence.sequential import log_e_value
from analytics.judging.judge import Judge
from analytics.lake.tables import Lake
from analytics.report import build_report
from analytics.verdicts.document import VerdictDocument
from analytics.verdicts.evidence_models import FirstActionRate, HeavyUserRate, PooledRate
from analytics.verdicts.list_marks import CellEvidence, ListMarks
from stagekeeper.commands import cli, tables

if TYPE_CHECKING:
    from pathlib import Path

ERRORS = "signal: execution_error, role: guardrail, limit: 0.1"


def as_document(*signals: str, rows: dict[str, int], **gate: str) -> VerdictDocument:
    return VerdictDocument.from_verdict(verdict_on(gate_file(*signals, **gate), a_row(**rows)))


@pytest.mark.parametrize(
    ("e_values", "marked"), [([200, 120, 50, 30, 1], 4), ([90, 60, 40, 1], 3), ([19, 19], 0), ([], 0)]
)
def test_as_many_are_marked_as_carry_each_other(e_values: list[float], marked: int) -> None:
    assert discoveries(np.log(np.array(e_values, dtype=float)), alpha=0.05).sum() == marked


def test_the_evidence_of_a_cell_by_action_is_that_of_its_guardrails_together() -> None:
    signals = (ERRORS, "signal: timeout, role: guardrail, limit: 0.05, weight: 3")
    found = CellEvidence.from_document(as_document(*signals, rows=executions(100, 20, timed_out=2)))
    errors = log_e_value(20, 100, 0.1, direction="above")
    timeouts = log_e_value(2, 100, 0.05, direction="above")
    assert found.harm == pytest.approx(float(np.logaddexp(errors + math.log(0.25), timeouts + math.log(0.75))))


def test_safety_is_that_of_the_signal_of_which_least_is_known() -> None:
    signals = (ERRORS, "signal: timeout, role: promote, limit: 0.05", "signal: denial, role: watch, limit: 0.01")
    found = CellEvidence.from_document(as_document(*signals, rows=executions(300)))
    assert found.safe == pytest.approx(float(log_e_value(0, 300, 0.05, direction="below")))


def test_early_evidence_has_its_quarters_and_the_pooled_rate_its_say() -> None:
    (part,) = as_document(ERRORS, rows=executions(300)).signals
    counts = {"failures": 3, "trials": 9, "harm_threshold": 4.4}
    by_user = part.model_copy(
        update={
            "by": "user",
            "log_e_harm": math.log(8),
            "log_e_safe": math.log(50),
            "first_actions": FirstActionRate(**counts, log_e_harm=math.log(40)),
            "heavy_users": HeavyUserRate(**counts, log_e_harm=math.log(16), share=0.5),
            "pooled": PooledRate(
                failures=1, trials=9, value=0.1, design_effect=2.0, heaviest=None, log_e_safe=math.log(3)
            ),
        }
    )
    document = as_document(ERRORS, rows=executions(300))
    found = CellEvidence.from_document(document.model_copy(update={"signals": (by_user,)}))
    assert math.exp(found.harm) == pytest.approx(8 / 2 + 40 / 4 + 16 / 4)
    assert math.exp(found.safe) == pytest.approx(3)
    alone = by_user.model_copy(update={"heavy_users": None})
    found = CellEvidence.from_document(document.model_copy(update={"signals": (alone,)}))
    assert math.exp(found.harm) == pytest.approx(8 / 2 + 40 / 4 + 1 / 4)  # where nobody is heavy, that says nothing


@pytest.mark.parametrize("rows", [executions(0), {"decisions": 5, "executed": 9}])
def test_what_nobody_could_judge_is_never_marked(rows: dict[str, int]) -> None:
    document = as_document(ERRORS, rows=rows)
    marks = ListMarks.of_documents([document])
    assert (marks.cells, marks.harm, marks.safe) == (1, (), ())


def test_a_signal_that_is_a_dry_run_marks_nothing() -> None:
    dry = CellEvidence.from_document(as_document(f"{ERRORS}, dry_run: true", rows=executions(300, 200)))
    assert dry == (-math.inf, -math.inf)


def test_what_must_have_data_and_has_none_is_not_shown_safe() -> None:
    rejections = "signal: review_rejection, role: promote, limit: 0.05"
    with_data = f"{rejections}, must_have_data: true"
    assert CellEvidence.from_document(as_document(ERRORS, with_data, rows=executions(300))).safe <= 0


def test_the_longer_the_list_the_more_a_mark_takes() -> None:
    # One cell at three times its limit: enough for its own alpha, not for a list of forty whose others say nothing.
    gates = gate_file("signal: execution_error, role: guardrail, limit: 0.02")
    bad = a_row(CELL, **executions(60, 7))
    others = [a_row(CELL._replace(tool=f"tool{n}"), **executions(50, 1)) for n in range(39)]
    (alone,) = verdicts_on(gates, bad)
    assert alone.result.verdict == "ROLL_BACK"
    assert ListMarks.of_documents([VerdictDocument.from_verdict(alone)]).harm == (alone.verdict_id,)
    fleet = [VerdictDocument.from_verdict(verdict) for verdict in verdicts_on(gates, bad, *others)]
    assert "ROLL_BACK" in {document.verdict for document in fleet}
    assert ListMarks.of_documents(fleet).harm == ()


def test_commands_state_the_marks_their_rate_and_what_is_assumed(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    bad, good = CELL, CELL._replace(tool="search")
    rows = (a_row(bad, **executions(200, 100)), a_row(good, **executions(600)))
    lake.append("signals", increments(*rows))
    Judge(lake, gate_file(ERRORS, unit="action")).tick(NOON)
    report = build_report(lake)
    by_verdict = {document.verdict.value: document.verdict_id for document in report.verdicts}
    assert report.marks.harm == (by_verdict["ROLL_BACK"],)
    assert report.marks.safe == (by_verdict["PROMOTE"],)
    assert report.to_dict()["marks"] == {
        "false_discovery_rate": 0.05,
        "cells": 2,
        "harm": [by_verdict["ROLL_BACK"]],
        "safe": [by_verdict["PROMOTE"]],
    }
    shown = tables.show(tables.verdicts_table(report.verdicts, report.marks))
    assert "* harm" in shown
    assert "* safe" in shown
    assert shown.count("assumes independent actions") == 2
    for command in (["verdicts"], ["recommendations", "list", "--all"]):
        output = CliRunner().invoke(cli, [*command, "--lake", lake.root], catch_exceptions=False).output
        assert "* harm" in output
        assert "at most 5 % are wrong on average" in output
        assert "assumes independent actions" in output
