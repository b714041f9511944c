"""Contracts, flags and authorizers for tests of the execution boundary."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from typing import TYPE_CHECKING, Any

from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

from producers.boundary.flagd_file import Ruleset
from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import FLAGS
from producers.delivery.kafka_emitter import DeliveryStats
from producers.delivery.outbox import OutboxError
from producers.wire.contract import ActionContract, Actor, Evidence, Target
from producers.wire.decision import Authorization
from producers.wire.events import event_from_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from producers.boundary.policy_flags import Context, Flag, FlagValue
    from producers.wire.decision import FlagEvaluation
    from producers.wire.events import Event, EventRecord

KEYS = {
    "enabled": "agent-action-governance-enabled",
    "denylist": "agent-action-denylist",
    "mode": "agent-action-mode",
    "approval": "agent-action-approval-required",
    "threshold": "agent-action-confidence-threshold",
}
OPEN: dict[str, Any] = {"enabled": True, "denylist": False, "mode": "autonomous", "approval": False, "threshold": 0.5}


def contract(
    *,
    agent: str = "support-bot",
    tool: str = "update_ticket",
    risk_class: str = "reversible_write",
    reversibility: str = "automatic",
    environment: str = "production",
    system: str = "crm",
    account: str | None = None,
    confidence: float | None = None,
) -> ActionContract:
    return ActionContract.model_validate(
        {
            "actor": Actor(agent=agent, account=account),
            "intent": "a test",
            "target": Target(environment=environment, system=system),
            "tool": tool,
            "workflow": "support",
            "risk_class": risk_class,
            "reversibility": reversibility,
            "evidence": Evidence(confidence=confidence),
        }
    )


def flag_evaluator(**values: Any) -> FlagEvaluator:
    """Flags that hold the open values, changed as given; a value of None leaves the flag out."""
    stated = OPEN | values
    flags = {KEYS[name]: InMemoryFlag("set", {"set": value}) for name, value in stated.items() if value is not None}
    rules = Ruleset(hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest())
    return FlagEvaluator(InMemoryProvider(flags), ruleset=lambda: rules)


def evaluated(flags: FlagEvaluator, flag: Flag, context: Context) -> tuple[FlagValue, FlagEvaluation]:
    """One flag's value for a context, and the record of how it came about."""
    values = flags.evaluate(context)
    by_flag = (
        values.enabled,
        values.denied,
        values.mode.value,
        values.approval_required,
        values.confidence_threshold,
    )
    return by_flag[FLAGS.index(flag)], values.evaluations[FLAGS.index(flag)]


def flagd_file(path: Path, **values: Any) -> Path:
    """A flagd file that holds the open values, changed as given; put in place in one step, as a reader may look."""
    stated = OPEN | values
    flags = {
        KEYS[name]: {"state": "ENABLED", "variants": {"set": value}, "defaultVariant": "set"}
        for name, value in stated.items()
        if value is not None
    }
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(json.dumps({"flags": flags}))
    return draft.replace(path)


class Permit:
    """Permits everything."""

    sha256 = "0" * 64

    def authorize(self, contract: ActionContract) -> Authorization:
        return Authorization(permitted=True, rule="all")


class Refuse:
    """Refuses everything."""

    sha256 = "1" * 64

    def authorize(self, contract: ActionContract) -> Authorization:
        return Authorization(permitted=False, rule="none")


class Broken:
    """Fails whenever it is asked."""

    sha256 = "2" * 64

    def authorize(self, contract: ActionContract) -> Authorization:
        raise ConnectionError("the authorizer is away")


class Shelf:
    """Keeps events in memory, and which of them were to be kept on disk."""

    def __init__(self, *, full: bool = False) -> None:
        self.events: list[Event] = []
        self.kept: list[Event] = []
        self.full = full

    def emit(self, record: EventRecord) -> None:
        self.events.append(event_from_bytes(record.value))

    def keep(self, record: EventRecord) -> None:
        if self.full:
            raise OutboxError("database or disk is full")
        self.emit(record)
        self.kept.append(self.events[-1])

    def flush(self, timeout_s: float) -> int:
        return 0

    @property
    def stats(self) -> DeliveryStats:
        return DeliveryStats(emitted=len(self.events))


def in_child(do: Callable[[], str], *, timeout_s: int = 60) -> str:
    """What a function answers in a child that is forked here, or the error that it raises there."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        answer = "nothing"
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(timeout_s)  # a child that hangs is killed, and answers nothing
        try:
            answer = do()
        except BaseException as error:  # noqa: BLE001 - the parent shows it
            answer = repr(error)
        finally:
            os.write(writing, answer.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    return answer
