"""Events for the benchmarks: written by the real models once, then varied as bytes, which costs little."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from confluent_kafka import Producer

from producers.delivery.emitter import DeliveryStats
from producers.delivery.recorder import Recorder
from producers.wire.codec import to_bytes
from producers.wire.contract import ActionContract, Actor, Reversibility, RiskClass, Target
from producers.wire.decision import Allow, Decision
from producers.wire.events import ExecutionStatus
from producers.wire.stage import Stage
from producers.wire.topics import DECISIONS, OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from producers.wire.events import Event

TOOLS = 24
MINUTES = 30
"""Over how many minutes of event time the decisions of a run are spread."""

_ID, _RECEIPT, _TIME = "ID" * 16, "sk1.RECEIPT", "2026-03-14T12:00:00.000001Z"


class _Kept:
    """An emitter that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def flush(self, timeout_s: float) -> int:  # noqa: ARG002
        return 0

    @property
    def stats(self) -> DeliveryStats:
        return DeliveryStats()


def _templates(tool: str) -> tuple[bytes, bytes, list[object]]:
    """A decision and its execution with placeholders, and the array of the receipt."""
    kept = _Kept()
    recorder = Recorder(
        kept,
        source="/routers/eu-1",
        key=None,
        now=lambda: datetime(2026, 3, 14, 12, 0, 0, 1, tzinfo=UTC),
        new_id=lambda: _ID,
    )
    contract = ActionContract(
        actor=Actor(agent="refunds-agent", user="user-17", model="model-2026-02", prompt_version="7"),
        intent="the customer was charged twice",
        target=Target(environment="production", system="billing"),
        tool=tool,
        workflow="refunds",
        risk_class=RiskClass.EXTERNAL_EFFECT,
        reversibility=Reversibility.MANUAL,
    )
    receipt = recorder.decided(contract, Decision(result=Allow()), stage=Stage.NARROW_AUTONOMY, cohort="all")
    recorder.executed(receipt, ExecutionStatus.SUCCEEDED, latency_ms=12.5, cost_usd=0.004)
    decided, executed = (to_bytes(event) for event in kept.events)
    row = list(receipt.model_dump(mode="json").values())
    token = kept.events[0].data.receipt.encode()  # type: ignore[union-attr]
    return decided.replace(token, _RECEIPT.encode()), executed.replace(token, _RECEIPT.encode()), row


def events(count: int, *, until: datetime, start: int = 0) -> Iterator[tuple[str, bytes, bytes]]:
    """Decisions and executions in turn: topic, key, value.

    Args:
        count: How many.
        until: The last event's time; the first lies `MINUTES` before.
        start: Number of the first, so that several runs have ids of their own.
    """
    made = [_templates(f"tool-{number}") for number in range(TOOLS)]
    cut = [
        (
            decided.decode().replace(_ID, "{id}").split("{id}"),
            executed.decode().replace(_ID, "{id}").split("{id}"),
            row,
        )
        for decided, executed, row in made
    ]
    began, spacing = until - timedelta(minutes=MINUTES), timedelta(minutes=MINUTES) / max(1, count)
    for number in range(start, start + (count + 1) // 2):
        decided, executed, row = cut[number % TOOLS]
        moment = (began + 2 * (number - start) * spacing).isoformat().replace("+00:00", "Z")
        decision_id = f"{number:032x}"
        fields = [decision_id, moment, *row[2:]]
        payload = "[" + ",".join(f'"{field}"' for field in fields) + "]"
        token = "sk1." + base64.urlsafe_b64encode(payload.encode()).decode().rstrip("=")
        for topic, parts, mark in ((DECISIONS, decided, "d"), (OUTCOMES, executed, "e")):
            value = decision_id.join(parts).replace(_RECEIPT, token).replace(_TIME, moment)
            value = value.replace(f'"id":"{decision_id}"', f'"id":"{mark}{decision_id[1:]}"', 1)
            value = value.replace('"latency_ms":12.5', f'"latency_ms":{10 + number % 900}.5')
            yield topic, decision_id.encode(), value.encode()


def fill(bootstrap_servers: str, count: int, *, start: int = 0) -> tuple[float, int]:
    """Write events as fast as it goes; mean size in bytes, and how many."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "linger.ms": 20,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 500_000,
            "partitioner": "murmur2_random",
        }
    )
    size = written = 0
    for topic, key, value in events(count, until=datetime.now(UTC), start=start):
        while True:
            try:
                producer.produce(topic, value, key=key)
            except BufferError:
                producer.poll(0.05)
            else:
                break
        size, written = size + len(value), written + 1
        if written % 10_000 == 0:
            producer.poll(0)
    deadline = time.monotonic() + 120
    while producer.flush(1.0):
        if time.monotonic() > deadline:
            raise TimeoutError("the broker did not take the events in two minutes")
    return size / written, written
