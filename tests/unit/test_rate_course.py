"""Warnings before a promotion: a rate that rises from day to day, or differs by hour of day."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from lakes_of_events import NOON, EventLake
from verdict_cases import latest_documents

from analytics.audit.replay import replay
from analytics.judging.event_source import LakeEvents
from analytics.judging.judge import Judge
from analytics.judging.rate_course import RateCourse
from analytics.judging.user_window_fold import UserWindowFold
from analytics.signals.state import CellState

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # they judge lakes of their own, which takes some tenths of a second each

GATES = """\
version: 1
freshness: 30d
gates:
  - name: g
    ladder: [draft_write, approval_gated]
    signals: [{signal: execution_error, role: guardrail, limit: 0.6}]
"""
DAY = 1_440


@pytest.fixture
def history(tmp_path: Path) -> EventLake:
    return EventLake.at(tmp_path)


def a_day(history: EventLake, number: int, *, failed: int, users: int = 60, hour: int = 0) -> None:
    """Users of a day, one action each within three hours; so many of them fail, spread over the time."""
    for user in range(users):
        history.act(
            number * DAY + hour * 60 + user * 200 / users,
            f"user-{number}-{hour}-{user}",
            failed=user * 7 % users < failed,
        )


def judged(history: EventLake, minute: float, path: Path) -> dict[str, Any]:
    path.write_text(GATES)
    history.act(minute - 0.5, "the next")
    history.store()
    Judge(history.lake, path, settle_s=0).tick(NOON + timedelta(minutes=minute))
    (found,) = latest_documents(history.lake)
    return found


def codes(found: dict[str, Any]) -> list[str]:
    return [reason["code"] for reason in found["reasons"]]


@pytest.mark.slow
def test_a_promotion_warns_of_a_rate_that_rises(history: EventLake, tmp_path: Path) -> None:
    a_day(history, 0, failed=1, users=200)
    a_day(history, 1, failed=18)
    found = judged(history, 2.5 * DAY, tmp_path / "gates.yaml")
    assert (found["verdict"], codes(found)) == ("PROMOTE", ["shown_safe", "rising"])
    assert (found["course"]["failed_of_day"], found["course"]["windows_of_day"]) == (18, 60)
    assert (found["course"]["failed_before"], found["course"]["windows_before"]) == (1, 200)
    assert found["course"]["day"] == "2026-03-15T00:00:00Z"
    assert (
        "30 % of the user-windows of 2026-03-15 failed (18 of 60), 0.5 % before (1 of 200)"
        in found["reasons"][1]["message"]
    )
    assert replay(history.lake, found["verdict_id"]).document.to_dict()["course"] == found["course"]


def test_a_day_that_is_not_over_warns_of_nothing(history: EventLake, tmp_path: Path) -> None:
    a_day(history, 0, failed=1, users=200)
    a_day(history, 1, failed=18)
    found = judged(history, 1.4 * DAY, tmp_path / "gates.yaml")
    assert (found["verdict"], codes(found)) == ("PROMOTE", ["shown_safe"])


def test_a_promotion_warns_of_an_hour_of_day_that_fails(history: EventLake, tmp_path: Path) -> None:
    for day in range(3):
        a_day(history, day, failed=0)
        a_day(history, day, failed=10, hour=6)
    found = judged(history, 3.5 * DAY, tmp_path / "gates.yaml")
    assert (found["verdict"], codes(found)) == ("PROMOTE", ["shown_safe", "uneven_hours"])
    assert found["course"]["worst_hour"] in {18, 19, 20, 21}
    assert found["course"]["failed_of_worst_hour"] >= 9


def test_one_day_alone_neither_rises_nor_differs(history: EventLake, tmp_path: Path) -> None:
    a_day(history, 0, failed=10, users=200)
    found = judged(history, 1.5 * DAY, tmp_path / "gates.yaml")
    assert "rising" not in codes(found)
    assert found["course"]["log_e_rising"] == 0.0


@pytest.mark.parametrize("window_s", [600.0, 3_600.0, 21_600.0])
@pytest.mark.slow
def test_a_fold_that_is_kept_up_counts_as_one_that_is_made_anew(history: EventLake, window_s: float) -> None:
    late = []
    for day in range(3):
        a_day(history, day, failed=5, users=20)
        late.append(history.act(day * DAY + 30, f"late-{day}"))
    history.store()
    source = LakeEvents(history.lake)
    state = CellState.from_increments(history.lake.scan("signals").collect())
    epochs = state.names(np.arange(state.epochs))
    kept = UserWindowFold(source)

    last: list[RateCourse | None] = [None]

    def course(fold: UserWindowFold, hours: float) -> list[object]:
        as_of = NOON + timedelta(hours=hours)
        windows = fold.fold(as_of=as_of, window_s=window_s, kept_s=3_600.0, epochs=epochs)
        counted = RateCourse.from_windows(windows, state, 2, last[0] if fold is kept else None)
        if fold is kept:
            last[0] = counted
        names = ("newest", "before", "hours", "log_rising", "log_uneven")
        return [getattr(counted, name).tolist() for name in names]

    for hours in (6, 12, 24, 42, 48):
        assert course(kept, hours) == course(UserWindowFold(source), hours)
    for receipt in late:
        history.undo(receipt, 2.2 * DAY)
    history.store()
    for hours in (54, 66, 90):
        assert course(kept, hours) == course(UserWindowFold(source), hours)


def test_a_later_attempt_is_reached_again(history: EventLake, tmp_path: Path) -> None:
    path = tmp_path / "gates.yaml"
    path.write_text(GATES.replace("ladder:", "attempts: {budget: 0.1}\n    ladder:"))
    for user in range(60):
        history.act(user / 10, f"user-{user}", failed=True)
    for user in range(60):
        history.act(60 + user / 10, f"again-{user}", model="m-2")
    history.act(179, "the next", model="m-2")
    history.store()
    Judge(history.lake, path, settle_s=0).tick(NOON + timedelta(minutes=180))
    (found,) = latest_documents(history.lake)
    assert (found["attempt"], found["signals"][0]["safe_threshold"]) == (2, pytest.approx(np.log(60)))
    assert "Attempt 2 of this cell." in found["summary"]
    assert replay(history.lake, found["verdict_id"]).document.to_dict()["summary"] == found["summary"]
