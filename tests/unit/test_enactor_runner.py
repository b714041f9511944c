"""The enactor's runner: what nobody expected ends no worker, is said, and is tried again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from enactor_cases import ACTION, Place

from analytics.lake.errors import FencedError
from analytics.lake.leases import ENACTOR
from analytics.lake.tables import Fence
from producers.wire.stage import Mode
from streams.control.enactor_runner import EnactorRunner
from streams.control.policy_change_news import PolicyChangeNews
from streams.worker_config import WorkerConfig

if TYPE_CHECKING:
    from pathlib import Path

FENCE = Fence(ENACTOR, 1)


def test_an_error_that_nobody_expected_is_said_and_the_next_look_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, seconds, error = Place(tmp_path), 0.0, ZeroDivisionError("nobody thought of it")
    place.judged()
    runner = a_runner(place, lambda: seconds)
    faults = [error]

    def odd(*_: Any) -> list[Any]:
        if faults:
            raise faults.pop()
        return []

    monkeypatch.setattr(runner._enactor._proofs, "steps", odd)  # noqa: SLF001 - the moment that no test can hit
    report = runner.run_once(FENCE)
    assert "whether a change is in force is not known" in (report.fault or "")
    assert place.mode is Mode.SEARCH_ONLY, "rollbacks come first"
    faults.append(error)
    monkeypatch.setattr(runner._enactor, "_take_news", odd)  # noqa: SLF001 - likewise
    report = runner.run_once(FENCE)
    assert report.is_failing
    assert "nobody thought of it" in (report.fault or "")
    assert caplog.records[-1].exc_info is not None
    assert runner.run_once(FENCE) is report, "not before its pause is over"
    monkeypatch.undo()
    seconds = 60.0
    report = runner.run_once(FENCE)
    assert (report.fault, report.is_failing, report.lives["applied"]) == (None, False, 1)


def test_who_lost_the_lease_is_told(tmp_path: Path) -> None:
    place = Place(tmp_path)
    runner = a_runner(place, lambda: 0.0)
    place.look()
    place.restarted()
    place.look()
    with pytest.raises(FencedError):
        runner.run_once(FENCE)


def a_runner(place: Place, clock: Any) -> EnactorRunner:
    """The runner of a worker whose broker is not there, which holds up nothing but the word of what was changed."""
    config = WorkerConfig(
        "127.0.0.1:1", place.lake.root, place.gate_file, None, lambda: place.now, print, freshness_s=math.inf
    )
    assert place.store.read(ACTION).mode is Mode.DRAFT_WRITE
    runner = EnactorRunner(config, place.store, clock=clock)
    runner._enactor._news = PolicyChangeNews(place._publish)  # noqa: SLF001 - no broker
    return runner
