"""Events that are read long after they happened: what only arrived late is not overdue on arrival."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from fakes import a_contract, a_decision
from lakes_of_events import NOON, EventLake
from verdict_cases import latest_documents

from analytics.audit.replay import replay
from analytics.judging.judge import Judge
from analytics.lake.table_schemas import VERDICTS
from producers.wire.decision import QueueForReview
from producers.wire.events import ActionDecided, ExecutionStatus, Resolution, ReviewResolved
from producers.wire.stage import Stage
from stagekeeper.local_ingest import LocalIngest

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from producers.wire.events import Event

pytestmark = pytest.mark.slow

GATES = """\
version: 1
user_window: 1m
freshness: 12h
outcome_deadline: 2m
gates:
  - name: g
    unit: UNIT
    ladder: [draft_write, approval_gated]
    signals:
      - SIGNAL
      - {signal: unpermitted_execution, role: trip, max_count: 0}
"""
MISSING = "{signal: missing_outcome, role: guardrail, limit: 0.05}"
BAD = "{signal: bad_outcome, role: guardrail, limit: 0.05, maturity: 1h}"
STRAGGLERS = 40


class Place:
    """A lake that reads what arrives, minute by minute, and a judge that has caught up unless it is told otherwise."""

    def __init__(self, folder: Path, unit: str = "action", signal: str = MISSING) -> None:
        self.now: datetime = NOON
        self.history = EventLake.at(folder)
        self.history.ingest = LocalIngest(now=lambda: self.now)
        self.path = folder / "gates.yaml"
        self.path.write_text(GATES.replace("UNIT", unit).replace("SIGNAL", signal))
        self.judge = Judge(self.history.lake, self.path, settle_s=0)

    def told(self, act: Callable[[], object]) -> list[Event]:
        """What an act tells; none of it has arrived yet."""
        act()
        events = list(self.history.emitter.events)
        self.history.emitter.events.clear()
        return events

    def stragglers(self, minute: float, **more: Any) -> tuple[list[Event], list[Event]]:
        """Decisions of one router, and what came of them."""
        acts = [
            self.told(lambda number=number: self.history.act(minute + number / 100, f"late {number}", **more))
            for number in range(STRAGGLERS)
        ]
        return parted([event for events in acts for event in events])

    def live(self, minute: float) -> list[Event]:
        """What other routers do just before a minute, all in time."""
        return self.told(lambda: self.history.act(minute - 0.03, f"live {minute}"))

    def arrives(self, minute: float, *events: Event, caught_up: bool = True) -> dict[str, Any]:
        """Events arrive and are read; the verdict a moment later."""
        self.now = NOON + timedelta(minutes=minute)
        self.history.emitter.events[:] = events
        self.history.store()
        self.judge.tick(self.now, caught_up=caught_up)
        return self.verdict

    @property
    def verdict(self) -> dict[str, Any]:
        (document,) = latest_documents(self.history.lake)
        return document

    def passes(self, *minutes: float) -> None:
        for minute in minutes:
            self.arrives(minute, *self.live(minute))

    def replays(self) -> None:
        ids = self.history.lake.scan(VERDICTS).collect()["verdict_id"]
        for verdict_id in ids:
            replay(self.history.lake, verdict_id)


def parted(events: list[Event]) -> tuple[list[Event], list[Event]]:
    decisions = [event for event in events if isinstance(event, ActionDecided)]
    return decisions, [event for event in events if not isinstance(event, ActionDecided)]


@pytest.fixture(params=["action", "user"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    return Place(tmp_path, request.param)


def test_what_lay_in_an_outbox_is_not_overdue_on_arrival(place: Place) -> None:
    place.passes(1, 28)
    decisions, outcomes = place.stragglers(5)
    assert place.arrives(30, *decisions, *place.live(30))["verdict"] != "ROLL_BACK"
    place.passes(31)
    assert place.arrives(31.9, *outcomes, *place.live(31.9))["verdict"] != "ROLL_BACK"
    place.passes(33, 36, 49)
    assert place.verdict["verdict"] != "ROLL_BACK"
    place.replays()


def test_what_arrives_late_and_never_runs_is_found_a_deadline_later(place: Place) -> None:
    place.passes(1, 28)
    decisions, _ = place.stragglers(5)
    place.arrives(30, *decisions, *place.live(30))
    assert place.arrives(31.9, *place.live(31.9))["verdict"] != "ROLL_BACK"
    place.passes(32, 33, 34)
    found = place.verdict
    assert (found["verdict"], found["signals"][0]["failures"]) == ("ROLL_BACK", STRAGGLERS)
    place.replays()


def test_a_router_whose_clock_is_slow_is_waited_for(place: Place) -> None:
    slow = 10
    for minute in range(1, 40, 6):
        decided = place.told(lambda at=minute: place.history.act(at - slow, f"slow {at}"))
        decisions, outcomes = parted(decided)
        place.arrives(minute, *decisions, *place.live(minute))
        assert place.arrives(minute + 0.5, *outcomes)["verdict"] != "ROLL_BACK"


def test_a_router_whose_clock_is_fast_changes_nothing(place: Place) -> None:
    for minute in range(1, 40, 6):
        decisions, outcomes = parted(place.told(lambda at=minute: place.history.act(at + 4, f"fast {at}")))
        place.arrives(minute, *decisions, *place.live(minute))
        assert place.arrives(minute + 0.5, *outcomes)["verdict"] != "ROLL_BACK"
    decisions, _ = place.stragglers(44)
    place.arrives(40, *decisions, *place.live(40))
    place.passes(41, 45)
    assert place.verdict["verdict"] != "ROLL_BACK"
    place.passes(46, 47, 48)
    assert place.verdict["verdict"] == "ROLL_BACK"


@pytest.mark.parametrize("signal", [MISSING, BAD])
def test_an_outage_is_found_when_its_first_minute_is_over_for_the_deadline(tmp_path: Path, signal: str) -> None:
    place = Place(tmp_path, signal=signal)
    place.passes(1, 9)
    for minute in (10.0, 10.3, 10.55):
        decisions, _ = place.stragglers(minute, reported=False)
        place.arrives(minute + 0.42, *decisions, *place.live(minute + 0.42))
    assert place.arrives(12.9, *place.live(12.9))["verdict"] != "ROLL_BACK"
    assert place.arrives(13.04, *place.live(13.04))["verdict"] == "ROLL_BACK"


def test_an_approval_that_arrives_late_is_waited_for(place: Place) -> None:
    recorder = place.history.recorder

    def queue(number: int) -> None:
        contract = a_contract()
        at = NOON + timedelta(minutes=5 + number / 100)
        contract = contract.model_copy(update={"actor": contract.actor.model_copy(update={"user": f"late {number}"})})
        decision = a_decision(QueueForReview(reason="asked"))
        receipt = recorder.decided(contract, decision, stage=Stage.DRAFT_WRITE, decided_at=at)
        recorder.review_resolved(receipt, Resolution.APPROVED, reviewer="maria", rationale="fine", at=at)
        recorder.executed(receipt, ExecutionStatus.SUCCEEDED, at=at + timedelta(seconds=1))

    told = [event for number in range(STRAGGLERS) for event in place.told(lambda number=number: queue(number))]
    approvals = [event for event in told if isinstance(event, ReviewResolved)]
    decisions, outcomes = parted([event for event in told if not isinstance(event, ReviewResolved)])
    place.arrives(6, *decisions)
    place.passes(7, 28)
    assert place.arrives(30, *approvals, *place.live(30))["verdict"] != "ROLL_BACK"
    place.passes(31)
    place.arrives(31.5, *outcomes, *place.live(31.5))
    place.passes(33, 36, 49)
    assert place.verdict["verdict"] != "ROLL_BACK"


def test_an_outcome_that_arrives_before_its_late_decision_is_not_unpermitted_at_once(place: Place) -> None:
    place.passes(1, 28)
    decisions, outcomes = place.stragglers(5)
    assert place.arrives(30, *outcomes, *place.live(30))["verdict"] == "HOLD"
    place.passes(31)
    place.arrives(31.9, *decisions, *place.live(31.9))
    place.passes(33, 36, 49)
    assert place.verdict["verdict"] == "HOLD"


def test_a_repeated_delivery_is_not_waited_for_again(place: Place) -> None:
    place.passes(1, 28)
    decisions, _ = place.stragglers(5)
    place.arrives(30, *decisions, *place.live(30))
    place.passes(31)
    place.arrives(31.9, *decisions, *place.live(31.9))
    place.passes(32, 33, 34)
    assert place.verdict["verdict"] == "ROLL_BACK"


def test_a_topic_that_lags_behind_makes_nothing_overdue(place: Place) -> None:
    place.passes(1, 9)
    late, late_outcomes = place.stragglers(3)
    unread = list(late_outcomes)
    for minute in (10, 12, 15, 19):
        decisions, outcomes = parted(place.live(minute))
        unread += outcomes
        found = place.arrives(minute, *decisions, *(late if minute == 10 else ()), caught_up=False)
        assert found["verdict"] != "ROLL_BACK"
    assert place.arrives(20, *unread, *place.live(20))["verdict"] != "ROLL_BACK"
    place.passes(21, 22, 39)
    assert place.verdict["verdict"] != "ROLL_BACK"


def test_a_recording_of_days_ago_comes_to_a_verdict(place: Place) -> None:
    told = [event for minute in range(1, 60) for event in place.live(minute)]
    decisions, _ = place.stragglers(5, reported=False)
    found = place.arrives(3 * 24 * 60, *decisions, *told)
    assert (found["verdict"], found["signals"][0]["failures"]) == ("ROLL_BACK", STRAGGLERS)


def test_a_recording_of_this_morning_comes_to_a_verdict_once_time_goes_on(place: Place) -> None:
    told = [event for minute in range(1, 60) for event in place.live(minute)]
    decisions, _ = place.stragglers(5, reported=False)
    found = place.arrives(180, *decisions, *told)
    assert found["verdict"] != "ROLL_BACK"
    place.passes(181, 182, 184)
    assert place.verdict["verdict"] == "ROLL_BACK"
