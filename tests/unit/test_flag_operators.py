"""Several operators of one flag file, in threads and processes, and what a killed one leaves."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from documents import ROOT
from stage_cases import ACTION, OTHER, put

from producers.boundary import flag_edit
from producers.boundary.flag_edit import FlagFileError, FlagText
from producers.boundary.flag_history import history_of, versions
from producers.boundary.flagd_overlays import DENIED, EMERGENCIES, OverlayScope
from producers.boundary.flagd_stages import FlagdStages, settings_of
from producers.boundary.stage_store import StageConflictError
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return shutil.copy(ROOT / "examples" / "flags.json", tmp_path / "flags.json")


KILLED = """
import os, signal, sys
from pathlib import Path
from producers.boundary import flag_edit
from producers.boundary.flagd_stages import FlagdStages, settings_of
from producers.boundary.stage_store import ActionName, StageChange
from producers.wire.stage import Mode

path, when = Path(sys.argv[1]), sys.argv[2]
store, action = FlagdStages(path), ActionName("production", "refunds", "issue_refund")
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if when == "after":
    flag_edit.keep = die
elif when == "draft":
    flag_edit.os.fchmod = die
elif when == "linked":
    flag_edit.ctypes.CDLL = lambda *_, **__: object()
    rename = Path.rename
    Path.rename = lambda self, to: die() if to == path.resolve() else rename(self, to)
record = die if when == "before" else print
store.change(StageChange(action, Mode.OBSERVE, store.read(action).version), before_write=record)
"""


@pytest.mark.parametrize("when", ["draft", "before", "linked", "after"])
def test_a_process_that_is_killed_leaves_the_old_file_or_the_new_one(path: Path, when: str) -> None:
    before, rights = path.read_bytes(), path.stat().st_mode
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), when], cwd=ROOT, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    setting = FlagdStages(path).read(ACTION)
    if when == "after":
        assert setting.mode is Mode.OBSERVE
    else:
        assert path.read_bytes() == before
    middle = path.read_bytes()
    put(path, Mode.SEARCH_ONLY)
    assert path.stat().st_mode == rights
    kept = [one.path.read_bytes() for one in versions(path)]
    assert kept == ([before, middle] if when == "after" else [before]), "what was in force is kept, and nothing else"
    assert len([*history_of(path).iterdir()]) == len(kept)


def test_an_operator_that_was_stopped_in_an_edit_holds_nobody_up_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(path, Mode.SEARCH_ONLY)
    before = path.read_bytes()
    monkeypatch.setattr(flag_edit, "_PATIENCE_S", 0.05)
    stopped = os.open(history_of(path), os.O_RDONLY)
    try:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        with pytest.raises(FlagFileError, match=r"another process has been editing .* for 0\.05 s.*fuser"):
            put(path, Mode.OBSERVE)
        assert path.read_bytes() == before
        monkeypatch.setattr(flag_edit, "_URGENT_PATIENCE_S", 0.05)
        EMERGENCIES.add(path, OverlayScope())
        DENIED.add(path, OverlayScope(tool="t"))
        assert FlagdStages(path).read(ACTION).emergency
    finally:
        os.close(stopped)
    put(path, Mode.OBSERVE)
    assert FlagdStages(path).read(ACTION).mode is Mode.OBSERVE


def test_what_an_emergency_changes_before_a_stopped_operator_goes_on_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flag_edit, "_URGENT_PATIENCE_S", 0.05)
    before = path.read_bytes()
    with pytest.raises(StageConflictError):
        put(path, Mode.OBSERVE, before_write=lambda _: EMERGENCIES.add(path, OverlayScope()) and None)
    assert FlagdStages(path).read(ACTION).emergency
    assert [one.path.read_bytes() for one in versions(path)] == [before]
    assert len([*history_of(path).iterdir()]) == 1, "a draft is left behind"


def test_an_edit_that_fits_any_content_is_made_for_what_somebody_else_just_wrote(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, swap = path.read_bytes() + b"\n", flag_edit._swap  # noqa: SLF001 - the moment that no test can hit

    def late(draft: Path, target: Path) -> None:
        if target.read_bytes() + b"\n" == theirs:
            target.write_bytes(theirs)
        swap(draft, target)

    monkeypatch.setattr(flag_edit, "_swap", late)
    EMERGENCIES.add(path, OverlayScope())
    assert FlagdStages(path).read(ACTION).emergency
    assert [one.path.read_bytes() for one in versions(path)] == [theirs]


OPERATOR = """
import sys
from pathlib import Path
from producers.boundary.flagd_stages import FlagdStages, settings_of
from producers.boundary.stage_store import ActionName, StageChange, StageConflictError
from producers.wire.stage import Mode

store, name = FlagdStages(Path(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
conflicts = 0
for number in range(10):
    action = ActionName("production", name, f"tool-{number}")
    while True:
        try:
            store.change(StageChange(action, Mode.OBSERVE, store.read(action).version), before_write=lambda _: None)
            break
        except StageConflictError:
            conflicts += 1
print(conflicts)
"""


def test_operators_take_turns_also_where_a_person_replaces_the_file_between_them(path: Path) -> None:
    second = threading.Thread(target=put, args=(path, Mode.OBSERVE, OTHER))

    def meanwhile(_sha256: str) -> None:
        draft = path.with_name("draft")
        draft.write_bytes(path.read_bytes() + b"\n")
        draft.rename(path)
        second.start()
        second.join(0.5)  # it has its turn later; once it had it now, and tidied the first one's draft away

    with pytest.raises(StageConflictError):
        put(path, Mode.SEARCH_ONLY, before_write=meanwhile)
    second.join()
    assert [setting.action for setting in settings_of(FlagText.load(path))] == [OTHER]
    assert path.read_bytes().endswith(b"\n\n")


def test_operators_in_two_processes_lose_none_of_each_others_entries(path: Path) -> None:
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    operators = [subprocess.Popen([sys.executable, "-c", OPERATOR, str(path), name], **pipes) for name in ("a", "b")]
    for operator in operators:
        assert operator.stdout.readline() == "ready\n"
    for operator in operators:
        operator.stdin.write("\n")
        operator.stdin.flush()
    assert [operator.communicate()[0].strip().isdigit() for operator in operators] == [True, True]
    entries = {(setting.action.workflow, setting.action.tool) for setting in settings_of(FlagText.load(path))}
    assert entries == {(name, f"tool-{number}") for name in "ab" for number in range(10)}
