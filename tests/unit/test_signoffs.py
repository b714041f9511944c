from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from click.testing import CliRunner
from verdict_cases import CELL, a_row, executions, increments

from analytics.gates.gate_file import GateFile
from analytics.judging.judge import Judge
from analytics.lake.table_schemas import SIGNOFFS
from analytics.lake.tables import Lake
from analytics.verdicts.gate_check import GateAnswer, gate_check, sign_off
from analytics.verdicts.ledger import latest_verdicts
from analytics.verdicts.signoffs import NothingToSignOffError, SignOffKind, UnusableSignOffError, in_force, revoke
from stagekeeper.commands import cli

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

GATES = """\
version: 1
freshness: 9999d
gates:
  - name: errors
    owner: risk
    ladder: [draft_write, approval_gated]
    signals: [{signal: execution_error, role: guardrail, limit: 0.1}]
"""
THERE = CELL._replace(stage="approval_gated")
MOVE = {"environment": "production", "workflow": "refunds", "tool": "issue_refund", "to_stage": "approval_gated"}
SAYS = {"actor": "maria", "reason": "fixed in 4.2"}
NOW = datetime.now(UTC)


class Place:
    """A lake, a gate file and a judge."""

    def __init__(self, folder: Path, text: str = GATES) -> None:
        self.path = folder / "gates.yaml"
        self.path.write_text(text)
        self.lake = Lake.open(str(folder / "lake"))
        self.judge = Judge(self.lake, self.path, settle_s=0)
        self.second = 0

    def judged(self, *rows: dict[str, Any]) -> None:
        self.second += 1
        at = NOW + timedelta(seconds=self.second)
        bucket = NOW.replace(second=0, microsecond=0)
        moved = [{**row, "bucket": bucket, "last_event_at": at} for row in rows]
        self.lake.append("signals", increments(*moved))
        self.judge.tick(at)

    def asked(self, after_s: float = 0.0) -> GateAnswer:
        now = NOW + timedelta(seconds=self.second + after_s)
        return gate_check(self.lake, GateFile.load(self.path), **MOVE, now=now, freshness_s=1e9)

    def rules(self, kind: SignOffKind, hours: float = 1.0, **more: Any) -> str:
        now = NOW + timedelta(seconds=self.second)
        gates, expires_at = GateFile.load(self.path), now + timedelta(hours=hours)
        return sign_off(self.lake, gates, kind, **{**MOVE, **SAYS, **more}, now=now, expires_at=expires_at).signoff_id


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def codes(answer: GateAnswer) -> list[str]:
    return [reason.code for reason in answer.reasons]


def test_an_override_opens_nothing_on_a_rollback_and_is_not_taken_while_the_evidence_shows_harm(place: Place) -> None:
    place.judged(a_row(**executions(200)), a_row(THERE, **executions(60, 40)))
    assert (place.asked().answer, place.asked().exit_code) == ("ROLL_BACK", 20)
    with pytest.raises(NothingToSignOffError, match=r"shows harm.*40 of 60"):
        place.rules(SignOffKind.OVERRIDE)
    place.judged(a_row(THERE, **executions(10_000)))
    place.rules(SignOffKind.OVERRIDE)
    assert place.asked().answer == "ROLL_BACK", "the judge has not yet set it aside"


@pytest.mark.parametrize("kind", [SignOffKind.OVERRIDE, SignOffKind.APPROVAL])
def test_an_override_expires_within_thirty_days(place: Place, kind: SignOffKind) -> None:
    place.judged(a_row(**executions(3 if kind is SignOffKind.OVERRIDE else 200)))
    place.rules(kind, hours=720)
    if kind is SignOffKind.OVERRIDE:
        with pytest.raises(UnusableSignOffError, match="30 days"):
            place.rules(kind, hours=720.1)
    else:
        place.rules(kind, hours=7_200)


def test_a_row_that_says_more_than_thirty_days_counts_for_thirty(place: Place) -> None:
    place.judged(a_row(**executions(3)))
    place.rules(SignOffKind.OVERRIDE)
    given_at = NOW + timedelta(seconds=place.second)
    rows = place.lake.scan(SIGNOFFS).collect().with_columns(expires_at=pl.lit(given_at + timedelta(days=900)))
    place.lake.append(SIGNOFFS, rows.with_columns(signoff_id=pl.lit("forged")))
    last = given_at + timedelta(days=30)
    assert [signoff.expires_at for signoff in in_force(place.lake, now=last - timedelta(seconds=1))] == [last]
    assert in_force(place.lake, now=last) == []


def test_an_override_expires(place: Place) -> None:
    place.judged(a_row(**executions(3)))
    place.rules(SignOffKind.OVERRIDE, hours=1)
    assert place.asked(3_599).answer == "PROMOTE"
    assert place.asked(3_600).answer == "HOLD"


def test_a_hold_can_be_set_aside_until_it_says_something_else(place: Place) -> None:
    place.judged(a_row(**executions(3)))
    assert place.asked().answer == "HOLD"
    place.rules(SignOffKind.OVERRIDE)
    assert place.asked().answer == "PROMOTE"
    place.judged(a_row(**executions(90, 90)))
    assert place.asked().answer == "ROLL_BACK"


def test_an_override_holds_under_its_gate_file_alone(place: Place) -> None:
    place.judged(a_row(**executions(3)))
    place.rules(SignOffKind.OVERRIDE)
    place.path.write_text(GATES.replace("0.1}", "0.11}"))
    place.judged(a_row(**executions(1)))
    assert place.asked().answer == "HOLD"


def test_what_cannot_be_judged_cannot_be_set_aside(place: Place) -> None:
    place.judged(a_row(executed=1, failed=5))
    with pytest.raises(NothingToSignOffError, match="the verdicts on this move say INVALID"):
        place.rules(SignOffKind.OVERRIDE)


def test_nothing_at_all_cannot_be_set_aside(place: Place) -> None:
    with pytest.raises(NothingToSignOffError, match="nothing to sign off"):
        place.rules(SignOffKind.OVERRIDE)


@pytest.mark.parametrize("wrong", [{"actor": " "}, {"reason": ""}, {"hours": 0.0}, {"hours": -1.0}])
def test_a_ruling_has_an_actor_a_reason_and_a_future(place: Place, wrong: dict[str, Any]) -> None:
    place.judged(a_row(**executions(3)))
    with pytest.raises(UnusableSignOffError):
        place.rules(SignOffKind.OVERRIDE, **wrong)
    assert place.lake.scan(SIGNOFFS).collect().is_empty()


def test_approval_comes_last(tmp_path: Path) -> None:
    place = Place(tmp_path, GATES.replace("owner: risk", "owner: risk\n    on_promote: ask"))
    place.judged(a_row(**executions(3)))
    assert codes(place.asked()) == ["more_evidence_needed"]
    with pytest.raises(NothingToSignOffError, match="an approval is about PROMOTE"):
        place.rules(SignOffKind.APPROVAL)
    place.judged(a_row(**executions(200)))
    waiting = place.asked()
    assert (waiting.answer, waiting.exit_code, codes(waiting)[0]) == ("HOLD", 10, "approval_needed")
    assert "ask risk" in waiting.reasons[0].message
    place.rules(SignOffKind.APPROVAL)
    assert (place.asked().answer, codes(place.asked())[0]) == ("PROMOTE", "approved")
    place.judged(a_row(**executions(300, 299)))
    assert place.asked().answer == "ROLL_BACK", "an approval sets nothing aside"


def test_a_dismissal_shuts_the_gate_until_it_expires_or_is_approved(place: Place) -> None:
    place.judged(a_row(**executions(3)))
    with pytest.raises(NothingToSignOffError, match="a dismissal is about PROMOTE; the verdicts on this move say HOLD"):
        place.rules(SignOffKind.DISMISSAL)
    place.judged(a_row(**executions(200)))
    signoff_id = place.rules(SignOffKind.DISMISSAL)
    shut = place.asked()
    assert (shut.answer, shut.exit_code, codes(shut)[0]) == ("HOLD", 10, "dismissed")
    assert "maria has dismissed verdict" in shut.reasons[0].message
    assert [signoff["signoff_id"] for signoff in shut.to_dict()["signoffs"]] == [signoff_id]
    assert place.asked(3_600).answer == "PROMOTE"
    place.judged(a_row(**executions(5)))
    assert place.asked().answer == "HOLD", "the same promotion, told again"
    place.rules(SignOffKind.APPROVAL)
    assert place.asked().answer == "PROMOTE", "the last word counts"


def test_a_dismissal_shuts_nothing_but_its_promotion(place: Place) -> None:
    place.judged(a_row(**executions(200)))
    place.rules(SignOffKind.DISMISSAL)
    place.judged(a_row(**executions(300, 299)))
    assert place.asked().answer == "ROLL_BACK"


def test_the_command_records_and_the_answer_shows_it(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.judged(a_row(**executions(3)))
    monkeypatch.setenv("STAGEKEEPER_LAKE_ROOT", place.lake.root)
    monkeypatch.setenv("STAGEKEEPER_GATE_FILE", str(place.path))
    move = ["--environment", "production", "--workflow", "refunds", "--tool", "issue_refund", "--to", "approval_gated"]
    who = ["--as", "maria", "--because", "fixed in 4.2", "--expires", "2d"]
    ruled = CliRunner().invoke(cli, ["gate", "override", *move, *who, "--json"])
    assert ruled.exit_code == 0, ruled.output
    assert json.loads(ruled.stdout)["kind"] == "override"
    asked = CliRunner().invoke(cli, ["gate", "check", *move, "--max-age", "9d"])
    assert asked.exit_code == 0
    assert "maria has set aside verdict" in asked.output
    place.judged(a_row(**executions(200)))
    none = CliRunner().invoke(cli, ["recommendations", "dismiss", *move, *who])
    assert none.exit_code == 0, none.output
    assert "dismissal" in none.output
    missing = CliRunner().invoke(cli, ["gate", "override", *move, "--as", "maria", "--because", "x"])
    assert missing.exit_code == 2
    assert "--expires" in missing.output


def test_a_revoked_override_sets_nothing_aside_any_more(place: Place) -> None:
    place.judged(a_row(**executions(3)))
    first, second = place.rules(SignOffKind.OVERRIDE), place.rules(SignOffKind.OVERRIDE, actor="ada")
    now = NOW + timedelta(seconds=place.second)
    revocation = revoke(place.lake, first, actor="bob", reason="not the deploy", now=now)
    assert [signoff.signoff_id for signoff in in_force(place.lake, now=now)] == [second]
    assert place.asked().answer == "PROMOTE", "the other one still holds"
    revoke(place.lake, second, actor="bob", reason="not the deploy", now=now)
    assert place.asked().answer == "HOLD"
    assert in_force(place.lake, now=now) == []
    with pytest.raises(NothingToSignOffError, match=f"no override {first} is in force"):
        revoke(place.lake, first, actor="bob", reason="again", now=now)
    rows = place.lake.scan(SIGNOFFS).sort("given_at", "kind").collect()
    assert rows["kind"].to_list().count("revocation") == 2
    assert revocation.to_dict()["verdicts"] == json.loads(rows.row(-1, named=True)["payload"])["verdicts"]


def test_only_an_override_can_be_revoked(place: Place) -> None:
    place.judged(a_row(**executions(200)))
    dismissal = place.rules(SignOffKind.DISMISSAL)
    with pytest.raises(NothingToSignOffError, match="no override"):
        revoke(place.lake, dismissal, actor="bob", reason="it may move", now=NOW + timedelta(seconds=place.second))
    assert place.asked().answer == "HOLD"


def test_overrides_are_listed_and_revoked_by_command(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.judged(a_row(**executions(3)))
    monkeypatch.setenv("STAGEKEEPER_LAKE_ROOT", place.lake.root)
    listed = CliRunner().invoke(cli, ["gate", "override", "list"])
    assert (listed.exit_code, listed.output) == (0, "No override is in force.\n")
    signoff_id = place.rules(SignOffKind.OVERRIDE, hours=48)
    monkeypatch.setattr("stagekeeper.commands.gate.datetime", Later)
    listed = CliRunner().invoke(cli, ["gate", "override", "list"])
    assert f"{signoff_id}  production/refunds/issue_refund to approval_gated: maria has set aside" in listed.output
    who = ["--as", "bob", "--because", "not the deploy"]
    assert CliRunner().invoke(cli, ["gate", "override", "revoke", signoff_id]).exit_code == 2
    revoked = CliRunner().invoke(cli, ["gate", "override", "revoke", signoff_id, *who])
    assert revoked.exit_code == 0, revoked.output
    assert "bob has revoked the override of verdict" in revoked.output
    assert json.loads(CliRunner().invoke(cli, ["gate", "override", "list", "--json"]).stdout) == []


def test_recommendations_are_listed_until_somebody_answers(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEKEEPER_LAKE_ROOT", place.lake.root)

    def listed(*words: str) -> list[dict[str, Any]]:
        said = CliRunner().invoke(cli, ["recommendations", "list", "--json", *words])
        assert said.exit_code == 0, said.output
        rows: list[dict[str, Any]] = json.loads(said.stdout)
        return rows

    place.judged(a_row(**executions(3)))
    assert listed() == []
    place.judged(a_row(**executions(200)))
    (one,) = listed()
    assert (one["verdict"], one["stage"], one["to_stage"]) == ("PROMOTE", "draft_write", "approval_gated")
    assert one["life"] == "open"
    assert "PROMOTE" in CliRunner().invoke(cli, ["recommendations", "list"]).output
    place.rules(SignOffKind.DISMISSAL)
    assert listed() == []
    assert [row["life"] for row in listed("--all")] == ["dismissed"]


class Later(datetime):
    """A clock that is ahead of all that was judged here."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return NOW.astimezone(tz) + timedelta(hours=1)


def test_an_override_opens_nothing_where_nobody_has_looked_since(place: Place) -> None:
    place.judged(a_row(**executions(60, 40)))
    place.judged(a_row(**executions(9_000)))
    place.rules(SignOffKind.OVERRIDE)
    place.second += 10
    place.judged(a_row(**executions(1)))
    (document,) = latest_verdicts(place.lake)
    assert document.set_aside is not None
    assert place.asked().answer == "PROMOTE"
    later = NOW + timedelta(seconds=place.second + 120)
    shut = gate_check(place.lake, GateFile.load(place.path), **MOVE, now=later, freshness_s=60)
    assert (shut.answer, codes(shut)[0]) == ("INVALID", "stale_verdict")
