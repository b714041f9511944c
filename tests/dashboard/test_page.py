"""The page as a program: every state of a lake gives a page that says so, and no value becomes markup."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl
import pytest
from console_pages import Console
from lakes_of_events import EventLake
from page_lakes import FLEET, GATES, Behaviour, fill, populated, reject

from analytics.judging.judge import Judge
from analytics.lake.table_schemas import COLUMNS, QUALITY
from analytics.lake.tables import Lake
from analytics.verdicts.ledger import latest_verdicts
from dashboard import labels
from dashboard.data.reader import LakeReader, read_gate_file
from dashboard.urls import PageLocation
from dashboard.views.overview import MOST_ROWS
from producers.boundary.stage_store import ActionName
from producers.wire.events import PolicyChangedData

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from console_pages import Shown

    from producers.wire.receipt import Receipt

HOSTILE = "<script>alert(1)</script>"
QUOTED = "\"' onmouseover='alert(1)' x=\""


A_CHANGE = PolicyChangedData(
    flag_key="agent-action-mode", changed_by="dana", reason="held its limits", before="search_only", after="draft_write"
)


def failed_action(receipt: Receipt) -> ActionName:
    return ActionName(receipt.environment, receipt.workflow, receipt.tool)


class Show(Protocol):
    """Runs the page on a folder, at a place."""

    def __call__(self, root: Path, place: PageLocation | None = None) -> Shown: ...


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """Run the page on a folder, at a place."""
    return lambda root, place=None: Console(root, monkeypatch).show(place)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake that nobody changes."""
    root = tmp_path_factory.mktemp("fleet")
    populated(root)
    return root


def of_behaviour(behaviour: Behaviour) -> PageLocation:
    return PageLocation().of_cell(behaviour.cell)


def test_without_a_lake_the_page_says_how_to_begin_and_creates_nothing(show: Show, tmp_path: Path) -> None:
    shown = show(tmp_path)
    assert "There is no lake yet" in shown.text
    assert "stagekeeper up --demo" in shown.text
    assert not (tmp_path / "lake").exists()


@pytest.mark.slow
def test_an_empty_lake_is_called_empty(show: Show, tmp_path: Path) -> None:
    Lake.open(str(tmp_path / "lake"))
    shown = show(tmp_path)
    assert "No decisions yet" in shown.text
    assert "stagekeeper simulate" in shown.text


@pytest.mark.slow
def test_the_overview_shows_every_action_with_the_verdicts_of_its_stages(show: Show, fleet: Path) -> None:
    shown = show(fleet)
    verdicts = latest_verdicts(Lake.open(str(fleet / "lake")))
    rows = {(each.environment, each.workflow, each.tool, each.cohort) for each in FLEET}
    assert len(shown.outline.of_class("sk-action")) == len(rows)
    for state in ("PROMOTE", "HOLD", "ROLL_BACK", "INVALID"):
        assert len(shown.outline.of_class(f"sk-chip-{state}")) == sum(one.verdict == state for one in verdicts) > 0
    assert [name for name, _ in shown.outline.elements].count("h1") == 1


@pytest.mark.slow
def test_a_number_is_the_one_that_the_verdict_goes_by_with_what_is_counted(show: Show, fleet: Path) -> None:
    overview, page = show(fleet), show(fleet, of_behaviour(FLEET[4]))
    (verdict,) = [one for one in latest_verdicts(Lake.open(str(fleet / "lake"))) if one.cell == FLEET[4].cell]
    (denial,) = [part for part in verdict.signals if part.signal == "denial"]
    value = " ".join(f"{labels.quantity(denial.value, denial.unit)} by {denial.by}".split())
    assert f"Denial {value}" in overview.text
    assert value in page.text


@pytest.mark.slow
def test_what_needs_a_person_stands_first_the_most_urgent_first(show: Show, fleet: Path) -> None:
    shown = show(fleet, PageLocation(show="needs"))
    kinds = [(attributes["class"] or "").split()[1] for attributes in shown.outline.of_class("sk-need")]
    order = ["sk-need-late", "sk-need-ROLL_BACK", "sk-need-INVALID", "sk-need-waits", "sk-need-PROMOTE"]
    assert kinds == sorted(kinds, key=order.index)
    assert {"sk-need-ROLL_BACK", "sk-need-PROMOTE"} <= set(kinds)
    assert f"{len(kinds)} things need a person" in shown.text
    assert shown.html.index("sk-needs") < shown.html.index("sk-matrix")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "there", "gone"),
    [
        (PageLocation(verdict="ROLL_BACK"), "close_ticket", "delete_account"),
        (PageLocation(environment="staging"), "try_out", "issue_refund"),
        (PageLocation(search="REFUND lookup"), "lookup_order", "issue_refund"),
        (PageLocation(risk="irreversible"), "delete_account", "send_reply"),
        (PageLocation(search="enterprise"), "adjust_invoice", "send_reply"),
    ],
    ids=["verdict", "environment", "search", "risk", "cohort"],
)
def test_actions_can_be_found(show: Show, fleet: Path, place: PageLocation, there: str, gone: str) -> None:
    shown = show(fleet, place)
    names = " ".join(one["title"] or "" for one in shown.outline.of_class("sk-action"))
    assert there in names
    assert gone not in names


@pytest.mark.slow
def test_a_search_that_finds_nothing_says_so(show: Show, fleet: Path) -> None:
    assert "No action matches" in show(fleet, PageLocation(search="zzz")).text


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", [FLEET[0], FLEET[4], FLEET[6], FLEET[-1]], ids=lambda each: each.tool)
def test_an_action_shows_its_evidence(show: Show, fleet: Path, behaviour: Behaviour) -> None:
    shown = show(fleet, of_behaviour(behaviour))
    (verdict,) = [one for one in latest_verdicts(Lake.open(str(fleet / "lake"))) if one.cell == behaviour.cell]
    assert len(shown.outline.of_class("sk-sig")) == len(verdict.signals)
    assert len(shown.app.get("vega_lite_chart")) == 4
    assert verdict.verdict_id[:12] in shown.text
    assert "What would change this verdict" in shown.text
    assert [name for name, _ in shown.outline.elements].count("h1") == 1


@pytest.mark.slow
def test_an_action_that_is_not_there_is_said_to_be_unknown_with_what_is_near(show: Show, fleet: Path) -> None:
    shown = show(fleet, PageLocation("action", "production", "nope", "issue_refund"))
    assert "No action \u201cnope / issue_refund\u201d in production" in shown.text
    assert "refunds / issue_refund" in shown.text
    elsewhere = show(fleet, PageLocation("action", "production", "lab", "try_out"))
    assert "lab / try_out in staging" in elsewhere.text
    assert "No action" in show(fleet, replace(of_behaviour(FLEET[0]), cohort="nope")).text


@pytest.mark.slow
@pytest.mark.parametrize("place", [PageLocation("recommendations", item="nope"), PageLocation("reviews", item="nope")])
def test_an_item_that_is_not_there_is_said_to_be_unknown(show: Show, fleet: Path, place: PageLocation) -> None:
    shown = show(fleet, place)
    assert "nope" in shown.text
    assert shown.outline.of_class("sk-empty")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("age", "words"), [(0, "Fresh: evidence to"), (180, "Late: evidence to"), (1_000, "Stale: evidence to")]
)
def test_freshness_is_the_gates_own(show: Show, tmp_path: Path, age: int, words: str) -> None:
    populated(tmp_path, now=datetime.now(UTC) - timedelta(seconds=age), fleet=FLEET[2:3], minutes=12)
    shown = show(tmp_path, PageLocation("recommendations"))
    assert words in shown.text
    assert bool(shown.outline.of_class("sk-is-fresh")) is (age == 0)
    assert shown.app.button(key="sk-accept").disabled is (age == 1_000)


@pytest.mark.slow
def test_nothing_from_an_event_becomes_markup(show: Show, tmp_path: Path) -> None:
    hostile = [
        Behaviour(QUOTED, HOSTILE, "search_only", 20, cohort="<img src=x onerror=alert(1)>"),
        Behaviour("plain", "tool", "<b>stage</b>", 20, environment='"><svg onload=alert(1)>'),
    ]
    now = datetime.now(UTC)
    lake = populated(tmp_path, now=now, fleet=hostile, minutes=5)
    reject(lake, "not_json", f"saw {HOSTILE}", b"<script>alert(2)</script>", offset=99, at=now)
    places = [
        PageLocation(),
        PageLocation("data-quality"),
        *map(of_behaviour, hostile),
    ]
    for place in places:
        shown = show(tmp_path, place)
        names = {name for name, _ in shown.outline.elements}
        assert not names & {"script", "img", "b-", "iframe", "style"}
        handlers = [key for _, attributes in shown.outline.elements for key in attributes if key.startswith("on")]
        assert handlers == []
    assert HOSTILE in show(tmp_path, of_behaviour(hostile[0])).text
    assert HOSTILE in show(tmp_path, PageLocation("data-quality")).text


@pytest.mark.slow
def test_rejects_are_shown_with_their_reasons(show: Show, tmp_path: Path) -> None:
    populated(tmp_path)
    text = show(tmp_path, PageLocation("data-quality")).text
    for expected in ("not_json", "missing_receipt", "agent.decisions / 0 / 44", "not json at all"):
        assert expected in text


@pytest.mark.slow
def test_the_last_quality_run_is_shown(show: Show, tmp_path: Path) -> None:
    lake = populated(tmp_path)
    assert "No quality run" in show(tmp_path, PageLocation("data-quality")).text
    failed = {
        "expectation": "expect_column_values_to_be_between",
        "column": "latency_ms",
        "meaning": f"latencies are below an hour {HOSTILE}",
        "severity": "critical",
        "unexpected": 3,
        "percent": 1.5,
        "examples": ["7200000 (event-1)"],
    }
    payload = {"since": "2026-01-01T00:00:00+00:00", "event_type": "executed", "events": 200, "checked": 200}
    row = {
        "run_id": "r1",
        "run_at": datetime.now(UTC) - timedelta(minutes=3),
        "event_type": "stagekeeper.action.executed.v1",
        "checked": 200,
        "success": False,
        "payload": json.dumps({**payload, "success": False, "failed": [failed]}),
    }
    lake.append(QUALITY, pl.DataFrame([row], schema=COLUMNS[QUALITY]))
    text = show(tmp_path, PageLocation("data-quality")).text
    assert f"latencies are below an hour {HOSTILE}: 3 events" in text
    assert "7200000 (event-1)" in text


@pytest.mark.slow
def test_a_damaged_lake_is_a_message_and_mending_it_is_enough(show: Show, tmp_path: Path) -> None:
    populated(tmp_path)
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "lake", kept)
    for log in (tmp_path / "lake" / "signals" / "_delta_log").glob("*.json"):
        log.write_text("this is no log", encoding="utf-8")
    shown = show(tmp_path)
    assert "This cannot be read" in shown.text
    assert "signals" in shown.text
    assert "Traceback" not in shown.html
    shutil.rmtree(tmp_path / "lake")
    kept.rename(tmp_path / "lake")
    assert len(show(tmp_path).outline.of_class("sk-action")) == len(FLEET) - 1


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["signals/*.parquet", "verdicts/*.parquet", "rejects/_delta_log"])
def test_what_disappears_under_an_open_page_is_a_message(show: Show, tmp_path: Path, lost: str) -> None:
    lake = populated(tmp_path)
    show(tmp_path)
    fill(lake, FLEET, until=datetime.now(UTC), minutes=1, seed=2)  # so that the page has to read again
    gone = list((tmp_path / "lake").glob(lost))
    assert gone
    for path in gone:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "This cannot be read" in show(tmp_path).text


@pytest.mark.slow
def test_a_lake_that_is_removed_is_no_lake_again(show: Show, tmp_path: Path) -> None:
    populated(tmp_path)
    show(tmp_path)
    shutil.rmtree(tmp_path / "lake")
    assert "There is no lake yet" in show(tmp_path).text


@pytest.mark.slow
def test_a_lake_that_took_the_place_of_another_is_read_anew(show: Show, tmp_path: Path) -> None:
    populated(tmp_path)
    show(tmp_path)
    shutil.rmtree(tmp_path / "lake")
    populated(tmp_path, fleet=FLEET[:3])
    assert len(show(tmp_path).outline.of_class("sk-action")) == 2


@pytest.mark.slow
def test_a_broken_gate_file_is_said_above_the_verdicts(show: Show, tmp_path: Path) -> None:
    populated(tmp_path)
    gates = tmp_path / "gates.yaml"
    gates.write_text(GATES.replace("signal: undo", "signal: undoo"), encoding="utf-8")
    shown = show(tmp_path)
    assert "Gate file: " in shown.text
    assert "undoo" in shown.text
    assert len(shown.outline.of_class("sk-action")) == len(FLEET) - 1
    gates.write_text(GATES.replace("limit: 0.02", "limit: 0.03"), encoding="utf-8")
    shown = show(tmp_path, of_behaviour(FLEET[0]))
    assert "changed since" in shown.text
    gates.unlink()
    assert "cannot be read" in show(tmp_path).text


@pytest.mark.slow
def test_freshness_is_narrowed_where_the_gate_file_is_not_there_as_well(tmp_path: Path) -> None:
    path = tmp_path / "gates.yaml"
    assert read_gate_file(path, freshness_s=60.0).freshness_s == 60.0
    path.write_text(GATES, encoding="utf-8")
    assert read_gate_file(path, freshness_s=60.0).freshness_s == 60.0


@pytest.mark.slow
def test_a_verdict_under_the_gate_file_in_force_is_not_called_changed(show: Show, tmp_path: Path) -> None:
    populated(tmp_path)
    assert "changed since" not in show(tmp_path, of_behaviour(FLEET[0])).text


@pytest.mark.slow
def test_a_look_reads_what_was_appended_since_the_one_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lake = populated(tmp_path)
    reads: list[str] = []

    def noting(what: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any, **named: Any) -> Any:
            reads.append(f"{what} {given[1]}" + (f" after {named['after']}" if "after" in named else ""))
            return real(*given, **named)

        return noted

    for name in ("batches", "increments"):
        monkeypatch.setattr(Lake, name, noting(name, getattr(Lake, name)))
    reader = LakeReader(str(tmp_path / "lake"))
    first = reader.snapshot()
    assert reader.snapshot() is first
    cell = FLEET[0].cell
    assert reader.history(cell, "e1") is reader.history(cell, "e1")
    assert reads == ["batches signals"]
    fill(lake, FLEET, until=datetime.now(UTC), minutes=1, seed=3)
    second = reader.snapshot()
    assert first is not None
    assert second is not None
    before = first.versions["signals"]
    assert second.versions["signals"] == before + 1
    assert reads == ["batches signals", f"increments signals after {before}"]


@pytest.mark.slow
def test_new_numbers_and_verdicts_show_at_the_next_look(show: Show, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    lake = populated(tmp_path, now=now - timedelta(minutes=5), minutes=3)
    before = show(tmp_path)
    fill(lake, FLEET, until=now, minutes=4, seed=5)
    Judge(lake, tmp_path / "gates.yaml").tick(now)
    after = show(tmp_path)
    counted = [[row["title"] for row in shown.outline.of_class("sk-action")] for shown in (before, after)]
    assert len(counted[0]) == len(counted[1]) == len(FLEET) - 1
    assert len(set(counted[0]) & set(counted[1])) <= 1


@pytest.mark.slow
def test_actions_without_a_verdict_are_shown_as_not_judged(show: Show, tmp_path: Path) -> None:
    fill(Lake.open(str(tmp_path / "lake")), FLEET[:2], until=datetime.now(UTC), minutes=4)
    (tmp_path / "gates.yaml").write_text(GATES, encoding="utf-8")
    shown = show(tmp_path)
    assert len(shown.outline.of_class("sk-chip-NONE")) == 2
    assert "not judged yet" in shown.text
    assert "No verdict yet" in show(tmp_path, of_behaviour(FLEET[0])).text


@pytest.mark.slow
def test_of_very_many_actions_the_most_urgent_are_shown_and_the_others_can_be_found(show: Show, tmp_path: Path) -> None:
    fleet = [Behaviour(f"workflow-{n % 3}", f"tool-{n:04}", "draft_write", 30) for n in range(MOST_ROWS + 30)]
    fleet[-1] = replace(fleet[-1], denial=0.6)
    populated(tmp_path, fleet=fleet, minutes=12)
    shown = show(tmp_path)
    assert len(shown.outline.of_class("sk-action")) == MOST_ROWS
    assert f"The {MOST_ROWS} most urgent of {len(fleet)} actions" in shown.text
    assert len(shown.outline.of_class("sk-chip-ROLL_BACK")) == 1
    alone = show(tmp_path, PageLocation(search="tool-0040"))
    assert len(alone.outline.of_class("sk-action")) == 1


@pytest.mark.slow
def test_the_audit_finds_decisions_and_tells_the_story_of_one(show: Show, tmp_path: Path) -> None:
    (tmp_path / "gates.yaml").write_text(GATES, encoding="utf-8")
    lake = EventLake.at(tmp_path)
    told = lake.act(1, "ada").decision_id
    failed = lake.act(2, "bert", failed=True, model="m-2")
    lake.recorder.policy_changed(A_CHANGE)
    lake.store()
    found = show(tmp_path, PageLocation("audit"))
    assert f"{told[:13]}" in found.text
    story = show(tmp_path, PageLocation("audit", item=told))
    assert told in story.text
    assert "The whole story" in story.text
    assert "No decision nope" in show(tmp_path, PageLocation("audit", item="nope")).text
    page = show(tmp_path, PageLocation("action", *failed_action(failed)))
    for words in (failed.decision_id[:13], "2 users", "last change", "held its limits"):
        assert words in page.text
    assert "dana: held its limits" in show(tmp_path, PageLocation("policy")).text
