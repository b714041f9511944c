"""Events for the benchmarks: written by the real models once, then varied as bytes, which costs little.

A router's smallest decision has 845 bytes and its smallest execution 555, with names of one letter; with the ordinary
names used here they have 929 and 580. The two in turn (the life `pair`) come to a mean of 754 bytes. A `full` life
adds an evaluation and an undo, 562 and 538 bytes: four events with a mean of 652, which is as near to 650 as events
of ours come. Flags, a model, a prompt version or a trace make a decision larger.
"""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

from confluent_kafka import Producer

from producers.delivery.kafka_emitter import DeliveryStats
from producers.delivery.recorder import Recorder
from producers.wire.contract import ActionContract, Actor, Reversibility, RiskClass, Target
from producers.wire.decision import Allow, Decision
from producers.wire.events import ExecutionStatus, Quality, UndoResult
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from producers.wire.events import EventRecord

Life = Literal["full", "pair"]
"""What is told of an action: decided, executed, evaluated and undone, or the first two alone."""

LIVES: dict[Life, int] = {"full": 4, "pair": 2}
"""How many events each has."""

TOOLS = 24
MINUTES = 30
"""Over how many minutes of event time the decisions of a run are spread."""

_DECISION, _EVENT = "decision" * 4 + "----", "event-id" * 4 + "----"
_RECEIPT, _TIME = "sk1.RECEIPT", "2026-03-14T12:00:00.000001Z"
_ODD = 0x9E3779B97F4A7C15F39CC0605CEDC835
"""Its multiples look drawn by lot, and no two of the first 2^128 are the same."""


class _Kept:
    """An emitter that keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[EventRecord] = []

    def emit(self, record: EventRecord) -> None:
        self.records.append(record)

    def flush(self, timeout_s: float) -> int:  # noqa: ARG002
        return 0

    @property
    def stats(self) -> DeliveryStats:
        return DeliveryStats()


class _Template(NamedTuple):
    """One event with placeholders."""

    topic: str
    text: str


def _templates(tool: str) -> tuple[list[_Template], str]:
    """The events of one action with placeholders, and what its receipt's array holds after id and time."""
    kept = _Kept()
    ids = iter((_DECISION, *[_EVENT] * 4))
    recorder = Recorder(
        kept,
        source="/routers/eu-1",
        key=None,
        now=lambda: datetime(2026, 3, 14, 12, 0, 0, 1, tzinfo=UTC),
        new_id=lambda: next(ids),
    )
    contract = ActionContract(
        actor=Actor(agent="refunds-agent", user="user-17"),
        intent="charged twice",
        target=Target(environment="production", system="billing"),
        tool=tool,
        workflow="refunds",
        risk_class=RiskClass.EXTERNAL_EFFECT,
        reversibility=Reversibility.MANUAL,
    )
    receipt = recorder.decided(contract, Decision(result=Allow()), stage=Stage.NARROW_AUTONOMY, cohort="all")
    recorder.executed(receipt, ExecutionStatus.SUCCEEDED, latency_ms=12.5, cost_usd=0.004)
    recorder.impact(receipt, Quality(passed=True))
    recorder.undone(receipt, UndoResult.UNDONE)
    token = receipt.token()
    payload = token.removeprefix("sk1.")
    members = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    constant = json.dumps(members[2:], separators=(",", ":"))[1:-1]
    return [_Template(each.topic, each.value.decode().replace(token, _RECEIPT)) for each in kept.records], constant


def _uuid(number: int) -> str:
    digits = f"{number * _ODD % 2**128:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def events(
    count: int, *, until: datetime, start: int = 0, life: Life = "full", minutes: float = MINUTES
) -> Iterator[tuple[str, bytes, bytes]]:
    """The lives of actions, event by event: topic, key, value.

    Args:
        count: How many events, rounded up to whole lives.
        until: The last decision's time; the first lies `minutes` before.
        start: Number of the first action, so that several runs have ids of their own.
        life: What is told of an action.
        minutes: Over how long the decisions are spread.
    """
    made = [_templates(f"tool-{number}") for number in range(TOOLS)]
    actions = -(-count // LIVES[life])
    began, spacing = until - timedelta(minutes=minutes), timedelta(minutes=minutes) / max(1, actions)
    for number in range(start, start + actions):
        templates, constant = made[number % TOOLS]
        moment = (began + (number - start) * spacing).isoformat().replace("+00:00", "Z")
        decision_id = _uuid(8 * number)
        payload = f'["{decision_id}","{moment}",{constant}]'
        token = "sk1." + base64.urlsafe_b64encode(payload.encode()).decode().rstrip("=")
        for place, template in enumerate(templates[: LIVES[life]], 1):
            value = template.text.replace(_DECISION, decision_id).replace(_EVENT, _uuid(8 * number + place))
            value = value.replace(_RECEIPT, token).replace(_TIME, moment)
            value = value.replace('"latency_ms":12.5', f'"latency_ms":{10 + number % 900}.5')
            yield template.topic, decision_id.encode(), value.encode()


def fill(bootstrap_servers: str, count: int, *, start: int = 0, life: Life = "full") -> tuple[float, int]:
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
    for topic, key, value in events(count, until=datetime.now(UTC), start=start, life=life):
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
