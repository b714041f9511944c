"""`stagekeeper up` as a person runs it: end to end, stopped in every way, and twice at once."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from up_process import clean_environment, command

from analytics.lake.tables import Lake
from analytics.report import build_report
from analytics.signals.cells import CELL
from analytics.signals.definitions import COUNTERS
from stagekeeper.settings import RUNNING_FILE, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LONGEST_STOP_S = 10.0
LONGEST_START_S = 120.0


@contextmanager
def running(arguments: Sequence[str], **variables: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**clean_environment(), **variables}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def read_until(process: subprocess.Popen[str], wanted: str) -> list[str]:
    """Lines up to the one that holds `wanted`."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if wanted in line:
            return lines
    raise AssertionError(f"ended without {wanted!r}:\n{''.join(lines)}")


def children_of(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)  # noqa: S607
    return [int(line) for line in listed.stdout.split() if int(line) != pid]


def process_of(part: str, lines: Sequence[str]) -> int:
    """The process of the worker or the broker, as the lines of the start name it."""
    line = next(line for line in lines if f"] {part}" in line)
    return int(line.split("process ")[1].split(",")[0])


@contextmanager
def watched(pids: Sequence[int]) -> Iterator[list[int]]:
    handles = [os.pidfd_open(pid) for pid in pids]
    try:
        yield handles
    finally:
        for handle in handles:
            os.close(handle)


def all_end(handles: Sequence[int], within_s: float) -> bool:
    left, deadline_s = set(handles), time.monotonic() + within_s
    while left and (wait_s := deadline_s - time.monotonic()) > 0:
        left -= set(select.select(list(left), [], [], wait_s)[0])
    return not left


def test_sigterm_stops_everything_in_time_and_leaves_no_process(tmp_path: Path) -> None:
    with running(command(tmp_path, "--demo", "--page-port", "0")) as process:
        lines = read_until(process, "] running")
        assert any("open http://127.0.0.1:" in line for line in lines)
        assert Settings(home=tmp_path).running()["lake_root"] == str(tmp_path / "demo" / "lake")
        children = children_of(process.pid)
        assert len(children) >= 4
        with watched([process.pid, *children]) as handles:
            process.terminate()
            assert all_end(handles, LONGEST_STOP_S)
        assert process.wait() == 0
    assert not (tmp_path / RUNNING_FILE).exists()


def test_a_killed_parent_takes_everything_along_and_the_next_start_says_so(tmp_path: Path) -> None:
    with running(command(tmp_path, "--headless")) as process:
        read_until(process, "] running")
        children = children_of(process.pid)
        assert len(children) == 2
        with watched(children) as handles:
            process.kill()
            assert all_end(handles, LONGEST_STOP_S)
    assert (tmp_path / RUNNING_FILE).exists()
    # The next one has no gate file in its folder either, which it says and goes on.
    again = subprocess.run(
        command(tmp_path, "--headless", "--for", "0s", "--json"),
        capture_output=True,
        text=True,
        env=clean_environment(),
        cwd=tmp_path,
        timeout=LONGEST_START_S,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert f"process {process.pid} ended without tidying up" in again.stderr
    assert "verdicts need one" in again.stderr
    assert "none is checked (STAGEKEEPER_RECEIPT_KEY)" in again.stderr
    assert json.loads(again.stdout)["verdicts"] == []


def test_a_taken_port_moves_a_second_one_is_refused_and_a_dead_worker_is_restarted_each_with_its_reason(
    tmp_path: Path,
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        with running(command(tmp_path, "--headless", "--kafka-port", str(taken))) as process:
            lines = read_until(process, "] running")
            assert any(f"port {taken} is taken; using " in line for line in lines)
            second = subprocess.run(
                command(tmp_path, "--headless"), capture_output=True, text=True, env=clean_environment(), check=False
            )
            assert second.returncode == 1
            assert f"`stagekeeper up` runs in {tmp_path} already" in second.stderr
            os.kill(process_of("worker", lines), signal.SIGKILL)
            (said,) = read_until(process, "] restart")[-1:]
            assert "worker ended with signal SIGKILL" in said
            assert "restarting in 1 s" in said
            process.send_signal(signal.SIGINT)
            assert process.wait(LONGEST_STOP_S) == 0


@pytest.mark.exhaustive  # the storm kills workers every day, and counts as this does
@pytest.mark.timeout(300)
def test_a_worker_killed_amid_traffic_loses_and_repeats_nothing(tmp_path: Path) -> None:
    with running(command(tmp_path, "--demo", "--headless", "--for", "15s")) as process:
        lines = read_until(process, "] running")
        read_until(process, "] status")
        os.kill(process_of("worker", lines), signal.SIGKILL)
        read_until(process, "] restart")
        read_until(process, "] settled")
        assert process.wait(LONGEST_STOP_S) == 0
    lake = Lake.existing(str(tmp_path / "demo" / "lake"))
    truth = json.loads((tmp_path / "demo" / "truth.json").read_text())
    counted = {tuple(row.cell): {name: row.counts[name] for name in COUNTERS} for row in build_report(lake).signals}
    assert counted == {tuple(cell[name] for name in CELL): cell["counts"] for cell in truth["cells"]}


def test_a_dead_broker_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    with running(command(tmp_path, "--headless")) as process:
        lines = read_until(process, "] running")
        os.kill(process_of("broker", lines), signal.SIGKILL)
        (said,) = read_until(process, "Error:")[-1:]
        assert "the embedded broker ended with signal SIGKILL" in said
        assert process.wait(LONGEST_STOP_S) == 1


def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path) -> None:
    address = "127.0.0.1:1"
    with running(command(tmp_path, "--headless"), STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS=address) as process:
        said = "".join(read_until(process, "Error:"))
        assert f"no Kafka broker answers at {address}" in said
        assert process.wait(LONGEST_STOP_S) == 1


def test_a_named_gate_file_must_exist(tmp_path: Path) -> None:
    with running(command(tmp_path, "--headless", "--gates", str(tmp_path / "none.yaml"))) as process:
        assert "there is no gate file" in read_until(process, "Error:")[-1]
        assert process.wait(LONGEST_STOP_S) == 2
