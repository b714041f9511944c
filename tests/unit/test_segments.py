"""Gates for segments of an action: for a cohort, or for some stages, alone."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from verdict_cases import CELL, NOON, a_row, executions, increments, latest_documents

from analytics.gates.gate_file import GateFile, GateTieError
from analytics.gates.lint import lint_gates
from analytics.judging.judge import Judge
from analytics.lake.tables import Lake
from analytics.verdicts.gate_check import gate_check
from producers.strict_yaml import ConfigurationFileError
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from pathlib import Path

ACTION = ("production", "refunds", "issue_refund")
PILOT = CELL._replace(cohort="pilot")
GATES = """\
version: 1
freshness: 30d
gates:
  - name: everybody
    signals: [{signal: execution_error, role: guardrail, limit: 0.3}]
  - name: pilot
    match: {cohort: "pilot*"}
    on_promote: ask
    signals: [{signal: execution_error, role: guardrail, limit: 0.05}]
"""


def several(*matches: str) -> GateFile:
    listed = "".join(f"\n  - {{name: g{number}, match: {{{match}}}}}" for number, match in enumerate(matches))
    return GateFile.parse(f"version: 1\ngates:{listed}\n".encode())


@pytest.mark.parametrize(
    ("matches", "stage", "cohort", "chosen"),
    [
        (("", "cohort: pilot"), "draft_write", "pilot", "g1"),
        (("", "cohort: pilot"), "draft_write", "all", "g0"),
        (("", "cohort: pilot"), None, None, "g0"),
        (("", "stage: narrow_autonomy"), "narrow_autonomy", "all", "g1"),
        (("", "stage: narrow_autonomy"), "draft_write", "all", "g0"),
        (("", "stage: '*_autonomy'"), "narrow_autonomy", "all", "g1"),
        (("cohort: pilot", "cohort: pilot, stage: draft_write"), "draft_write", "pilot", "g1"),
        (("tool: issue_*, cohort: pilot", "tool: issue_refund"), "draft_write", "pilot", "g0"),
    ],
)
def test_a_gate_may_be_for_a_stage_and_a_cohort(
    matches: tuple[str, ...], stage: str | None, cohort: str | None, chosen: str
) -> None:
    gate = several(*matches).gate_for(*ACTION, None, stage=stage, cohort=cohort)
    assert gate is not None
    assert gate.name == chosen


def test_two_segments_of_one_cell_are_no_choice() -> None:
    gates = several("cohort: pilot", "stage: draft_write")
    with pytest.raises(GateTieError, match="`g0` and `g1`"):
        gates.gate_for(*ACTION, None, stage="draft_write", cohort="pilot")


@pytest.mark.parametrize(
    ("match", "refused"),
    [("stage: narrow_autonmy", "did you mean `narrow_autonomy`"), ("stage: 'x*'", "no stage is like `x\\*`")],
)
def test_a_stage_that_there_is_not_is_refused(match: str, refused: str) -> None:
    with pytest.raises(ConfigurationFileError, match=refused):
        several(match)


def test_every_cell_is_judged_by_the_gate_of_its_segment(tmp_path: Path) -> None:
    lake, path = Lake.open(str(tmp_path / "lake")), tmp_path / "gates.yaml"
    path.write_text(GATES)
    rows = [a_row(cell, **executions(500, failed=60)) for cell in (CELL, PILOT)]
    lake.append("signals", increments(*rows))
    Judge(lake, path, settle_s=0).tick(NOON + timedelta(minutes=5))
    found = {document["cohort"]: document for document in latest_documents(lake)}
    assert {cohort: (each["gate"], each["verdict"]) for cohort, each in found.items()} == {
        "all": ("everybody", "PROMOTE"),
        "pilot": ("pilot", "ROLL_BACK"),
    }
    names = dict(zip(("environment", "workflow", "tool"), ACTION, strict=True))
    gates, to_stage = GateFile.load(path), found["all"]["to_stage"]
    asked = {"now": NOON + timedelta(minutes=5), "freshness_s": 1e9, "to_stage": to_stage, **names}
    assert gate_check(lake, gates, cohort="all", **asked).answer is VerdictName.PROMOTE
    assert gate_check(lake, gates, cohort="pilot", **asked).answer is VerdictName.ROLL_BACK
    assert gate_check(lake, gates, **asked).answer is VerdictName.ROLL_BACK, "without a cohort the worst one answers"


def test_approval_is_asked_of_the_segment_that_wants_it(tmp_path: Path) -> None:
    lake, path = Lake.open(str(tmp_path / "lake")), tmp_path / "gates.yaml"
    path.write_text(GATES)
    lake.append("signals", increments(*(a_row(cell, **executions(500)) for cell in (CELL, PILOT))))
    Judge(lake, path, settle_s=0).tick(NOON + timedelta(minutes=5))
    names = dict(zip(("environment", "workflow", "tool"), ACTION, strict=True))
    to_stage = latest_documents(lake)[0]["to_stage"]
    asked = {"now": NOON + timedelta(minutes=5), "freshness_s": 1e9, "to_stage": to_stage, **names}
    gates = GateFile.load(path)
    assert gate_check(lake, gates, cohort="all", **asked).answer is VerdictName.PROMOTE
    (held, *_) = gate_check(lake, gates, cohort="pilot", **asked).reasons
    assert held.code == "approval_needed"


def test_a_segment_without_a_gate_keeps_the_gate_shut(tmp_path: Path) -> None:
    lake, path = Lake.open(str(tmp_path / "lake")), tmp_path / "gates.yaml"
    path.write_text(GATES.replace("- name: everybody", "- name: everybody\n    match: {cohort: all}"))
    other = CELL._replace(cohort="other")
    lake.append("signals", increments(*(a_row(cell, **executions(500)) for cell in (CELL, other))))
    Judge(lake, path, settle_s=0).tick(NOON + timedelta(minutes=5))
    names = dict(zip(("environment", "workflow", "tool"), ACTION, strict=True))
    promoted = next(each for each in latest_documents(lake) if each["cohort"] == "all")
    asked = {"now": NOON + timedelta(minutes=5), "freshness_s": 1e9, "to_stage": promoted["to_stage"], **names}
    (reason,) = gate_check(lake, GateFile.load(path), **asked).reasons
    assert reason.code == "no_gate"
    (reason,) = gate_check(lake, GateFile.load(path), cohort="other", **asked).reasons
    assert reason.code == "no_gate"


def test_lint_knows_segments() -> None:
    codes = {issue.code: issue for issue in lint_gates(several("cohort: pilot", "stage: draft_write"))}
    assert "ambiguous_gate" in codes
    apart = several("stage: draft_write", "stage: narrow_autonomy", "")
    assert not {"ambiguous_gate", "unreachable_gate"} & {issue.code for issue in lint_gates(apart)}
    covered = several("stage: '*'", *(f"stage: {stage.value}" for stage in apart.gates[0].ladder))
    unreachable = [issue.place for issue in lint_gates(covered) if issue.code == "unreachable_gate"]
    assert unreachable == ["g0"]
