from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from lakes_of_events import NOON, EventLake

from streams.control.number_watch import NumberWatch

if TYPE_CHECKING:
    from pathlib import Path

READ = NOON + timedelta(days=9)  # when the lake's events are read


@pytest.fixture
def lake(tmp_path: Path) -> EventLake:
    return EventLake.at(tmp_path)


def test_a_router_whose_events_do_not_come_is_named_once(lake: EventLake, caplog: pytest.LogCaptureFixture) -> None:
    watch = NumberWatch(lake.lake.root)
    assert watch.lines() == []
    watch.look(READ)
    for minute in range(3):
        lake.act(minute, "u-1")
    late = lake.emitter.events.pop(3)
    lake.store()
    watch.look(READ + timedelta(minutes=1))
    assert "stagekeeper_events_missing 0" in watch.lines()
    for minute in (3, 4):
        watch.look(READ + timedelta(minutes=minute))
    assert "stagekeeper_events_missing 1" in watch.lines()
    assert 'stagekeeper_events_missing_by_source{source="/tests"} 1' in watch.lines()
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [error.partition(" (")[0] for error in errors] == ["router /tests: 1 of its events never came"]
    lake.emitter.events.append(late)  # from an outbox, much later
    lake.store()
    watch.look(READ + timedelta(minutes=9))
    assert "stagekeeper_events_missing 0" in watch.lines()


def test_a_repeat_that_was_dropped_is_not_missing(lake: EventLake) -> None:
    watch = NumberWatch(lake.lake.root)
    receipt = lake.act(0, "u-1")
    lake.recorder.executed(receipt, lake.emitter.events[-1].data.status)  # type: ignore[union-attr] # an execution
    lake.act(1, "u-1")
    folded = lake.ingest.fold(lake.emitter.events)
    lake.lake.append("events", folded.events)
    watch.look(READ + timedelta(minutes=5))
    assert "stagekeeper_events_missing 1" in watch.lines()
    lake.lake.append("dropped", folded.dropped)
    watch.look(READ + timedelta(minutes=6))
    assert "stagekeeper_events_missing 0" in watch.lines()
