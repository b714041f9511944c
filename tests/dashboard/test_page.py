"""The page as a program: every state of a lake gives a page that says so, and no value becomes markup."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl
import pytest
from page_lakes import FLEET, GATES, Behaviour, fill, populated, reject
from streamlit.testing.v1 import AppTest

import dashboard
from analytics.judging.judge import Judge
from analytics.lake.table_schemas import COLUMNS, QUALITY
from analytics.lake.tables import Lake
from analytics.verdicts.ledger import latest_verdicts
from dashboard.data.reader import LakeReader, read_gate_file
from dashboard.urls import PageLocation
from dashboard.views.overview import MOST_ACTIONS
from dashboard.views.recommendations import MOST_CARDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamlit.testing.v1.element_tree import Element

APP = Path(dashboard.__file__).with_name("app.py")
HOSTILE = "<script>alert(1)</script>"
QUOTED = "\"' onmouseover='alert(1)' x=\""


class Outline(HTMLParser):
    """What a browser would make of some HTML: its elements, their attributes and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.elements if name in (attributes.get("class") or "").split()]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


class Shown:
    """The page after a run."""

    def __init__(self, app: AppTest) -> None:
        assert not app.exception, [element.message for element in app.exception]
        self.app = app
        self.html = "".join(_consoles(app))
        self.outline = Outline(self.html)

    @property
    def text(self) -> str:
        return self.outline.text


def _consoles(app: AppTest) -> Iterator[str]:
    for element in app.get("bidi_component"):
        shown: Element = element
        yield json.loads(shown.proto.json)["html"]


class Show(Protocol):
    """Runs the page on a folder, at a place."""

    def __call__(self, root: Path, place: PageLocation | None = None) -> Shown: ...


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """Run the page on a folder, at a place."""

    def run(root: Path, place: PageLocation | None = None) -> Shown:
        arguments = ["--lake", str(root / "lake"), "--gates", str(root / "gates.yaml")]
        monkeypatch.setattr(sys, "argv", ["app.py", *arguments])
        app = AppTest.from_file(APP, default_timeout=60)
        for name, value in (place or PageLocation()).parameters().items():
            app.query_params[name] = value
        return Shown(app.run())

    return run


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
def test_the_overview_shows_every_cell_with_its_verdict(show: Show, tmp_path: Path) -> None:
    lake = populated(tmp_path)
    shown = show(tmp_path)
    verdicts = {(row.tool, row.stage, row.cohort): row.verdict for row in latest_verdicts(lake)}
    assert len(verdicts) == len(FLEET)
    cells = shown.outline.of_class("sk-cell")
    assert len(cells) == len(FLEET)
    for behaviour in FLEET:
        verdict = verdicts[behaviour.tool, behaviour.stage, behaviour.cohort]
        address = PageLocation().with_cell(behaviour.cell).address
        (cell,) = [attributes for attributes in cells if attributes["href"] == address]
        assert f"sk-cell-{verdict}" in (cell["class"] or "").split()
        word = {"PROMOTE": "Promote", "HOLD": "Hold", "ROLL_BACK": "Roll back", "INVALID": "Invalid"}[verdict]
        assert f": {word}, " in (cell["aria-label"] or "")
    assert {"PROMOTE", "HOLD", "ROLL_BACK", "INVALID"} == set(verdicts.values())


@pytest.mark.slow
def test_recommendations_stand_by_urgency_and_the_tallies_count_them(show: Show, tmp_path: Path) -> None:
    populated(tmp_path)
    shown = show(tmp_path)
    classes = [(attributes["class"] or "").split()[1] for attributes in shown.outline.of_class("sk-rec")]
    order = ["sk-rec-ROLL_BACK", "sk-rec-PROMOTE", "sk-rec-INVALID", "sk-rec-HOLD"]
    assert classes == sorted(classes, key=order.index)
    assert len(set(classes)) == len(order)
    for name, word in zip(order, ("Roll back", "Promote", "Invalid", "Hold"), strict=True):
        assert f" {classes.count(name)} {word} " in shown.text


@pytest.mark.slow
def test_only_one_kind_of_recommendation_can_be_shown(show: Show, tmp_path: Path) -> None:
    populated(tmp_path)
    shown = show(tmp_path, PageLocation(verdict="PROMOTE"))
    classes = {attributes["class"] for attributes in shown.outline.of_class("sk-rec")}
    assert classes == {"sk-rec sk-rec-PROMOTE"}
    assert len(shown.outline.of_class("sk-cell")) == len(FLEET)


@pytest.mark.slow
def test_an_environment_hides_the_others(show: Show, tmp_path: Path) -> None:
    populated(tmp_path)
    shown = show(tmp_path, PageLocation(environment="staging"))
    assert len(shown.outline.of_class("sk-cell")) == 1
    assert "try_out" in shown.text
    assert "issue_refund" not in shown.text


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", [FLEET[0], FLEET[4], FLEET[6], FLEET[-1]], ids=lambda each: each.tool)
def test_a_cell_shows_its_evidence(show: Show, tmp_path: Path, behaviour: Behaviour) -> None:
    lake = populated(tmp_path)
    shown = show(tmp_path, PageLocation(cell=behaviour.cell))
    (verdict,) = [document.to_dict() for document in latest_verdicts(lake) if document.cell == behaviour.cell]
    rows = [attributes for attributes in shown.outline.of_class("sk-sig") if attributes]
    assert len(rows) == len(verdict["signals"])
    assert len(shown.app.get("vega_lite_chart")) == 4
    assert verdict["verdict_id"][:12] in shown.text
    assert "What would change this verdict" in shown.text


@pytest.mark.slow
def test_a_cell_that_is_not_there_is_said_to_be_unknown(show: Show, tmp_path: Path) -> None:
    populated(tmp_path)
    missing = FLEET[0].cell._replace(tool="no_such_tool")
    assert "Nothing has been counted for this cell" in show(tmp_path, PageLocation(cell=missing)).text


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
        PageLocation(view="rejects"),
        *(PageLocation(cell=behaviour.cell) for behaviour in hostile),
    ]
    for place in places:
        shown = show(tmp_path, place)
        names = {name for name, _ in shown.outline.elements}
        assert not names & {"script", "img", "b-", "iframe", "style"}
        handlers = [key for _, attributes in shown.outline.elements for key in attributes if key.startswith("on")]
        assert handlers == []
    assert HOSTILE in show(tmp_path, PageLocation(cell=hostile[0].cell)).text
    assert HOSTILE in show(tmp_path, PageLocation(view="rejects")).text


@pytest.mark.slow
def test_rejects_are_shown_with_their_reasons(show: Show, tmp_path: Path) -> None:
    populated(tmp_path)
    assert "2 Rejected events" in show(tmp_path).text
    text = show(tmp_path, PageLocation(view="rejects")).text
    for expected in ("not_json", "missing_receipt", "agent.decisions / 0 / 44", "not json at all"):
        assert expected in text


@pytest.mark.slow
def test_the_last_quality_run_is_shown(show: Show, tmp_path: Path) -> None:
    lake = populated(tmp_path)
    assert "No quality run" in show(tmp_path).text
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
    assert "failed Quality, 3 min ago" in show(tmp_path).text
    text = show(tmp_path, PageLocation(view="quality")).text
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
    assert "The evidence cannot be read" in shown.text
    assert "signals" in shown.text
    assert "Traceback" not in shown.html
    shutil.rmtree(tmp_path / "lake")
    kept.rename(tmp_path / "lake")
    assert len(show(tmp_path).outline.of_class("sk-cell")) == len(FLEET)


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
    assert "The evidence cannot be read" in show(tmp_path).text


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
    assert len(show(tmp_path).outline.of_class("sk-cell")) == 3


@pytest.mark.slow
def test_a_broken_gate_file_is_said_above_the_verdicts(show: Show, tmp_path: Path) -> None:
    populated(tmp_path)
    gates = tmp_path / "gates.yaml"
    gates.write_text(GATES.replace("signal: undo", "signal: undoo"), encoding="utf-8")
    shown = show(tmp_path)
    assert "Gate file: " in shown.text
    assert "undoo" in shown.text
    assert len(shown.outline.of_class("sk-cell")) == len(FLEET)
    gates.write_text(GATES.replace("limit: 0.02", "limit: 0.03"), encoding="utf-8")
    shown = show(tmp_path, PageLocation(cell=FLEET[0].cell))
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
    assert "changed since" not in show(tmp_path, PageLocation(cell=FLEET[0].cell)).text


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
    labels = [[cell["aria-label"] for cell in shown.outline.of_class("sk-cell")] for shown in (before, after)]
    assert len(labels[0]) == len(labels[1]) == len(FLEET)
    assert all(old != new for old, new in zip(*labels, strict=True) if "delete_account" not in (old or ""))


@pytest.mark.slow
def test_actions_without_a_verdict_are_shown_as_not_judged(show: Show, tmp_path: Path) -> None:
    fill(Lake.open(str(tmp_path / "lake")), FLEET[:2], until=datetime.now(UTC), minutes=4)
    (tmp_path / "gates.yaml").write_text(GATES, encoding="utf-8")
    shown = show(tmp_path)
    assert len(shown.outline.of_class("sk-cell-NONE")) == 2
    assert "No verdicts yet" in shown.text
    assert "No verdict yet" in show(tmp_path, PageLocation(cell=FLEET[0].cell)).text


def a_large_fleet(count: int) -> list[Behaviour]:
    """Healthy actions of three workflows; the last one denies too much."""
    fleet = [Behaviour(f"workflow-{n % 3}", f"tool-{n:04}", "draft_write", 30) for n in range(count)]
    return [*fleet[:-1], replace(fleet[-1], denial=0.6)]


@pytest.mark.slow
def test_of_very_many_actions_the_most_urgent_are_shown_and_the_others_can_be_reached(
    show: Show, tmp_path: Path
) -> None:
    fleet = a_large_fleet(MOST_ACTIONS + 30)
    populated(tmp_path, fleet=fleet, minutes=12)
    shown = show(tmp_path)
    assert len(shown.outline.of_class("sk-cell")) == MOST_ACTIONS
    assert len(shown.outline.of_class("sk-rec")) == MOST_CARDS
    assert f"{MOST_ACTIONS} of {len(fleet)} actions" in shown.text
    assert f"The {MOST_CARDS} most urgent of {len(fleet)}" in shown.text
    assert len(shown.outline.of_class("sk-cell-ROLL_BACK")) == 1
    alone = show(tmp_path, PageLocation(workflow="workflow-1"))
    assert len(alone.outline.of_class("sk-cell")) == len(fleet) // 3
    assert "actions: those with the most urgent" not in alone.text
