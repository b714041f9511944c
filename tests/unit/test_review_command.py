from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from boundary_cases import contract
from click.testing import CliRunner

from producers.boundary.approvals import QueuedAction
from producers.boundary.review_store import ReviewStore
from producers.delivery.outbox import Outbox, OutboxError
from producers.errors import StagekeeperError, UsageError
from producers.wire.events import ReviewResolved, event_from_bytes
from producers.wire.receipt import Receipt
from producers.wire.stage import Stage
from stagekeeper.commands import cli

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


KEY = b"a key for these tests"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STAGEKEEPER_HOME", str(tmp_path))
    monkeypatch.setenv("STAGEKEEPER_RECEIPT_KEY", KEY.decode())
    monkeypatch.chdir(tmp_path)
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "REVIEWERS_FILE", "REVIEWER_TOKEN"):
        monkeypatch.delenv(f"STAGEKEEPER_{name}", raising=False)
    now = datetime.now(UTC)
    receipt = Receipt(
        decision_id="d-1",
        decided_at=now,
        environment="production",
        workflow="support",
        tool="update_ticket",
        stage=Stage.APPROVAL_GATED,
        epoch="e",
    )
    queued = QueuedAction(
        decision_id="d-1",
        receipt=receipt.token(KEY),
        contract=contract().model_copy(update={"intent": "harmless\x1b[2J\nstate: approved"}),
        arguments={"ticket": 7, "card": "[redacted]"},
        consequence="the customer is told",
        rule="risk_class_external_effect",
        ruleset_sha256="a" * 64,
        queued_at=now,
        expires_at=now + timedelta(hours=1),
    )
    with ReviewStore(tmp_path / "reviews.db", key=KEY) as store:
        store.submit(queued)
    return tmp_path


def _review(*words: str) -> Result:
    return CliRunner().invoke(cli, ["review", *words])


def test_what_waits_is_listed_and_shown(home: Path) -> None:
    assert "d-1  support · update_ticket  risk_class_external_effect" in _review("list").output
    shown = _review("show", "d-1").output
    assert "the customer is told" in shown
    assert '"card": "[redacted]"' in shown
    assert "harmless�[2J�state: approved" in shown
    assert json.loads(_review("show", "d-1", "--json").output)["state"] == "waiting"


def test_an_approval_is_kept_as_an_event_until_a_broker_takes_it(home: Path) -> None:
    said = _review("approve", "d-1", "--as", "ada", "--because", "agreed")
    assert said.exit_code == 0, said.output
    assert "d-1 is approved by ada (a name that nobody has checked)." in said.output
    with Outbox(home / "outbox.db") as outbox:
        (record,) = outbox.after(0, 10)
    event = event_from_bytes(record.value)
    assert isinstance(event, ReviewResolved)
    assert (event.subject, event.data.reviewer, event.data.rationale) == ("d-1", "ada", "agreed")
    assert "Nothing waits" in _review("list").output
    assert json.loads(_review("list", "--json").output) == []


def test_a_word_that_cannot_be_put_on_record_is_not_in_force(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OutboxError("the disk is full")

    with monkeypatch.context() as disk:
        disk.setattr(Outbox, "put", full)
        said = _review("approve", "d-1", "--as", "ada", "--because", "agreed")
    assert "the disk is full" in str(said.exception)
    assert isinstance(said.exception, StagekeeperError)
    assert json.loads(_review("show", "d-1", "--json").output)["state"] == "waiting"
    assert _review("reject", "d-1", "--as", "ada", "--because", "it waited too long").exit_code == 0
    with Outbox(home / "outbox.db") as outbox:
        (record,) = outbox.after(0, 10)
    assert b"it waited too long" in record.value


def test_a_second_word_is_refused(home: Path) -> None:
    _review("reject", "d-1", "--as", "ada", "--because", "no")
    again = _review("approve", "d-1", "--as", "bob", "--because", "yes")
    assert "rejected by ada already" in str(again.exception)
    assert isinstance(again.exception, StagekeeperError)
    assert again.exception.exit_code == 1


@pytest.mark.parametrize("state", ["approved", "expired"])
def test_a_word_that_comes_too_late_changes_nothing(home: Path, state: str) -> None:
    if state == "expired":
        with ReviewStore(home / "reviews.db", key=KEY) as store:
            queued = store.get("d-1").queued
            late = queued.queued_at - timedelta(hours=2), queued.queued_at - timedelta(hours=1)
            update = {"decision_id": "d-2", "queued_at": late[0], "expires_at": late[1]}
            store.submit(queued.model_copy(update=update))
        said = _review("approve", "d-2", "--as", "ada", "--because", "agreed")
        assert "ask for it anew" in str(said.exception)
    else:
        _review("approve", "d-1", "--as", "ada", "--because", "agreed")
        said = _review("reject", "d-1", "--as", "bob", "--because", "no")
        assert "approved by ada already" in str(said.exception)
        assert json.loads(_review("show", "d-1", "--json").output)["state"] == "approved"


@pytest.mark.parametrize(
    ("who", "why", "named"),
    [
        ("", "agreed", "--as"),
        (" \n", "agreed", "--as"),
        ("ada\nbob", "agreed", "--as"),
        ("a" * 201, "agreed", "201 characters"),
        ("ada", "  ", "--because"),
        ("ada", "x" * 4_001, "4,001 characters"),
        ("ada", "\udc80", "--because"),
    ],
)
def test_words_that_cannot_stay_on_record_are_misuse_and_decide_nothing(
    home: Path, who: str, why: str, named: str
) -> None:
    said = _review("approve", "d-1", "--as", who, "--because", why)
    assert (said.exit_code, named in said.output) == (2, True), said.output
    assert json.loads(_review("show", "d-1", "--json").output)["state"] == "waiting"


@pytest.mark.parametrize("missing", ["--as", "--because"])
def test_who_and_why_are_required(home: Path, missing: str) -> None:
    words = {"--as": "ada", "--because": "agreed"}
    del words[missing]
    said = _review("approve", "d-1", *(part for pair in words.items() for part in pair))
    assert said.exit_code == 2
    assert missing in said.output


def test_an_unknown_decision_is_named(home: Path) -> None:
    error = _review("show", "nobody").exception
    assert "no queued action has the decision id nobody" in str(error)
    assert isinstance(error, StagekeeperError)
    assert error.exit_code == 2


def _enrolled(home: Path, *names: str) -> dict[str, str]:
    """Tokens by name, after each person was enrolled as the command says."""
    tokens, lines = {}, ["version: 1", "reviewers:"]
    for name in names:
        said = _review("enrol", "--as", name)
        lines += [line for line in said.stdout.splitlines() if not line.startswith("#")]
        tokens[name] = said.stderr.strip().rpartition("STAGEKEEPER_REVIEWER_TOKEN=")[2]
        assert tokens[name] not in said.stdout
    (home / "reviewers.yaml").write_text("\n".join(lines))
    return tokens


def test_two_reviewers_with_tokens_make_a_quorum(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = _enrolled(home, "ada@example.org", "bob@example.org")
    with ReviewStore(home / "reviews.db", key=KEY) as store:
        store.submit(store.get("d-1").queued.model_copy(update={"decision_id": "d-2", "approvers": 2}))
    refused = _review("approve", "d-2", "--as", "ada@example.org", "--because", "fine")
    assert (type(refused.exception), "STAGEKEEPER_REVIEWER_TOKEN" in str(refused.exception)) == (UsageError, True)
    monkeypatch.setenv("STAGEKEEPER_REVIEWER_TOKEN", tokens["ada@example.org"])
    stolen = _review("approve", "d-2", "--as", "bob@example.org", "--because", "fine")
    assert "is the token of ada@example.org, not of bob@example.org" in str(stolen.exception)
    first = _review("approve", "d-2", "--as", "ada@example.org", "--because", "fine")
    assert first.stdout == "d-2 has 1 of 2 approvals, and waits for the rest.\n"
    assert "1 of 2 approvals" in _review("list").stdout
    assert "approved by ada@example.org: fine" in _review("show", "d-2").stdout
    monkeypatch.setenv("STAGEKEEPER_REVIEWER_TOKEN", tokens["bob@example.org"])
    second = _review("approve", "d-2", "--as", "bob@example.org", "--because", "fine, too")
    assert second.stdout == "d-2 is approved by bob@example.org.\n"
    with Outbox(home / "outbox.db") as outbox:
        (record,) = outbox.after(0, 10)
    event = event_from_bytes(record.value)
    assert isinstance(event, ReviewResolved)
    assert (event.data.reviewer, event.data.authenticated) == ("bob@example.org", True)
    assert event.data.earlier_approvals is not None
    assert [(word.reviewer, word.rationale) for word in event.data.earlier_approvals] == [("ada@example.org", "fine")]


def test_the_asker_cannot_approve(home: Path) -> None:
    said = _review("approve", "d-1", "--as", "Support-Bot", "--because", "I need it")
    assert "asks for d-1, and cannot approve it" in str(said.exception)
    assert json.loads(_review("show", "d-1", "--json").stdout)["state"] == "waiting"


def test_a_row_written_by_hand_is_named_and_not_listed(home: Path) -> None:
    with closing(sqlite3.connect(home / "reviews.db")) as file, file:
        file.execute("UPDATE reviews SET queued = replace(queued, '[redacted]', 'nothing')")
    listed = _review("list")
    assert (listed.exit_code, "d-1" in listed.stdout, "was altered" in listed.stderr) == (1, False, True)
    for word in ("show", "approve"):
        because = ("--as", "ada", "--because", "fine") if word == "approve" else ()
        assert "was altered" in str(_review(word, "d-1", *because).exception)


def test_without_a_key_every_use_says_that_rows_are_unprotected(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STAGEKEEPER_RECEIPT_KEY")
    (home / "reviews.db").unlink()
    said = _review("list")
    assert (said.exit_code, "are unprotected" in said.stderr) == (0, True)
