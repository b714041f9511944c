"""The bytes of every kind of event, as recorded with the writer that was there before this one."""

from __future__ import annotations

import itertools
import json
import re
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from boundary_cases import Permit, Refuse, Shelf, flag_evaluator
from fakes import KEY, NOON, FakeIds, a_contract, a_decision

from producers.boundary.action import Action, acting
from producers.boundary.errors import RefusedError
from producers.boundary.router import Router
from producers.delivery.recorder import Recorder
from producers.errors import UsageError
from producers.wire import events
from producers.wire.contract import Reversibility, RiskClass
from producers.wire.decision import Constrain, Deny, FallBack, QueueForReview
from producers.wire.events import EVENT_CLASSES, event_from_bytes, event_to_bytes
from producers.wire.examples import EXAMPLES
from producers.wire.stage import Stage

GOLDEN = Path(__file__).parents[1] / "golden" / "event_bytes.jsonl"
"""One JSON string a line, in the order of `written`; recorded before there was one writer."""

TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
ODD = 'she said "50 % \\ %s %(id)s {x}"\n\t\x01é✓'


class Taken(Shelf):
    """Keeps the bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[bytes] = []

    def emit(self, record: Any) -> None:
        self.values.append(record.value)
        super().emit(record)


def recorded() -> list[bytes]:
    """What a recorder writes when it is called by hand."""
    taken = Taken()
    for key in (None, KEY):
        recorder = Recorder(taken, source='/tests/"%s"', key=key, now=lambda: NOON, new_id=FakeIds())
        receipt = recorder.decided(a_contract(), a_decision(), stage=Stage.NARROW_AUTONOMY, cohort='e"u')
        at = datetime(2026, 3, 14, 17, 30, 0, 5, tzinfo=timezone(timedelta(hours=5, minutes=30)))
        odd = a_contract().model_copy(
            update={"intent": ODD, "conversation": "c%", "tool_call": "t", "arguments_sha256": "d" * 64}
        )
        for result in (Constrain(mode="draft", reason="r"), Deny(reason="r"), QueueForReview(reason="r")):
            recorder.decided(odd, a_decision(result), stage=Stage.DRAFT_WRITE, decided_at=at, traceparent=TRACE)
        timed = a_decision(FallBack(mode="refuse", reason="r")).model_copy(update={"decide_ms": 0.0625})
        recorder.decided(odd, timed, stage=Stage.SEARCH_ONLY)
        recorder.executed(receipt, events.ExecutionStatus.SUCCEEDED, latency_ms=12.5, cost_usd=0.01)
        recorder.executed(receipt, events.ExecutionStatus.FAILED, error_type=ODD[:9], at=at, traceparent=TRACE)
        recorder.executed(receipt, events.ExecutionStatus.TIMED_OUT)
        recorder.undone(receipt, events.UndoResult.UNDONE, reason=ODD)
        recorder.undone(receipt, events.UndoResult.NOT_UNDOABLE)
        for impact in (events.Incident(severity=2), events.Support(reference="t-1"), events.Quality(passed=True)):
            recorder.impact(receipt, impact, at=at)
        recorder.review_resolved(
            receipt, events.Resolution.APPROVED, reviewer="r-1", rationale=ODD, wait_ms=90_000.0, at=at
        )
        recorder.policy_changed(
            events.PolicyChangedData(flag_key="agent-action-mode", changed_by="dana", reason=ODD, before="a")
        )
    return taken.values


def routed() -> list[bytes]:
    """What a router writes, under each mode; its decisions' ids are those of their events."""
    taken, ticks = Taken(), itertools.count()
    for mode, key, authorizer in (
        ("autonomous", None, Permit()),
        ("autonomous", KEY, Permit()),
        ("search_only", KEY, Permit()),
        ("draft_write", None, Permit()),
        ("observe", None, Permit()),
        ("fallback", None, Permit()),
        ("autonomous", None, Refuse()),
    ):
        router = Router(
            authorizer=authorizer,
            flags=flag_evaluator(mode=mode, approval=mode == "autonomous"),
            recorder=Recorder(taken, source="/router", key=key, now=lambda: NOON, new_id=FakeIds()),
            environment="production",
            clock=lambda: next(ticks) / 1024,
        )
        for risk in (RiskClass.SCOPED_READ, RiskClass.REVERSIBLE_WRITE, RiskClass.IRREVERSIBLE):
            action = Action(
                tool="tool%s",
                workflow="w",
                system="s",
                environment="production",
                risk_class=risk,
                reversibility=Reversibility.AUTOMATIC,
                run=lambda amount: 1 // amount,
                variants={"draft": lambda amount: amount},
            )
            for context, amount in (
                ({}, 1),
                ({"user": "u", "account": "a", "model": "m", "confidence": 0.875, "intent": ODD}, 0),
                ({"conversation": "c%", "tool_call": '"', "cohort": "eu", "region": "r", "agent": "bot"}, 1),
            ):
                with acting(**context), suppress(RefusedError, ZeroDivisionError):
                    router.call(action, amount)
    return taken.values


def written() -> list[bytes]:
    """Without their numbers, which there were not then."""
    values = [event_to_bytes(EXAMPLES[event_class]) for event_class in EVENT_CLASSES] + recorded() + routed()
    return [re.sub(rb',"recordnumber":"[0-9a-z]+\.[1-9][0-9]*"', b"", value) for value in values]


def test_every_event_has_the_bytes_that_it_had() -> None:
    expected = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
    assert [value.decode() for value in written()] == expected


def test_every_event_reads_back_and_is_written_alike_by_its_model() -> None:
    for value in written():
        assert event_to_bytes(event_from_bytes(value)) == value


def test_a_moment_without_a_zone_is_refused() -> None:
    recorder = Recorder(Taken(), source="/t")
    with pytest.raises(UsageError, match="has no time zone"):
        recorder.decided(a_contract(), a_decision(), stage=Stage.DRAFT_WRITE, decided_at=NOON.replace(tzinfo=None))
