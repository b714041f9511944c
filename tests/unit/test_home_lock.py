from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from producers.errors import StagekeeperError, UsageError
from stagekeeper.embedded.home_lock import AlreadyRunningError, lock_home
from stagekeeper.embedded.programs import fresh_demo_folder
from stagekeeper.settings import RUNNING_FILE, Settings

if TYPE_CHECKING:
    from pathlib import Path

STATED = {"kafka_bootstrap_servers": "127.0.0.1:9999", "lake_root": "/lake", "gate_file": "/gates.yaml"}


def test_what_is_announced_is_what_other_commands_read(tmp_path: Path) -> None:
    with lock_home(tmp_path) as lock:
        assert lock.stale_pid is None
        lock.announce(STATED)
        running = Settings(home=tmp_path).running()
        assert {name: str(value) for name, value in running.items()} == STATED
        assert json.loads((tmp_path / RUNNING_FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / RUNNING_FILE).exists()


def test_a_second_one_in_the_same_home_is_refused_by_name(tmp_path: Path) -> None:
    with lock_home(tmp_path) as lock:
        lock.announce(STATED)
        with pytest.raises(AlreadyRunningError, match=rf"process {os.getpid()}.*--home"), lock_home(tmp_path):
            pass
        assert (tmp_path / RUNNING_FILE).exists()


def test_two_homes_do_not_meet(tmp_path: Path) -> None:
    with lock_home(tmp_path / "one"), lock_home(tmp_path / "two") as lock:
        assert lock.stale_pid is None


def test_a_file_left_behind_is_replaced_even_when_its_process_id_lives(tmp_path: Path) -> None:
    (tmp_path / RUNNING_FILE).write_text(json.dumps({**STATED, "pid": os.getpid()}))
    with lock_home(tmp_path) as lock:
        assert lock.stale_pid == os.getpid()
        assert not (tmp_path / RUNNING_FILE).exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}'])
def test_a_broken_file_left_behind_is_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / RUNNING_FILE).write_text(content)
    with lock_home(tmp_path) as lock:
        lock.announce(STATED)
        assert Settings(home=tmp_path).running()["lake_root"] == "/lake"


def test_the_claim_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import pathlib, signal, sys; from stagekeeper.embedded.home_lock import lock_home\n"
        "with lock_home(pathlib.Path(sys.argv[1])) as lock:\n"
        "    lock.announce({'lake_root': 'x'}); print('held', flush=True); signal.pause()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyRunningError, match=f"process {holder.pid}"), lock_home(tmp_path):
            pass
        holder.kill()
    with lock_home(tmp_path) as lock:
        assert lock.stale_pid == holder.pid


def test_a_home_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StagekeeperError, match="cannot be written"), lock_home(tmp_path / "file"):
        pass


def test_a_demo_folder_is_made_anew_only_when_it_is_ours(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    assert not fresh_demo_folder(folder)
    (folder / "lake").mkdir()
    assert fresh_demo_folder(folder)
    assert not (folder / "lake").exists()


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is left alone"):
        fresh_demo_folder(folder)
    assert (folder / "thesis.txt").read_text() == "years of work"
