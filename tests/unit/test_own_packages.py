"""A user's own packages beside ours: what works, and which error says what does not."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from documents import ROOT

from stagekeeper.embedded import programs
from stagekeeper.own_packages import OWN_PACKAGES, require_own_packages
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def a_package(folder: Path, name: str) -> None:
    """A user's package that must never be run for ours."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("OWNER = 'the user'")


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a user's folder, with ours further back on the path."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", ["analytics", "streams", "dashboard"])
def test_a_router_runs_beside_a_users_package_of_the_same_name(tmp_path: Path, name: str) -> None:
    a_package(tmp_path, name)
    code = f"import stagekeeper as sk, {name}; print({name}.OWNER, sk.Router.__name__, sk.open_router.__name__)"
    assert python(tmp_path, "-c", code).stdout == "the user Router open_router\n"


def test_the_command_line_names_the_package_that_stands_in_its_way(tmp_path: Path) -> None:
    a_package(tmp_path, "analytics")
    shadowed = python(tmp_path, "-m", "stagekeeper", "signals")
    assert shadowed.returncode == 1
    assert (
        f"Error: `analytics` is {tmp_path / 'analytics' / '__init__.py'}, and not Stagekeeper's own" in shadowed.stderr
    )
    assert "python -P" in shadowed.stderr
    assert python(tmp_path, "-P", "-m", "stagekeeper", "signals", "--help").returncode == 0


def test_a_foreign_producers_is_an_error_at_import(tmp_path: Path) -> None:
    a_package(tmp_path, "producers")
    shadowed = python(tmp_path, "-c", "import stagekeeper")
    assert "ShadowedPackageError: `producers` is" in shadowed.stderr


def test_a_folder_that_is_no_package_shadows_nothing(tmp_path: Path) -> None:
    for name in OWN_PACKAGES:
        (tmp_path / name).mkdir()
    assert python(tmp_path, "-m", "stagekeeper", "signals", "--help").returncode == 0


def test_our_own_packages_are_found() -> None:
    require_own_packages(*OWN_PACKAGES)


def test_what_up_starts_does_not_look_into_the_working_folder(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    started = [
        programs.worker(settings, tmp_path / "ready", enacts=True),
        programs.quality(settings),
        programs.page(settings, 1),
    ]
    assert [program.command[1] for program in started] == ["-P"] * 3
