from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import polars as pl
import pytest
from click.testing import CliRunner
from fakes import a_contract, a_decision
from lakes_of_events import NOON, EventLake

from analytics.audit import story_text
from analytics.audit.completeness import completeness
from analytics.audit.export import (
    AlteredExportError,
    ExportManifest,
    OtherExportError,
    export,
    verify_export,
)
from analytics.audit.search import DecisionQuery
from analytics.audit.search_index import SearchIndex
from analytics.audit.story import DEADLINE, Story, story
from producers.errors import UsageError
from producers.wire.decision import Authorization, Constrain
from producers.wire.events import EarlierApproval, ExecutionStatus, Incident, PolicyChangedData, Resolution, UndoResult
from producers.wire.stage import Stage
from stagekeeper.commands import audit, cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NASTY = "=cmd|' /C calc'!A0 <script>alert(1)</script> | *x*\x1b[31m"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> EventLake:
    """A lake with a decision of which everything is on record, and seven of which little is."""
    lake = EventLake.at(tmp_path_factory.mktemp("filled"))
    change = PolicyChangedData(flag_key="agent-action-mode", changed_by="dana", reason="held", after="autonomous")
    lake.recorder.policy_changed(change, at=NOON - timedelta(hours=1))
    decision = a_decision(Constrain(mode="draft", reason="mode_draft_write")).model_copy(
        update={"authorization": Authorization(permitted=True, rule="small"), "ruleset_sha256": "a" * 64}
    )
    contract = a_contract().model_copy(update={"intent": NASTY, "arguments_sha256": "d" * 64})
    receipt = lake.recorder.decided(contract, decision, stage=Stage.DRAFT_WRITE, decided_at=NOON)
    lake.recorder.review_resolved(
        receipt,
        Resolution.APPROVED,
        reviewer="kim",
        rationale="seen",
        wait_ms=61_000,
        authenticated=False,
        earlier_approvals=(EarlierApproval(reviewer="lee", rationale="fine", at=NOON),),
        at=NOON + timedelta(minutes=1),
    )
    lake.recorder.executed(
        receipt, ExecutionStatus.FAILED, latency_ms=90, error_type="Timeout", at=NOON + timedelta(minutes=2)
    )
    lake.undo(receipt, 3, UndoResult.UNDONE)
    lake.impact(receipt, Incident(severity=2, reference="INC-4"), 4)
    for minute in range(10, 17):
        lake.act(minute, f"u-{minute}")
    lake.store()
    return lake


@pytest.fixture
def index(filled: EventLake, tmp_path: Path) -> Iterator[SearchIndex]:
    opened = SearchIndex(tmp_path / "index.sqlite")
    opened.follow(filled.lake)
    yield opened
    opened.close()


@pytest.fixture
def told(filled: EventLake) -> Story:
    decided = filled.lake.scan("events").filter(pl.col("decided_at") == NOON).select("subject").first().collect().item()
    return story(filled.lake, decided)


def run(filled: EventLake, *words: str) -> Any:
    return CliRunner().invoke(cli, ["audit", *words, "--lake", filled.lake.root])


def test_a_story_in_text_has_all_steps_in_order(told: Story) -> None:
    text = story_text.to_text(told)
    order = [
        "policy change by dana",
        "asked",
        "authorization permitted by rule small",
        "flag agent-action-mode = autonomous",
        "approved by lee",
        "approved by kim, whom nobody authenticated after 61 s",
        "execution failed (Timeout)",
        "lesser variant `draft`; latency 90 ms, cost unknown",
        "undo: undone",
        "impact: incident",
        "missing: verdict before",
        "missing: verdict after",
    ]
    assert sorted(order, key=text.index) == order
    assert "\x1b" not in text


def test_nothing_that_an_agent_wrote_becomes_markup(told: Story) -> None:
    markdown = story_text.to_markdown(told)
    assert "<script>" not in markdown
    assert r"\| \*x\*" in markdown
    drawn = ET.fromstring(story_text.to_svg(told))  # noqa: S314 - what we drew
    texts = [element.text or "" for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert any("<script>" in text for text in texts)
    assert not list(drawn.iter("{http://www.w3.org/2000/svg}script"))
    assert sum("missing" in text for text in texts) == len(told.missing)


def test_markdown_holds_nothing_live(filled: EventLake) -> None:
    lake_id = next(iter(filled.lake.scan("events").filter(pl.col("decided_at") == NOON).collect()["subject"]))
    whole = story(filled.lake, lake_id)
    contract = whole.contract
    assert contract is not None
    wrote = "a\r\x1b[2J\x07\x9b1m ~~struck~~ https://evil.example www.evil.example ann@evil.example &lt; $x$ \\"
    shown = story_text.to_markdown(whole.model_copy(update={"contract": contract.model_copy(update={"intent": wrote})}))
    inert = r"\~\~struck\~\~ https\://evil.example www\.evil.example ann\@evil.example \&lt; \$x\$ \\"
    assert rf"a��\[2J��1m {inert}" in shown
    assert not {mark for mark in shown if not mark.isprintable()} - {"\n"}


@pytest.mark.parametrize("words", [["search"], ["search", "--json"]])
def test_no_name_reaches_a_terminal_raw(tmp_path: Path, words: list[str]) -> None:
    lake = EventLake.at(tmp_path)
    lake.act(0, "bob\x9b2Jx", reported=False)
    contract = a_contract()
    hostile = contract.model_copy(update={"actor": contract.actor.model_copy(update={"account": "acct\x9b1m"})})
    lake.recorder.decided(hostile, a_decision(), stage=Stage.DRAFT_WRITE, decided_at=NOON + timedelta(hours=1))
    lake.store()
    output = run(lake, *words).output
    assert "acct" in output
    assert not {mark for mark in output if not mark.isprintable()} - {"\n"}


def test_completeness_prints_no_router_raw(filled: EventLake, monkeypatch: pytest.MonkeyPatch) -> None:
    found = completeness(filled.lake, deadline=DEADLINE).model_copy(update={"unsequenced_sources": ("/r\x1b[2J",)})
    monkeypatch.setattr(audit, "completeness", lambda *_, **__: found)
    assert "No event is numbered by /r�[2J:" in run(filled, "completeness").output


def test_why_prints_text_json_markdown_and_draws(filled: EventLake, told: Story, tmp_path: Path) -> None:
    graph = tmp_path / "why.svg"
    assert run(filled, "why", told.decision_id).output.startswith(f"Decision {told.decision_id}")
    assert json.loads(run(filled, "why", told.decision_id, "--json").output) == told.to_dict()
    found = run(filled, "why", told.decision_id, "--markdown", "--graph", str(graph))
    assert (found.exit_code, found.output.startswith("# Decision")) == (0, True)
    assert graph.read_text(encoding="utf-8") == story_text.to_svg(told)
    assert run(filled, "why", told.decision_id, "--markdown", "--json").exit_code == 2


def test_search_finds_and_pages(filled: EventLake) -> None:
    first = json.loads(run(filled, "search", "--tool", "issue_refund", "--limit", "5", "--json").output)
    rest = run(filled, "search", "--tool", "issue_refund", "--before", str(first["before"]), "--json").output
    found = [hit["decision_id"] for hit in [*first["hits"], *json.loads(rest)["hits"]]]
    assert (len(found), len(set(found))) == (8, 8)
    text = run(filled, "search", "--outcome", "constrain", "--text", "alert").output
    assert "constrain (mode_draft_write)" in text
    assert "\x1b" not in text
    assert run(filled, "search", "--actor", "nobody").output == "No decision is like that.\n"


def test_bounds_beyond_any_decision_bound_nothing(filled: EventLake) -> None:
    huge = str(10**20)
    found = [
        run(filled, "search", *words, "--json").output
        for words in (["--limit", huge], ["--before", huge], ["--since", "0001-01-01", "--until", "9999-12-31"])
    ]
    assert [len(json.loads(output)["hits"]) for output in found] == [8, 8, 8]
    assert json.loads(run(filled, "search", "--before", f"-{huge}", "--json").output)["hits"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search", "--until", "9999-12-31T23:59:59-14:00"], "cannot be counted in UTC"),
        (["completeness", "--since", "0001-01-01T00:00:00+14:00"], "cannot be counted in UTC"),
        (["completeness", "--deadline", "999999999d"], "365,000 days"),
    ],
)
def test_a_time_that_cannot_be_counted_is_named(filled: EventLake, words: list[str], said: str) -> None:
    found = run(filled, *words)
    assert (found.exit_code, said in found.output) == (2, True)


def test_a_file_that_cannot_be_written_is_not_the_lake_s_fault(filled: EventLake, told: Story, tmp_path: Path) -> None:
    graph = run(filled, "why", told.decision_id, "--graph", str(tmp_path / "no" / "why.svg"))
    (tmp_path / "file").touch()
    exported = run(filled, "export", "--to", str(tmp_path / "file" / "out"))
    for found, name in ((graph, "why.svg"), (exported, "out")):
        assert isinstance(found.exception, UsageError)
        assert f"{name} cannot be written: " in str(found.exception)


def test_completeness_exits_by_what_it_finds(filled: EventLake) -> None:
    assert run(filled, "completeness").exit_code == 1  # a review that nobody had asked for
    assert json.loads(run(filled, "completeness", "--json").output)["state"] == "INCOMPLETE"
    later = run(filled, "completeness", "--since", (NOON + timedelta(minutes=5)).isoformat())
    assert (later.exit_code, later.output.startswith("COMPLETE")) == (0, True)


def rows_of(folder: Path, manifest: ExportManifest) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for part in manifest.parts:
        content = (folder / part.file).read_bytes()
        if manifest.format == "parquet":
            rows += pl.read_parquet(io.BytesIO(content)).to_dicts()
        elif manifest.format == "csv":
            rows += list(csv.DictReader(io.StringIO(content.decode(), newline="")))
        else:
            rows += map(json.loads, content.splitlines())
    return rows


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_an_export_has_every_event_with_its_exact_text(
    filled: EventLake, index: SearchIndex, tmp_path: Path, form: Any
) -> None:
    folder = tmp_path / "export"
    manifest = export(filled.lake, index, DecisionQuery(), folder, form=form, events_version=1, part_decisions=3)
    assert (manifest.complete, manifest.decisions, manifest.events, len(manifest.parts)) == (True, 8, 19, 3)
    rows = rows_of(folder, manifest)
    recorded = filled.lake.scan("events").filter(pl.col("decided_at").is_not_null()).collect()
    assert sorted(row["event"] for row in rows) == sorted(value.decode() for value in recorded["value"])
    assert all(hashlib.sha256(row["event"].encode()).hexdigest() == row["event_sha256"] for row in rows)
    assert verify_export(folder) == manifest
    checked = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, capture_output=True, check=False)  # noqa: S607
    assert checked.returncode == 0
    nasty = next(row["intent"] for row in rows if "script" in row["intent"])
    assert nasty == (f"'{NASTY}" if form == "csv" else NASTY)


def test_an_export_that_was_stopped_goes_on_and_ends_the_same(
    filled: EventLake, index: SearchIndex, tmp_path: Path
) -> None:
    def die(manifest: ExportManifest) -> None:
        if len(manifest.parts) == 2:
            raise KeyboardInterrupt

    folder, other = tmp_path / "stopped", tmp_path / "other"
    arguments: dict[str, Any] = {"form": "jsonl", "events_version": 1, "part_decisions": 2}
    with pytest.raises(KeyboardInterrupt):
        export(filled.lake, index, DecisionQuery(), folder, **arguments, progress=die)
    written = (folder / "part-00001.jsonl").stat().st_mtime_ns
    assert not verify_export(folder).complete
    ended = export(filled.lake, index, DecisionQuery(), folder, **arguments)
    assert (folder / "part-00001.jsonl").stat().st_mtime_ns == written
    assert ended == export(filled.lake, index, DecisionQuery(), other, **arguments)


def test_an_altered_export_is_named_and_another_is_not_overwritten(
    filled: EventLake, index: SearchIndex, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    export(filled.lake, index, DecisionQuery(), folder, form="csv", events_version=1)
    with pytest.raises(OtherExportError, match="another export"):
        export(filled.lake, index, DecisionQuery(tool="x"), folder, form="csv", events_version=1)
    part = folder / "part-00001.csv"
    part.write_bytes(part.read_bytes().replace(b"u-12", b"u-21", 1))
    for call in (
        lambda: verify_export(folder),
        lambda: export(filled.lake, index, DecisionQuery(), folder, form="csv", events_version=1),
    ):
        with pytest.raises(AlteredExportError, match="part-00001"):
            call()
    part.unlink()
    with pytest.raises(AlteredExportError, match="is gone"):
        verify_export(folder)
    with pytest.raises(OtherExportError, match="not empty"):
        export(filled.lake, index, DecisionQuery(), tmp_path, form="csv", events_version=1)


def test_the_command_exports_and_verifies(filled: EventLake, tmp_path: Path) -> None:
    folder = str(tmp_path / "out")
    found = run(filled, "export", "--to", folder, "--format", "csv", "--user", "u-12")
    assert (found.exit_code, "decisions 1, events 2, files 1" in found.output) == (0, True)
    assert CliRunner().invoke(cli, ["audit", "export", "verify", folder, "--json"]).exit_code == 0
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    stopped = CliRunner().invoke(cli, ["audit", "export", "verify", folder, "--json"])
    assert (stopped.exit_code, json.loads(stopped.stdout)["complete"]) == (1, False)
    manifest.write_text("{}")
    altered = CliRunner().invoke(cli, ["audit", "export", "verify", folder])
    assert isinstance(altered.exception, AlteredExportError)
    assert run(filled, "export").exit_code == 2


def test_an_export_of_nothing_is_complete(filled: EventLake, index: SearchIndex, tmp_path: Path) -> None:
    query = DecisionQuery(tool="nobody has it")
    manifest = export(filled.lake, index, query, tmp_path / "none", form="jsonl", events_version=1)
    assert (manifest.complete, manifest.parts) == (True, ())


def test_a_user_whom_only_a_late_decision_names_is_exported(tmp_path: Path) -> None:
    lake = EventLake.at(tmp_path)
    for minute in range(110):
        lake.act(minute, None, reported=False)
    lake.act(110, "bob", reported=False)
    lake.store()
    index = SearchIndex(tmp_path / "index.sqlite")
    manifest = export(
        lake.lake, index, DecisionQuery(), tmp_path / "out", form="jsonl", events_version=index.follow(lake.lake)
    )
    index.close()
    assert [row["user"] for row in rows_of(tmp_path / "out", manifest)] == [*[None] * 110, "bob"]
