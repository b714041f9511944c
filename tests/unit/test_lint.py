from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from analytics.gates.gate_file import GateFile
from analytics.gates.lint import CODES, LintIssue, lint, lint_gates
from analytics.published_schemas import gate_schema
from stagekeeper.commands import cli

ROOT = Path(__file__).parents[2]
SOUND = "{signal: execution_error, role: guardrail, limit: 0.05, stages: [draft_write, approval_gated]}"
FILES = [
    "examples/gates.yaml",
    "examples/gates-holdback.yaml",
    "examples/gates-airline.yaml",
    "stagekeeper/embedded/demo_gates.yaml",
]


def of(*gates: str) -> list[LintIssue]:
    return lint_gates(
        GateFile.parse(("version: 1\ngates:\n" + "".join(f"  - {{{gate}}}\n" for gate in gates)).encode())
    )


def found(*gates: str, code: str) -> list[tuple[str, str]]:
    return [(finding.level, finding.place) for finding in of(*gates) if finding.code == code]


def gate(*signals: str, name: str = "g", more: str = "ladder: [draft_write, approval_gated]") -> str:
    return f"name: {name}, {more}, signals: [{', '.join(signals)}]"


@pytest.mark.parametrize("file", FILES)
def test_what_is_shipped_has_no_faults(file: str) -> None:
    assert [finding for finding in lint(ROOT / file) if finding.level != "note"] == []


def test_a_sound_gate_says_only_how_much_it_takes() -> None:
    finding, time = of(gate(SOUND))
    assert (time.level, time.code, time.place) == ("note", "time_to_find", "g/execution_error")
    assert (finding.level, finding.code, finding.place) == ("note", "minimum", "g/execution_error")
    assert "needs at least 75 user-windows with executions, none of them with a failure" in finding.message


@pytest.mark.parametrize(
    ("limit", "needed"), [("0.005", "759"), ("0.01", "379"), ("0.02", "189"), ("0.05", "75"), ("0.10", "37")]
)
def test_the_clean_minimum_is_that_of_the_evidence(limit: str, needed: str) -> None:
    finding, _ = of(gate(SOUND.replace("0.05", limit)))
    assert f"needs at least {needed} user-windows with executions" in finding.message


def test_where_actions_are_counted_it_takes_actions() -> None:
    finding, _ = of(gate(SOUND.replace("limit: 0.05", "limit: 0.05, unit: action")))
    assert "needs at least 75 executions, none of them with a failure" in finding.message


@pytest.mark.parametrize("signal", ["undo", "incident", "support", "quality_failure"])
def test_a_consequence_without_a_maturity_is_an_error(signal: str) -> None:
    guard = f"{{signal: {signal}, role: guardrail, limit: 0.1}}"
    assert found(gate(guard), code="no_maturity") == [("error", f"g/{signal}")]


LIMIT_2 = "{signal: execution_error, role: guardrail, limit: 0.02, unit: action}"


def times(file: str, actions_per_minute: float = 10.0) -> list[str]:
    issues = lint_gates(GateFile.parse(file.encode()), actions_per_minute)
    return [issue.message for issue in issues if issue.code == "time_to_find"]


def of_file(gate: str, more: str = "") -> str:
    return f"version: 1\n{more}gates: [{{{gate}}}]\n"


def test_it_says_when_a_worse_rate_is_found() -> None:
    # 427 and 41 trials are the medians of the evidence: see test_forecast.py.
    (told,) = times(of_file(gate(LIMIT_2)))
    assert told == (
        "at 10 actions a minute a rate of 2 times the limit (4 %) is found after 43 min in the median, and one of "
        "5 times the limit (10 %) is found after 4 min in the median"
    )
    (slower,) = times(of_file(gate(LIMIT_2)), 0.5)
    assert "at 0.5 actions a minute a rate of 2 times the limit (4 %) is found after 14 h" in slower


def test_a_small_share_of_alpha_takes_longer_and_rates_beyond_one_are_not_rates() -> None:
    other = "{signal: timeout, role: guardrail, limit: 0.3, weight: 3, unit: action}"
    told, high = times(of_file(gate(LIMIT_2, other)))
    assert "(4 %) is found after 63 min" in told
    assert "5 times" not in high


def test_by_user_it_counts_first_actions_and_where_they_come_late_windows() -> None:
    by_user = LIMIT_2.replace(", unit: action", "")
    undo = by_user.replace("execution_error", "undo").replace("}", ", maturity: 1h}")
    first, late = times(of_file(gate(by_user, undo)))
    assert (
        "at 10 actions a minute, each of another user, a rate of 2 times the limit (4 %) is found after 74 min" in first
    )
    assert (
        "(4 %) is found after 113 min in the median, and one of 5 times the limit (10 %) is found after 65 min" in late
    )


def test_what_never_came_is_missed_after_the_deadline() -> None:
    missing = LIMIT_2.replace("execution_error", "missing_outcome")
    (told,) = times(of_file(gate(missing), "outcome_deadline: 1h\n"))
    assert "and one of 5 times the limit (10 %) is found after 64 min" in told


@pytest.mark.parametrize(("level", "is_loose"), [("alpha: 0.2", False), ("alpha: 0.21", True), ("beta: 0.5", True)])
def test_a_level_that_promises_little_is_an_error(level: str, is_loose: bool) -> None:
    found_here = found(gate(SOUND, more=f"ladder: [draft_write, approval_gated], {level}"), code="loose_level")
    assert found_here == ([("error", f"g/{level.partition(':')[0]}")] if is_loose else [])


@pytest.mark.parametrize(
    ("window", "least", "unit", "is_long"),
    [
        ("1h", "{}", "user", False),
        ("1d", "{}", "user", True),
        ("1d", "{}", "action", False),
        ("1d", "{days: 1}", "user", False),
        ("2d", "{days: 1}", "user", True),
        ("6h", "{hours: 5}", "user", True),
        ("6h", "{actions: 3600}", "user", False),
        ("6h", "{actions: 3500}", "user", True),
    ],
)
def test_a_window_that_outlasts_the_minimum_exposure_is_a_warning(
    window: str,
    least: str,
    unit: str,
    is_long: bool,
) -> None:
    more = f"ladder: [draft_write, approval_gated], minimum_exposure: {least}, unit: {unit}"
    issues = lint_gates(GateFile.parse(of_file(gate(SOUND, more=more), f"user_window: {window}\n").encode()))
    assert [issue.level for issue in issues if issue.code == "long_window"] == ["warning"] * is_long


def test_the_command_takes_the_traffic() -> None:
    file = str(ROOT / "examples/gates.yaml")
    assert (
        "at 2.5 actions a minute"
        in CliRunner().invoke(cli, ["gate", "lint", file, "--actions-per-minute", "2.5"]).output
    )
    assert CliRunner().invoke(cli, ["gate", "lint", file, "--actions-per-minute", "0"]).exit_code == 2


def test_a_limit_out_of_reach_is_a_warning() -> None:
    assert found(gate(SOUND.replace("0.05", "0.0001")), code="impossible_minimum") == [("warning", "g/execution_error")]


def test_a_gate_that_others_take_everything_from_is_unreachable() -> None:
    risks = "search, scoped_read, sensitive_read, reversible_write, external_effect, admin_action, irreversible"
    taken = [gate(SOUND, name=risk, more=f"match: {{tool: refund, risk_class: {risk}}}") for risk in risks.split(", ")]
    assert found(gate(SOUND, name="rest", more="match: {tool: refund}"), *taken, code="unreachable_gate") == [
        ("error", "rest")
    ]
    assert found(gate(SOUND, name="rest", more="match: {tool: refund}"), *taken[1:], code="unreachable_gate") == []


def test_gates_that_tie_are_ambiguous() -> None:
    ties = found(
        gate(SOUND, name="a", more="match: {tool: issue_*}"),
        gate(SOUND, name="b", more="match: {workflow: ref*}"),
        code="ambiguous_gate",
    )
    assert ties == [("error", "a"), ("error", "b")]


def test_a_stage_that_nobody_leaves_is_found() -> None:
    more = "ladder: [draft_write, approval_gated, narrow_autonomy]"
    assert found(gate(SOUND.replace("draft_write, ", ""), more=more), code="never_promotes") == [
        ("warning", "g/draft_write")
    ]


def test_a_signal_beside_the_ladder_is_found() -> None:
    beside = "{signal: undo, role: guardrail, limit: 0.1, stages: [narrow_autonomy]}"
    assert found(gate(SOUND, beside), code="off_the_ladder") == [("warning", "g/undo")]


@pytest.mark.parametrize(
    ("promote", "faulty"),
    [("0.08", True), ("0.05", True), ("0.04", False)],
)
def test_a_promote_limit_must_be_stricter_than_the_guardrail_s(promote: str, faulty: bool) -> None:
    both = gate(SOUND, f"{{signal: execution_error, role: promote, limit: {promote}}}")
    assert bool(found(both, code="contradictory")) == faulty


def test_a_median_that_may_exceed_the_tail_is_contradictory() -> None:
    latency = [
        f"{{signal: latency_p{q}, role: promote, limit_ms: {limit}}}" for q, limit in (("50", 2000), ("95", 1500))
    ]
    assert found(gate(SOUND, *latency), code="contradictory") == [("warning", "g/latency_p50")]


def test_a_hold_cannot_expire_before_it_could_end() -> None:
    more = "owner: risk, hold_expires: 2d, minimum_exposure: {days: 7}"
    assert found(gate(SOUND, more=more), code="contradictory") == [("warning", "g/hold_expires")]


def test_a_gate_that_promotes_anything_is_found() -> None:
    assert found(gate(SOUND.replace("0.05", "0.6")), code="promote_anything") == [("error", "g/draft_write")]
    careless = SOUND.replace("limit:", "must_have_data: false, limit:")
    assert found(gate(careless), code="promote_anything") == [("warning", "g/draft_write")]


def test_a_gate_that_only_promotes_is_found() -> None:
    assert found(gate(SOUND.replace("guardrail", "promote")), code="never_rolls_back") == [("warning", "g/draft_write")]


def test_a_gate_of_dry_runs_never_promotes() -> None:
    dry = SOUND.replace("limit:", "dry_run: true, limit:")
    assert found(gate(dry), code="never_promotes") == [("note", "g")]


def test_what_waits_for_executions_where_nothing_runs_is_noted() -> None:
    everywhere = "{signal: undo, role: guardrail, limit: 0.1}"
    assert found(gate(everywhere, more="owner: o"), code="nothing_runs") == [("note", "g/observe_only")]


def test_a_file_without_gates_judges_nothing() -> None:
    assert [finding.code for finding in lint_gates(GateFile.parse(b"version: 1\ngates: []"))] == ["no_gates"]


def test_every_finding_is_explained_where_people_look() -> None:
    described = (ROOT / "docs" / "gates.md").read_text(encoding="utf-8")
    for code, meaning in CODES.items():
        assert f"| `{code}` |" in described
        assert meaning in described, code


def test_the_command_says_what_and_where(tmp_path: Path) -> None:
    file = tmp_path / "gates.yaml"
    file.write_text("version: 1\ngates: [{name: g, alfa: 1, signals: [{signal: undoo, role: watch}]}]")
    result = CliRunner().invoke(cli, ["gate", "lint", str(file)])
    assert result.exit_code == 1
    assert "unknown key `alfa` at gates[0]: did you mean `alpha`?" in result.output
    assert "unknown signal `undoo`: did you mean `undo`?" in result.output
    assert "2 errors, 0 warnings, 0 notes." in result.output
    as_json = CliRunner().invoke(cli, ["gate", "lint", str(ROOT / "examples/gates.yaml"), "--json"])
    assert as_json.exit_code == 0
    assert json.loads(as_json.stdout)["counts"]["error"] == 0


def test_a_missing_file_is_misuse(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["gate", "lint", str(tmp_path / "nowhere.yaml")])
    assert type(result.exception).__name__ == "ConfigurationFileError"
    assert getattr(result.exception, "exit_code", None) == 2


@pytest.mark.parametrize("file", FILES)
def test_the_published_schema_takes_what_is_shipped(file: str) -> None:
    jsonschema.Draft202012Validator(gate_schema()).validate(yaml.safe_load((ROOT / file).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 1, "gates": [{"name": "g", "alfa": 1}]},
        {"version": 1, "interval": 2, "gates": []},
        {"version": 1, "gates": [{"name": "g", "signals": [{"signal": "undoo", "role": "watch"}]}]},
        {"version": 1, "gates": [{"name": "g", "signals": [{"signal": "undo", "role": "guard"}]}]},
    ],
)
def test_the_published_schema_refuses_what_the_reader_refuses(wrong: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(gate_schema()).validate(wrong)
