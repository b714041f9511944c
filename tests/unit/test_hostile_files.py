"""A file that a person wrote is read or refused by name, whatever is in it; nothing hangs at it, and nothing dies."""

from __future__ import annotations

import json
import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from verdict_cases import NOON, a_row, executions, increments

from analytics.gates.gate_file import GateFile
from analytics.gates.lint import lint
from analytics.judging.judge import Judge
from analytics.lake.tables import Lake
from producers.boundary.authorization import FileAuthorizer
from producers.importers.catalog import Catalog
from producers.importers.transcript import TranscriptError, read_transcript
from producers.strict_yaml import ConfigurationFileError
from stagekeeper.commands import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GATES = "version: 1\ngates: [{name: errors, signals: [{signal: execution_error, role: guardrail, limit: 0.1}]}]"


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(path.parent)  # addresses of sockets are short
        listener.bind(path.name)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_loop(path: Path) -> None:
    path.symlink_to(path.name)


def text(content: str | bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


LAUGHS = "\n".join(["version: 1", "l0: &l0 [ha, ha]", *(f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]" for n in range(1, 40))])
PLACES = {
    "a FIFO": (a_fifo, "no regular file"),
    "a socket": (a_socket, "cannot be read"),
    "a folder": (a_folder, "directory"),
    "a device without end": (a_device, "no regular file"),
    "a loop of links": (a_loop, "cannot be read"),
}
CONTENTS: dict[str, tuple[str | bytes, str]] = {
    "100,000 brackets": ("[" * 100_000, "64 levels"),
    "100,000 braces": ("{a: " * 100_000, "64 levels"),
    "500 levels by indentation": ("".join(f"{' ' * n}a:\n" for n in range(500)), "64 levels"),
    "a list that holds itself": ("version: 1\ngates: &g [*g]", "gates"),
    "a number of 100,000 digits": (f"version: {'9' * 100_000}", "64"),
    "a decimal of 100,000 digits": (f"version: 1.{'9' * 100_000}", "64"),
    "a date that no calendar has": ("version: 2026-13-99", "not YAML"),
    "a list as a key": ("{[a, b]: 1}", "not YAML"),
    "lists that double 40 times": (LAUGHS + "\ngates: *l39", "l0"),
    "keys merged": ("a: &a {b: 1}\nc: {<<: *a}", "merge"),
    "too long": ("# " + "x" * 1_100_000, "1,048,576"),
    "no text": (b"\xff\xfe\x00\xd8", "not YAML"),
    "null characters": ("version: 1\x00", "not YAML"),
}
ALL = {**PLACES, **{name: (text(content), said) for name, (content, said) in CONTENTS.items()}}


@pytest.fixture(params=ALL)
def hostile(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    make, said = ALL[request.param]
    path = tmp_path / "hostile.yaml"
    monkeypatch.chdir(tmp_path)
    make(path)
    return path, said


@pytest.mark.timeout(30)
def test_every_loader_refuses_it_by_name(hostile: tuple[Path, str]) -> None:
    path, said = hostile
    for load in (GateFile.load, Catalog.load, FileAuthorizer.load):
        with pytest.raises(ConfigurationFileError, match=said) as refused:
            load(path)
        assert "hostile.yaml" in str(refused.value)
    faults = linted(path)
    assert said in faults


def linted(path: Path) -> str:
    try:
        return str(lint(path))
    except ConfigurationFileError as error:
        return str(error)


@pytest.mark.timeout(30)
@pytest.mark.slow
def test_the_gate_answers_no_and_the_judge_goes_on_once_it_is_mended(hostile: tuple[Path, str], tmp_path: Path) -> None:
    path, said = hostile
    lake = Lake.open(str(tmp_path / "lake"))
    judge = Judge(lake, path, settle_s=0)
    lake.append("signals", increments(a_row(minute=0, **executions(377, 0))))
    now = NOON + timedelta(minutes=10)
    for _ in range(2):
        assert judge.tick(now) == []
        assert judge.gate_error is not None
        assert said in judge.gate_error
    asked = [
        "--environment",
        "production",
        "--workflow",
        "refunds",
        "--tool",
        "issue_refund",
        "--to",
        "narrow_autonomy",
    ]
    result = CliRunner().invoke(cli, ["gate", "check", *asked, "--lake", lake.root, "--gates", str(path), "--json"])
    if path.is_dir():
        assert result.exit_code == 2  # misuse
    else:
        assert result.exit_code == 30, result.stdout
        assert json.loads(result.stdout)["reasons"][0]["code"] == "error"
    path.rename(tmp_path / "away")
    path.write_text(GATES)
    assert judge.tick(now) != []
    assert judge.gate_error is None


DEEP = "[" * 100_000
TRANSCRIPTS = {
    "100,000 brackets": DEEP,
    "in a line": f'{{"messages": []}}\n{{"messages": {DEEP}',
    "digits": f'{{"messages": [], "reward": {"9" * 10_000}}}',
    "digits in a line": f'{{"messages": []}}\n{{"messages": [], "reward": {"9" * 10_000}}}',
    "900 levels of arguments": json.dumps(
        [[{"role": "assistant", "tool_calls": [{"function": {"name": "t", "arguments": {"a": 0}}}]}]]
    ).replace("0", "[" * 900 + "]" * 900),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("content", TRANSCRIPTS.values(), ids=list(TRANSCRIPTS))
def test_a_transcript_is_read_or_refused_by_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / "recorded.jsonl"
    path.write_text(content)
    assert outcome_of(path) == "as it should be"


def outcome_of(path: Path) -> str:
    try:
        (conversation,) = read_transcript(path).conversations
    except TranscriptError as error:
        return "as it should be" if path.name in str(error) else str(error)
    return "as it should be" if len(conversation.calls) == 1 else "calls are missing"


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", [name for name in PLACES if name != "a folder"])
def test_a_transcript_is_a_regular_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, said = PLACES[name]
    make(tmp_path / "recorded.jsonl")
    with pytest.raises(TranscriptError, match=said):
        read_transcript(tmp_path / "recorded.jsonl")


def test_a_folder_without_transcripts_is_named(tmp_path: Path) -> None:
    with pytest.raises(TranscriptError, match=r"holds no \.json, \.jsonl or \.gz file"):
        read_transcript(tmp_path)
