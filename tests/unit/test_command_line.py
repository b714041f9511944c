from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from producers.errors import SettingsError
from stagekeeper.commands import COMMANDS, cli
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEAVY = ("faust", "polars", "pandas", "streamlit", "deltalake", "pyarrow", "numpy", "great_expectations", "msgspec")


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_sdk_imports_without_any_analytics_dependency() -> None:
    found = _python(f"import stagekeeper, sys; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert found.stdout.strip() == "[]", found.stderr


def test_help_of_the_whole_loads_no_command() -> None:
    code = (
        "from stagekeeper.commands import cli; import sys; cli(['--help'], standalone_mode=False); "
        f"sys.stderr.write(str([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    assert _python(code).stderr == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"stagekeeper {name}" in result.output, "an example of its use is missing"


def test_a_command_whose_extra_is_missing_says_which_one_to_install() -> None:
    code = "import sys; sys.modules['polars'] = None\nfrom stagekeeper.commands import cli\ncli(['signals'])"
    found = _python(code)
    assert found.returncode == 1
    assert 'pip install "stagekeeper[analytics]"' in found.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("upkeep --dry-run", "maintenance"),
        ("gates lint gates.yaml", "gate lint"),
        ("gate approve --as ada", "recommendations accept"),
        ("gate dismiss", "recommendations dismiss"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(old: str, new: str) -> None:
    result = CliRunner().invoke(cli, old.split())
    assert result.exit_code == 2
    assert f"is called `stagekeeper {new}` now" in result.output
    assert CliRunner().invoke(cli, [*new.split(), "--help"]).exit_code == 0


@pytest.mark.parametrize("words", ["review list", "flags show", "impact"])
def test_what_a_routers_machine_needs_works_without_the_extras(words: str, tmp_path: Path) -> None:
    (tmp_path / "flags.json").write_text('{"flags": {}}')
    code = (
        f"import sys, os; os.chdir({str(tmp_path)!r}); sys.modules.update(dict.fromkeys({HEAVY!r}))\n"
        f"from stagekeeper.commands import cli\ncli({words.split()!r})"
    )
    found = _python(code)
    assert "pip install" not in found.stderr
    assert "Traceback" not in found.stderr or "UsageError: say which decision" in found.stderr


def test_an_unknown_command_is_misuse() -> None:
    assert CliRunner().invoke(cli, ["promote-everything"]).exit_code == 2


def every_command(group: click.Group = cli, *words: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*words, name), command
        if isinstance(command, click.Group):
            yield from every_command(command, *words, name)


ALL = dict(every_command())
# What prints a line for a file and a secret, and what serves a page: nothing that a program reads.
WITHOUT_JSON = {("review", "enrol"), ("page",)}


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_and_subcommand_has_an_example_of_itself(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*words, "--help"])
    assert result.exit_code == 0
    assert f"stagekeeper {' '.join(words)}" in result.output.partition("Examples:")[2]


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_whatever_a_program_may_read_it_gets_as_json(words: tuple[str, ...]) -> None:
    command = ALL[words]
    if isinstance(command, click.Group) and not command.invoke_without_command:
        return
    options = {option for parameter in command.params for option in parameter.opts}
    assert ("--json" in options) is (words not in WITHOUT_JSON)


@pytest.mark.parametrize(
    ("words", "right"),
    [
        ("dcotor", "doctor"),
        ("verdict", "verdicts"),
        ("gate chek", "check"),
        ("gate override lst", "list"),
        ("flags dissable", "disable"),
        ("review aprove", "approve"),
        ("recommendations acept", "accept"),
        ("quality rn", "run"),
        ("stage atempt", "attempt"),
        ("import transcrpt", "transcript"),
        ("verdicts repaly", "replay"),
    ],
)
def test_a_mistyped_command_is_answered_with_the_right_one(words: str, right: str) -> None:
    result = CliRunner().invoke(cli, words.split())
    assert result.exit_code == 2
    assert f"did you mean `{right}`?" in result.output


@pytest.mark.parametrize("named", ["", "  "])
@pytest.mark.parametrize("words", ["signals", "verdicts", "doctor", "gate check", "maintenance", "quality run"])
def test_a_lake_of_nothing_is_misuse(words: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {option for parameter in ALL[tuple(words.split())].params for option in parameter.opts}
    if "--lake" in options:
        result = CliRunner().invoke(cli, [*words.split(), "--lake", named])
        assert result.exit_code == 2
        assert "names nothing" in result.output
    monkeypatch.setenv("STAGEKEEPER_LAKE_ROOT", named)
    with pytest.raises(SettingsError, match="STAGEKEEPER_LAKE_ROOT"):
        Settings.load()


def test_the_version_is_told() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert result.exit_code == 0
    assert version("stagekeeper") in result.output


@pytest.mark.slow
def test_a_scorecard_says_how_far_it_is() -> None:
    result = CliRunner().invoke(cli, ["scorecard", "--runs", "1", "--events", "200", "--scenario", "slow", "--json"])
    assert result.exit_code == 0, result.output
    assert "Scenario slow (1 of 1)" in result.stderr
    assert json.loads(result.stdout)["runs"] == 1


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "arguments",
    [("gate", "lint", "gates.yaml", "--actions-per-minute"), ("simulate", "--rate"), ("impact", "--score")],
    ids=" ".join,
)
def test_what_is_no_finite_number_is_refused(arguments: tuple[str, ...], number: str) -> None:
    result = CliRunner().invoke(cli, [*arguments, number])
    assert result.exit_code == 2
    assert "Invalid value" in result.output
