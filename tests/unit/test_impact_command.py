from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from boundary_cases import contract
from click.testing import CliRunner
from fakes import a_decided, a_receipt

from analytics.lake.table_schemas import COLUMNS, EVENTS
from analytics.lake.tables import Lake
from producers.boundary.approvals import QueuedAction
from producers.boundary.review_store import ReviewStore
from producers.delivery.outbox import Outbox
from producers.errors import UsageError
from producers.wire.events import ActionImpact, EventRecord, event_from_bytes, event_to_bytes
from producers.wire.receipt import ReceiptError
from stagekeeper.commands import cli
from stagekeeper.find_receipt import UnknownDecisionError

if TYPE_CHECKING:
    from pathlib import Path

    from producers.wire.receipt import Receipt

NOW = datetime.now(UTC)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STAGEKEEPER_HOME", str(tmp_path))
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "LAKE_ROOT", "RECEIPT_KEY"):
        monkeypatch.delenv(f"STAGEKEEPER_{name}", raising=False)
    return tmp_path


def run(*words: str) -> Any:
    return CliRunner().invoke(cli, ["impact", *words])


def reported(home: Path) -> list[ActionImpact]:
    with Outbox(home / "outbox.db") as outbox:
        events = [event_from_bytes(record.value) for record in outbox.after(0, 100)]
    return [event for event in events if isinstance(event, ActionImpact)]


def in_the_review_store(home: Path, receipt: Receipt) -> None:
    store = ReviewStore(home / "reviews.db")
    store.submit(
        QueuedAction(
            decision_id=receipt.decision_id,
            receipt=receipt.token(),
            contract=contract(),
            arguments={},
            consequence=None,
            rule="r",
            ruleset_sha256="a" * 64,
            queued_at=NOW,
            expires_at=NOW + timedelta(hours=1),
        )
    )
    store.close()


def in_the_outbox(home: Path, receipt: Receipt) -> None:
    with Outbox(home / "outbox.db") as outbox:
        outbox.put(*EventRecord.from_event(a_decided(receipt)))


def in_the_lake(home: Path, receipt: Receipt) -> None:
    event = a_decided(receipt)
    row = {
        **dict.fromkeys(COLUMNS[EVENTS]),
        "log_id": "l",
        "topic": "t",
        "partition": 0,
        "offset": 1,
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "time": event.time,
        "subject": event.subject,
        "ingested_at": NOW,
        "kind": 0,
        "value": event_to_bytes(event),
    }
    Lake.open(str(home / "lake")).append(EVENTS, pl.DataFrame([row], schema=COLUMNS[EVENTS]))


@pytest.mark.slow
@pytest.mark.parametrize("known", [in_the_review_store, in_the_outbox, in_the_lake])
def test_a_decision_is_found_by_its_id_alone(home: Path, known: Any) -> None:
    receipt = a_receipt(decision_id="d-7")
    known(home, receipt)
    said = run("--decision", "d-7", "--incident", "2", "--reference", "INC-42")
    assert said.exit_code == 0, said.output
    assert "refunds · issue_refund at narrow_autonomy" in said.output
    (event,) = reported(home)
    assert event.data.receipt == receipt.token()
    assert event.data.impact.model_dump() == {"kind": "incident", "severity": 2, "reference": "INC-42"}


def test_a_receipt_is_enough(home: Path) -> None:
    token = a_receipt(decision_id="d-8").token()
    assert run("--receipt", token, "--quality", "failed", "--score", "0.2", "--evaluator", "nightly").exit_code == 0
    assert run("--receipt", token, "--support", "--reference", "T-1").exit_code == 0
    kinds = [event.data.impact.kind for event in reported(home)]
    assert kinds == ["quality", "support"]


def test_an_unknown_decision_is_named_with_the_places_that_were_looked_at(home: Path) -> None:
    said = run("--decision", "nobody", "--support")
    assert isinstance(said.exception, UnknownDecisionError)
    assert "reviews.db" in str(said.exception)
    assert "lake" in str(said.exception)


def test_a_forged_receipt_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEKEEPER_RECEIPT_KEY", "a key")
    said = run("--receipt", a_receipt().token(b"another key"), "--support")
    assert isinstance(said.exception, ReceiptError)
    assert reported(home) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--support"],
        ["--decision", "d", "--receipt", "r", "--support"],
        ["--decision", "d"],
        ["--decision", "d", "--support", "--incident", "1"],
    ],
)
def test_exactly_one_decision_and_one_impact_are_said(home: Path, words: list[str]) -> None:
    assert isinstance(run(*words).exception, UsageError)


@pytest.mark.parametrize(
    "words",
    [
        ["--support", "--score", "0.5"],
        ["--incident", "2", "--evaluator", "nightly"],
        ["--quality", "failed", "--reference", "T-1"],
        ["--support", "--reference", "x" * 201],
        ["--support", "--reference", ""],
    ],
)
def test_what_the_report_has_no_room_for_is_misuse_and_not_left_out(home: Path, words: list[str]) -> None:
    said = run("--receipt", a_receipt().token(), *words)
    assert said.exit_code == 2 or isinstance(said.exception, UsageError), said.output
    assert reported(home) == []
