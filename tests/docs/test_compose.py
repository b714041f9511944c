"""The compose file and the image, as far as they can be checked without building anything."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from documents import ROOT

from stagekeeper.commands import COMMANDS
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_kafka_worker_and_page_are_there_with_healthchecks() -> None:
    assert set(COMPOSE["services"]) == {"kafka", "worker", "data-worker", "page", "service"}
    assert all("test" in service["healthcheck"] for service in COMPOSE["services"].values())
    for name in ("worker", "data-worker", "page", "service"):
        assert COMPOSE["services"][name]["command"][0] in COMMANDS


def test_ports_are_published_on_the_loopback_interface_only() -> None:
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_named_volume_is_declared_and_used() -> None:
    mounts = [mount for service in COMPOSE["services"].values() for mount in service["volumes"]]
    named = {mount.partition(":")[0] for mount in mounts if not mount.startswith((".", "$"))}
    assert named == set(COMPOSE["volumes"])


def test_services_wait_for_what_they_need() -> None:
    services = COMPOSE["services"]
    assert services["worker"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert services["data-worker"]["depends_on"] == services["worker"]["depends_on"]
    assert services["page"]["depends_on"] == {"worker": {"condition": "service_healthy"}}


def test_images_are_pinned_and_kafka_runs_without_a_zookeeper() -> None:
    kafka = COMPOSE["services"]["kafka"]
    assert re.fullmatch(r"apache/kafka:4\.\d+\.\d+", kafka["image"])
    assert kafka["environment"]["KAFKA_PROCESS_ROLES"] == "broker,controller"
    assert kafka["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_the_environment_is_made_of_settings() -> None:
    known = {f"STAGEKEEPER_{name.upper()}" for name in Settings.model_fields}
    for name in ("worker", "page", "service"):
        assert set(COMPOSE["services"][name]["environment"]) <= known


def test_the_default_gate_file_is_there() -> None:
    (default,) = set(re.findall(r"\$\{GATE_FILE:-(.+?)\}", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    assert (ROOT / default).is_file()


def test_the_image_installs_the_lock_and_runs_as_nobody_special() -> None:
    assert "--require-hashes --no-deps -r requirements-image.lock" in DOCKERFILE
    assert re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE) == ["stagekeeper"]
    assert all(
        f"!{name}" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        for name in (
            "pyproject.toml",
            "requirements-image.lock",
            "README.md",
            "stagekeeper",
            "producers",
            "streams",
            "analytics",
            "dashboard",
        )
    )


def test_the_image_runs_the_very_releases_that_are_tested_and_no_tool_of_ours() -> None:
    tested, installed = (_pinned(ROOT / name) for name in ("requirements.lock", "requirements-image.lock"))
    assert installed.items() <= tested.items()
    assert {"streamlit", "faust-streaming", "deltalake"} <= set(installed)
    assert not {"pytest", "mypy", "ruff", "uv", "langchain-core", "playwright"} & set(installed)
    removed = set(re.findall(r"pip uninstall --yes (.+)", DOCKERFILE)[0].split())
    assert removed == {"hatchling", "pathspec", "pluggy", "trove-classifiers"}
    assert removed <= set(installed)


def _pinned(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^(\S+?)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE))


def test_compose_itself_accepts_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker with its compose plugin is not installed: the file was only checked by hand-written rules")
    checked = subprocess.run(
        [docker, "compose", "-f", str(ROOT / "docker-compose.yml"), "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
