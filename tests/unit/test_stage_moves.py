"""`stagekeeper stage` and `stagekeeper emergency`: up on evidence, down always, on record, and obeyed by a router."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from documents import ROOT
from stage_cases import (
    ACTION,
    GATED,
    NAMED,
    WHO,
    changes,
    judged,
    make_home,
    mode,
    run,
    set_to,
    stored,
)
from verdict_cases import a_row, executions

from producers.boundary.flag_edit import FlagFileError
from producers.boundary.flagd_stages import FlagdStages
from producers.boundary.policy_flags import MODE
from producers.boundary.stage_store import StageChange, StageConflictError
from producers.errors import UsageError
from producers.wire.stage import MODE_OF_STAGE, Mode, Stage
from stagekeeper.commands import cli
from stagekeeper.stage_moves import OffTheRecordError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_home(tmp_path, monkeypatch)


def test_a_stage_goes_down_without_lake_or_broker_and_on_record(home: Path) -> None:
    result = set_to("draft_write")
    assert result.exit_code == 0, result.output
    assert "+++" in result.output
    assert mode(home) is Mode.DRAFT_WRITE
    assert set_to("observe_only").exit_code == 0
    first, second = changes(home)
    assert (first.flag_key, first.changed_by, first.reason) == (MODE.key, "maria", "odd refunds")
    assert (first.before, first.after) == ("autonomous or draft_write", "draft_write")
    assert (first.environment, first.workflow, first.tool) == ACTION
    assert (second.before, second.after, second.verdict_id) == ("draft_write", "observe", None)
    assert first.ruleset_sha256 != second.ruleset_sha256
    again = set_to("observe_only")
    assert (again.exit_code, len(changes(home))) == (0, 2)
    assert "already" in again.output


@pytest.mark.parametrize(("stopped", "stage"), [(Mode.OFF, "observe_only"), (Mode.FALLBACK, "search_only")])
def test_whoever_lifts_what_stops_an_action_is_told_so(home: Path, stopped: Mode, stage: str) -> None:
    store = FlagdStages(home / "flags.json")
    store.change(StageChange(ACTION, stopped, store.read(ACTION).version), before_write=lambda _: None)
    refused = set_to("draft_write")
    assert (refused.exit_code, mode(home)) == (1, stopped), "it takes evidence"
    result = set_to(stage)
    assert (result.exit_code, mode(home)) == (0, MODE_OF_STAGE[Stage(stage)])
    assert f"It lifts the mode {stopped.value}," in result.output
    assert "It lifts" not in set_to("observe_only").output


def test_a_stage_goes_down_also_where_nothing_can_be_recorded_and_that_is_said(home: Path) -> None:
    (home / "outbox.db").mkdir()
    result = set_to("search_only")
    assert isinstance(result.exception, OffTheRecordError)
    assert "is not on record" in str(result.exception)
    assert OffTheRecordError.exit_code == 3, "1 says that nothing changed"
    assert mode(home) is Mode.SEARCH_ONLY
    assert "already" in set_to("search_only").output, "what changes nothing needs no record"


@pytest.mark.slow
def test_a_stage_goes_up_only_on_a_promotion_that_leads_there(home: Path) -> None:
    refused = set_to("narrow_autonomy")
    assert (refused.exit_code, mode(home)) == (1, None)
    assert getattr(refused.exception, "exit_code", None) == 30
    assert "there is no lake yet" in str(refused.exception)
    judged(home, a_row(GATED, **executions(377)))
    assert "one stage at a time" in str(set_to("narrow_autonomy").exception), "it stands at draft_write, for most"
    assert not (home / "outbox.db").exists()
    store = FlagdStages(home / "flags.json")
    document = json.loads((home / "flags.json").read_text())
    document["flags"][MODE.key] |= {"targeting": None, "defaultVariant": "approved_external"}
    (home / "flags.json").write_text(json.dumps(document))
    result = json.loads(set_to("narrow_autonomy", "--json").stdout)
    assert (result["stage"], result["before"], result["changed"]) == ("narrow_autonomy", "approved_external", True)
    (change,) = changes(home)
    assert change.verdict_id == change.recommendation_id == result["verdict_id"] is not None
    assert store.read(ACTION).by_entry


@pytest.mark.slow
@pytest.mark.parametrize(("executed", "failed", "exit_code"), [(14, 1, 10), (104, 42, 20)])
def test_what_is_not_shown_or_does_harm_keeps_a_stage_where_it_is(
    home: Path, executed: int, failed: int, exit_code: int
) -> None:
    judged(home, a_row(GATED, **executions(executed, failed)))
    set_to("observe_only")
    before = (home / "flags.json").read_bytes()
    for stage in ("narrow_autonomy", "search_only"):
        refused = set_to(stage)
        assert refused.exit_code == 1
        assert getattr(refused.exception, "exit_code", None) == (exit_code if stage == "narrow_autonomy" else 30)
    assert (home / "flags.json").read_bytes() == before
    overruled = run("gate", "override", *NAMED, "--to", "narrow_autonomy", *WHO, "--expires", "2d")
    assert (overruled.exit_code == 0) is (failed == 1)
    document = json.loads(before)
    document["flags"][MODE.key] |= {"targeting": None, "defaultVariant": "approved_external"}
    (home / "flags.json").write_text(json.dumps(document))
    result = set_to("narrow_autonomy")
    assert (mode(home) is Mode.AUTONOMOUS) is (failed == 1), "an override opens nothing on evident harm"
    if failed == 1:
        signoff_id = overruled.output.split()[1]
        assert (changes(home)[-1].signoff_id, changes(home)[-1].recommendation_id) == (signoff_id, None), result.output


def test_without_a_terminal_nothing_changes_unless_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (home / "flags.json").read_bytes()
    words = ("stage", "set", *NAMED, "--to", "draft_write", *WHO)
    assert isinstance(run(*words).exception, UsageError)
    monkeypatch.setattr("stagekeeper.commands.stage.sys", Terminal())
    assert CliRunner().invoke(cli, list(words), input="n\n").exit_code == 1
    assert (home / "flags.json").read_bytes() == before
    agreed = CliRunner().invoke(cli, list(words), input="y\n")
    assert agreed.exit_code == 0, agreed.output
    assert mode(home) is Mode.DRAFT_WRITE


class Terminal:
    """A `sys` whose standard input is a terminal."""

    class stdin:  # noqa: N801 - the name that it stands for
        @staticmethod
        def isatty() -> bool:
            return True


def test_what_somebody_writes_while_the_question_stands_is_not_overwritten(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / "flags.json"

    def answer_late(*_: object, **__: object) -> bool:
        path.write_text(path.read_text().replace("0.95", "0.9"))
        return True

    monkeypatch.setattr("stagekeeper.commands.stage.sys", Terminal())
    monkeypatch.setattr("stagekeeper.commands.stage.click.confirm", answer_late)
    result = run("stage", "set", *NAMED, "--to", "draft_write", *WHO)
    assert isinstance(result.exception, StageConflictError)
    assert '"strict": 0.9\n' in path.read_text()
    assert (mode(home), changes(home)) == (None, [])


def test_what_nobody_looked_at_is_made_for_the_file_as_it_is_then(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, preview, edits = home / "flags.json", FlagdStages.preview, iter(["0.9", "0.8"])

    def late(store: FlagdStages, change: Any) -> str:
        diff = preview(store, change)
        if (edit := next(edits, None)) is not None:
            path.write_text(path.read_text().replace('"strict": 0.95', f'"strict": {edit}'))
        return diff

    monkeypatch.setattr(FlagdStages, "preview", late)
    assert set_to("search_only").exit_code == 0
    assert mode(home) is Mode.SEARCH_ONLY
    assert '"strict": 0.9' in path.read_text()


def test_stages_are_shown_with_who_says_so_and_the_newest_change(home: Path) -> None:
    set_to("draft_write")
    run("emergency", "fallback", "--workflow", "refunds", *WHO)
    shown = json.loads(run("stage", "show", "--json").stdout)
    (row,) = shown["stages"]
    assert (row["stage"], row["attempt"], row["said_by"], row["emergency"]) == ("draft_write", 1, "entry", True)
    assert (row["newest_change"], shown["file"]) == (None, str(home / "flags.json"))
    stored(home)
    words = run("stage", "show").output
    assert "production/refunds/issue_refund  draft_write, attempt 1, by an entry; EMERGENCY: falls back" in words
    assert "no emergency → fallback for workflow refunds by maria: odd refunds" in words
    other = json.loads(run("stage", "show", *NAMED[:-1], "close_account", "--json").stdout)["stages"]
    assert [(one["stage"], one["said_by"]) for one in other] == [("search_only", "other targeting")]
    assert json.loads(run("stage", "show", "--tool", "none", "--json").stdout)["stages"] == []


def test_a_record_whose_change_never_came_into_force_is_shown_as_such(home: Path) -> None:
    set_to("search_only")
    stored(home)
    assert "NOT IN FORCE" not in run("stage", "show").output
    shutil.copy(ROOT / "examples" / "flags.json", home / "flags.json")
    assert "(NOT IN FORCE)" in run("stage", "show", *NAMED).output


def test_a_reason_does_nothing_to_the_terminal_that_shows_it(home: Path) -> None:
    run("stage", "set", *NAMED, "--to", "search_only", *WHO[:2], "--because", "late\x1b[2J\n\x9b1mend", "--yes")
    stored(home)
    for words in (("stage", "show"), ("stage", "history")):
        assert "late�[2J��1mend" in run(*words).output


def test_the_history_is_the_lake_s_or_else_that_of_the_file(home: Path) -> None:
    set_to("draft_write")
    set_to("search_only")
    run("stage", "set", *NAMED[:-1], "close_account", "--to", "observe_only", *WHO, "--yes")
    rows = json.loads(run("stage", "history", "--tool", "issue_refund", "--json").stdout)
    steps = [("draft_write", "search_only"), ("autonomous or draft_write", "draft_write")]
    assert [(row["before"], row["after"]) for row in rows] == steps
    assert "as the store remembers" in run("stage", "history").output
    stored(home)
    rows = json.loads(run("stage", "history", "--tool", "issue_refund", "--json").stdout)
    assert [(row["before"], row["after"], row["changed_by"]) for row in rows] == [(*step, "maria") for step in steps]


def test_earlier_versions_that_cannot_be_read_are_named(home: Path) -> None:
    (home / ".flags.json.history").write_text("no folder")
    for words in (("stage", "history"), ("stage", "revert", *NAMED, *WHO, "--yes")):
        refused = run(*words).exception
        assert isinstance(refused, FlagFileError)
        assert refused.exit_code == 1, "it is no misuse"
        assert "earlier versions of" in str(refused)


def test_a_stage_goes_back_to_the_one_before_the_last_change(home: Path) -> None:
    nothing = run("stage", "revert", *NAMED, *WHO, "--yes")
    assert "no earlier stage" in str(nothing.exception)
    set_to("draft_write")
    assert "not as one stage" in str(run("stage", "revert", *NAMED, *WHO, "--yes").exception)
    set_to("observe_only")
    refused = run("stage", "revert", *NAMED, *WHO, "--yes")
    assert "may not move up to draft_write" in str(refused.exception)
    assert mode(home) is Mode.OBSERVE
    document = json.loads((home / "flags.json").read_text())
    entry = document["flags"][MODE.key]["targeting"]["if"]
    entry[1] = "autonomous"
    (home / "flags.json").write_text(json.dumps(document))
    set_to("draft_write")
    shutil.rmtree(home / ".flags.json.history")
    stored(home)
    assert "may not move up to narrow_autonomy" in str(run("stage", "revert", *NAMED, *WHO, "--yes").exception)
    assert mode(home) is Mode.DRAFT_WRITE
    store = FlagdStages(home / "flags.json")
    store.change(StageChange(ACTION, Mode.EXPANDED, store.read(ACTION).version), before_write=lambda _: None)
    reverted = run("stage", "revert", *NAMED, *WHO, "--yes", "--json")
    assert (reverted.exit_code, json.loads(reverted.stdout)["after"]) == (0, "draft_write"), reverted.output
