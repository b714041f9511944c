"""The storm of `tests/storm.py` at a size for every day; run the script itself for an hour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import object_store
import pytest
from object_store import ObjectStore
from storages import Bucket, Folder
from storm import storm

from streams.apache_broker import ApacheBroker

if TYPE_CHECKING:
    from pathlib import Path

    from brokers import Broker

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.mark.parametrize(
    ("events", "kills"),
    [
        pytest.param(20_000, 2, marks=pytest.mark.timeout(900), id="every day"),
        pytest.param(1_000_000, 20, marks=[pytest.mark.timeout(5400), pytest.mark.exhaustive], id="full size"),
    ],
)
def test_everything_is_counted_once_whatever_happens_to_the_workers(
    either_broker: Broker, tmp_path: Path, events: int, kills: int
) -> None:
    said: list[str] = []
    aftermath = storm(
        either_broker, tmp_path, Folder(tmp_path / "lake"), events=events, kills=kills, seed=20_260_314, say=said.append
    )
    assert aftermath.differences == [], "\n".join(said)
    assert aftermath.ground_truth.emitted == events
    assert aftermath.ground_truth.repeats > events * 0.02
    assert aftermath.ground_truth.malformed.total() > events * 0.0005
    tools = {cell.tool: counted.counts["decisions"] for cell, counted in aftermath.ground_truth.cells.items()}
    assert max(tools.values()) > 0.4 * sum(tools.values())
    expected = {"kill": kills, "zombie": 1, "second_worker": 1, "refusal": 1, "kill_amid_a_change": 1}
    if isinstance(either_broker, ApacheBroker):
        expected["restart_of_the_broker"] = 1
    assert aftermath.done == expected


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_everything_is_counted_once_in_a_bucket_whose_store_goes_away_meanwhile(
    emptied_kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := object_store.missing():
        pytest.skip(reason)
    store, said = ObjectStore.start(tmp_path / "store"), list[str]()
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    try:
        aftermath = storm(emptied_kafka, tmp_path, Bucket(store), events=20_000, kills=2, seed=7, say=said.append)
    finally:
        store.stop()
    assert aftermath.differences == [], "\n".join(said)
    assert aftermath.ground_truth.emitted == 20_000
    assert aftermath.done["kill"] == 2
    assert aftermath.done["refusal"] == 1
