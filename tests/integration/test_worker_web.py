"""What a worker's web server says of itself, and to whom."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Producer
from workers import WorkerProcess, await_that

from producers.wire.topics import DECISIONS

if TYPE_CHECKING:
    from pathlib import Path

    from streams.broker import EmbeddedBroker

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def ask(address: str, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{address}/{path}", headers=headers)  # noqa: S310 - our own address
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_worker_is_ready_only_while_it_does_its_work(
    own_broker: EmbeddedBroker, lake_root: str, tmp_path: Path
) -> None:
    gates = tmp_path / "gates.yaml"
    gates.write_text("version: 1\ngates: []\n")
    environment = {"STAGEKEEPER_GATE_FILE": str(gates)}
    worker = WorkerProcess(tmp_path, own_broker, lake_root, environment=environment)
    ready_file = tmp_path / "ready-0.json"
    try:
        web = str(worker.await_ready()["web"])
        await_that(lambda: ask(web, "readyz")[0] == 200, "the worker to be ready")
        assert ask(web, "livez") == (200, {"live": True})
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            for path in ("livez", "readyz", "health", "verdicts"):
                assert ask(web, path, **headers)[0] == 403
        producer = Producer({"bootstrap.servers": own_broker.address})
        producer.produce(DECISIONS, b"no event", key=b"d-1")
        assert producer.flush(30) == 0
        await_that(lambda: ask(web, "health")[1].get("rejects") == 1, "the reject on the page")
        assert list(ask(web, "health")[1]["reasons"].values()) == [1]
        gates.write_text("gates: [")
        await_that(lambda: ask(web, "readyz")[0] == 503, "the gate file to be missed")
        assert "cannot be read" in str(ask(web, "readyz")[1]["faults"]) or "gates.yaml" in str(ask(web, "readyz")[1])
        gates.write_text("version: 1\ngates: []\n")
        await_that(lambda: ask(web, "readyz")[0] == 200, "the gate file to be mended")
        own_broker.stop()
        await_that(lambda: ask(web, "readyz")[0] == 503, "the broker to be missed")
        assert ask(web, "livez")[0] == 200, "it waits for the broker"
        worker.stop()
        assert not ready_file.exists()
        lines = worker.log.read_text().splitlines()
        records = [json.loads(line) for line in lines if line.startswith('{"at"')]
        said = " | ".join(record["message"] for record in records)
        for message in (
            "starts: process",
            "ready: reads log",
            "judges from now on",
            "the broker does not answer",
            "stops",
        ):
            assert said.count(message) == 1, said
        assert all(record["at"].endswith("+00:00") for record in records)
        assert not [line for line in lines if "rdkafka" in line or "aiokafka" in line], "its chatter is one line"
    finally:
        worker.kill()
