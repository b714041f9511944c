"""Edits of a flag file: nothing of anybody else's is touched, lost or half-written, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from typing import TYPE_CHECKING, Any

import pytest
from documents import ROOT
from stage_cases import ACTION, OTHER, ignore, put

from producers.boundary import flag_edit
from producers.boundary.flag_edit import FlagFileError, FlagText
from producers.boundary.flag_history import KEPT, history_of, versions
from producers.boundary.flagd_attempts import start_attempt
from producers.boundary.flagd_overlays import DENIED, EMERGENCIES, OverlayScope
from producers.boundary.flagd_stages import FlagdStages, settings_of
from producers.boundary.policy_flags import ATTEMPT, DENYLIST, MODE
from producers.boundary.stage_store import ActionName, StageChange, StageConflictError
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    return shutil.copy(ROOT / "examples" / "flags.json", folder / "flags.json")


def crlf(content: bytes) -> bytes:
    return content.replace(b"\n", b"\r\n")


def one_line(content: bytes) -> bytes:
    return json.dumps(json.loads(content), separators=(",", ":")).encode()


def odd(content: bytes) -> bytes:
    text = content.decode().replace('"flags": {', '"flags" :\t{', 1).replace("    ", "\t").replace(": true", ":true")
    text = text.replace('"metadata": {', '"$comment" : "say \\u00fc, \\/ and caf\\u00e9 here",\n"metadata" :{', 1)
    return text.replace('"kind": "temporary"', '"kind" :   "tempor\\u0061ry"').encode() + b"\n\n  "


def marked(content: bytes) -> bytes:
    return b"\xef\xbb\xbf" + content


def targeting_in(content: bytes) -> tuple[tuple[bytes, bytes], bytes]:
    """What stands around the targeting of the mode flag, and the targeting."""
    key = re.compile(r'"targeting"\s*:\s*').search(text := content.decode(), content.decode().index(f'"{MODE.key}"'))
    assert key is not None
    end = json.JSONDecoder().raw_decode(text, key.end())[1]
    return (text[: key.end()].encode(), text[end:].encode()), text[key.end() : end].encode()


SHAPES = pytest.mark.parametrize("shape", [bytes, crlf, one_line, odd, marked])


@SHAPES
def test_what_is_added_and_taken_away_leaves_the_file_byte_for_byte(
    path: Path, shape: Callable[[bytes], bytes]
) -> None:
    path.write_bytes(shape(path.read_bytes()))
    before = path.read_bytes()
    for entry in (OverlayScope(tool="a"), OverlayScope(workflow="ü", account="b"), OverlayScope(tool="c")):
        DENIED.add(path, entry)
    for scope in (OverlayScope(), OverlayScope(tool="issue_refund"), OverlayScope("refunds", "x")):
        EMERGENCIES.add(path, scope)
    assert path.read_bytes() != before
    for scope in (OverlayScope(tool="issue_refund"), OverlayScope("refunds", "x"), OverlayScope()):
        EMERGENCIES.remove(path, scope, before_write=ignore)
    for entry in (OverlayScope(tool="c"), OverlayScope(tool="a"), OverlayScope(workflow="ü", account="b")):
        DENIED.remove(path, entry, before_write=ignore)
    assert path.read_bytes() == before


@SHAPES
def test_an_edit_replaces_the_targeting_of_one_flag_and_no_other_byte(
    path: Path, shape: Callable[[bytes], bytes]
) -> None:
    path.write_bytes(shape(path.read_bytes()))
    before = path.read_bytes()
    put(path, Mode.DRAFT_WRITE)
    put(path, Mode.AUTONOMOUS, OTHER)
    put(path, Mode.SEARCH_ONLY)
    around, own = targeting_in(before)
    after = path.read_bytes()
    assert after.startswith(around[0])
    assert after.endswith(around[1])
    added = after[len(around[0]) : -len(around[1])]
    assert added.count(own) == 1, "somebody's own targeting is not as it was"
    ours = added.replace(own, b"").decode()
    assert all(word in ours for word in (*ACTION, *OTHER, "autonomous", "search_only"))
    assert shape is not crlf or after.count(b"\r\n") == after.count(b"\n")


@SHAPES
def test_an_attempt_keeps_every_other_byte_too(path: Path, shape: Callable[[bytes], bytes]) -> None:
    path.write_bytes(shape(path.read_bytes()))
    before = path.read_bytes()
    assert start_attempt(path, ACTION, before_write=lambda *_: None) == 2
    assert start_attempt(path, OTHER, before_write=lambda *_: None) == 2
    assert start_attempt(path, ACTION, before_write=lambda *_: None) == 3
    after = path.read_bytes()
    start = after.index(f'"{ATTEMPT.key}"'.encode())
    kept = after[:start].rstrip().removesuffix(b",")
    assert before.startswith(kept)
    assert after.endswith(before[len(kept) :]), "more than an addition"
    assert FlagdStages(path).read(ACTION).attempt == 3


def test_a_targeting_of_somebody_s_own_stands_behind_ours_as_it_was_written(path: Path) -> None:
    text = path.read_text()
    start = text.index('"targeting": {', text.index(f'"{MODE.key}"')) + len('"targeting": ')
    own = text[start : text.index('"metadata"', start)].rstrip().rstrip(",")
    put(path, Mode.DRAFT_WRITE)
    EMERGENCIES.add(path, OverlayScope(tool="find_book"))
    assert own in path.read_text()
    store = FlagdStages(path)
    assert store.read(ActionName("production", "any", "find_book")).mode is Mode.SEARCH_ONLY
    assert [setting.action for setting in settings_of(FlagText.load(path))] == [ACTION]


def test_a_targeting_of_somebody_s_own_that_names_the_same_action_gives_way_to_ours(path: Path) -> None:
    document = json.loads(path.read_text())
    named = [{"==": [{"var": name}, value]} for name, value in ACTION._asdict().items()]
    by_account = {"and": [*named, {"==": [{"var": "account"}, "acct-1"]}]}
    document["flags"][MODE.key]["targeting"] = {"if": [by_account, "autonomous", {"and": named}, "expanded", None]}
    path.write_text(json.dumps(document, indent=1))
    setting = FlagdStages(path).read(ACTION)
    assert (setting.mode, set(setting.modes), setting.by_entry) == (None, {Mode.AUTONOMOUS, Mode.EXPANDED}, False)
    put(path, Mode.DRAFT_WRITE)
    setting = FlagdStages(path).read(ACTION)
    assert (setting.mode, setting.by_entry) == (Mode.DRAFT_WRITE, True)
    kept = json.loads(path.read_text())["flags"][MODE.key]["targeting"]["if"][-1]
    assert kept == document["flags"][MODE.key]["targeting"]


def test_a_layer_that_somebody_wrote_with_another_variant_is_not_ours(path: Path) -> None:
    document = json.loads(path.read_text())
    own = {"if": [{"or": [{"and": [{"==": [{"var": "tool"}, "a"]}]}]}, "draft_write", "autonomous"]}
    document["flags"][MODE.key]["targeting"] = own
    document["flags"][DENYLIST.key]["targeting"] = {"if": [own["if"][0], "clear", "denied"]}
    path.write_text(json.dumps(document))
    DENIED.add(path, OverlayScope(tool="b"))
    EMERGENCIES.add(path, OverlayScope(tool="b"))
    flags = FlagText.load(path).flags
    assert flags[MODE.key]["targeting"]["if"][1:] == ["fallback", own]
    assert flags[DENYLIST.key]["targeting"]["if"][1:] == ["denied", document["flags"][DENYLIST.key]["targeting"]]


def test_what_a_person_writes_before_the_record_is_a_conflict(path: Path) -> None:
    store, recorded = FlagdStages(path), list[str]()
    change = StageChange(ACTION, Mode.SEARCH_ONLY, store.read(ACTION).version)
    path.write_text(path.read_text().replace("0.95", "0.9"))
    theirs = path.read_bytes()
    for attempt in (store.preview, lambda change: store.change(change, before_write=recorded.append)):
        with pytest.raises(StageConflictError, match="look at it again"):
            attempt(change)
    assert (path.read_bytes(), recorded) == (theirs, [])


@pytest.mark.parametrize("way", ["in place", "another file"])
def test_what_a_person_writes_in_the_same_moment_is_a_conflict_and_stays(path: Path, way: str) -> None:
    theirs = path.read_bytes().replace(b"0.95", b"0.9")

    def write(_sha256: str) -> None:
        if way == "in place":
            path.write_bytes(theirs)
        else:
            path.with_name("draft").write_bytes(theirs)
            path.with_name("draft").rename(path)

    with pytest.raises(StageConflictError):
        put(path, Mode.SEARCH_ONLY, before_write=write)
    assert path.read_bytes() == theirs
    assert [one.path for one in versions(path)] == [], "a draft that never was in force is no earlier version"
    assert not [*history_of(path).iterdir()]


def test_what_a_person_writes_last_in_the_same_moment_stays_and_the_rest_is_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = path.read_bytes() + b" ", path.read_bytes() + b"  "
    swap = flag_edit._swap  # noqa: SLF001 - the moment that no test can hit
    written = iter([first, second])

    def late(draft: Path, target: Path) -> None:
        if (theirs := next(written, None)) is not None:
            target.write_bytes(theirs)
        swap(draft, target)

    monkeypatch.setattr(flag_edit, "_swap", late)
    with pytest.raises(StageConflictError):
        put(path, Mode.SEARCH_ONLY)
    assert path.read_bytes() == second
    assert [one.path.read_bytes() for one in versions(path)] == [first]


def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> None:
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)


def no_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(flag_edit, "keep", refuse)


@pytest.mark.parametrize("fault", [no_sync, no_keeping])
def test_what_fails_after_the_exchange_is_said_and_denies_no_change(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Callable[..., None]
) -> None:
    before = path.read_bytes()
    fault(monkeypatch)
    put(path, Mode.SEARCH_ONLY)
    assert FlagdStages(path).read(ACTION).mode is Mode.SEARCH_ONLY
    assert [one.read_bytes() for one in history_of(path).iterdir()] == [before]
    assert f"is changed; what it was before lies in {history_of(path)}" in caplog.text


def test_whoever_is_interrupted_after_the_exchange_loses_no_version(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, swap = path.read_bytes(), flag_edit._swap  # noqa: SLF001 - the moment that no test can hit

    def interrupted(draft: Path, target: Path) -> None:
        swap(draft, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(flag_edit, "_swap", interrupted)
    with pytest.raises(KeyboardInterrupt):
        put(path, Mode.SEARCH_ONLY)
    assert FlagdStages(path).read(ACTION).mode is Mode.SEARCH_ONLY
    assert [one.path.read_bytes() for one in versions(path)] == [before]


def test_where_files_cannot_change_places_in_one_step_they_do_in_two(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    monkeypatch.setattr(flag_edit.ctypes, "CDLL", lambda *_, **__: object())
    put(path, Mode.SEARCH_ONLY)
    assert FlagdStages(path).read(ACTION).mode is Mode.SEARCH_ONLY
    assert [one.path.read_bytes() for one in versions(path)] == [before]


def test_the_mode_and_the_owner_of_the_file_stay_and_earlier_versions_are_ours_alone(path: Path) -> None:
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12_345, 23_456)
    before = path.stat()
    put(path, Mode.SEARCH_ONLY)
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino
    (version,) = versions(path)
    assert stat.S_IMODE(version.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(history_of(path).stat().st_mode) == 0o700
    assert (history_of(path).stat().st_uid, history_of(path).stat().st_gid) == (before.st_uid, before.st_gid)


def test_the_last_versions_are_kept_by_time_and_digest(path: Path) -> None:
    seen = []
    for number in range(KEPT + 3):
        seen.append(FlagText.load(path).sha256)
        put(path, Mode.SEARCH_ONLY if number % 2 else Mode.OBSERVE, ActionName("e", "w", f"t-{number}"))
    kept = versions(path)
    assert [one.sha256 for one in kept] == seen[-KEPT:]
    assert [FlagText.load(one.path).sha256 for one in kept] == seen[-KEPT:]
    assert kept == sorted(kept)


def test_a_link_is_followed_and_stays_one(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "flags.json"
    link.symlink_to(path)
    put(link, Mode.OBSERVE)
    assert link.is_symlink()
    assert FlagdStages(path).read(ACTION).mode is Mode.OBSERVE
    assert history_of(path).exists()


def gone(path: Path) -> None:
    path.unlink()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def broken(path: Path) -> None:
    path.write_text('{"flags": {// nothing\n}}')


def disabled(path: Path) -> None:
    path.write_text(json.dumps({"flags": {MODE.key: {"state": "DISABLED", "variants": {}}}}))


def without(path: Path) -> None:
    path.write_text('{"flags": {}}')


def taken(path: Path) -> None:
    history_of(path).write_text("no folder")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (gone, "cannot be read: No such file.*--flags"),
        (fifo, "no regular file"),
        (folder, "no regular file"),
        (broken, "is not a flagd file.*Mend it"),
        (disabled, "set its state to ENABLED"),
        (without, "stagekeeper flags init"),
        (taken, "cannot be written.*as it was"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_a_way_out(
    path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(path)
    before = path.read_bytes() if path.is_file() else None
    store = FlagdStages(path)
    version = FlagText.load(path).sha256 if damage in {disabled, without, taken} else ""
    for attempt in (
        lambda: store.change(StageChange(ACTION, Mode.OBSERVE, version), before_write=pytest.fail),
        lambda: EMERGENCIES.add(path, OverlayScope()),
    ):
        with pytest.raises(FlagFileError, match=message):
            attempt()
    assert before == (path.read_bytes() if path.is_file() else None)


def test_a_folder_that_cannot_be_written_to_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "mkdir", refuse)
    before = path.read_bytes()
    with pytest.raises(FlagFileError, match=r"cannot be written: Permission denied; it is as it was.*leave to write"):
        put(path, Mode.OBSERVE)
    assert path.read_bytes() == before


def test_whoever_cannot_give_the_history_to_the_files_owner_leaves_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(FlagFileError, match="keep the file's owner"):
        put(path, Mode.OBSERVE)
    assert not history_of(path).exists(), "the owner cannot write there"


def test_a_variant_that_is_missing_is_added_and_one_that_means_something_else_is_not_taken(path: Path) -> None:
    document = json.loads(path.read_text())
    variants = document["flags"][MODE.key]["variants"]
    variants["stop"] = variants.pop("fallback")
    del variants["observe"]
    path.write_text(json.dumps(document, indent=2))
    put(path, Mode.OBSERVE)
    EMERGENCIES.add(path, OverlayScope())
    flag = FlagText.load(path).flags[MODE.key]
    assert (flag["variants"]["observe"], flag["targeting"]["if"][1]) == ("observe", "stop")
    flag["variants"]["draft_write"] = "autonomous"
    path.write_text(json.dumps({"flags": {MODE.key: flag}}))
    with pytest.raises(FlagFileError, match="give it another name"):
        put(path, Mode.DRAFT_WRITE)
