"""Telling that the process which holds a right is gone, and never saying so of one that lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from analytics.lake.leases import JUDGE, Lease, holders, is_gone, this_process
from analytics.lake.tables import Lake

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_proc = pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs Linux: /proc tells who is gone")

HOLD = """
import sys
from analytics.lake.leases import JUDGE, Lease
claim = Lease(sys.argv[1], JUDGE)
print(claim.held(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path: Path) -> str:
    Lake.open(str(tmp_path))
    return str(tmp_path)


@pytest.fixture
def holder(root: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease to judge."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "True\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@needs_proc
@pytest.mark.integration
@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_holder_makes_nobody_wait(root: str, holder: subprocess.Popen[str], reaped: bool) -> None:
    heir = Lease(root, JUDGE, clock=lambda: 0.0)  # time stands still: no lease runs out
    assert not heir.held()
    holder.send_signal(signal.SIGSTOP)
    assert not heir.held()
    holder.kill()
    if reaped:
        holder.wait()
    else:
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its parent has not looked yet
    assert heir.held()


@needs_proc
def test_a_right_says_whose_it_is(root: str) -> None:
    assert Lease(root, JUDGE).held()
    said = holders(Lake.open(root))[JUDGE]
    assert said.process == this_process()
    assert " " not in (said.holder or " ")
    assert not is_gone(said.process)


@needs_proc
def test_who_has_the_number_of_a_dead_one_is_another() -> None:
    where, _, began = this_process().rpartition("/")
    assert is_gone(f"{where}/{int(began) - 1}")


@pytest.mark.parametrize(
    "name", ["", "x", "boot/1/2/3", "a-host:17", "//-1/3", "/", "///", "boot/4026531836/notanumber/9"]
)
def test_of_whom_nobody_here_can_tell_nothing_is_said(name: str) -> None:
    assert not is_gone(name)


@needs_proc
def test_a_process_elsewhere_is_not_looked_for_here() -> None:
    boot, namespace, _, began = this_process().split("/")
    nobody = 2**22 + 1  # above any process id
    assert is_gone(f"{boot}/{namespace}/{nobody}/{began}")
    assert not is_gone(f"{boot}/{int(namespace) + 1}/{nobody}/{began}")
    assert not is_gone(f"another-boot/{namespace}/{nobody}/{began}")
