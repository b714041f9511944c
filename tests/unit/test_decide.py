from __future__ import annotations

from typing import Any

import pytest
from boundary_cases import Broken, Permit, Refuse, contract, flag_evaluator
from openfeature.provider.no_op_provider import NoOpProvider

from producers.boundary.decision_rules import decide
from producers.boundary.flags import FlagEvaluator
from producers.wire.decision import FlagReason
from producers.wire.stage import Stage

WRITE = {"risk_class": "reversible_write"}
SEARCH = {"risk_class": "search", "reversibility": "automatic"}
EXTERNAL = {"risk_class": "external_effect"}


@pytest.mark.parametrize(
    ("flags", "asked", "outcome", "reason"),
    [
        ({}, WRITE, "allow", "policy_allows"),
        ({"enabled": False}, SEARCH, "deny", "governance_disabled"),
        ({"enabled": None}, SEARCH, "deny", "governance_disabled"),
        ({"denylist": True}, SEARCH, "deny", "on_denylist"),
        ({"denylist": None}, SEARCH, "deny", "on_denylist"),
        ({"mode": "off"}, SEARCH, "deny", "mode_off"),
        ({"mode": "search_only"}, SEARCH, "allow", "read_within_mode"),
        ({"mode": "search_only"}, {"risk_class": "scoped_read"}, "allow", "read_within_mode"),
        ({"mode": "search_only"}, {"risk_class": "sensitive_read"}, "constrain", "mode_search_only"),
        ({"mode": "search_only"}, WRITE, "constrain", "mode_search_only"),
        ({"mode": None}, WRITE, "constrain", "mode_search_only"),
        ({"mode": "everything"}, WRITE, "constrain", "mode_search_only"),
        ({"mode": "draft_write"}, WRITE, "constrain", "mode_draft_write"),
        ({"mode": "approved_external"}, EXTERNAL, "queue_for_review", "mode_approved_external"),
        ({"mode": "approved_external"}, WRITE, "allow", "policy_allows"),
        ({"mode": "fallback"}, SEARCH, "fallback", "mode_fallback"),
        ({"mode": "expanded"}, EXTERNAL, "allow", "policy_allows"),
        ({"approval": True}, EXTERNAL, "queue_for_review", "risk_class_external_effect"),
        ({"approval": None}, EXTERNAL, "queue_for_review", "risk_class_external_effect"),
        ({"approval": True}, WRITE | {"reversibility": "none"}, "queue_for_review", "reversibility_none"),
        ({"approval": True}, WRITE | {"confidence": 0.49}, "queue_for_review", "confidence_below_threshold"),
        ({"approval": True}, WRITE | {"confidence": 0.5}, "allow", "policy_allows"),
        ({"approval": True}, SEARCH, "allow", "read_within_mode"),
    ],
)
def test_one_question_after_the_other(flags: dict[str, Any], asked: dict[str, Any], outcome: str, reason: str) -> None:
    decided = decide(contract(**asked), Permit(), flag_evaluator(**flags))
    assert (decided.decision.result.outcome, decided.decision.result.reason) == (outcome, reason)


@pytest.mark.parametrize("authorizer", [Refuse(), Broken()])
def test_what_authorization_refuses_no_flag_releases(authorizer: Refuse | Broken) -> None:
    decided = decide(contract(), authorizer, flag_evaluator())
    assert decided.decision.result.outcome == "deny"
    assert decided.decision.result.reason == "not_authorized"


def test_an_authorizer_that_fails_is_named_in_the_record() -> None:
    said = decide(contract(), Broken(), flag_evaluator()).decision.authorization
    assert said is not None
    assert (said.rule, said.reason) == ("authorizer-failed", "ConnectionError")


def test_a_draft_runs_in_place_of_a_write_where_there_is_one() -> None:
    drafted = decide(
        contract(), Permit(), flag_evaluator(mode="draft_write"), variants=frozenset({"draft"})
    ).decision.result
    assert drafted.outcome == "constrain"
    assert (drafted.mode, drafted.runs) == ("draft", True)


def test_a_constraint_without_a_variant_runs_nothing_and_expects_nothing() -> None:
    decision = decide(contract(), Permit(), flag_evaluator(mode="search_only")).decision
    assert decision.result.outcome == "constrain"
    assert not decision.expects_execution


def test_observing_records_what_would_have_happened_and_enforces_nothing() -> None:
    decided = decide(contract(), Permit(), flag_evaluator(mode="observe"))
    assert decided.stage is Stage.OBSERVE_ONLY
    assert decided.decision.result.outcome == "allow"
    assert not decided.decision.enforced
    assert not decided.decision.expects_execution


def test_every_flag_is_on_record_whatever_the_outcome() -> None:
    decision = decide(contract(), Refuse(), flag_evaluator(enabled=False)).decision
    assert [flag.key for flag in decision.flags] == [
        "agent-action-governance-enabled",
        "agent-action-denylist",
        "agent-action-mode",
        "agent-action-approval-required",
        "agent-action-confidence-threshold",
    ]
    assert {flag.reason for flag in decision.flags} == {FlagReason.STATIC}
    assert decision.ruleset_sha256 is not None


def test_a_provider_that_knows_nothing_denies_and_says_so() -> None:
    decision = decide(contract(), Permit(), FlagEvaluator(NoOpProvider())).decision
    assert decision.result.outcome == "deny"


def test_a_missing_flag_says_so_on_record() -> None:
    flags = decide(contract(), Permit(), flag_evaluator(mode=None)).decision.flags
    mode = next(flag for flag in flags if flag.key == "agent-action-mode")
    assert mode.reason is FlagReason.ERROR
    assert mode.value == "search_only"
    assert "FLAG_NOT_FOUND" in (mode.error or "")
