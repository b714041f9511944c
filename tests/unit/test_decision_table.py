"""The whole table of decisions, written down from what was asked for and not from the code."""

from __future__ import annotations

from typing import Any

import pytest
from boundary_cases import Permit, Refuse, contract, flag_evaluator

from producers.boundary.decision_rules import decide
from producers.wire.contract import Fallback, FallbackMode, RiskClass

CLASSES = (
    "search scoped_read sensitive_read reversible_write external_effect admin_action irreversible".split()  # noqa: SIM905
)
LETTERS = {"A": "allow", "C": "constrain", "Q": "queue_for_review", "D": "deny", "F": "fallback"}
TABLE = {
    "off": "DDDDDDD",
    "observe": "AAAAAAA",
    "search_only": "AACCCCC",
    "draft_write": "AACCCCC",
    "approved_external": "AAQAQQQ",
    "autonomous": "AAAAAAA",
    "expanded": "AAAAAAA",
    "fallback": "FFFFFFF",
}
REVIEWED = "AAQAQQQ"
"""What becomes of an allowed action of each class while approval is required."""

WORST = {"risk_class": "external_effect", "reversibility": "none", "confidence": 0.1}


def test_the_table_has_every_class() -> None:
    assert [risk.value for risk in RiskClass] == CLASSES


@pytest.mark.parametrize("approval", [False, True])
@pytest.mark.parametrize("mode", TABLE)
@pytest.mark.parametrize("place", range(7))
def test_every_mode_for_every_class_of_action(mode: str, place: int, approval: bool) -> None:
    decided = decide(contract(risk_class=CLASSES[place]), Permit(), flag_evaluator(mode=mode, approval=approval))
    expected = TABLE[mode][place]
    if expected == "A" and approval:
        expected = REVIEWED[place]
    assert decided.decision.result.outcome == LETTERS[expected]
    assert decided.decision.enforced is (mode != "observe")
    assert decided.decision.expects_execution is (expected == "A" and mode != "observe")


@pytest.mark.parametrize("fallback", FallbackMode)
@pytest.mark.parametrize("place", range(7))
def test_in_an_incident_the_fallback_runs_searches_and_scoped_reads(fallback: FallbackMode, place: int) -> None:
    asked = contract(risk_class=CLASSES[place]).model_copy(update={"fallback": Fallback(mode=fallback)})
    decision = decide(asked, Permit(), flag_evaluator(mode="fallback"), variants=frozenset({"search_only"})).decision
    runs = fallback is FallbackMode.SEARCH_ONLY and CLASSES[place] in {"search", "scoped_read"}
    assert decision.expects_execution is runs
    assert decision.result.reason == ("fallback_search_only" if runs else "mode_fallback")


@pytest.mark.parametrize(
    ("mode", "variants", "runs"),
    [
        ("search_only", {"search_only", "draft"}, "search_only"),
        ("search_only", {"draft"}, None),
        ("draft_write", {"search_only", "draft"}, "draft"),
        ("draft_write", {"search_only"}, "search_only"),
        ("draft_write", set(), None),
    ],
)
def test_a_constraint_names_what_runs_in_its_place(mode: str, variants: set[str], runs: str | None) -> None:
    result = decide(contract(), Permit(), flag_evaluator(mode=mode), variants=frozenset(variants)).decision.result
    assert result.outcome == "constrain"
    assert (result.mode if result.runs else None) == runs


def test_each_question_comes_before_the_next() -> None:
    """Everything speaks against the action; what came first is named, and mended, one after the other."""
    flags: dict[str, Any] = {"enabled": False, "denylist": True, "mode": "off", "approval": True}

    def reason(authorizer: Permit | Refuse) -> str:
        return decide(contract(**WORST), authorizer, flag_evaluator(**flags)).decision.result.reason  # type: ignore[arg-type]

    found = [reason(Refuse()), reason(Permit())]
    for mended in ({"enabled": True}, {"denylist": False}, {"mode": "approved_external"}, {"mode": "autonomous"}):
        flags |= mended
        found.append(reason(Permit()))
    flags["approval"] = False
    found.append(reason(Permit()))
    assert found == [
        "not_authorized",
        "governance_disabled",
        "on_denylist",
        "mode_off",
        "mode_approved_external",
        "risk_class_external_effect",
        "policy_allows",
    ]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"reversibility": "automatic"}, "policy_allows"),
        ({"reversibility": "manual"}, "policy_allows"),
        ({"reversibility": "expensive"}, "reversibility_expensive"),
        ({"reversibility": "none"}, "reversibility_none"),
        ({"confidence": 0.79}, "confidence_below_threshold"),
        ({"confidence": 0.8}, "policy_allows"),
        ({"confidence": None}, "policy_allows"),
    ],
)
def test_review_by_reversibility_and_by_confidence_under_the_safe_threshold(asked: dict[str, Any], reason: str) -> None:
    """The threshold's flag is missing: its safe value applies."""
    decided = decide(contract(**asked), Permit(), flag_evaluator(approval=True, threshold=None))
    assert decided.decision.result.reason == reason


def test_the_ruleset_is_the_authorization_and_the_flags() -> None:
    class Other(Permit):
        sha256 = "9" * 64

    hashes = {
        decide(contract(), authorizer, held).decision.ruleset_sha256
        for authorizer in (Permit(), Other())
        for held in (flag_evaluator(), flag_evaluator(threshold=0.6))
    }
    assert len(hashes) == 4
