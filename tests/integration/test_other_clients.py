"""Kafka clients of other languages on Apache Kafka: the programs of examples/clients, as they are."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from documents import ROOT
from fakes import KEY, a_decided, a_receipt, an_executed
from pipeline import running_pipeline

from producers.wire.events import ExecutionStatus, event_to_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from brokers import Broker

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CLIENTS = ROOT / "examples" / "clients"
ACTIONS = 40


def node(folder: Path) -> list[str]:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node is not installed: its client was not tried")
    shutil.copy(CLIENTS / "emit.mjs", folder)
    install = ["npm", "install", "--silent", "--no-save", "--no-package-lock", "kafkajs@2.2.4"]
    subprocess.run(install, cwd=folder, check=True)
    return ["node", str(folder / "emit.mjs")]


def go(folder: Path) -> list[str]:
    compiler = shutil.which("go")
    if compiler is None:
        pytest.skip("Go is not installed: its client was not tried")
    program = folder / "emit"
    subprocess.run([compiler, "build", "-o", str(program), "."], cwd=CLIENTS / "go", check=True)
    return [str(program)]


@pytest.mark.parametrize("client", [node, go])
def test_a_client_of_another_language_emits_exactly_and_reads_what_is_recommended(
    client: object, emptied_kafka: Broker, tmp_path: Path
) -> None:
    assert callable(client)
    program = client(tmp_path)
    began = datetime.now(UTC) - timedelta(minutes=5)
    lines = []
    for number in range(ACTIONS):
        receipt = a_receipt(decision_id=f"decision-{number}", decided_at=began + timedelta(seconds=number))
        status = ExecutionStatus.FAILED if number % 4 == 0 else ExecutionStatus.SUCCEEDED
        lines.append(event_to_bytes(a_decided(receipt, event_id=f"decided-{number}", key=KEY)))
        lines.append(event_to_bytes(an_executed(receipt, status, event_id=f"executed-{number}", key=KEY)))
    gates = ROOT / "examples" / "gates.yaml"
    with running_pipeline(emptied_kafka, lake_root=str(tmp_path / "lake"), home=tmp_path, gates=gates) as pipeline:
        emit = [*program, emptied_kafka.address]
        subprocess.run(emit, input=b"\n".join(lines) + b"\n", check=True, timeout=60)
        pipeline.await_that("all is stored", lambda: pipeline.stored() == len(lines))
        (signals,) = pipeline.run("signals", "--json")["signals"]
        assert {name: signals["counts"][name] for name in ("decisions", "executed", "failed")} == {
            "decisions": ACTIONS,
            "executed": ACTIONS,
            "failed": ACTIONS // 4,
        }

        def recommended() -> set[str]:
            printed = subprocess.run([*emit, "recommendations"], check=True, capture_output=True, timeout=60).stdout
            return {json.loads(line)["data"]["verdict"] for line in printed.splitlines()}

        def judged() -> set[str]:
            return {verdict["verdict"] for verdict in pipeline.verdicts().values()}

        pipeline.await_that("the verdict is read", lambda: bool(judged()) and judged() <= recommended())
