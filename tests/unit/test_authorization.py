from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from boundary_cases import contract

from producers.boundary.authorization import FileAuthorizer
from producers.strict_yaml import ConfigurationFileError

if TYPE_CHECKING:
    from pathlib import Path

POLICY = """
version: 1
rules:
  - name: support-reads
    agents: ["support-*"]
    tools: ["crm_*", "kb_search"]
    environments: ["production", "staging"]
    highest_risk_class: scoped_read
  - name: refunds
    agents: ["support-bot"]
    accounts: ["acct-*"]
    tools: ["issue_refund"]
    environments: ["production"]
    systems: ["billing"]
    highest_risk_class: external_effect
    because: small refunds are reversible by finance
"""


@pytest.fixture
def authorizer(tmp_path: Path) -> FileAuthorizer:
    path = tmp_path / "authorization.yaml"
    path.write_text(POLICY)
    return FileAuthorizer.load(path)


def test_the_first_rule_that_permits_is_named(authorizer: FileAuthorizer) -> None:
    said = authorizer.authorize(contract(agent="support-bot", tool="crm_lookup", risk_class="scoped_read"))
    assert (said.permitted, said.rule) == (True, "support-reads")


@pytest.mark.parametrize(
    "changed",
    [
        {"agent": "sales-bot"},
        {"tool": "crm_delete", "risk_class": "irreversible"},
        {"environment": "sandbox"},
        {"tool": "issue_refund", "risk_class": "external_effect", "system": "payroll", "account": "acct-1"},
        {"tool": "issue_refund", "risk_class": "external_effect", "system": "billing", "account": None},
        {"tool": "issue_refund", "risk_class": "admin_action", "system": "billing", "account": "acct-1"},
    ],
)
def test_what_no_rule_permits_is_refused(authorizer: FileAuthorizer, changed: dict[str, str | None]) -> None:
    asked = {"agent": "support-bot", "tool": "crm_lookup", "risk_class": "scoped_read"} | changed
    said = authorizer.authorize(contract(**asked))
    assert (said.permitted, said.rule) == (False, "default-deny")


def test_an_account_within_the_glob_is_permitted(authorizer: FileAuthorizer) -> None:
    asked = contract(
        agent="support-bot", tool="issue_refund", risk_class="external_effect", system="billing", account="acct-7"
    )
    assert authorizer.authorize(asked).rule == "refunds"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (POLICY.replace("tools:", "tool:", 1), r"unknown key `tool` at rules\[0\]: did you mean `tools`"),
        (POLICY.replace("environments:", "environment:", 1), "did you mean `environments`"),
        (POLICY.replace("scoped_read", "scopped_read"), r"rules\[0\]\.highest_risk_class"),
        (POLICY.replace("name: refunds", "name: support-reads"), "distinct names"),
        ("- a list", "mapping at its top"),
        ("version: [", "not YAML"),
    ],
)
def test_a_faulty_file_is_refused_with_the_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "authorization.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationFileError, match=said):
        FileAuthorizer.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationFileError, match=r"none\.yaml cannot be read"):
        FileAuthorizer.load(tmp_path / "none.yaml")


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(POLICY)
    before = FileAuthorizer.load(path).sha256
    path.write_text(POLICY + "# a comment\n")
    assert FileAuthorizer.load(path).sha256 != before


PINS = """
pins:
  - tools: ["issue_*"]
    risk_class: external_effect
  - tools: [issue_refund]
    reversibility: manual
"""
ANYTHING = """
version: 1
rules:
  - {name: all, agents: [support-bot], tools: ["*"], environments: ["*"], highest_risk_class: irreversible}
"""


@pytest.mark.parametrize(
    ("claimed", "rule"),
    [
        ({"risk_class": "external_effect", "reversibility": "manual"}, "all"),
        ({"risk_class": "search", "reversibility": "manual"}, "pinned-claim"),
        ({"risk_class": "irreversible", "reversibility": "manual"}, "pinned-claim"),
        ({"risk_class": "external_effect", "reversibility": "automatic"}, "pinned-claim"),
        ({"tool": "issue_voucher", "risk_class": "external_effect", "reversibility": "automatic"}, "all"),
        ({"tool": "crm_lookup", "risk_class": "search"}, "all"),
    ],
)
def test_what_is_pinned_of_a_tool_is_no_callers_to_say(tmp_path: Path, claimed: dict[str, str], rule: str) -> None:
    path = tmp_path / "authorization.yaml"
    path.write_text(ANYTHING + PINS)
    authorizer = FileAuthorizer.load(path)
    asked = contract(**{"agent": "support-bot", "tool": "issue_refund", **claimed})
    said = authorizer.authorize(asked)
    assert (said.permitted, said.rule) == (rule == "all", rule)
    unknown = asked.model_copy(update={"actor": asked.actor.model_copy(update={"account": None})})
    assert authorizer.missing(unknown) == ()


def test_a_pin_that_pins_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "authorization.yaml"
    path.write_text(ANYTHING + "pins:\n  - tools: [issue_refund]\n")
    with pytest.raises(ConfigurationFileError, match="risk_class"):
        FileAuthorizer.load(path)
