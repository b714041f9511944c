from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from stagekeeper.commands import COMMANDS, cli

if TYPE_CHECKING:
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
