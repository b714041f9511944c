from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from stagekeeper.commands import COMMANDS, cli

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


def test_an_unknown_command_is_misuse() -> None:
    assert CliRunner().invoke(cli, ["promote-everything"]).exit_code == 2
