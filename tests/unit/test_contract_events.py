from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from fakes import NOON, a_contract, a_decided, a_decision, an_executed, an_undone
from pydantic import ValidationError

from producers.wire import events
from producers.wire.contract import Evidence, Scope
from producers.wire.decision import Allow, Constrain, Deny, FallBack, Outcome, QueueForReview
from producers.wire.events import EventError, EventRecord, event_from_bytes, event_to_bytes
from producers.wire.topics import DECISIONS, OUTCOMES, POLICY_CHANGES, RECOMMENDATIONS, REVIEWS, ROUTERS

TOPIC_OF = {
    events.ActionDecided: DECISIONS,
    events.ActionExecuted: OUTCOMES,
    events.ActionUndone: OUTCOMES,
    events.ActionImpact: OUTCOMES,
    events.ReviewResolved: REVIEWS,
    events.PolicyChanged: POLICY_CHANGES,
    events.StageRecommended: RECOMMENDATIONS,
    events.RouterStatus: ROUTERS,
}


def _broken(**changes: object) -> bytes:
    document = json.loads(event_to_bytes(an_executed()))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = document
        for parent in parents:
            place = place[parent]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return json.dumps(document).encode()


def test_every_event_has_its_topic_its_type_and_its_schema() -> None:
    assert {event_class: event_class.topic for event_class in events.EVENT_CLASSES} == TOPIC_OF
    types = [events.type_of(event_class) for event_class in events.EVENT_CLASSES]
    assert len(set(types)) == len(types)
    assert all(name.startswith("stagekeeper.") and name.endswith(".v1") for name in types)
    assert events.schema_id(events.ActionDecided) == "urn:stagekeeper:schema:action.decided.v1"


@pytest.mark.parametrize("event", [a_decided(), an_executed(), an_undone()])
def test_bytes_and_back(event: events.Event) -> None:
    assert event_from_bytes(event_to_bytes(event)) == event
    assert EventRecord.from_event(event) == (event.topic, event.subject.encode(), event_to_bytes(event))


def test_an_event_is_a_cloud_event_in_structured_mode() -> None:
    document = json.loads(event_to_bytes(a_decided()))
    assert document["specversion"] == "1.0"
    assert document["datacontenttype"] == "application/json"
    assert document["time"] == "2026-03-14T12:00:00Z"
    assert None not in document.values()


@pytest.mark.parametrize(
    ("result", "enforced", "expected"),
    [
        (Allow(), True, True),
        (Allow(), False, False),
        (Constrain(mode="draft", reason="r"), True, True),
        (Constrain(mode="search_only", reason="r", runs=False), True, False),
        (QueueForReview(reason="r"), True, False),
        (Deny(reason="r"), True, False),
        (FallBack(mode="refuse", reason="r"), True, False),
    ],
)
def test_which_decisions_expect_an_execution(result: Outcome, *, enforced: bool, expected: bool) -> None:
    decision = a_decision(result, enforced=enforced)
    assert decision.expects_execution is expected
    assert event_from_bytes(event_to_bytes(a_decided(result=result))) == a_decided(result=result)


def test_moments_need_a_time_zone_and_are_told_in_utc() -> None:
    east = datetime(2026, 3, 14, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    assert an_executed().model_validate({**an_executed().model_dump(), "time": east}).time == NOON
    with pytest.raises(ValidationError, match="timezone"):
        an_executed().model_validate({**an_executed().model_dump(), "time": east.replace(tzinfo=None)})
    assert NOON.tzinfo is UTC


@pytest.mark.parametrize(
    ("broken", "names"),
    [
        (b"{", "event"),
        (b"[]", "event"),
        (_broken(type="stagekeeper.action.executed.v2"), "type"),
        (_broken(specversion="0.3"), "specversion"),
        (_broken(data__status=...), "data.status"),
        (_broken(data__status="vanished"), "data.status"),
        (_broken(data__latency_ms=-1), "data.latency_ms"),
        (_broken(data__receipt="sk1.???"), "data.receipt"),
        (_broken(data__latency="typo"), "data.latency"),
        (_broken(id=""), "id"),
        (_broken(id="a\nb"), "id"),
        (_broken(traceparent="00-abc"), "traceparent"),
    ],
)
def test_what_is_not_published_is_refused_with_the_field(broken: bytes, names: str) -> None:
    with pytest.raises(EventError, match=names):
        event_from_bytes(broken)


def test_not_a_number_is_no_number() -> None:
    with pytest.raises(EventError, match="latency_ms"):
        event_from_bytes(_broken(data__latency_ms=float("nan")))


@pytest.mark.parametrize("ratio", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_ratio_lies_between_0_and_1(ratio: float) -> None:
    with pytest.raises(ValidationError):
        Evidence(confidence=ratio)
    with pytest.raises(ValidationError):
        Scope(traffic_ratio=ratio)


def test_records_do_not_change() -> None:
    contract = a_contract()
    with pytest.raises(ValidationError, match="frozen"):
        contract.tool = "another"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        contract.model_validate({**contract.model_dump(), "arguments": {"amount": 5}})
