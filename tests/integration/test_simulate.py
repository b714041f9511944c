"""The simulator as a program: exact numbers, a truth that holds in the lake, and a clean end."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from brokers import apache_in_exhaustive
from pipeline import program, running_pipeline
from shared_recordings import ROOT

from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from pathlib import Path

    from brokers import Broker

    from streams.broker import EmbeddedBroker

pytestmark = pytest.mark.integration

GATES = ROOT / "stagekeeper" / "embedded" / "demo_gates.yaml"


def _by_cell(cells: list[dict[str, Any]]) -> dict[Cell, dict[str, Any]]:
    return {Cell(*(cell[name] for name in Cell._fields)): cell for cell in cells}


@apache_in_exhaustive
def test_the_lake_holds_exactly_the_truth_through_a_storm(
    either_broker: Broker, lake_root: str, tmp_path: Path
) -> None:
    with running_pipeline(either_broker, lake_root=lake_root, home=tmp_path / "home", gates=GATES) as pipeline:
        truth = pipeline.run(
            *("simulate", "--scenario", "demo", "--events", "6000", "--seed", "11", "--json"),
            *("--repeats", "0.05", "--malformed", "0.005", "--shuffle", "10m"),
        )
        assert truth["emitted"] == 6_000
        assert truth["records"] == truth["delivered"] == 6_000 + truth["repeats"] + sum(truth["malformed"].values())
        total = sum(truth["malformed"].values())
        pipeline.await_that(
            "every broken record is rejected",
            lambda: bool(pipeline.run("signals", "--json")["rejects"]["total"] >= total),
        )
        pipeline.await_that("the lake covers every record", lambda: pipeline.stored() >= truth["delivered"])
        report = pipeline.run("signals", "--json")

    assert report["rejects"]["by_reason"] == truth["malformed"]
    deserved, found = _by_cell(truth["cells"]), _by_cell(report["signals"])
    assert found.keys() == deserved.keys()
    for cell, signals in found.items():
        assert signals["counts"] == deserved[cell]["counts"], cell
        assert (signals["latency_ms"] or {"known": 0})["known"] == deserved[cell]["latency_known"], cell
        assert (signals["cost_usd"] or {"known": 0})["known"] == deserved[cell]["cost_known"], cell


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_live_run_ends_cleanly_and_its_truth_is_finished(
    broker: EmbeddedBroker, tmp_path: Path, ending: signal.Signals
) -> None:
    truth_file = tmp_path / "truth.json"
    options = ["--rate", "200", "--backfill", "1h", "--backfill-events", "500", "--truth", str(truth_file), "--json"]
    environment = {"STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS": broker.address, "STAGEKEEPER_HOME": str(tmp_path)}
    with subprocess.Popen(
        [program(), "simulate", "--scenario", "healthy", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        deadline, pause = time.monotonic() + 60, threading.Event()
        while not truth_file.exists():  # the truth is written while it runs, so `up` can follow it
            assert process.poll() is None
            assert time.monotonic() < deadline
            pause.wait(0.1)
        assert json.loads(truth_file.read_text())["finished"] is False
        process.send_signal(ending)
        output, progress = process.communicate(timeout=60)
    assert process.returncode == 0, progress
    truth = json.loads(truth_file.read_text())
    assert truth == json.loads(output)
    assert truth["finished"] is True
    assert truth["delivered"] == truth["records"] == truth["emitted"] > 500
    assert truth["last_event_at"] <= truth["updated_at"]
    assert "events/s" in progress


def test_the_truth_lies_under_home_where_no_file_is_named(broker: EmbeddedBroker, tmp_path: Path) -> None:
    environment = {"STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS": broker.address, "STAGEKEEPER_HOME": str(tmp_path)}
    done = subprocess.run(
        [program(), "simulate", "--scenario", "sparse", "--events", "50", "--seed", "3", "--json"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    truth_file = tmp_path / "simulations" / "sparse-seed-3.json"
    assert json.loads(truth_file.read_text()) == json.loads(done.stdout)
    assert str(truth_file) in done.stderr
