"""Whether everything older than a moment has arrived: however often that is asked, and while records keep coming."""

from __future__ import annotations

from typing import Any, cast

import pytest

from analytics.lake.tables import SourcePartition
from streams.lag import Backlog

PARTITION = SourcePartition("log", "agent.decisions", 0)


class SteadyTraffic(Backlog):
    """A hundred records a second, which the lake covers once they are `behind_s` seconds old."""

    def __init__(self, behind_s: float) -> None:
        self.now = 0.0
        super().__init__("127.0.0.1:1", "log", clock=lambda: self.now)
        self._behind_s = behind_s

    def _ends(self, _lake: Any) -> dict[SourcePartition, int]:
        return {PARTITION: round(100 * self.now)}

    def _left(self, ends: dict[SourcePartition, int], _lake: Any) -> int:
        return max(0, ends[PARTITION] - round(100 * (self.now - self._behind_s)))


@pytest.mark.parametrize("every_s", [0.1, 0.5, 2.0, 10.0])
@pytest.mark.parametrize(("behind_s", "is_caught_up"), [(1.5, True), (12.0, False)])
def test_how_often_it_is_asked_does_not_matter(every_s: float, behind_s: float, is_caught_up: bool) -> None:
    backlog, lake = SteadyTraffic(behind_s), cast("Any", None)
    answers = []
    while backlog.now < 60.0:
        answers.append(backlog.caught_up(lake))
        backlog.now += every_s
    after = answers[round(3.0 / every_s) + 1 :]
    assert set(after) == {is_caught_up}
