from __future__ import annotations

import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from random import Random
from types import SimpleNamespace
from typing import get_args

import pytest
from fakes import KEY, NOON, FakeClock, FakeEmitter, a_contract, a_decision, a_recorder

import stagekeeper
from producers.delivery import recorder as recorder_module
from producers.delivery.recorder import random_id
from producers.wire import events
from producers.wire.decision import FlagEvaluation, FlagReason
from producers.wire.events import event_from_bytes, event_to_bytes
from producers.wire.receipt import Receipt, ReceiptError
from producers.wire.stage import Stage


def test_a_whole_life_is_told_in_order_and_every_event_carries_the_receipt() -> None:
    emitter, clock = FakeEmitter(), FakeClock()
    recorder = a_recorder(emitter, clock=clock, key=KEY)
    receipt = recorder.decided(a_contract(), a_decision(), stage=Stage.NARROW_AUTONOMY, cohort="eu")
    clock.advance(90)
    recorder.review_resolved(
        receipt, events.Resolution.APPROVED, reviewer="r-1", rationale="fits the order", wait_ms=90_000
    )
    recorder.executed(receipt, events.ExecutionStatus.SUCCEEDED, latency_ms=12.5, cost_usd=0.01)
    recorder.impact(receipt, events.Incident(severity=2))
    recorder.undone(receipt, events.UndoResult.UNDONE, reason="the bank's mistake")

    kinds = [
        events.ActionDecided,
        events.ReviewResolved,
        events.ActionExecuted,
        events.ActionImpact,
        events.ActionUndone,
    ]
    assert [type(event) for event in emitter.events] == kinds
    assert len({event.id for event in emitter.events}) == 5
    for event in emitter.events:
        assert not isinstance(event, events.PolicyChanged | events.StageRecommended)
        assert event.subject == receipt.decision_id
        assert event.source == "/tests"
        assert event.dataschema == events.schema_id(type(event))
        assert Receipt.from_token(event.data.receipt, KEY) == receipt
        assert event_from_bytes(event_to_bytes(event)) == event
    assert emitter.events[0].time == NOON
    assert emitter.events[-1].time == NOON + timedelta(seconds=90)
    assert receipt.cell == ("production", "refunds", "issue_refund", "narrow_autonomy", "eu")


def test_moments_that_are_given_beat_the_clock() -> None:
    emitter = FakeEmitter()
    recorder = a_recorder(emitter)
    earlier = NOON - timedelta(hours=3)
    receipt = recorder.decided(a_contract(), a_decision(), stage=Stage.DRAFT_WRITE, decided_at=earlier)
    recorder.executed(receipt, events.ExecutionStatus.FAILED, error_type="conflict", at=earlier + timedelta(seconds=2))
    assert receipt.decided_at == earlier
    assert [event.time for event in emitter.events] == [earlier, earlier + timedelta(seconds=2)]


def test_what_is_not_known_is_not_said() -> None:
    emitter = FakeEmitter()
    recorder = a_recorder(emitter)
    receipt = recorder.decided(a_contract(), a_decision(), stage=Stage.DRAFT_WRITE)
    recorder.executed(receipt, events.ExecutionStatus.SUCCEEDED)
    value = event_to_bytes(emitter.events[1])
    assert b"latency_ms" not in value
    assert b"cost_usd" not in value


def test_a_stage_a_model_and_a_flag_that_shapes_start_a_new_epoch_and_a_switch_does_not() -> None:
    recorder = a_recorder(FakeEmitter())
    contract, decision = a_contract(), a_decision()
    base = recorder.decided(contract, decision, stage=Stage.DRAFT_WRITE).epoch
    newer = contract.model_copy(update={"actor": contract.actor.model_copy(update={"model": "m-2"})})
    approval = FlagEvaluation(key="agent-action-approval-required", variant="on", reason=FlagReason.STATIC)
    switch = FlagEvaluation(key="agent-action-denylist", variant="listed", reason=FlagReason.STATIC)

    def epoch(contract_: stagekeeper.ActionContract, stage: Stage, *more: FlagEvaluation) -> str:
        changed = decision.model_copy(update={"flags": (*decision.flags, *more)})
        return recorder.decided(contract_, changed, stage=stage).epoch

    assert epoch(contract, Stage.DRAFT_WRITE) == base
    assert epoch(contract, Stage.DRAFT_WRITE, switch) == base
    others = {
        epoch(contract, Stage.APPROVAL_GATED),
        epoch(newer, Stage.DRAFT_WRITE),
        epoch(contract, Stage.DRAFT_WRITE, approval),
    }
    assert len(others | {base}) == 4


def test_a_policy_change_is_keyed_by_its_flag() -> None:
    emitter = FakeEmitter()
    change = events.PolicyChangedData(flag_key="agent-action-mode", changed_by="dana", reason="held its limits")
    a_recorder(emitter).policy_changed(change)
    assert emitter.events[0].subject == "agent-action-mode"


def test_a_router_without_the_key_cannot_sign() -> None:
    emitter = FakeEmitter()
    a_recorder(emitter, key=b"another key").decided(a_contract(), a_decision(), stage=Stage.DRAFT_WRITE)
    (event,) = emitter.events
    assert isinstance(event, events.ActionDecided)
    with pytest.raises(ReceiptError, match="does not match"):
        Receipt.from_token(event.data.receipt, KEY)


def test_the_front_door_offers_every_name_it_lists() -> None:
    for name in stagekeeper.__all__:
        assert getattr(stagekeeper, name).__name__ == name
    assert set(stagekeeper.__all__) <= set(dir(stagekeeper))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = stagekeeper.no_such_name


def test_the_front_door_offers_every_event_and_every_decision() -> None:
    decisions = {"Allow", "Constrain", "QueueForReview", "Deny", "FallBack"}
    spoken = {event_class.__name__ for event_class in events.EVENT_CLASSES}
    impacts = {kind.__name__ for kind in get_args(get_args(events.Impact)[0])}
    assert decisions | spoken | impacts <= set(stagekeeper.__all__)


def test_ids_are_uuids_of_version_4_in_their_one_spelling() -> None:
    drawn = [random_id() for _ in range(1_000)]
    for each in drawn:
        read = uuid.UUID(each)
        assert (str(read), read.version, read.variant) == (each, 4, uuid.RFC_4122)
    assert {each[19] for each in drawn} == set("89ab"), "all variants come up"
    assert len(set(drawn)) == 1_000


def test_many_threads_draw_no_id_twice() -> None:
    with ThreadPoolExecutor(8) as threads:
        drawn = threads.map(lambda _: [random_id() for _ in range(2_000)], range(8))
        assert len({each for part in drawn for each in part}) == 16_000


def test_a_forked_child_draws_ids_of_its_own() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, "".join(random_id() for _ in range(20)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    os.waitpid(child, 0)
    theirs = {text[start : start + 36] for start in range(0, len(text), 36)}
    assert len(theirs) == 20
    assert theirs.isdisjoint({random_id() for _ in range(300)})


def test_two_copies_of_a_frozen_machine_draw_different_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for moment in (7, 8):  # thawed twice, with the same numbers still to come
        monkeypatch.setattr(recorder_module, "_random", Random(5))
        monkeypatch.setattr(recorder_module, "time", SimpleNamespace(time_ns=lambda moment=moment: moment))
        drawn.append({random_id() for _ in range(100)})
    assert drawn[0].isdisjoint(drawn[1])
