"""The wheel: what is in it, and what a type checker makes of it in somebody else's environment."""

from __future__ import annotations

import site
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest
from documents import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PACKAGES = ("stagekeeper", "producers", "streams", "analytics", "dashboard")

ROUTER = """\
from stagekeeper import Allow, Decision, Recorder, Router, open_router


def decide(router: Router, recorder: Recorder) -> Decision:
    return Decision(result=Allow())


with open_router(source="/routers/one", environment="production") as router:
    name: str = router
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_every_package_is_in_the_wheel_with_its_types_and_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {"stagekeeper/__init__.pyi", "stagekeeper/embedded/demo_gates.yaml"} <= names
    ours = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert ours == set(PACKAGES)
    sources = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources


def test_a_type_checker_sees_the_types_of_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # What the wheel depends on is here already.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    (tmp_path / "router.py").write_text(ROUTER)
    python = str(tmp_path / "venv" / "bin" / "python")
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "router.py"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={"PATH": ""})
    assert checked.stdout.splitlines() == [
        'router.py:9: error: Incompatible types in assignment (expression has type "Router", variable has type "str")  [assignment]',  # noqa: E501
        "Found 1 error in 1 file (checked 1 source file)",
    ], checked.stderr
