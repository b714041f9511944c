"""Stand-ins for the outside world, and small factories: a clock, ids, an emitter that remembers, typical events."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from producers.delivery.kafka_emitter import DeliveryStats
from producers.delivery.recorder import Recorder
from producers.wire.contract import ActionContract, Actor, Reversibility, RiskClass, Target
from producers.wire.decision import Allow, Decision, FlagEvaluation, FlagReason
from producers.wire.events import (
    ActionDecided,
    ActionExecuted,
    ActionUndone,
    ExecutionStatus,
    UndoResult,
    event_from_bytes,
)
from producers.wire.receipt import Receipt
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from producers.wire.decision import Outcome
    from producers.wire.events import Event, EventRecord

NOON = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)
"""The moment at which every fake clock starts."""

KEY = b"a receipt key for tests"


@dataclass
class FakeClock:
    """A clock that a test moves. `wait` moves it too, so nothing sleeps."""

    moment: datetime = NOON

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)

    def wait(self, seconds: float) -> bool:
        """Like `threading.Event.wait` of an event that nobody sets."""
        self.advance(max(0.0, seconds))
        return False


@dataclass
class FakeIds:
    """Ids in order: `id-1`, `id-2`, …"""

    prefix: str = "id"
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __call__(self) -> str:
        return f"{self.prefix}-{next(self.numbers)}"


@dataclass
class FakeEmitter:
    """Keeps what it is given; everything is delivered at once."""

    events: list[Event] = field(default_factory=list)
    raw: list[tuple[str, bytes | None, bytes | None]] = field(default_factory=list)

    def emit(self, record: EventRecord) -> None:
        self.events.append(event_from_bytes(record.value))

    def send(self, topic: str, key: bytes | None, value: bytes | None) -> None:
        self.raw.append((topic, key, value))

    def flush(self, timeout_s: float) -> int:
        return 0

    @property
    def stats(self) -> DeliveryStats:
        count = len(self.events) + len(self.raw)
        return DeliveryStats(emitted=count, delivered=count)


def a_recorder(emitter: FakeEmitter, *, clock: FakeClock | None = None, key: bytes | None = None) -> Recorder:
    """A recorder with a fake clock and ids in order."""
    return Recorder(emitter, source="/tests", key=key, now=clock or FakeClock(), new_id=FakeIds())


def a_contract(
    *,
    tool: str = "issue_refund",
    workflow: str = "refunds",
    environment: str = "production",
    risk_class: RiskClass = RiskClass.EXTERNAL_EFFECT,
) -> ActionContract:
    """A typical contract."""
    return ActionContract(
        actor=Actor(agent="support-agent", user="u-17", account="acct-9", model="m-1", prompt_version="p-3"),
        intent="the customer was charged twice",
        target=Target(environment=environment, system="billing", record="invoice-4711"),
        tool=tool,
        workflow=workflow,
        risk_class=risk_class,
        reversibility=Reversibility.MANUAL,
    )


def a_decision(result: Outcome | None = None, *, enforced: bool = True) -> Decision:
    """A typical decision: allowed, on one flag."""
    flag = FlagEvaluation(key="agent-action-mode", variant="autonomous", reason=FlagReason.TARGETING_MATCH)
    return Decision(result=result or Allow(), enforced=enforced, flags=(flag,))


def a_receipt(
    *,
    decision_id: str = "decision-1",
    decided_at: datetime = NOON,
    tool: str = "issue_refund",
    workflow: str = "refunds",
    environment: str = "production",
    stage: Stage = Stage.NARROW_AUTONOMY,
    cohort: str = "all",
    epoch: str = "epoch-1",
) -> Receipt:
    """A receipt that fits `a_contract`."""
    return Receipt(
        decision_id=decision_id,
        decided_at=decided_at,
        environment=environment,
        workflow=workflow,
        tool=tool,
        stage=stage,
        cohort=cohort,
        epoch=epoch,
    )


def a_decided(
    receipt: Receipt | None = None, result: Outcome | None = None, *, event_id: str = "e-1", key: bytes | None = None
) -> ActionDecided:
    """The decision that `receipt` is about."""
    receipt = receipt or a_receipt()
    return ActionDecided.model_validate(
        {
            "id": event_id,
            "source": "/tests",
            "time": receipt.decided_at,
            "subject": receipt.decision_id,
            "data": {
                "receipt": receipt.token(key),
                "contract": a_contract(tool=receipt.tool, workflow=receipt.workflow, environment=receipt.environment),
                "decision": a_decision(result),
            },
        }
    )


def an_executed(
    receipt: Receipt | None = None,
    status: ExecutionStatus = ExecutionStatus.SUCCEEDED,
    *,
    latency_ms: float | None = 120.0,
    cost_usd: float | None = None,
    event_id: str = "e-2",
    key: bytes | None = None,
) -> ActionExecuted:
    """An execution of the action that `receipt` is about, one second after the decision."""
    receipt = receipt or a_receipt()
    return ActionExecuted.model_validate(
        {
            "id": event_id,
            "source": "/tests",
            "time": receipt.decided_at + timedelta(seconds=1),
            "subject": receipt.decision_id,
            "data": {
                "receipt": receipt.token(key),
                "status": status,
                "latency_ms": latency_ms,
                "cost_usd": cost_usd,
                "error_type": None if status is ExecutionStatus.SUCCEEDED else status.value,
            },
        }
    )


def an_undone(
    receipt: Receipt | None = None,
    result: UndoResult = UndoResult.UNDONE,
    *,
    event_id: str = "e-3",
    key: bytes | None = None,
) -> ActionUndone:
    """The undo of the action that `receipt` is about, an hour after the decision."""
    receipt = receipt or a_receipt()
    return ActionUndone.model_validate(
        {
            "id": event_id,
            "source": "/tests",
            "time": receipt.decided_at + timedelta(hours=1),
            "subject": receipt.decision_id,
            "data": {"receipt": receipt.token(key), "result": result},
        }
    )
