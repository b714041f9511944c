"""Simulated traffic: actions drawn from a scenario, reproducible by seed, emitted through the recorder and counted.

All events of an action are drawn when it arrives and wait in one queue, ordered by when they are due. First comes a
past with an exact number of events, as fast as `pace` allows, then the present, where a record leaves when the clock
reaches its moment. What would follow after the end of the run is neither emitted nor counted.
"""

from __future__ import annotations

import hashlib
import heapq
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, NamedTuple, Protocol

from producers.delivery.kafka_emitter import DeliveryStats, Emitter
from producers.delivery.recorder import Recorder
from producers.simulation.behaviour import (
    DrawnAction,
    DrawnExecution,
    Phase,
    SimulatedAction,
    draw_action,
)
from producers.simulation.flagged_stages import drawn_under, phase_under
from producers.simulation.ground_truth import GroundTruth
from producers.simulation.malformed import REASONS, UNSIGNED_FAULTS, malformed
from producers.wire.contract import ActionContract, Actor, Evidence, Target
from producers.wire.events import (
    ActionExecuted,
    ExecutionStatus,
    PolicyChangedData,
    Resolution,
    UndoResult,
    event_from_bytes,
)
from producers.wire.stage import MODE_OF_STAGE
from producers.wire.topics import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from producers.simulation.flagged_stages import FlaggedStages
    from producers.simulation.scenarios import Scenario
    from producers.wire.events import Event, EventRecord
    from producers.wire.receipt import Receipt

_IN_FLIGHT_LIMIT = 50_000  # unacknowledged records at which it waits for the broker: it must not lose what it counts
_CHECK_EVERY = 200  # records between two checks of the emitter and calls of the observer
_REPEAT_WITHIN_S = 60.0  # a repeat follows its first record by at most this long


class RawEmitter(Emitter, Protocol):
    """An emitter that also takes bytes as they are."""

    def send(self, topic: str, key: bytes | None, value: bytes | None) -> None:
        """Hand over a record that need not be an event."""


@dataclass(frozen=True)
class TrafficPlan:
    """How much, how fast, and from when on."""

    rate: float = 0.0  # events a second once the present is reached; 0 emits the past only
    events: int | None = None  # total number of distinct events; None goes on until stopped, or until the past is told
    history: timedelta = timedelta(0)  # how far back the first event lies
    history_events: int = 0  # events within that past; the rest of the plan is live
    pace: float = 0.0  # how many events of the past leave in a second; 0 sets no limit


@dataclass(frozen=True)
class Faults:
    """Repeats, broken records and disorder on the way."""

    repeats: float = 0.0  # share of events that are sent a second time
    malformed: float = 0.0  # broken records, as a share of events
    shuffle: timedelta = timedelta(0)  # how long an event may be held back, at random; later ones overtake it


class _Due(NamedTuple):
    """An event in the queue; `serial` is unique, so that nothing behind it is ever compared."""

    at: datetime
    serial: int
    record: EventRecord
    event: Event
    receipt: Receipt | None
    phase: Phase | None
    repeated: bool


class _Capture:
    def __init__(self) -> None:
        self.records: list[EventRecord] = []

    def emit(self, record: EventRecord) -> None:
        self.records.append(record)

    def flush(self, timeout_s: float) -> int:  # noqa: ARG002 - the protocol asks for it
        return 0

    @property
    def stats(self) -> DeliveryStats:
        return DeliveryStats()

    def take(self) -> list[EventRecord]:
        taken, self.records = self.records, []
        return taken


class Simulator:
    """Emits one scenario; equal seed, plan and clock give equal records.

    `wait` waits so many seconds and says whether to stop, like `threading.Event.wait`; `observe` is called every so
    often, for progress and for the file of the ground truth. With `flags` actions take their stage from a flag file, as
    real ones do, and not from the scenario.
    """

    def __init__(
        self,
        scenario: Scenario,
        emitter: RawEmitter,
        *,
        plan: TrafficPlan,
        seed: int,
        now: Callable[[], datetime],
        wait: Callable[[float], bool],
        key: bytes | None = None,
        faults: Faults | None = None,
        observe: Callable[[Simulator], None] = lambda _: None,
        flags: FlaggedStages | None = None,
    ) -> None:
        self._scenario, self._emitter, self._plan, self._faults = scenario, emitter, plan, faults or Faults()
        self._now, self._wait, self._observe = now, wait, observe
        self.began_at = now()
        self.ground_truth = GroundTruth(scenario.name, seed, self.began_at)
        self._arrivals, self._fault_random = _random(seed, "arrivals"), _random(seed, "storm")
        self._randoms = [_random(seed, f"{action.workflow}/{action.tool}") for action in scenario.actions]
        self._decisions = [0] * len(scenario.actions)
        self._indices, self._shares = range(len(scenario.actions)), _cumulated(scenario)
        self._flags = flags
        self._capture = _Capture()
        name = f"{scenario.name}/{seed}/{self.began_at.isoformat()}"
        self._recorder = Recorder(
            self._capture,
            source=f"/simulations/{scenario.name}",
            key=key,
            now=now,
            new_id=_ids(name),
            new_incarnation=hashlib.blake2b(name.encode(), digest_size=8).hexdigest,
        )
        self._reasons = [reason for reason in REASONS if key is not None or reason not in UNSIGNED_FAULTS]
        self._queue: list[_Due] = []
        self._serial = 0
        self._handled = 0
        self._in_history = 0
        self._events_per_action = _events_per_action(scenario, seed, plan.history)

    def run(self) -> GroundTruth:
        """Emit until the plan is fulfilled or `wait` says stop; everything emitted is counted in the truth."""
        arrival = self._first_arrival()
        while self._plan.events is None or self.ground_truth.emitted < self._plan.events:
            due = self._queue[0] if self._queue else None
            if due is not None and (arrival is None or due.at <= arrival):
                if self._stopped_before(due.at):
                    break
                self._send(heapq.heappop(self._queue))
            elif arrival is not None:
                if self._stopped_before(arrival):
                    break
                self._act(arrival)
                arrival = self._next_arrival(arrival)
            else:
                break
        self._observe(self)
        return self.ground_truth

    def _first_arrival(self) -> datetime | None:
        if self._plan.history_events > 0:
            return self.began_at - self._plan.history
        return self.began_at if self._plan.rate > 0 else None

    def _next_arrival(self, arrival: datetime) -> datetime | None:
        """The past is filled exactly: the spacing follows what is left of it and of its events."""
        missing = self._plan.history_events - self._in_history
        if arrival < self.began_at and missing > 0:
            left = self.began_at - arrival
            spacing = left * self._events_per_action / missing * self._arrivals.uniform(0.5, 1.5)
            return arrival + min(spacing, left / 2)
        if self._plan.rate <= 0:
            return None
        spacing_s = self._events_per_action / self._plan.rate * self._arrivals.uniform(0.5, 1.5)
        return max(arrival, self.began_at) + timedelta(seconds=spacing_s)

    def _stopped_before(self, moment: datetime) -> bool:
        """Wait until it is time for what is due at `moment`; say whether to stop instead."""
        self._handled += 1
        if self._handled % _CHECK_EVERY == 0:
            self._observe(self)
            while self._emitter.stats.in_flight > _IN_FLIGHT_LIMIT and not self._wait(0):
                self._emitter.flush(0.5)
                self._observe(self)
            if self._wait(0):
                return True
        if moment <= self.began_at or self._plan.rate <= 0:
            if self._plan.pace <= 0:
                return False
            moment = self.began_at + timedelta(seconds=self.ground_truth.emitted / self._plan.pace)
        while (ahead_s := (moment - self._now()).total_seconds()) > 0:
            if self._wait(min(ahead_s, 1.0)):
                return True
            self._observe(self)
        return False

    def _act(self, at: datetime) -> None:
        """Draw one action, record it, and queue its events."""
        (index,) = self._arrivals.choices(self._indices, cum_weights=self._shares)
        action, random, decision = self._scenario.actions[index], self._randoms[index], self._decisions[index]
        self._decisions[index] += 1
        live_s = (at - self.began_at).total_seconds()
        phase = action.phase_at(decision, live_s)
        if decision > 0 and phase.after == decision and phase.stage is not action.phase_at(decision - 1).stage:
            self._recorder.policy_changed(_promotion(action, action.phase_at(decision - 1), phase), at=at)
            self._queue_captured(None, None)
        # The past was decided by the flags as they were when the present began.
        values = None if self._flags is None else self._flags.values(action, live=live_s > 0)
        if values is not None:
            phase = phase_under(phase, values)
        drawn = draw_action(phase, random)
        contract = _contract(action, random)
        if values is not None:
            drawn = drawn_under(drawn, contract, values, scripted=action.phase_at(decision, live_s).stage)
        receipt = self._recorder.decided(
            contract, drawn.decision, stage=phase.stage, cohort=random.choice(action.cohorts), decided_at=at
        )
        self._record(drawn, receipt, random)
        self._queue_captured(receipt, phase)

    def _record(self, drawn: DrawnAction, receipt: Receipt, random: Random) -> None:
        for follow_up in drawn.follow_ups:
            at = receipt.decided_at + timedelta(seconds=follow_up.after_s)
            match follow_up.outcome:
                case Resolution() as resolution:
                    approved = resolution is Resolution.APPROVED
                    self._recorder.review_resolved(
                        receipt,
                        resolution,
                        reviewer=random.choice(("reviewer-1", "reviewer-2", "reviewer-3")),
                        rationale="matches the order" if approved else "the amount is not supported by the case",
                        wait_ms=round(follow_up.after_s * 1000, 3),
                        at=at,
                    )
                case DrawnExecution() as execution:
                    self._recorder.executed(
                        receipt,
                        execution.status,
                        latency_ms=execution.latency_ms,
                        cost_usd=execution.cost_usd,
                        error_type=execution.error_type,
                        at=at,
                    )
                case UndoResult() as result:
                    self._recorder.undone(receipt, result, reason="the customer objected", at=at)
                case impact:
                    self._recorder.impact(receipt, impact, at=at)

    def _queue_captured(self, receipt: Receipt | None, phase: Phase | None) -> None:
        for record in self._capture.take():
            event = event_from_bytes(record.value)
            past = event.time <= self.began_at
            self._in_history += past
            if past or self._plan.rate > 0:
                held_s = (
                    self._faults.shuffle.total_seconds() * self._fault_random.random() if self._faults.shuffle else 0.0
                )
                at = event.time + timedelta(seconds=held_s)
                self._push(_Due(at, self._serial, record, event, receipt, phase, repeated=False))

    def _push(self, due: _Due) -> None:
        self._serial += 1
        heapq.heappush(self._queue, due._replace(serial=self._serial))

    def _send(self, due: _Due) -> None:
        self._emitter.emit(due.record)
        if due.repeated:
            self.ground_truth.repeats += 1
            return
        self.ground_truth.count(due.event, due.receipt, due.phase)
        if self._faults.repeats and self._fault_random.random() < self._faults.repeats:
            again = due.at + timedelta(seconds=self._fault_random.uniform(0.0, _REPEAT_WITHIN_S))
            self._push(due._replace(at=again, repeated=True))
        if self._faults.malformed and due.receipt is not None and self._fault_random.random() < self._faults.malformed:
            self._send_malformed(due.receipt, due.event.time)

    def _send_malformed(self, receipt: Receipt, at: datetime) -> None:
        reason = self._reasons[self.ground_truth.malformed.total() % len(self._reasons)]
        self._recorder.executed(receipt, ExecutionStatus.SUCCEEDED, latency_ms=12.0, at=at)
        (record,) = self._capture.take()
        event = event_from_bytes(record.value)
        if isinstance(event, ActionExecuted):
            self._emitter.send(OUTCOMES, receipt.decision_id.encode(), malformed(reason, event))
            self.ground_truth.malformed[reason] += 1


def _random(seed: int, purpose: str) -> Random:
    """A generator of its own for each purpose, so that one draw more here changes nothing there."""
    return Random(f"{seed}/{purpose}")  # noqa: S311 - reproducible on purpose


def _ids(namespace: str) -> Callable[[], str]:
    """Ids that no other run has, and that the same run has again."""
    base = hashlib.sha256(namespace.encode())
    serial = 0

    def new_id() -> str:
        nonlocal serial
        serial += 1
        digest = base.copy()
        digest.update(serial.to_bytes(8, "big"))
        return digest.hexdigest()[:32]

    return new_id


def _cumulated(scenario: Scenario) -> list[float]:
    return list(accumulate(action.weight for action in scenario.actions))


def _events_per_action(scenario: Scenario, seed: int, history: timedelta) -> float:
    """How many events an action brings, on average; those after the end of a finite past do not count."""
    random = _random(seed, "estimate")
    drawn = random.choices(scenario.actions, cum_weights=_cumulated(scenario), k=500)
    window_s = history.total_seconds() or float("inf")
    count = 0
    for action in drawn:
        left_s = window_s * random.random()
        count += 1 + sum(follow.after_s <= left_s for follow in draw_action(action.phases[0], random).follow_ups)
    return count / len(drawn)


def _contract(action: SimulatedAction, random: Random) -> ActionContract:
    return ActionContract(
        actor=Actor(
            agent=f"{action.workflow}-agent",
            user=f"user-{random.randrange(400)}",
            account=f"account-{random.randrange(120)}",
            model="model-2026-02",
            prompt_version="7",
        ),
        intent=action.intent,
        target=Target(environment="production", system=action.system, record=f"record-{random.randrange(100_000)}"),
        tool=action.tool,
        tool_version="1",
        workflow=action.workflow,
        risk_class=action.risk_class,
        reversibility=action.reversibility,
        evidence=Evidence(confidence=round(random.betavariate(12, 2), 3)),
        arguments_sha256=f"{random.getrandbits(256):064x}",
    )


def _promotion(action: SimulatedAction, before: Phase, after: Phase) -> PolicyChangedData:
    return PolicyChangedData(
        flag_key="agent-action-mode",
        changed_by="release-manager",
        reason=f"{action.tool} held its limits at {before.stage}",
        before=MODE_OF_STAGE[before.stage].value,
        after=MODE_OF_STAGE[after.stage].value,
        environment="production",
        workflow=action.workflow,
        tool=action.tool,
    )
