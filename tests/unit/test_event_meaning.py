"""What an event counts as is decided once, by the decoder; whatever else stands in its bytes changes nothing."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from lakes_of_events import NOON, EventLake
from verdict_cases import latest_documents

from analytics.judging.judge import Judge
from analytics.lake.table_schemas import EVENTS, SIGNALS
from analytics.lake.tables import SourcePartition
from producers.wire.events import event_to_bytes
from streams.ingest.dedupe import SeenIds
from streams.ingest.fold import Folder, PartitionState
from streams.ingest.records import Batch, PartitionRecords

if TYPE_CHECKING:
    from pathlib import Path

    from producers.wire.events import Event

GATES = """\
version: 1
user_window: 10m
freshness: 2h
gates:
  - name: g
    ladder: [draft_write, approval_gated]
    signals: [{signal: execution_error, role: guardrail, limit: 0.1}]
"""

ODD_JSON = {
    "a number beyond any double": "1e999",
    "an integer of 5,000 digits": "1" * 5_000,
    "deep nesting": "[" * 90 + "]" * 90,
    "the same field twice": '1,"status":"succeeded","status":"failed","y":1',
}


def with_odd_json(event: Event, odd: str) -> bytes:
    """The event's bytes; in the data of an execution the odd JSON stands before and after everything else."""
    document = json.loads(event_to_bytes(event))
    if "status" in document["data"]:
        document["data"] = {"w": "@odd", **document["data"], "x": "@odd"}
    return json.dumps(document).replace('"@odd"', odd).encode()


def judged(history: EventLake, values: dict[str, list[bytes]], gates: Path) -> dict[str, Any]:
    """Fold raw records as the worker does, store them, and judge the one cell they are about."""
    partitions, states = {}, {}
    for topic, raw in values.items():
        partition = SourcePartition("log", topic, 0)
        partitions[partition] = PartitionRecords()
        states[partition] = PartitionState(-1, -1, {}, SeenIds())
        for offset, value in enumerate(raw):
            partitions[partition].add(offset, None, value, None)
    folded = Folder(states, None).fold(Batch(1, partitions), NOON + timedelta(days=9))
    assert not folded.rejects, folded.rejects[0]
    history.lake.append(EVENTS, folded.events)
    history.lake.append(SIGNALS, folded.signals)
    gates.write_text(GATES)
    Judge(history.lake, gates, settle_s=0).tick(NOON + timedelta(minutes=22))
    (verdict,) = latest_documents(history.lake)
    return verdict


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD_JSON.values(), ids=ODD_JSON)
def test_failures_beside_odd_json_are_failures_for_users_too(tmp_path: Path, odd: str) -> None:
    history = EventLake.at(tmp_path)
    for number in range(300):
        history.act(number / 60, f"user-{number}", failed=True)
    history.act(21, "the next")  # its window is still open
    values: dict[str, list[bytes]] = {}
    for event in history.emitter.events:
        values.setdefault(event.topic, []).append(with_odd_json(event, odd))
    verdict = judged(history, values, tmp_path / "gates.yaml")
    (signal,) = verdict["signals"]
    assert verdict["verdict"] == "ROLL_BACK", verdict["summary"]
    assert (signal["by"], signal["windows"], signal["value"]) == ("user", 300, 1.0)
    assert verdict["verdict"] == "ROLL_BACK", verdict["summary"]
