from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from fakes import a_contract, a_decision
from lakes_of_events import NOON, EventLake

from analytics.audit.blame import deciding_flag
from analytics.audit.story import Story, UntoldDecisionError, story
from analytics.judging.judge import Judge
from producers.wire.decision import Authorization, Deny, QueueForReview
from producers.wire.events import ExecutionStatus, Incident, PolicyChangedData, Resolution, UndoResult
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from pathlib import Path

    from producers.wire.decision import Outcome
    from producers.wire.receipt import Receipt

RULES, OTHER_RULES = "a" * 64, "b" * 64
GATES = """\
version: 1
gates:
  - name: refunds
    match: {workflow: refunds}
    signals: [{signal: execution_error, role: guardrail, limit: 0.1}]
"""


def changed(lake: EventLake, minute: float, **fields: str) -> None:
    change = {"flag_key": "agent-action-mode", "changed_by": "dana", "reason": "held its limits", "after": "autonomous"}
    lake.recorder.policy_changed(PolicyChangedData(**change | fields), at=NOON + timedelta(minutes=minute))


def decided(lake: EventLake, minute: float, result: Outcome | None = None, ruleset: str | None = RULES) -> Receipt:
    decision = a_decision(result).model_copy(
        update={"ruleset_sha256": ruleset, "authorization": Authorization(permitted=True, rule="refunds-small")}
    )
    return lake.recorder.decided(
        a_contract(), decision, stage=Stage.NARROW_AUTONOMY, decided_at=NOON + timedelta(minutes=minute)
    )


def judged(lake: EventLake, folder: Path, minute: float) -> None:
    gates = folder / "gates.yaml"
    gates.write_text(GATES, encoding="utf-8")
    Judge(lake.lake, gates).tick(NOON + timedelta(minutes=minute))


def pieces(told: Story) -> list[str]:
    return [piece.piece for piece in told.missing]


@pytest.fixture
def lake(tmp_path: Path) -> EventLake:
    return EventLake.at(tmp_path)


def test_a_whole_story_has_every_part_and_misses_nothing(lake: EventLake, tmp_path: Path) -> None:
    lake.act(-60, "u-1", stage=Stage.NARROW_AUTONOMY)
    lake.store()
    judged(lake, tmp_path, -50)
    changed(lake, -30, ruleset_sha256=RULES, tool="issue_refund")
    receipt = decided(lake, 0)
    lake.recorder.executed(
        receipt,
        ExecutionStatus.FAILED,
        latency_ms=80,
        cost_usd=0.02,
        error_type="Timeout",
        at=NOON + timedelta(seconds=2),
    )
    lake.undo(receipt, 1, UndoResult.UNDONE)
    lake.impact(receipt, Incident(severity=2, reference="INC-4"), 2)
    lake.store()
    judged(lake, tmp_path, 9 * 24 * 60 + 1)  # the lake's rows are read on the ninth day
    told = story(lake.lake, receipt.decision_id)
    assert told.is_whole, told.missing
    assert told.contract == a_contract()
    assert told.decision is not None
    assert told.blame is not None
    assert (told.blame.changed_by, told.blame.after, told.blame.ruleset_confirmed) == ("dana", "autonomous", True)
    assert [flag.changed is not None for flag in told.flags] == [True]
    assert (told.executions[0].status, told.executions[0].error_type) == ("failed", "Timeout")
    assert told.executions[0].ran == "the action as asked"
    assert [undo.result for undo in told.undos] == ["undone"]
    assert told.impacts[0].impact == Incident(severity=2, reference="INC-4")
    assert told.verdict_then is not None
    assert told.counted_in is not None
    assert told.counted_in.confirmed_at is not None
    assert told.verdict_then.judged_at < NOON < told.counted_in.confirmed_at
    assert [event.type.split(".")[2] for event in told.events] == ["decided", "executed", "undone", "impact"]
    assert Story.model_validate_json(told.model_dump_json()) == told


def test_a_moment_finds_the_same_story(lake: EventLake) -> None:
    receipt = decided(lake, 0)
    lake.store()
    at = receipt.decided_at
    assert story(lake.lake, receipt.decision_id, decided_at=at) == story(lake.lake, receipt.decision_id)


def test_what_is_missing_is_named(lake: EventLake) -> None:
    receipt = lake.act(0, "u-1", reported=False)
    lake.act(60, "u-1")  # an hour later: the execution of the first is overdue
    lake.store()
    told = story(lake.lake, receipt.decision_id)
    assert pieces(told) == [
        "authorization",
        "ruleset",
        "policy change",
        "overdue execution",
        "verdict before",
        "verdict after",
    ]
    assert not told.is_whole


def test_an_execution_that_may_still_come_is_not_called_overdue(lake: EventLake) -> None:
    receipt = lake.act(0, "u-1", reported=False)
    lake.store()
    assert "execution" in pieces(story(lake.lake, receipt.decision_id))


def test_outcomes_without_their_decision_tell_that_it_is_gone(lake: EventLake) -> None:
    receipt = lake.act(0, "u-1")
    lake.emitter.events[:] = lake.emitter.events[1:]
    lake.store()
    told = story(lake.lake, receipt.decision_id)
    assert pieces(told) == ["decision"]
    assert (told.contract, told.executions[0].status) == (None, "succeeded")


def test_a_review_is_told_with_its_reviewer_and_rationale(lake: EventLake) -> None:
    receipt = decided(lake, 0, QueueForReview(reason="risk_class_external_effect"))
    lake.store()
    assert "review" in pieces(story(lake.lake, receipt.decision_id))
    lake.recorder.review_resolved(
        receipt, Resolution.APPROVED, reviewer="kim", rationale="checked the invoice", wait_ms=9.0, at=NOON
    )
    lake.store()
    told = story(lake.lake, receipt.decision_id)
    assert told.review is not None
    assert (told.review.reviewer, told.review.rationale) == ("kim", "checked the invoice")
    assert "review" not in pieces(told)
    assert "execution" in pieces(told)


@pytest.mark.parametrize(
    ("fields", "minute", "concerns"),
    [({}, -1, True), ({"tool": "issue_refund"}, -1, True), ({"tool": "other"}, -1, False), ({}, 1, False)],
)
def test_only_an_earlier_change_that_concerns_the_action_is_to_blame(
    lake: EventLake, fields: dict[str, str], minute: float, concerns: bool
) -> None:
    changed(lake, minute, **fields)
    receipt = decided(lake, 0)
    lake.store()
    assert (story(lake.lake, receipt.decision_id).blame is not None) is concerns


def test_of_several_changes_the_newest_is_to_blame(lake: EventLake) -> None:
    for minute, who in ((-3, "ana"), (-1, "ben"), (-2, "cyd")):
        changed(lake, minute, changed_by=who)
    receipt = decided(lake, 0)
    lake.store()
    blame = story(lake.lake, receipt.decision_id).blame
    assert blame is not None
    assert blame.changed_by == "ben"


def test_a_ruleset_that_no_change_names_is_missing_its_change(lake: EventLake) -> None:
    changed(lake, -1, ruleset_sha256=OTHER_RULES)
    receipt = decided(lake, 0)
    lake.store()
    assert "ruleset's change" in pieces(story(lake.lake, receipt.decision_id))


def test_a_change_of_another_action_confirms_the_ruleset(lake: EventLake) -> None:
    changed(lake, -2, ruleset_sha256=OTHER_RULES)
    changed(lake, -1, ruleset_sha256=RULES, tool="other")
    receipt = decided(lake, 0)
    lake.store()
    told = story(lake.lake, receipt.decision_id)
    assert told.blame is not None
    assert told.blame.ruleset_confirmed is True


def test_what_authorization_alone_refused_is_no_flags_fault(lake: EventLake) -> None:
    assert deciding_flag("not_authorized") is None
    changed(lake, -1)
    receipt = decided(lake, 0, Deny(reason="not_authorized"))
    lake.store()
    assert story(lake.lake, receipt.decision_id).blame is None


@pytest.mark.parametrize(
    ("reason", "flag"),
    [
        ("policy_allows", "mode"),
        ("mode_off", "mode"),
        ("on_denylist", "denylist"),
        ("governance_disabled", "governance-enabled"),
        ("risk_class_irreversible", "approval-required"),
        ("confidence_below_threshold", "confidence-threshold"),
    ],
)
def test_the_reason_says_which_flag_decided(reason: str, flag: str) -> None:
    assert deciding_flag(reason) == f"agent-action-{flag}"


def test_an_unknown_decision_is_named(lake: EventLake) -> None:
    lake.act(0, "u-1")
    changed(lake, 0)
    lake.store()
    for unknown in ("nobody", "agent-action-mode"):
        with pytest.raises(UntoldDecisionError, match=unknown):
            story(lake.lake, unknown)
