from __future__ import annotations

import json
import socket
import tempfile
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from click.testing import CliRunner

from analytics.audit.quality import latest_quality, run_quality
from analytics.audit.suites import SUITES
from analytics.lake.table_schemas import COLUMNS, EVENTS, QUALITY
from analytics.lake.tables import Lake
from producers.wire.events import (
    EVENT_CLASSES,
    ActionDecided,
    ActionExecuted,
    ActionImpact,
    ActionUndone,
    Event,
    PolicyChanged,
    ReviewResolved,
    StageRecommended,
    event_to_bytes,
    type_of,
)
from producers.wire.examples import EXAMPLES, RECEIPT
from stagekeeper.commands import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = datetime(2026, 3, 2, 13, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
RECEIPT_COLUMNS = ("environment", "workflow", "tool", "stage", "cohort", "epoch", "decided_at")
Document = dict[str, Any]

# The library takes two seconds to import; it is imported once for each test process.
pytestmark = pytest.mark.slow


def written(event: Event) -> Document:
    document: Document = json.loads(event_to_bytes(event))
    return document


def row(document: Document, *, ingested_at: datetime = NOW - timedelta(minutes=5), offset: int = 0) -> Document:
    """The row that the data plane keeps for an event."""
    of_receipt = {"receipt" in document["data"]: RECEIPT.model_dump()}.get(True, {})
    return {
        "log_id": "log",
        "topic": "any",
        "partition": 0,
        "offset": offset,
        **{name: document[name] for name in ("id", "type", "source", "subject")},
        "time": datetime.fromisoformat(document["time"]),
        **{name: of_receipt.get(name) for name in RECEIPT_COLUMNS},
        "kind": 0,
        "user": document["data"].get("contract", {}).get("actor", {}).get("user"),
        "broker_at": None,
        "ingested_at": ingested_at,
        "value": json.dumps(document).encode(),
    }


def fill(lake: Lake, *rows: Document) -> None:
    lake.append(EVENTS, pl.DataFrame(list(rows), schema=COLUMNS[EVENTS]))


def failures(lake: Lake, event_class: type[Event]) -> dict[tuple[str, str], Document]:
    run = run_quality(lake, now=NOW, window=HOUR).to_dict()
    (found,) = [each for each in run["types"] if each["event_type"] == type_of(event_class)]
    return {(failure["column"], failure["severity"]): failure for failure in found["failed"]}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def test_sound_events_of_every_type_pass(lake: Lake) -> None:
    fill(lake, *(row(written(event)) for event in EXAMPLES.values()))
    run = run_quality(lake, now=NOW, window=HOUR)
    assert run.success
    assert [(found.event_type, found.checked, found.failed) for found in run.types] == [
        (type_of(event_class), 1, ()) for event_class in EVENT_CLASSES
    ]


def _set(*path: str, to: object) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        inner = document
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = to

    return change


def _drop(*path: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        inner = document
        for step in path[:-1]:
            inner = inner[step]
        del inner[path[-1]]

    return change


RESULT = ("data", "decision", "result")

FAULTS: list[tuple[type[Event], str, str, Callable[[Document], None]]] = [
    (ActionDecided, "unpublished", "warning", _set("data", "contract", "mood", to="good")),
    (ActionDecided, "fault", "critical", _set("data", "contract", "evidence", "confidence", to=7)),
    (ActionDecided, "dataschema", "warning", _set("dataschema", to="urn:someone:else")),
    (ActionDecided, "source", "critical", _set("source", to=" ")),
    (ActionDecided, "ahead_of_arrival_s", "critical", _set("time", to="2026-03-02T13:30:00Z")),
    (ActionDecided, "decided_ahead_s", "critical", _set("time", to="2026-03-02T09:20:00Z")),
    (ActionDecided, "receipt_fault", "critical", _set("data", "receipt", to="sk1.AAAA")),
    (ActionDecided, "decided_at", "critical", _drop("data", "receipt")),
    (ActionDecided, "epoch", "critical", _drop("data", "receipt")),
    (ActionDecided, "outcome", "critical", _set(*RESULT, to={"outcome": "perhaps", "reason": "r"})),
    (ActionDecided, "reason", "critical", _set(*RESULT, to={"outcome": "deny", "reason": " "})),
    (ActionDecided, "mode", "critical", _set(*RESULT, to={"outcome": "fallback", "reason": "r"})),
    (ActionDecided, "outcome", "critical", _set("data", "decision", "authorization", "permitted", to=False)),
    (ActionDecided, "agent", "critical", _drop("data", "contract", "actor", "agent")),
    (ActionDecided, "owner", "warning", _drop("data", "contract", "actor", "user")),
    (ActionDecided, "risk_class", "critical", _set("data", "contract", "risk_class", to="mild")),
    (ActionDecided, "flag_count", "critical", _set("data", "decision", "flags", to=[])),
    (ActionDecided, "flag_count", "critical", _drop("data", "decision", "flags")),
    (ActionDecided, "permitted", "warning", _drop("data", "decision", "authorization")),
    (ActionDecided, "ruleset_sha256", "warning", _drop("data", "decision", "ruleset_sha256")),
    (ActionDecided, "decide_ms", "warning", _set("data", "decision", "decide_ms", to=61_000)),
    (ActionDecided, "provenance", "critical", _set("data", "decision", "provenance", to="rumour")),
    (ActionExecuted, "status", "critical", _set("data", "status", to="fine")),
    (ActionExecuted, "status", "critical", _drop("data", "status")),
    (ActionExecuted, "latency_ms", "critical", _set("data", "latency_ms", to=-1)),
    (ActionExecuted, "latency_ms", "critical", _set("data", "latency_ms", to=3_600_001)),
    (ActionExecuted, "latency_ms", "warning", _drop("data", "latency_ms")),
    (ActionExecuted, "cost_usd", "critical", _set("data", "cost_usd", to=-0.5)),
    (ActionExecuted, "error_type", "critical", _drop("data", "error_type")),
    (ActionExecuted, "error_type", "critical", _set("data", "status", to="succeeded")),
    (ActionUndone, "undo_result", "critical", _set("data", "result", to="half")),
    (ActionUndone, "undo_reason", "warning", _drop("data", "reason")),
    (ActionImpact, "kind", "critical", _set("data", "impact", "kind", to="applause")),
    (ActionImpact, "quality_passed", "critical", _drop("data", "impact", "passed")),
    (ActionImpact, "severity", "critical", _set("data", "impact", to={"kind": "incident"})),
    (ActionImpact, "severity", "critical", _set("data", "impact", to={"kind": "incident", "severity": 9})),
    (ReviewResolved, "resolution", "critical", _set("data", "resolution", to="maybe")),
    (ReviewResolved, "reviewer", "critical", _set("data", "reviewer", to=" ")),
    (ReviewResolved, "rationale", "critical", _set("data", "rationale", to="")),
    (ReviewResolved, "wait_ms", "critical", _set("data", "wait_ms", to=-3)),
    (PolicyChanged, "flag_key", "critical", _drop("data", "flag_key")),
    (PolicyChanged, "changed_by", "critical", _drop("data", "changed_by")),
    (PolicyChanged, "change_reason", "critical", _set("data", "reason", to="")),
    (PolicyChanged, "changed", "warning", _set("data", "after", to="approved_external")),
    (StageRecommended, "verdict", "critical", _set("data", "verdict", to="WAIT")),
    (StageRecommended, "reason_count", "critical", _set("data", "reasons", to=[])),
    (StageRecommended, "to_stage", "critical", _set("data", "to_stage", to="the_moon")),
    (StageRecommended, "watermark_ahead_s", "critical", _set("data", "watermark", to="2026-03-02T12:30:00Z")),
]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Document]]:
    """What one run finds in events with every fault, beside one sound event of each type; by the type of event."""
    rows = [row(written(event) | {"id": "sound"}) for event in EXAMPLES.values()]
    for at, (event_class, _, _, spoil) in enumerate(FAULTS):
        bad = written(EXAMPLES[event_class]) | {"id": f"bad {at}"}
        spoil(bad)
        rows.append(row(bad, offset=at + 1))
    lake = Lake.open(str(tmp_path_factory.mktemp("faulty")))
    fill(lake, *rows)
    run = run_quality(lake, now=NOW, window=HOUR).to_dict()
    return [(of_type["event_type"], failure) for of_type in run["types"] for failure in of_type["failed"]]


@pytest.mark.parametrize(
    ("event_class", "column", "severity", "at"),
    [pytest.param(*fault[:3], at, id=f"{fault[0].__name__}-{fault[1]}-{at}") for at, fault in enumerate(FAULTS)],
)
def test_each_kind_of_fault_is_found_and_named(
    faulty: list[tuple[str, Document]], event_class: type[Event], column: str, severity: str, at: int
) -> None:
    (found,) = [
        failure
        for event_type, failure in faulty
        if (event_type, failure["column"], failure["severity"]) == (type_of(event_class), column, severity)
        and any(f"(bad {at})" in each for each in failure["examples"])
    ]
    assert found["meaning"] != ""


def test_nothing_is_found_in_a_sound_event_among_them(faulty: list[tuple[str, Document]]) -> None:
    assert faulty
    assert [failure for _, failure in faulty if any("(sound)" in each for each in failure["examples"])] == []


def test_an_irreversible_action_that_claims_to_be_easy_to_take_back_is_shown(lake: Lake) -> None:
    bad = written(EXAMPLES[ActionDecided])
    bad["data"]["contract"]["risk_class"] = "irreversible"
    fill(lake, row(bad))
    assert set(failures(lake, ActionDecided)) == {("reversibility", "warning")}


def test_an_event_kept_twice_is_found(lake: Lake) -> None:
    fill(lake, row(written(EXAMPLES[ActionUndone])), row(written(EXAMPLES[ActionUndone]), offset=1))
    found = failures(lake, ActionUndone)["id", "critical"]
    assert (found["expectation"], found["unexpected"]) == ("expect_column_values_to_be_unique", 2)


def test_bytes_that_are_not_the_row_beside_them_are_found(lake: Lake) -> None:
    moved = {**row(written(EXAMPLES[ActionExecuted])), "tool": "another_tool"}
    renamed = {**row(written(EXAMPLES[ActionExecuted]), offset=1), "id": "renamed"}
    broken = {**row(written(EXAMPLES[ActionExecuted]), offset=2), "id": "broken", "value": b"{"}
    fill(lake, moved, renamed, broken)
    found = failures(lake, ActionExecuted)
    assert found["receipt_fault", "critical"]["unexpected"] == 1
    assert "another_tool" in found["receipt_fault", "critical"]["examples"][0]
    assert found["row_differs", "critical"]["examples"] == ["id (renamed)", "id (broken)"]
    assert found["fault", "critical"]["examples"][0].startswith("not JSON")


@pytest.mark.parametrize(
    ("odd", "failing"),
    [("1e999", "unpublished"), ("[" * 90 + "]" * 90, "unpublished"), ("1" * 5_000, "fault"), ("[" * 5_000, "fault")],
)
def test_a_run_survives_any_bytes(lake: Lake, odd: str, failing: str) -> None:
    stored = row(written(EXAMPLES[ActionExecuted]))
    stored["value"] = stored["value"].replace(b'"status"', b'"mood": ' + odd.encode() + b', "status"')
    fill(lake, stored)
    (of_type,) = run_quality(lake, now=NOW, window=HOUR).types
    assert failing in [failure.column for failure in of_type.failed]


def test_a_user_that_differs_from_the_bytes_is_found(lake: Lake) -> None:
    fill(lake, row(written(EXAMPLES[ActionDecided])) | {"user": "somebody else"})
    assert failures(lake, ActionDecided)["row_differs", "critical"]["examples"][0].startswith("user")


def test_warnings_alone_do_not_fail_a_run(lake: Lake) -> None:
    quiet = written(EXAMPLES[ActionExecuted])
    del quiet["data"]["latency_ms"]
    fill(lake, row(quiet))
    run = run_quality(lake, now=NOW, window=HOUR)
    assert run.success
    (failure,) = [failure for found in run.types for failure in found.failed]
    assert (failure.severity, failure.examples) == ("warning", ("nothing (02-executed)",))


def test_an_empty_window_says_so_and_keeps_nothing(lake: Lake) -> None:
    fill(lake, row(written(EXAMPLES[ActionExecuted]), ingested_at=NOW - timedelta(hours=2)))
    run = run_quality(lake, now=NOW, window=HOUR)
    assert (run.types, run.success) == ((), True)
    assert lake.scan(QUALITY).collect().is_empty()
    assert latest_quality(lake) is None
    assert latest_quality(None) is None


def test_the_last_run_is_read_back_as_it_was_shown(lake: Lake) -> None:
    bad = written(EXAMPLES[ActionExecuted])
    bad["data"]["latency_ms"] = -4
    fill(lake, row(bad), row(written(EXAMPLES[ReviewResolved])))
    run_quality(lake, now=NOW - timedelta(minutes=1), window=HOUR)
    newest = run_quality(lake, now=NOW, window=HOUR)
    assert latest_quality(lake) == newest
    assert not newest.success
    kept = lake.scan(QUALITY).collect()
    assert kept.group_by("run_id").len()["len"].to_list() == [2, 2], "one row for each type, for each run"


def test_a_run_goes_on_where_the_last_one_stopped(lake: Lake) -> None:
    fill(lake, row(written(EXAMPLES[ActionExecuted]), ingested_at=NOW - timedelta(hours=3)))
    assert run_quality(lake, now=NOW).types == (), "the first run looks back one hour"
    run_quality(lake, now=NOW, window=timedelta(hours=4))
    late = NOW + timedelta(days=2)
    assert run_quality(lake, now=late).types == ()
    second = {**written(EXAMPLES[ActionExecuted]), "id": "second"}
    fill(lake, row(second, ingested_at=NOW + timedelta(minutes=1)))
    assert [found.checked for found in run_quality(lake, now=late).types] == [1]


def test_only_the_newest_events_of_a_flood_are_looked_at(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analytics.audit.quality.MOST_EVENTS", 3)
    old = written(EXAMPLES[ActionExecuted]) | {"id": ""}
    fill(
        lake,
        row(old, ingested_at=NOW - timedelta(minutes=30)),
        *(row(written(EXAMPLES[ActionExecuted]) | {"id": f"new-{at}"}, offset=at) for at in range(3)),
    )
    (found,) = run_quality(lake, now=NOW, window=HOUR).types
    assert (found.events, found.checked, found.success) == (4, 3, True)


def test_a_run_is_silent_leaves_nothing_behind_and_calls_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a quality run must not use the network")

    for name in ("home", "work", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    lake = Lake.open(str(tmp_path / "lake"))
    fill(lake, row(written(EXAMPLES[ActionDecided])))
    assert run_quality(lake, now=NOW, window=HOUR).success
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "lake", "temporary", "work"]
    assert [path for name in ("home", "work", "temporary") for path in (tmp_path / name).iterdir()] == []
    assert capfd.readouterr() == ("", "")


def test_every_type_of_event_has_a_suite() -> None:
    assert list(SUITES) == [type_of(event_class) for event_class in EVENT_CLASSES]


def _command(lake: Lake, *arguments: str) -> Any:
    return CliRunner().invoke(cli, ["quality", *arguments, "--lake", lake.root])


def test_the_command_tells_pass_fail_and_nothing_apart(lake: Lake) -> None:
    nothing = _command(lake, "run")
    assert nothing.exit_code == 0
    assert "nothing was checked" in nothing.output
    assert "No validation has run" in _command(lake, "show").output
    fill(lake, row(written(EXAMPLES[ActionExecuted]), ingested_at=datetime.now(UTC)))
    passed = _command(lake, "run", "--since", "1h")
    assert passed.exit_code == 0, passed.output
    assert "1 of 1 event checked" in passed.output
    bad = written(EXAMPLES[ActionExecuted]) | {"id": "slow"}
    bad["data"]["latency_ms"] = 4e6
    fill(lake, row(bad, ingested_at=datetime.now(UTC), offset=1))
    failed = _command(lake, "run", "--json")
    assert failed.exit_code == 1
    shown = _command(lake, "show", "--json")
    assert shown.exit_code == 1
    assert json.loads(shown.output) == json.loads(failed.output)
    output = _command(lake, "show").output
    assert "a latency is negative or above an hour: 1 event (50 %)" in output
    assert "4000000.0 (slow)" in output


def test_the_command_refuses_a_place_without_a_lake(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["quality", "show", "--lake", str(tmp_path / "none")])
    assert "There is no lake at" in str(result.exception)
