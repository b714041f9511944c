"""Declared splits in the gate file: what may be said, what the schema knows, and what lint finds."""

from __future__ import annotations

import jsonschema
import pytest
import yaml
from verdict_cases import COHORTS, split_gates

from analytics.gates.gate_file import GateFile
from analytics.gates.lint import lint_gates
from analytics.published_schemas import gate_schema
from producers.strict_yaml import ConfigurationFileError


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("{shares: {a: 0.9, b: 0.2}}", "the shares must add up to 1, and add up to 1.1"),
        ("{shares: {a: 0.9}}", "at least 2 items"),
        ("{shares: {a: 1.0, b: 0.0}}", "less than 1"),
        ("{by: stage, shares: {draft_write: 0.5, aproval_gated: 0.5}}", "did you mean `approval_gated`?"),
        ("{by: colour, shares: {a: 0.5, b: 0.5}}", "'cohort' or 'stage'"),
        ("{shares: {a: 0.5, b: 0.5}, sinse: 2026-03-14T12:00:00Z}", "did you mean `since`?"),
        ("{shares: {a: 0.5, b: 0.5}, since: 2026-03-14T12:00:00}", "timezone"),
    ],
)
def test_what_may_not_be_said(split: str, said: str) -> None:
    with pytest.raises(ConfigurationFileError) as refused:
        split_gates(split)
    assert said in str(refused.value)


def test_thirds_are_shares() -> None:
    assert split_gates("{shares: {a: 0.3333333333, b: 0.3333333333, c: 0.3333333334}}").gates[0].split is not None


def test_the_published_schema_knows_it() -> None:
    validator = jsonschema.Draft202012Validator(gate_schema())

    def faults(split: str) -> int:
        document = yaml.load(split_gates().text.decode().replace(COHORTS, split), yaml.BaseLoader)  # noqa: S506
        document["version"] = 1
        document["gates"][0]["signals"][0]["limit"] = 0.1
        shares = document["gates"][0]["split"]["shares"]
        document["gates"][0]["split"]["shares"] = {name: float(share) for name, share in shares.items()}
        return len(list(validator.iter_errors(document)))

    assert faults(COHORTS) == 0
    assert faults("{by: stage, shares: {draft_write: 0.5, approval_gated: 0.5}, since: 2026-03-14T12:00:00Z}") == 0
    assert faults("{shares: {a: 0.5}}") == 1
    assert faults("{shares: {a: 0.5, b: 1.5}}") == 1
    assert faults("{shares: {a: 0.5, b: 0.5}, whatever: 1}") == 1


@pytest.mark.parametrize(
    ("split", "baseline", "found"),
    [
        ("{shares: {a: 0.9, b: 0.1}}", "{kind: concurrent, cohort: held-back}", ("warning", "contradictory")),
        (
            "{by: stage, shares: {draft_write: 0.5, progressive_expansion: 0.5}}",
            "{kind: concurrent, cohort: x}",
            ("warning", "off_the_ladder"),
        ),
        (
            "{by: stage, shares: {draft_write: 0.5, narrow_autonomy: 0.5}}",
            "{kind: concurrent}",
            ("warning", "contradictory"),
        ),
        ("{by: stage, shares: {draft_write: 0.5, approval_gated: 0.5}}", "{kind: concurrent}", None),
        (COHORTS, "{kind: concurrent, cohort: held-back}", None),
    ],
)
def test_lint(split: str, baseline: str, found: tuple[str, str] | None) -> None:
    made = split_gates(split, baseline=baseline).text.replace(b"limit: 0.1", b"ratio: 1.5")
    findings = lint_gates(GateFile.parse(made))
    assert [(one.level, one.code) for one in findings if one.place == "g/split"] == ([found] if found else [])


def test_lint_notes_a_comparison_without_a_declared_split() -> None:
    made = split_gates(baseline="{kind: concurrent, cohort: held-back}").text.replace(b"limit: 0.1", b"ratio: 1.5")
    made = made.replace(f"split: {COHORTS}".encode(), b"beta: 0.05")
    (note,) = [one for one in lint_gates(GateFile.parse(made)) if one.code == "undeclared_split"]
    assert (note.level, note.place) == ("note", "g")
