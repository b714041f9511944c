"""Candidate rules on recorded contracts, recorded by the real rules and decided by them again."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from boundary_cases import contract
from click.testing import CliRunner
from documents import ROOT
from lakes_of_events import NOON, EventLake
from stage_stores import MemoryStages
from workers import await_that

from analytics.backtest.candidate_rules import CandidateRules, UnusableRulesError
from analytics.backtest.policy_replay import PolicyComparison, compare
from producers.boundary.authorization import FileAuthorizer
from producers.boundary.decision_rules import decide
from producers.boundary.flag_edit import FlagFileError
from producers.boundary.flags import FlagEvaluator
from producers.boundary.stage_store import ActionName, StageChange
from producers.wire.decision import Decision, Deny
from producers.wire.stage import Mode
from stagekeeper.commands import cli
from stagekeeper.settings import Settings
from stagekeeper.stage_preview import preview_line

if TYPE_CHECKING:
    from pathlib import Path

    from producers.wire.contract import ActionContract

SINCE, UNTIL = NOON - timedelta(days=7), NOON + timedelta(days=1)
REFUND = {"tool": "issue_refund", "system": "billing", "risk_class": "external_effect", "reversibility": "manual"}
IN_WORKFLOW = {"workflow": "refunds"}


def refund(**changed: Any) -> ActionContract:
    return contract(**{**REFUND, **changed}).model_copy(update=IN_WORKFLOW)


class Place:
    """A lake, and rules that were in force when what is in it was decided."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history = EventLake.at(folder)
        self.flags, self.authorization = folder / "flags.json", folder / "authorization.yaml"
        for path in (self.flags, self.authorization):
            shutil.copy(ROOT / "examples" / path.name, path)
        self.mode("autonomous")
        self._minute = 0

    def edited(self, key: str, *, name: str = "new.json", **changed: Any) -> Path:
        document = json.loads(self.flags.read_text())
        document["flags"][key] |= changed
        path = self.folder / name
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(document))
        draft.replace(path)  # in one step: a half of it is unreadable, and not another one
        return path

    def mode(self, mode: str, *, name: str = "flags.json", targeting: Any = None) -> Path:
        return self.edited(
            "agent-action-mode", name=name, defaultVariant=mode, targeting=targeting or {"if": [False, mode, None]}
        )

    def decided(self, *contracts: ActionContract, flags: Path | None = None) -> None:
        evaluator = FlagEvaluator.from_file(flags or self.flags, deadline_s=10)
        authorizer = FileAuthorizer.load(self.authorization)
        try:
            for one in contracts:
                staged = decide(one, authorizer, evaluator)
                self.recorded(one, staged.decision, stage=staged.stage)
        finally:
            evaluator.close()
        self.history.store()

    def recorded(self, one: ActionContract, decision: Decision, *, stage: Any) -> None:
        self._minute += 1
        at = NOON + timedelta(minutes=self._minute)
        self.history.recorder.decided(one, decision, stage=stage, decided_at=at)

    def compared(self, flags: Path | None = None, authorization: Path | None = None, **more: Any) -> PolicyComparison:
        with CandidateRules.opened(flags or self.flags, authorization or self.authorization) as candidate:
            return compare(self.history.lake, candidate, since=SINCE, until=UNTIL, **more)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def adds_up(comparison: PolicyComparison) -> bool:
    parts = (
        comparison.same,
        comparison.different,
        comparison.observed,
        comparison.unsaid.total(),
        comparison.not_by_rules,
    )
    return sum(parts) == comparison.decisions


def test_the_rules_that_decided_would_decide_the_same(place: Place) -> None:
    targeting = {"fractional": [["autonomous", 50], ["draft_write", 50]]}
    place.mode("autonomous", targeting=targeting)
    place.decided(
        *(refund(account=f"acct-{number}") for number in range(20)),
        contract(tool="find_order", risk_class="search", account="a"),
        refund(tool="close_account", account="a"),
        refund(confidence=0.1, reversibility="none", account="a"),
    )
    comparison = place.compared()
    assert (comparison.decisions, comparison.same, comparison.different) == (23, 23, 0)
    assert adds_up(comparison)


def test_what_would_differ_is_counted_by_outcome_tool_and_account_with_examples(place: Place) -> None:
    place.decided(
        *[refund(account="acct-1")] * 5, refund(account="acct-2"), contract(tool="find_order", risk_class="search")
    )
    comparison = place.compared(place.mode("search_only", name="new.json"))
    assert (comparison.same, comparison.different) == (1, 6)
    shown = comparison.to_dict()
    assert shown["outcomes"] == [{"before": "allow", "after": "constrain (mode_search_only)", "count": 6}]
    first, second = shown["differences"]
    assert (first["tool"], first["account"], first["count"]) == ("issue_refund", "acct-1", 5)
    assert (second["account"], second["count"], len(second["examples"])) == ("acct-2", 1, 1)
    assert len(first["examples"]) == 3
    events = place.history.lake.scan("events").select("subject").collect()["subject"]
    assert {example["decision_id"] for example in first["examples"]} <= set(events)
    assert adds_up(comparison)


def test_authorization_is_tried_too(place: Place) -> None:
    place.decided(refund(account="acct-1"), refund(account="acct-1", environment="staging"))
    rules = yaml.safe_load(place.authorization.read_text())
    rules["rules"] = [rule for rule in rules["rules"] if rule["name"] != "support-may-refund"]
    path = place.folder / "new.yaml"
    path.write_text(yaml.safe_dump(rules))
    comparison = place.compared(authorization=path)
    ((key, count),) = comparison.differences.items()
    assert (key.before.outcome, key.after.outcome, key.environment, count) == ("allow", "deny", "production", 1)


def test_what_was_only_observed_stands_as_what_enforcing_would_have_done(place: Place) -> None:
    place.mode("observe")
    place.decided(*[refund(account="acct-1")] * 3, contract(tool="find_order", risk_class="search"))
    comparison = place.compared(place.mode("search_only", name="new.json"))
    assert comparison.different == 0
    assert dict(comparison.enforcing) == {"constrain (mode_search_only)": 3, "allow": 1}
    assert comparison.observed == 4
    assert adds_up(comparison)
    assert place.compared().same == 4


ACCOUNT = {"if": [{"==": [{"var": "account"}, "acct-1"]}, "search_only", "autonomous"]}


def test_what_the_rules_look_at_and_a_contract_lacks_is_not_guessed(place: Place) -> None:
    place.decided(refund(), refund(account="[redacted]"), refund(account="acct-1"), refund(account="acct-2"))
    comparison = place.compared(place.mode("autonomous", name="new.json", targeting=ACCOUNT))
    assert dict(comparison.unsaid) == {"flags look at account, which the contract lacks": 2}
    assert (comparison.same, comparison.different) == (1, 1)
    assert adds_up(comparison)


def test_what_is_missing_matters_only_where_it_could_change_the_decision(place: Place) -> None:
    other_tool = {"if": [{"==": [{"var": "tool"}, "another"]}, ACCOUNT, "autonomous"]}
    place.decided(refund(), refund(tool="close_account"))
    assert place.compared(place.mode("autonomous", name="new.json", targeting=other_tool)).unsaid.total() == 0
    # What authorization denies is denied whatever the flags say.
    comparison = place.compared(place.mode("autonomous", name="newer.json", targeting=ACCOUNT))
    assert comparison.unsaid.total() == comparison.same == 1


def test_a_rule_of_authorization_that_names_what_a_contract_lacks_says_nothing(place: Place) -> None:
    place.decided(refund(account="a"))
    rules = {
        "name": "for-some",
        "tools": ["issue_refund"],
        "environments": ["production"],
        "highest_risk_class": "irreversible",
    }
    path = place.folder / "new.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "rules": [{**rules, "users": ["u-1"]}]}))
    assert dict(place.compared(authorization=path).unsaid) == {
        "authorization looks at user, which the contract lacks": 1
    }
    path.write_text(yaml.safe_dump({"version": 1, "rules": [{**rules, "name": "all"}, {**rules, "users": ["u-1"]}]}))
    assert place.compared(authorization=path).unsaid.total() == 0
    path.write_text(yaml.safe_dump({"version": 1, "rules": [{**rules, "users": ["u-1"], "accounts": ["b"]}]}))
    comparison = place.compared(authorization=path)
    assert (comparison.unsaid.total(), comparison.different) == (0, 1), "another account: denied, whoever the user is"


def test_rules_that_see_the_clock_say_nothing(place: Place) -> None:
    place.decided(refund(account="a"))
    at_night = {"if": [{"<": [{"var": "$flagd.timestamp"}, 5]}, "off", "autonomous"]}
    comparison = place.compared(place.mode("autonomous", name="new.json", targeting=at_night))
    assert [reason for reason in comparison.unsaid if "such as the time" in reason]
    assert comparison.different == comparison.same == 0


def test_a_call_that_was_denied_for_what_it_was_is_denied_under_any_rules(place: Place) -> None:
    place.decided(refund(account="a"))
    decision = Decision(result=Deny(reason="arguments_not_accepted"))
    place.recorded(refund(account="a"), decision, stage="narrow_autonomy")
    place.history.store()
    comparison = place.compared(place.mode("search_only", name="new.json"))
    assert (comparison.not_by_rules, comparison.different) == (1, 1)
    assert adds_up(comparison)


def test_only_what_was_asked_for_is_looked_at_and_what_is_left_out_is_said(place: Place) -> None:
    place.decided(*(refund(account=f"a-{number}") for number in range(6)), contract(account="x"))
    action = ActionName("production", "refunds", "issue_refund")
    comparison = place.compared(action=action, most=4)
    assert (comparison.decisions, comparison.left_out) == (4, 2)
    with CandidateRules.opened(place.flags, place.authorization) as candidate:
        assert compare(place.history.lake, candidate, since=UNTIL, until=UNTIL + timedelta(1)).decisions == 0


def test_rules_that_decide_nothing_are_refused_and_a_missing_flag_is_said(place: Place) -> None:
    path = place.folder / "new.json"
    path.write_text("{")
    with pytest.raises(FlagFileError), CandidateRules.opened(path, place.authorization):
        pass
    path.write_text('{"flags": {}}')
    with CandidateRules.opened(path, place.authorization) as candidate:
        assert set(candidate.on_safe_values.values()) == {"it is missing"}
        assert len(candidate.on_safe_values) == 5
    with CandidateRules.opened(place.flags, place.authorization) as candidate:
        place.mode("search_only")
        await_that(lambda: candidate._evaluator.sha256 != candidate._flags.sha256, "the file to be read")  # noqa: SLF001
        with pytest.raises(UnusableRulesError, match="has changed meanwhile"):
            candidate.decide(refund(account="a"))
        place.flags.write_text("{")
        await_that(lambda: candidate._evaluator.rules().error is not None, "the file to be read")  # noqa: SLF001
        with pytest.raises(UnusableRulesError, match="cannot be decided by"):
            candidate.decide(refund(account="a"))


@pytest.fixture
def home(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("STAGEKEEPER_HOME", str(place.folder))
    monkeypatch.setenv("STAGEKEEPER_FLAG_FILE", str(place.flags))
    monkeypatch.setenv("STAGEKEEPER_AUTHORIZATION_FILE", str(place.authorization))
    monkeypatch.delenv("STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    place.history.ingest = type(place.history.ingest)(now=lambda: datetime.now(UTC))
    place._minute = (datetime.now(UTC) - NOON) // timedelta(minutes=1) - 60  # noqa: SLF001
    return place


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli, list(words))
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_prints_both_for_people_and_for_programs(home: Place) -> None:
    home.decided(*[refund(account="acct-1")] * 3, refund())
    new = str(home.mode("search_only", name="new.json", targeting=ACCOUNT))
    shown = json.loads(run("policy", "backtest", "--flags", new, "--json"))
    assert (shown["decisions"], shown["different"], shown["cannot_be_said"]) == (4, 3, 1)
    assert shown["flags_on_safe_values"] == {}
    text = run("policy", "backtest", "--flags", new, "--since", "1d")
    assert "issue_refund, account acct-1: allow → constrain (mode_search_only)" in text
    assert "cannot be said: flags look at account, which the contract lacks" in text
    assert "3 of 4 decisions since" in text
    run("policy", "backtest", "--flags", new, "--fail-above", "50", code=1)
    run("policy", "backtest", "--fail-above", "50")


SET = ("stage", "set", "--environment", "production", "--workflow", "refunds", "--tool", "issue_refund")
WHO = ("--to", "draft_write", "--as", "maria", "--because", "odd refunds")


def test_a_change_of_a_stage_is_shown_with_what_it_would_have_done(home: Place) -> None:
    home.decided(*[refund(account="acct-1")] * 3, contract(account="x"))
    result = CliRunner().invoke(cli, [*SET, *WHO])
    assert (
        "of 3 decisions of it in the last 7 days, 3 would differ (allow → constrain (mode_draft_write) 3)."
        in result.output
    )
    assert "nothing was changed; add --yes" in str(result.exception) + result.output


def test_of_a_store_that_is_no_flag_file_it_is_said_that_nothing_is_known(home: Place) -> None:
    action = ActionName("production", "refunds", "issue_refund")
    store = MemoryStages({action: Mode.DRAFT_WRITE})
    change = StageChange(action, Mode.SEARCH_ONLY, store.read(action).version)
    line = preview_line(store, change, Settings.load(), str(home.folder / "lake"))
    assert "is not known: only a flag file can be tried, and " in line


def test_a_change_downwards_is_made_where_nothing_is_on_record(home: Place) -> None:
    shutil.rmtree(home.folder / "lake")
    assert "has the stage draft_write now" in run(*SET, *WHO, "--yes")
