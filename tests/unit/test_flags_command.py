from __future__ import annotations

import json
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import contract, evaluated
from click.testing import CliRunner
from documents import ROOT
from lakes_of_events import EventLake
from stage_cases import ignore

from producers.boundary.flag_edit import FlagFileError, FlagText
from producers.boundary.flagd_overlays import DENIED, OverlayScope
from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import DENYLIST, MODE, flag_context
from producers.delivery.outbox import Outbox, OutboxError
from producers.errors import UsageError
from producers.wire.events import PolicyChanged, event_from_bytes
from stagekeeper.commands import cli
from stagekeeper.stage_moves import OffTheRecordError

if TYPE_CHECKING:
    from pathlib import Path

WHO = ("--as", "ada", "--because", "refunds go out twice")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "examples" / "flags.json", tmp_path / "flags.json")
    monkeypatch.setenv("STAGEKEEPER_HOME", str(tmp_path))
    monkeypatch.setenv("STAGEKEEPER_FLAG_FILE", str(tmp_path / "flags.json"))
    monkeypatch.setenv("STAGEKEEPER_AUTHORIZATION_FILE", str(ROOT / "examples" / "authorization.yaml"))
    monkeypatch.delenv("STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    return tmp_path


def run(*words: str) -> Any:
    return CliRunner().invoke(cli, ["flags", *words])


def denied(home: Path, **asked: Any) -> bool:
    held = FlagEvaluator.from_file(home / "flags.json")
    try:
        return evaluated(held, DENYLIST, flag_context(contract(**asked)))[0] is True
    finally:
        held.close()


def changes(home: Path) -> list[PolicyChanged]:
    with Outbox(home / "outbox.db") as outbox:
        events = [event_from_bytes(record.value) for record in outbox.after(0, 100)]
    assert all(isinstance(event, PolicyChanged) for event in events)
    return events  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("words", "off", "still_on"),
    [
        (["--tool", "refund"], [{"tool": "refund"}, {"tool": "refund", "account": "a"}], [{"tool": "other"}]),
        (["--workflow", "support"], [{"tool": "refund"}], []),
        (["--account", "a"], [{"account": "a"}], [{"account": "b"}, {}]),
        (
            ["--tool", "refund", "--account", "a"],
            [{"tool": "refund", "account": "a"}],
            [{"tool": "refund"}, {"account": "a"}],
        ),
        (["--tool", "refund", "--workflow", "elsewhere"], [], [{"tool": "refund"}]),
    ],
)
def test_exactly_what_is_named_is_switched_off_and_on_again(
    home: Path, words: list[str], off: list[Any], still_on: list[Any]
) -> None:
    assert run("disable", *words, *WHO).exit_code == 0
    assert [denied(home, **asked) for asked in off] == [True] * len(off)
    assert [denied(home, **asked) for asked in still_on] == [False] * len(still_on)
    assert run("enable", *words, *WHO).exit_code == 0
    assert [denied(home, **asked) for asked in off] == [False] * len(off)
    assert (home / "flags.json").read_bytes() == (ROOT / "examples" / "flags.json").read_bytes(), "it left a trace"


def test_each_switch_is_on_record_with_who_why_and_the_rules_that_follow(home: Path) -> None:
    run("disable", "--tool", "issue_refund", "--account", "acct-9", *WHO)
    run("enable", "--tool", "issue_refund", "--account", "acct-9", "--as", "bob", "--because", "mended")
    first, second = (event.data for event in changes(home))
    assert (first.flag_key, first.changed_by, first.reason) == (DENYLIST.key, "ada", "refunds go out twice")
    assert (first.tool, first.before, first.after) == (
        "issue_refund",
        "clear",
        "denied for tool issue_refund, account acct-9",
    )
    assert (second.changed_by, second.reason, second.after) == ("bob", "mended", "clear")
    assert first.ruleset_sha256 != second.ruleset_sha256


def test_switching_twice_changes_nothing_more_and_what_is_off_is_on_record_at_last(home: Path) -> None:
    (home / "outbox.db").mkdir()
    assert run("disable", "--tool", "t", *WHO).exception.exit_code == OffTheRecordError.exit_code == 3
    before = (home / "flags.json").read_bytes()
    (home / "outbox.db").rmdir()
    assert "already" in run("disable", "--tool", "t", *WHO).output
    assert (home / "flags.json").read_bytes() == before
    run("enable", "--tool", "t", *WHO)
    assert "is not switched off" in run("enable", "--tool", "t", *WHO).output
    assert [(one.data.before, one.data.after) for one in changes(home)] == [
        ("denied for tool t", "denied for tool t"),
        ("denied for tool t", "clear"),
    ]


def test_targeting_that_was_there_before_is_obeyed_after_the_entries(home: Path) -> None:
    path = home / "flags.json"
    document = FlagText.load(path).document
    document["flags"][DENYLIST.key]["targeting"] = {"if": [{"==": [{"var": "user"}, "eve"]}, "denied", "clear"]}
    path.write_text(json.dumps(document))
    before = FlagText.load(path).document
    DENIED.add(path, OverlayScope(tool="a"))
    DENIED.add(path, OverlayScope(tool="b"))
    assert DENIED.scopes(FlagText.load(path)) == [OverlayScope(tool="a"), OverlayScope(tool="b")]
    held = FlagEvaluator.from_file(path)
    try:
        assert evaluated(held, DENYLIST, ("eve", (("tool", "c"), ("user", "eve"))))[0] is True
        assert evaluated(held, DENYLIST, ("ada", (("tool", "c"), ("user", "ada"))))[0] is False
        assert evaluated(held, DENYLIST, ("ada", (("tool", "b"), ("user", "ada"))))[0] is True
    finally:
        held.close()
    DENIED.remove(path, OverlayScope(tool="a"), before_write=ignore)
    DENIED.remove(path, OverlayScope(tool="b"), before_write=ignore)
    assert FlagText.load(path).document == before


def test_nothing_is_released_off_the_record(home: Path) -> None:
    path = home / "flags.json"
    DENIED.add(path, OverlayScope(tool="t"))
    before = path.read_bytes()

    def full(_sha256: str) -> None:
        raise OutboxError("the disk is full")

    with pytest.raises(OutboxError):
        DENIED.remove(path, OverlayScope(tool="t"), before_write=full)
    assert path.read_bytes() == before


def test_operators_at_the_same_time_lose_none_of_each_others_entries(home: Path) -> None:
    path = home / "flags.json"
    threads = [threading.Thread(target=DENIED.add, args=(path, OverlayScope(tool=f"t-{n}"))) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.tool for entry in DENIED.scopes(FlagText.load(path))} == {f"t-{n}" for n in range(12)}
    assert {each.name for each in home.iterdir()} == {"flags.json", ".flags.json.history"}
    assert len([*(home / ".flags.json.history").iterdir()]) == 12, "a draft is left behind"


def test_the_flags_are_shown_with_owners_and_entries(home: Path) -> None:
    run("disable", "--tool", "t", *WHO)
    said = run("show").output
    assert (
        'agent-action-mode                   ENABLED, default "search_only", targeted; owner support-platform' in said
    )
    assert "switched off: tool t" in said
    answer = json.loads(run("show", "--json").output)
    assert answer["switched_off"] == [{"tool": "t", "workflow": None, "account": None}]
    assert answer["missing"] == []


def test_a_missing_flag_is_shown_with_the_value_that_applies(home: Path) -> None:
    path = home / "flags.json"
    document = FlagText.load(path).document
    del document["flags"][MODE.key]
    path.write_text(json.dumps(document))
    assert 'agent-action-mode                   missing: "search_only" applies' in run("show").output
    assert json.loads(run("show", "--json").output)["missing"] == [MODE.key]


@pytest.mark.parametrize("missing", ["--as", "--because"])
def test_who_and_why_are_required(home: Path, missing: str) -> None:
    words = {"--as": "ada", "--because": "x"}
    del words[missing]
    said = run("disable", "--tool", "t", *(part for pair in words.items() for part in pair))
    assert said.exit_code == 2
    assert not denied(home, tool="t")


@pytest.mark.parametrize("words", [("", "x"), ("ada\n", "x"), ("ada", " "), ("ada", "x" * 4_001)])
def test_words_that_cannot_stay_on_record_switch_nothing(home: Path, words: tuple[str, str]) -> None:
    said = run("disable", "--tool", "t", "--as", words[0], "--because", words[1])
    assert said.exit_code == 2, said.output
    assert not denied(home, tool="t")


def test_a_switch_for_everything_is_refused(home: Path) -> None:
    assert isinstance(run("disable", *WHO).exception, UsageError)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (None, "has no flag"),
        ({"state": "DISABLED", "variants": {"d": True, "c": False}}, "is disabled"),
        ({"state": "ENABLED", "variants": {"c": False}, "defaultVariant": "c"}, "no variant whose value is true"),
    ],
)
def test_a_file_in_which_nothing_can_be_switched_is_named(home: Path, flag: Any, said: str) -> None:
    path = home / "flags.json"
    document = FlagText.load(path).document
    document["flags"].pop(DENYLIST.key)
    if flag is not None:
        document["flags"][DENYLIST.key] = flag
    path.write_text(json.dumps(document))
    before = path.read_bytes()
    with pytest.raises(FlagFileError, match=said):
        DENIED.add(path, OverlayScope(tool="t"))
    assert path.read_bytes() == before


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FlagFileError, match="STAGEKEEPER_FLAG_FILE"):
        DENIED.add(tmp_path / "none.json", OverlayScope(tool="t"))


def test_a_tool_that_nobody_has_seen_is_switched_off_only_anyway(home: Path) -> None:
    unknown = run("disable", "--tool", "issue_refnd", *WHO)
    assert unknown.exit_code == 0
    assert "there is no lake here" in unknown.output
    history = EventLake.at(home)
    history.act(0, "ada")
    history.store()
    assert run("disable", "--tool", "issue_refund", *WHO).exit_code == 0
    assert run("disable", "--tool", "issue_refnd", "--account", "a", *WHO).exit_code == 0, "the flag file knows it"
    slip = run("disable", "--tool", "isue_refund", *WHO)
    assert isinstance(slip.exception, UsageError)
    assert "did you mean `issue_refund`?" in str(slip.exception)
    assert "isue_refund" not in (home / "flags.json").read_text()
    assert run("disable", "--tool", "isue_refund", "--anyway", *WHO).exit_code == 0
    assert denied(home, tool="isue_refund")


def test_a_lake_that_cannot_be_read_holds_up_no_emergency_stop(home: Path) -> None:
    (home / "lake" / "events" / "_delta_log").mkdir(parents=True)
    (home / "lake" / "events" / "_delta_log" / f"{0:020}.json").write_text("{")
    stopped = run("disable", "--tool", "unheard_of", *WHO)
    assert stopped.exit_code == 0
    assert "is not known" in stopped.output
