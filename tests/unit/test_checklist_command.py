from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from boundary_cases import Permit, Shelf
from click.testing import CliRunner
from documents import ROOT

from analytics.lake.table_schemas import COLUMNS, EVENTS
from analytics.lake.tables import Lake
from producers.boundary.action import acting
from producers.boundary.errors import RefusedError
from producers.boundary.flags import FlagEvaluator
from producers.boundary.router import Router
from producers.delivery.recorder import Recorder
from producers.wire.events import ActionDecided, event_to_bytes
from producers.wire.receipt import Receipt
from stagekeeper.commands import cli

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.now(UTC)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for file in ("flags.json", "authorization.yaml", "gates.yaml"):
        shutil.copy(ROOT / "examples" / file, tmp_path / file)
    flags = tmp_path / "flags.json"
    flags.write_text(re.sub(r'"review_date": "\d{4}', '"review_date": "2999', flags.read_text()))
    monkeypatch.setenv("STAGEKEEPER_HOME", str(tmp_path))
    monkeypatch.setenv("STAGEKEEPER_FLAG_FILE", str(tmp_path / "flags.json"))
    monkeypatch.setenv("STAGEKEEPER_AUTHORIZATION_FILE", str(tmp_path / "authorization.yaml"))
    monkeypatch.setenv("STAGEKEEPER_GATE_FILE", str(tmp_path / "gates.yaml"))
    monkeypatch.delenv("STAGEKEEPER_LAKE_ROOT", raising=False)
    return tmp_path


def run(*words: str) -> tuple[int, dict[int, dict[str, Any]]]:
    said = CliRunner().invoke(cli, ["checklist", "--json", *words])
    assert said.exception is None or isinstance(said.exception, SystemExit), said.exception
    return said.exit_code, {point["number"]: point for point in json.loads(said.output)}


def live(home: Path, *, intent: str = "the customer was charged twice", minutes_ago: float = 8, lose: int = 0) -> None:
    """Put into the lake what a router with the example's files records of three kinds of actions."""
    shelf = Shelf()
    flags = FlagEvaluator.from_file(home / "flags.json")
    moment = NOW - timedelta(minutes=minutes_ago)
    router = Router(
        authorizer=Permit(),
        flags=flags,
        recorder=Recorder(shelf, source="/test", now=lambda: moment),
        environment="production",
        agent="support-bot",
    )

    @router.action(workflow="refunds", system="billing", risk_class="scoped_read", reversibility="automatic")
    def get_order(order: str) -> None: ...

    @router.action(workflow="refunds", system="billing", risk_class="external_effect", reversibility="expensive")
    def issue_refund(order: str) -> None: ...

    try:
        for number in range(30):
            with acting(account=f"acct-{number}", intent=intent):
                get_order("1")
                try:
                    issue_refund("1")
                except RefusedError:
                    continue
    finally:
        flags.close()
    events = [event for n, event in enumerate(shelf.events) if not (lose and n == 1)]
    rows = []
    receipts = {e.subject: Receipt.from_token(e.data.receipt) for e in shelf.events if isinstance(e, ActionDecided)}
    for offset, event in enumerate(events):
        receipt = receipts[event.subject]
        rows.append(
            {
                **dict.fromkeys(COLUMNS[EVENTS]),
                "log_id": "l",
                "topic": "t",
                "partition": 0,
                "offset": offset,
                "id": event.id,
                "type": event.type,
                "source": event.source,
                "time": event.time,
                "subject": event.subject,
                "ingested_at": NOW,
                "workflow": receipt.workflow,
                "tool": receipt.tool,
                "kind": 0,
                "value": event_to_bytes(event),
            }
        )
    Lake.open(str(home / "lake")).append(EVENTS, pl.DataFrame(rows, schema=COLUMNS[EVENTS]))


def test_the_example_passes_all_ten_points(home: Path) -> None:
    live(home)
    code, points = run()
    assert [point["state"] for point in points.values()] == ["pass"] * 10, points
    assert code == 0
    assert list(points) == list(range(1, 11))


def test_without_events_what_only_they_can_show_is_unknown_and_never_a_pass(home: Path) -> None:
    code, points = run()
    assert code == 3
    unknown = [number for number, point in points.items() if point["state"] == "unknown"]
    assert unknown == [1, 3, 6, 7, 9]
    assert all(point["state"] == "pass" for number, point in points.items() if number not in unknown)


def test_a_filter_that_matches_nothing_is_unknown(home: Path) -> None:
    live(home)
    code, points = run("--tool", "another")
    assert (code, points[1]["state"]) == (3, "unknown")


def flag(home: Path, key: str, **changed: Any) -> None:
    path = home / "flags.json"
    document = json.loads(path.read_text())
    document["flags"][f"agent-action-{key}"].update(changed)
    path.write_text(json.dumps(document))


def test_an_incomplete_contract_fails_with_the_count(home: Path) -> None:
    live(home, intent=" ")
    code, points = run()
    assert code == 1
    assert points[1]["state"] == "fail"
    assert "of 60 lack an intent" in points[1]["evidence"]
    assert points[6]["state"] == "fail", "a reviewer needs the intent"


def test_a_result_that_never_came_fails(home: Path) -> None:
    live(home, lose=1)
    _, points = run()
    assert points[7]["state"] == "fail"
    assert "29 of 30" in points[7]["evidence"]


def test_an_old_signal_fails(home: Path) -> None:
    live(home, minutes_ago=60)
    _, points = run()
    assert points[9]["state"] == "fail"
    assert "s old, limit 900 s" in points[9]["evidence"]


def test_an_unsafe_default_fails(home: Path) -> None:
    flag(home, "mode", defaultVariant="autonomous")
    assert run()[1][2]["state"] == "fail"


def test_an_outcome_that_no_variant_leads_to_fails(home: Path) -> None:
    flag(home, "mode", variants={"search_only": "search_only", "autonomous": "autonomous"})
    point = run()[1][4]
    assert (point["state"], point["evidence"]) == ("fail", "no variant leads to fallback")


def test_an_authorization_that_permits_everything_fails(home: Path) -> None:
    (home / "authorization.yaml").write_text(
        'version: 1\nrules:\n  - {name: all, tools: ["*"], environments: ["*"], highest_risk_class: irreversible}\n'
    )
    point = run()[1][5]
    assert point["state"] == "fail"
    assert "all in production" in point["evidence"]


def test_no_authorization_at_all_fails(home: Path) -> None:
    (home / "authorization.yaml").unlink()
    assert run()[1][5]["state"] == "fail"


def test_a_denylist_that_cannot_tell_tools_apart_fails(home: Path) -> None:
    flag(home, "denylist", variants={"clear": False})
    assert run()[1][8]["state"] == "fail"


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "no owner"),
        ({"owner": "ada", "cleanup_condition": "x"}, "no review date"),
        ({"owner": "ada", "review_date": "2020-01-01", "cleanup_condition": "x"}, "was due for review on 2020-01-01"),
        ({"owner": "ada", "review_date": "2999-01-01"}, "no cleanup condition"),
    ],
)
def test_a_flag_that_nobody_will_take_away_fails(home: Path, metadata: Any, said: str) -> None:
    flag(home, "mode", metadata=metadata)
    point = run()[1][10]
    assert point["state"] == "fail"
    assert said in point["evidence"]


def test_without_a_flag_file_its_points_fail(home: Path) -> None:
    (home / "flags.json").unlink()
    _, points = run()
    assert [points[number]["state"] for number in (2, 4, 8, 10)] == ["fail"] * 4


def test_it_is_printed_for_people_too(home: Path) -> None:
    said = CliRunner().invoke(cli, ["checklist"])
    assert said.exit_code == 3
    assert " 5 pass    authorization caps it: an unheard-of, irreversible tool is refused in production" in said.output
