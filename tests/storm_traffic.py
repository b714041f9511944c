"""The traffic of a storm: the simulator with one tool in front, and a witness of the exact bytes that were sent."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self

from producers.delivery.kafka_emitter import KafkaEmitter
from producers.simulation.scenarios import scenario
from producers.simulation.simulator import Faults, Simulator, TrafficPlan

if TYPE_CHECKING:
    from brokers import Broker

    from producers.delivery.kafka_emitter import DeliveryStats
    from producers.simulation.ground_truth import GroundTruth
    from producers.simulation.scenarios import Scenario
    from producers.wire.events import EventRecord

KEY = "a receipt key for storms"
TOOL = "issue_refund"
"""This one has half of the traffic."""

_SHORTEST_S = 5.0
"""The traffic does not run dry while disasters are still to come."""

_MODULUS = 1 << 256


def lopsided() -> Scenario:
    """The demonstration, with half of its decisions about one tool."""
    demo = scenario("demo")
    others = sum(action.weight for action in demo.actions if action.tool != TOOL)
    mine = sum(action.tool == TOOL for action in demo.actions)
    actions = (replace(each, weight=others / mine) if each.tool == TOOL else each for each in demo.actions)
    return replace(demo, actions=tuple(actions))


class Fingerprint:
    """A sum over byte strings that does not depend on their order."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0

    def add(self, value: bytes) -> None:
        self.count += 1
        self._sum = (self._sum + int.from_bytes(hashlib.sha256(value).digest(), "big")) % _MODULUS

    @property
    def stated(self) -> str:
        return f"{self.count} values, {self._sum:064x}"


class _Witness:
    """An emitter that takes the fingerprint of every event as it passes for the first time."""

    def __init__(self, emitter: KafkaEmitter) -> None:
        self._emitter = emitter
        self._ids: set[bytes] = set()
        self.fingerprint = Fingerprint()

    def emit(self, record: EventRecord) -> None:
        name = hashlib.blake2b(record.value, digest_size=16).digest()
        if name not in self._ids:
            self._ids.add(name)
            self.fingerprint.add(record.value)
        self._emitter.emit(record)

    def send(self, topic: str, key: bytes | None, value: bytes | None) -> None:
        self._emitter.send(topic, key, value)

    def flush(self, timeout_s: float) -> int:
        return self._emitter.flush(timeout_s)

    @property
    def stats(self) -> DeliveryStats:
        return self._emitter.stats


class Traffic:
    """The simulator in a thread of its own.

    It paces itself so that the last event comes with the last disaster.

    Args:
        broker: Where it writes.
        events: How many distinct events.
        seed: Decides what they are.
    """

    def __init__(self, broker: Broker, *, events: int, seed: int) -> None:
        self._events = events
        self._until: float | None = time.monotonic()
        self._slept = 0
        self._emitter = KafkaEmitter(broker.address, client_id="storm")
        self._witness = _Witness(self._emitter)
        self._fault: BaseException | None = None
        self._end = threading.Event()
        self.simulator = Simulator(
            lopsided(),
            self._witness,
            plan=TrafficPlan(events=events, history=timedelta(hours=2), history_events=events),
            seed=seed,
            key=KEY.encode(),
            faults=Faults(repeats=0.03, malformed=0.001, shuffle=timedelta(minutes=10)),
            now=lambda: datetime.now(UTC),
            wait=self._wait,
        )
        self._thread = threading.Thread(target=self._run, name="traffic")

    def _run(self) -> None:
        try:
            self.simulator.run()
        except BaseException as fault:  # noqa: BLE001 - told to whoever waits for the end
            self._fault = fault
        finally:
            self._emitter.close(60)

    def last_for(self, seconds: float) -> None:
        """Spread what is left over about so long; 0 is as fast as possible."""
        self._until = time.monotonic() + seconds if seconds else None

    def _wait(self, seconds: float) -> bool:
        """Called by the simulator every few hundred records."""
        until, emitted = self._until, self.simulator.ground_truth.emitted
        if until is not None:
            left_s = max(_SHORTEST_S, until - time.monotonic())
            seconds += (emitted - self._slept) * left_s / max(1, self._events - emitted)
        self._slept = emitted
        return self._end.wait(min(seconds, 1.0))

    @property
    def share(self) -> float:
        """How much of it has flowed, from 0 to 1."""
        return self.simulator.ground_truth.emitted / self._events

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def finish(self) -> tuple[GroundTruth, Fingerprint]:
        """Wait for the last event; the truth."""
        self._thread.join()
        if self._fault is not None:
            raise self._fault
        self._emitter.stats.require_all()
        return self.simulator.ground_truth, self._witness.fingerprint
