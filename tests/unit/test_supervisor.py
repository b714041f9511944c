"""Child processes: started with a log, restarted with a reason, stopped in time, and never left behind."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from stagekeeper.embedded import supervisor as supervision
from stagekeeper.embedded.supervisor import Program, Supervisor, await_ready, restart_delay_s
from streams.children import Child, ChildError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SLEEPER = "import signal; print('up', flush=True); signal.pause()"
DEAF = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()"
)


def program(tmp_path: Path, script: str, **environment: str) -> Program:
    return Program("sleeper", (sys.executable, "-c", script), tmp_path / "child.log", environment)


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    made = Supervisor(print)
    yield made
    made.stop_all(0)


async def up(child: Child) -> None:
    await await_ready(child, lambda: child.log.exists() and "up" in child.log.read_text(), timeout_s=20)


async def test_a_child_has_its_own_group_its_log_and_its_environment(tmp_path: Path, supervisor: Supervisor) -> None:
    script = "import os; print(os.environ['WORD']); " + SLEEPER
    child = supervisor.start(program(tmp_path, script, WORD="hidden"))
    await up(child)
    assert os.getpgid(child.process.pid) == child.process.pid != os.getpgid(0)
    assert child.log.read_text() == "hidden\nup\n"
    assert not any("hidden" in str(part) for part in child.process.args)
    assert "hidden" not in repr(program(tmp_path, script, WORD="hidden"))


async def test_each_run_begins_its_own_log(tmp_path: Path, supervisor: Supervisor) -> None:
    wanted = program(tmp_path, SLEEPER)
    wanted.log.write_text("what an earlier run said\n")
    child = supervisor.start(wanted)
    await up(child)
    assert child.log.read_text() == "up\n"


async def test_stopping_asks_first(tmp_path: Path, supervisor: Supervisor) -> None:
    child = supervisor.start(program(tmp_path, SLEEPER))
    await up(child)
    assert supervisor.stop_all(20) == []
    assert not child.running
    assert child.process.returncode == -signal.SIGTERM


async def test_whoever_does_not_go_is_killed(tmp_path: Path, supervisor: Supervisor) -> None:
    child = supervisor.start(program(tmp_path, DEAF))
    await up(child)
    assert supervisor.stop_all(0.2) == ["sleeper"]
    assert child.process.returncode == -signal.SIGKILL


async def test_a_child_that_ends_is_restarted_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delays = []
    monkeypatch.setattr(supervision, "restart_delay_s", lambda ends: delays.append(ends) or 0.0)
    said: list[str] = []
    thrice = asyncio.Event()

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 3:
            thrice.set()

    supervisor = Supervisor(say)
    wanted = program(tmp_path, "import sys; sys.exit('the broker went away')")
    supervisor.start(wanted)
    keeping = asyncio.ensure_future(supervisor.keep(wanted))
    await thrice.wait()
    keeping.cancel()
    supervisor.stop_all(0)
    assert all("sleeper ended with exit status 1: the broker went away" in line for line in said)
    assert all("restarting in 0 s" in line for line in said)
    assert delays == [1, 2, 3]
    assert wanted.log.read_text().count("the broker went away") == 3


async def test_a_child_that_ends_before_it_is_ready_is_named_with_its_last_words(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    child = supervisor.start(program(tmp_path, "import sys; sys.exit('no such gate')"))
    with pytest.raises(ChildError, match=r"sleeper ended with exit status 1: no such gate \(log: .*child\.log\)"):
        await await_ready(child, lambda: False, timeout_s=20)


async def test_a_child_that_is_never_ready_is_given_up(tmp_path: Path, supervisor: Supervisor) -> None:
    child = supervisor.start(program(tmp_path, SLEEPER))
    with pytest.raises(ChildError, match="was not ready in 0 s"):
        await await_ready(child, lambda: False, timeout_s=0)


def test_a_signal_is_named_as_the_reason(tmp_path: Path, supervisor: Supervisor) -> None:
    child = supervisor.start(program(tmp_path, SLEEPER))
    child.process.kill()
    child.process.wait()
    assert "ended with signal SIGKILL" in child.reason()


def test_a_program_that_does_not_exist_is_named(tmp_path: Path, supervisor: Supervisor) -> None:
    child = supervisor.start(Program("ghost", ("/no/such/program",), tmp_path / "ghost.log", {}))
    child.process.wait()
    assert "ghost ended with exit status 1" in child.reason()
    assert "/no/such/program" in child.log.read_text() or "FileNotFoundError" in child.log.read_text()


def test_restarts_slow_down_and_are_bounded() -> None:
    assert [restart_delay_s(ends) for ends in (1, 2, 3, 4, 5, 6, 7, 1_000_000)] == [1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills children with their parent")
def test_children_do_not_survive_a_killed_parent(tmp_path: Path) -> None:
    script = f"""
import pathlib, signal, sys
from streams.children import Child
child = Child.start("c", [sys.executable, "-c", {DEAF!r}], log=pathlib.Path({str(tmp_path / "log")!r}))
print(child.process.pid, flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    ended, _, _ = select.select([child], [], [], 20)
    os.close(child)
    assert ended


async def test_a_repeated_program_runs_again_and_says_only_what_is_remarkable(tmp_path: Path) -> None:
    said: list[str] = []
    made = Supervisor(said.append)
    count = tmp_path / "count"
    script = (
        "import pathlib, sys; path = pathlib.Path(sys.argv[1])\n"
        "path.open('a').write('x'); sys.exit(1 if len(path.read_text()) < 3 else 7)"
    )
    once = Program("checker", (sys.executable, "-c", script, str(count)), tmp_path / "checker.log", {})
    ran = asyncio.Event()
    task = asyncio.create_task(made.repeat(once, 0.01, unremarkable=frozenset({0, 1}), ran=ran))
    try:
        async with asyncio.timeout(30):
            while not said:  # noqa: ASYNC110 - what a callback gathers has nothing to wait on
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        made.stop_all(5)
    assert ran.is_set()
    assert len(count.read_text()) >= 3
    assert "checker" in said[0]
    assert "7" in said[0]
