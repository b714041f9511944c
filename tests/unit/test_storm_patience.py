"""The storm waits for its traffic for as long as that flows, and no longer."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
import workers
from storm import Weather


@dataclass
class Slow:
    """A traffic of which a little flows between two looks, up to a share; and the clock of these looks."""

    step: float
    stands_at: float = 1.0
    share: float = 0.0
    now: float = 0.0

    @property
    def over(self) -> bool:
        return self.share >= 1.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _: float) -> None:
        self.now += 1.0
        self.share = min(self.share + self.step, self.stands_at)


def weather(traffic: Slow, monkeypatch: pytest.MonkeyPatch) -> Weather:
    monkeypatch.setattr(workers, "time", traffic)
    crew = SimpleNamespace(tend=lambda: None)
    return Weather(cast("Any", crew), cast("Any", None), cast("Any", None), cast("Any", traffic), Random(0), print)


def test_traffic_that_flows_slowly_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(step=1e-4)
    weather(slow, monkeypatch).traffic_up_to(0.5)
    assert slow.share == pytest.approx(0.5, abs=2 * slow.step)
    assert slow.now > 10 * workers.PATIENCE_S
    weather(slow, monkeypatch).traffic_up_to(1.0)
    assert slow.over


def test_traffic_that_stands_still_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = Slow(step=0.01, stands_at=0.25)
    with pytest.raises(AssertionError, match=r"more than 25\.00% of the traffic did not happen in"):
        weather(stuck, monkeypatch).traffic_up_to(0.5)
