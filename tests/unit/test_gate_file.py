from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from analytics.gates.gate_file import GateFile, GateTieError
from producers.strict_yaml import ConfigurationFileError
from producers.wire.stage import Stage

ROOT = Path(__file__).parents[2]
GUARD = "{signal: undo, role: guardrail, limit: 0.02}"


def parse(gate: str, top: str = "version: 1") -> GateFile:
    return GateFile.parse(f"{top}\ngates:\n  - {{name: one, {gate}}}\n".encode())


def refused(gate: str, top: str = "version: 1") -> str:
    with pytest.raises(ConfigurationFileError) as refusal:
        parse(gate, top)
    return str(refusal.value)


def test_a_file_in_full(tmp_path: Path) -> None:
    text = b"""
version: 1
interval: 500ms
outcome_deadline: 1.5h
freshness: 1d
gates:
  - name: refunds
    owner: risk
    match: {environment: production, workflow: refunds, tool: issue_*, risk_class: external_effect}
    ladder: [draft_write, approval_gated, narrow_autonomy]
    alpha: 0.01
    beta: 0.02
    minimum_exposure: {actions: 300}
    signals:
      - {signal: undo, role: guardrail, limit: 0.02, weight: 3}
      - {signal: latency_p95, role: promote, limit_ms: 1500, stages: [draft_write]}
      - {signal: cost_p95, role: watch, limit_usd: 0.1}
      - {signal: severe_incident, role: trip}
"""
    path = tmp_path / "gates.yaml"
    path.write_bytes(text)
    gates = GateFile.load(path)
    assert (gates.interval_s, gates.outcome_deadline_s, gates.freshness_s) == (0.5, 5_400.0, 86_400.0)
    assert gates.sha256 == hashlib.sha256(text).hexdigest()
    assert gates.path == path
    gate = gates.gate_for("production", "refunds", "issue_refund", "external_effect")
    assert gate is not None
    assert gate.minimum_exposure.actions == 300
    assert [part.signal for part in gate.at("narrow_autonomy")] == ["undo", "cost_p95", "severe_incident"]
    assert gate.above("approval_gated") is Stage.NARROW_AUTONOMY
    assert gate.above("narrow_autonomy") is None
    assert gate.above("search_only") is None
    assert gate.below("approval_gated") is Stage.DRAFT_WRITE
    assert gate.below("draft_write") is None
    assert gate.below("search_only") is None


def test_what_is_not_stated_has_its_default() -> None:
    gates = parse(f"signals: [{GUARD}]")
    assert (gates.interval_s, gates.outcome_deadline_s, gates.freshness_s) == (2.0, 120.0, 900.0)
    gate = gates.gate_for("anywhere", "any", "tool", None)
    assert gate is not None
    assert (gate.alpha, gate.beta, gate.minimum_exposure.actions) == (0.05, 0.05, 0)
    assert gate.ladder == tuple(Stage)


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("alfa: 0.05", "unknown key `alfa` at gates[0]: did you mean `alpha`?"),
        ("match: {tol: x}", "unknown key `tol` at gates[0].match: did you mean `tool`?"),
        ("minimum_exposure: {action: 3}", "unknown key `action` at gates[0].minimum_exposure: did you mean `actions`?"),
        ("signals: [{signal: undo, role: watch, limt: 0.1}]", "did you mean `limit`?"),
        ("signals: [{signal: missing_outcome, role: guardrail, ratio: 2}]", "`missing_outcome` takes no `ratio`"),
        ("signals: [{signal: exection_error, role: watch}]", "gates[0].signals[0].signal: unknown signal"),
        ("signals: [{signal: exection_error, role: watch}]", "did you mean `execution_error`?"),
        ("signals: [{signal: undo, role: gard, limit: 0.1}]", "unknown role `gard`: did you mean `guardrail`?"),
        ("ladder: [draft_write, aproval_gated]", "unknown stage `aproval_gated`: did you mean `approval_gated`?"),
        ("signals: [{signal: undo, role: watch, stages: [draft]}]", "gates[0].signals[0].stages: unknown stage"),
        ("match: {risk_class: serch}", "unknown risk class `serch`: did you mean `search`?"),
        ("ladder: [approval_gated, draft_write]", "lowest first"),
        ("ladder: []", "gates[0].ladder"),
        ("alpha: 0", "gates[0].alpha"),
        ("alpha: 0.6", "gates[0].alpha"),
        ("beta: .nan", "gates[0].beta"),
        ("minimum_exposure: {actions: -1}", "gates[0].minimum_exposure.actions"),
        ("signals: [{signal: undo, role: guardrail}]", "`undo` as guardrail needs `limit`"),
        ("signals: [{signal: undo, role: guardrail, limit: 0}]", "gates[0].signals[0].limit"),
        ("signals: [{signal: undo, role: guardrail, limit: 1}]", "gates[0].signals[0].limit"),
        ("signals: [{signal: undo, role: guardrail, limit_ms: 5}]", "takes `limit`, not `limit_ms`"),
        ("signals: [{signal: latency_p95, role: guardrail, limit: 0.1}]", "takes `limit_ms`, not `limit`"),
        ("signals: [{signal: cost_p95, role: promote, limit_ms: 5}]", "takes `limit_usd`, not `limit_ms`"),
        ("signals: [{signal: latency_p95, role: guardrail, limit_ms: 1.0e+9}]", "cannot be counted"),
        ("signals: [{signal: latency_p95, role: trip}]", "so it cannot trip"),
        ("signals: [{signal: severe_incident, role: guardrail}]", "its role is `trip` or `watch`"),
        ("signals: [{signal: undo, role: trip, limit: 0.1}]", "takes `max_count`, not `limit`"),
        ("signals: [{signal: undo, role: promote, limit: 0.1, weight: 2}]", "only a guardrail takes `weight`"),
        (f"signals: [{GUARD}, {GUARD}]", "`undo` is guardrail more than once at observe_only"),
    ],
)
def test_what_may_not_be_said_is_refused_by_its_place(gate: str, said: str) -> None:
    assert said in refused(gate)


@pytest.mark.parametrize(
    ("top", "said"),
    [
        ("version: 2", "version"),
        ("{}", "not YAML"),
        ("version: 1\ninterval: 2", "a duration reads like"),
        ("version: 1\nfreshness: soon", "freshness: a duration reads like"),
        ("version: 1\ninterval: 0s", "interval"),
        ("version: 1\nfreshnes: 2s", "unknown key `freshnes` at the top: did you mean `freshness`?"),
    ],
)
def test_the_top_is_read_as_strictly(top: str, said: str) -> None:
    assert said in refused(f"signals: [{GUARD}]", top)


def test_a_signal_may_have_other_limits_at_other_stages_and_in_other_roles() -> None:
    gates = parse(
        "signals: [{signal: undo, role: guardrail, limit: 0.1, stages: [draft_write]}, "
        "{signal: undo, role: guardrail, limit: 0.02, stages: [approval_gated]}, "
        "{signal: undo, role: promote, limit: 0.01}]"
    )
    assert [part.limit for part in gates.gates[0].at("approval_gated")] == [0.02, 0.01]


def several(*matches: str) -> GateFile:
    listed = "".join(f"\n  - {{name: g{number}, match: {{{match}}}}}" for number, match in enumerate(matches))
    return GateFile.parse(f"version: 1\ngates:{listed}\n".encode())


@pytest.mark.parametrize(
    ("matches", "chosen"),
    [
        (("", "environment: production"), "g1"),
        (("environment: production", "environment: production, tool: issue_refund"), "g1"),
        (("environment: prod*", "environment: production"), "g1"),
        (("tool: issue_*", "", "workflow: other"), "g0"),
        (("environment: production, tool: issue_*", "environment: production"), "g0"),
        (("risk_class: irreversible", "environment: production"), "g1"),
    ],
)
def test_the_most_specific_match_wins(matches: tuple[str, ...], chosen: str) -> None:
    gate = several(*matches).gate_for("production", "refunds", "issue_refund", "external_effect")
    assert gate is not None
    assert gate.name == chosen


def test_approval_is_refused_by_the_name_that_it_has_now() -> None:
    assert "write `on_promote: ask` for `approval: required`" in refused("approval: required, signals: []")


def test_what_is_done_by_itself_is_no_content_that_evidence_rests_on_but_that_a_person_is_asked_is() -> None:
    plain, applied, asked = (
        parse(f"{keys}signals: []").contents["one"]
        for keys in ("", "on_roll_back: apply, on_promote: apply, ", "on_promote: ask, ")
    )
    assert plain == applied != asked


def test_nothing_matches_nothing() -> None:
    assert several("environment: staging").gate_for("production", "w", "t", None) is None


def test_an_unknown_risk_class_matches_no_stated_one() -> None:
    gates = several("risk_class: search", "risk_class: '*e*'")
    assert gates.gate_for("production", "w", "t", None) is None


def test_patterns_tell_upper_from_lower_case() -> None:
    assert several("environment: Production").gate_for("production", "w", "t", None) is None


def test_a_tie_names_both_gates_when_it_is_met() -> None:
    gates = several("workflow: refunds", "tool: issue_refund")
    assert gates.gate_for("production", "refunds", "other", None) is not None
    with pytest.raises(GateTieError, match="`g0` and `g1` match production/refunds/issue_refund equally well"):
        gates.gate_for("production", "refunds", "issue_refund", None)


def test_two_gates_for_the_same_are_refused_at_once() -> None:
    with pytest.raises(ConfigurationFileError, match="the gates `g0` and `g1` match the same actions"):
        several("tool: x", "tool: x")


def test_two_gates_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationFileError, match="2 gates are called `a`"):
        GateFile.parse(b"version: 1\ngates: [{name: a}, {name: a, match: {tool: x}}]")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationFileError, match="cannot be read: No such file"):
        GateFile.load(tmp_path / "gates.yaml")


@pytest.mark.parametrize("path", ["stagekeeper/embedded/demo_gates.yaml", "examples/gates.yaml"])
def test_the_files_that_are_shipped_are_gate_files(path: str) -> None:
    gates = GateFile.load(ROOT / path)
    gate = gates.gate_for("production", "refunds", "issue_refund", "external_effect")
    assert gate is not None
    assert gate.at("narrow_autonomy")
