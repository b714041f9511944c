"""`stagekeeper stage attempt`: a signed-off act that begins a new epoch."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import Permit, contract
from click.testing import CliRunner
from documents import ROOT

from analytics.lake.tables import Lake
from analytics.verdicts.signoffs import attempts_started
from producers.boundary.decision_rules import decide
from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import ATTEMPT
from producers.delivery.outbox import Outbox
from producers.delivery.outbox_emitter import OutboxOnlyEmitter
from producers.wire.events import PolicyChanged, event_from_bytes
from producers.wire.receipt import attempt_of
from stagekeeper.commands import cli

if TYPE_CHECKING:
    from pathlib import Path

WHO = ("--as", "maria", "--because", "refunds are idempotent since 4.2")
ACTION = ("--environment", "production", "--workflow", "refunds", "--tool")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "examples" / "flags.json", tmp_path / "flags.json")
    monkeypatch.setenv("STAGEKEEPER_HOME", str(tmp_path))
    monkeypatch.setenv("STAGEKEEPER_FLAG_FILE", str(tmp_path / "flags.json"))
    monkeypatch.setenv("STAGEKEEPER_AUTHORIZATION_FILE", str(ROOT / "examples" / "authorization.yaml"))
    monkeypatch.delenv("STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    Lake.open(str(tmp_path / "lake"))
    return tmp_path


def begin(home: Path, tool: str, *more: str) -> dict[str, Any]:
    words = ["stage", "attempt", *ACTION, tool, *WHO, "--lake", str(home / "lake"), "--json", *more]
    return dict(json.loads(CliRunner().invoke(cli, words, catch_exceptions=False).stdout))


def in_force(home: Path, tool: str, **about: Any) -> tuple[int, int | None]:
    asked = contract(tool=tool).model_copy(update={"workflow": "refunds", **about})
    held = FlagEvaluator.from_file(home / "flags.json")
    try:
        return attempt_of(decide(asked, Permit(), held).decision.flags)
    finally:
        held.close()


def test_each_attempt_is_the_next_of_its_action_alone(home: Path) -> None:
    assert in_force(home, "issue_refund") == (1, None)
    assert begin(home, "issue_refund")["attempt"] == 2
    assert begin(home, "close_account")["attempt"] == 2
    assert begin(home, "issue_refund")["attempt"] == 3
    assert in_force(home, "issue_refund") == (3, None)
    assert in_force(home, "close_account") == (2, None)
    assert in_force(home, "another") == (1, None)
    assert in_force(home, "issue_refund", workflow="other") == (1, None)


def test_an_attempt_is_signed_off_and_on_record(home: Path) -> None:
    answer = begin(home, "issue_refund")
    (row,) = Lake.open(str(home / "lake")).scan("signoffs").collect().to_dicts()
    assert (row["kind"], row["actor"], row["signoff_id"]) == ("attempt", "maria", answer["signoff_id"])
    assert json.loads(row["payload"])["attempt"] == 2
    with Outbox(home / "outbox.db") as outbox:
        (record,) = outbox.after(0, 10)
    event = event_from_bytes(record.value)
    assert isinstance(event, PolicyChanged)
    change = event.data
    assert (change.flag_key, change.before, change.after, change.tool) == (ATTEMPT.key, "1", "2", "issue_refund")
    assert (change.changed_by, change.environment) == ("maria", "production")


def test_no_command_waits_for_the_broker_while_it_holds_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed, flush = [], OutboxOnlyEmitter.flush

    def free(emitter: OutboxOnlyEmitter, timeout_s: float) -> int:
        held = os.open(home / ".flags.json.history", os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            flushed.append(True)
        finally:
            os.close(held)
        return flush(emitter, timeout_s)

    monkeypatch.setattr(OutboxOnlyEmitter, "flush", free)
    begin(home, "issue_refund")
    for words in (("disable", "--anyway"), ("enable",)):
        CliRunner().invoke(cli, ["flags", *words, "--tool", "t", *WHO], catch_exceptions=False)
    assert flushed == [True] * 3


def test_a_flag_file_that_was_put_back_leads_to_no_attempt_that_there_was(home: Path) -> None:
    begin(home, "issue_refund")
    begin(home, "issue_refund")
    shutil.copy(ROOT / "examples" / "flags.json", home / "flags.json")
    assert begin(home, "issue_refund")["attempt"] == 4
    assert attempts_started(Lake.open(str(home / "lake")), ("production", "refunds", "issue_refund")) == 4


def test_a_targeting_of_somebody_s_own_stays_and_gives_way(home: Path) -> None:
    stated = json.loads((home / "flags.json").read_text())
    stated["flags"][ATTEMPT.key] = {
        "state": "ENABLED",
        "variants": {"first": "1", "fifth": "5"},
        "defaultVariant": "first",
        "targeting": {"if": [{"==": [{"var": "tool"}, "issue_refund"]}, "fifth", None]},
    }
    (home / "flags.json").write_text(json.dumps(stated))
    assert begin(home, "close_account")["attempt"] == 6
    assert in_force(home, "close_account") == (6, None)
    assert in_force(home, "issue_refund") == (5, None)
    assert begin(home, "issue_refund")["attempt"] == 7
    assert in_force(home, "issue_refund") == (7, None)


@pytest.mark.parametrize(
    ("flag", "why"),
    [({"state": "DISABLED", "variants": {"1": "1"}}, "disabled"), ({"state": "ENABLED"}, "variants"), ([], "disabled")],
)
def test_a_flag_that_cannot_tell_attempts_is_refused_and_nothing_is_recorded(
    home: Path, flag: object, why: str
) -> None:
    stated = json.loads((home / "flags.json").read_text())
    stated["flags"][ATTEMPT.key] = flag
    (home / "flags.json").write_text(json.dumps(stated))
    words = ["stage", "attempt", *ACTION, "issue_refund", *WHO, "--lake", str(home / "lake")]
    refused = CliRunner().invoke(cli, words)
    assert refused.exit_code != 0
    assert why in str(refused.exception) + refused.output
    assert Lake.open(str(home / "lake")).scan("signoffs").collect().is_empty()


def test_without_a_lake_no_attempt_begins(home: Path) -> None:
    before = (home / "flags.json").read_text()
    words = ["stage", "attempt", *ACTION, "issue_refund", *WHO, "--lake", str(home / "nowhere")]
    assert CliRunner().invoke(cli, words).exit_code != 0
    assert (home / "flags.json").read_text() == before
