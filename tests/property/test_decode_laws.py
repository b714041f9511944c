"""The hot path reads what the published models write, and is never more lenient than they are."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from decoding import DecodedEvent, decode_all, decode_one
from fakes import KEY, NOON, a_decided, a_receipt, an_executed, an_undone
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from analytics.signals.event_kinds import COUNTERS_OF_KIND, EventKind
from producers.wire import contract as c
from producers.wire import decision as d
from producers.wire import events as e
from producers.wire.events import event_to_bytes
from producers.wire.receipt import Receipt
from producers.wire.stage import Stage
from streams.ingest.decode import EventDecoder, latest_possible, micros_of
from streams.ingest.event_columns import UNKNOWN
from streams.ingest.faults import Fault

NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=200).filter(
    lambda text: not any(ord(char) < 32 or ord(char) == 127 for char in text)
)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone
MILLISECONDS = st.none() | st.floats(0, 1e12)
DOLLARS = st.none() | st.floats(0, 1e6)

OUTCOMES = st.one_of(
    st.builds(d.Allow),
    st.builds(d.Constrain, mode=NAMES, reason=NAMES, runs=st.booleans()),
    st.builds(d.QueueForReview, reason=NAMES),
    st.builds(d.Deny, reason=NAMES),
    st.builds(d.FallBack, mode=NAMES, reason=NAMES),
)
IMPACTS = st.one_of(
    st.builds(e.Incident, severity=st.integers(1, 5), reference=st.none() | NAMES),
    st.builds(e.Support, reference=st.none() | NAMES),
    st.builds(e.Quality, passed=st.booleans(), score=st.none() | st.floats(0, 1), evaluator=st.none() | NAMES),
)


@st.composite
def receipts(draw: st.DrawFn) -> Receipt:
    return Receipt(
        decision_id=draw(NAMES),
        decided_at=draw(MOMENTS),
        environment=draw(NAMES),
        workflow=draw(NAMES),
        tool=draw(NAMES),
        stage=draw(st.sampled_from(Stage)),
        cohort=draw(NAMES),
        epoch=draw(NAMES),
    )


@st.composite
def counted_events(draw: st.DrawFn) -> tuple[e.Event, Receipt]:
    """An event about an action, with the receipt inside it, signed with `KEY`."""
    receipt = draw(receipts())
    token = receipt.token(KEY)
    contract = c.ActionContract(
        actor=c.Actor(agent=draw(NAMES), user=draw(st.none() | NAMES)),
        intent=draw(TEXTS),
        target=c.Target(environment=receipt.environment, system=draw(NAMES)),
        tool=receipt.tool,
        workflow=receipt.workflow,
        risk_class=draw(st.sampled_from(c.RiskClass)),
        reversibility=draw(st.sampled_from(c.Reversibility)),
    )
    decided = e.ActionDecidedData(
        receipt=token, contract=contract, decision=d.Decision(result=draw(OUTCOMES), enforced=draw(st.booleans()))
    )
    executed = e.ActionExecutedData(
        receipt=token,
        status=draw(st.sampled_from(e.ExecutionStatus)),
        latency_ms=draw(MILLISECONDS),
        cost_usd=draw(DOLLARS),
    )
    undone = e.ActionUndoneData(receipt=token, result=draw(st.sampled_from(e.UndoResult)), reason=draw(TEXTS))
    impact = e.ActionImpactData(receipt=token, impact=draw(IMPACTS))
    review = e.ReviewResolvedData(
        receipt=token,
        resolution=draw(st.sampled_from(e.Resolution)),
        reviewer=draw(NAMES),
        rationale=draw(TEXTS),
        wait_ms=draw(MILLISECONDS),
    )
    envelope: dict[str, Any] = {
        "id": draw(NAMES),
        "source": draw(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=500)),
        "time": draw(MOMENTS),
        "subject": receipt.decision_id,
    }
    event_class, data = draw(
        st.sampled_from(
            [
                (e.ActionDecided, decided),
                (e.ActionExecuted, executed),
                (e.ActionUndone, undone),
                (e.ActionImpact, impact),
                (e.ReviewResolved, review),
            ]
        )
    )
    return event_class.model_validate({**envelope, "data": data}), receipt


def expected_counters(event: e.Event) -> set[str]:
    """What the design says the event counts, read off its model."""
    if isinstance(event, e.ActionDecided):
        names = {
            "allow": "allowed",
            "constrain": "constrained",
            "queue_for_review": "queued",
            "deny": "denied",
            "fallback": "fell_back",
        }
        follows = {"expected"} if event.data.decision.expects_execution else set()
        return {"decisions", names[event.data.decision.result.outcome]} | follows
    if isinstance(event, e.ActionExecuted):
        if event.data.status in {e.ExecutionStatus.CANCELLED, e.ExecutionStatus.REFUSED}:
            return set()  # what `expected` loses by it: tests/unit/test_endings.py
        return {"executed", event.data.status.value} - {"succeeded"}
    if isinstance(event, e.ActionUndone):
        return {{"failed": "undo_failed"}.get(event.data.result.value, event.data.result.value)}
    if isinstance(event, e.ReviewResolved):
        approved = event.data.resolution is e.Resolution.APPROVED
        return {"reviews_approved", "expected"} if approved else {"reviews_rejected"}
    assert isinstance(event, e.ActionImpact)
    return expected_of_impact(event.data.impact)


def expected_of_impact(impact: e.Incident | e.Support | e.Quality) -> set[str]:
    if isinstance(impact, e.Incident):
        return {"incidents", "severe_incidents"} if impact.severity == 1 else {"incidents"}
    if isinstance(impact, e.Support):
        return {"support"}
    return {"quality_checks"} if impact.passed else {"quality_checks", "quality_failures"}


@settings(deadline=None)
@given(counted_events(), st.sampled_from([KEY, None]))
def test_what_the_models_write_is_read_as_they_mean_it(made: tuple[e.Event, Receipt], key: bytes | None) -> None:
    event, receipt = made
    read = decode_one(event_to_bytes(event), key)
    assert isinstance(read, DecodedEvent), read
    assert (read.id, read.type, read.source, read.subject) == (event.id, event.type, event.source, event.subject)
    assert read.time_us == micros_of(event.time)
    assert read.decided_at_us == micros_of(receipt.decided_at)
    assert read.cell == (*receipt.cell, receipt.epoch)
    assert set(COUNTERS_OF_KIND[read.kind]) == expected_counters(event)
    decided = isinstance(event, e.ActionDecided)
    assert read.user == (event.data.contract.actor.user if decided else None)
    assert read.risk_rank == (event.data.contract.risk_class.rank if decided else UNKNOWN)
    executed = isinstance(event, e.ActionExecuted)
    latency, cost = (event.data.latency_ms, event.data.cost_usd) if executed else (None, None)
    assert read.latency_us == (UNKNOWN if latency is None else round(latency * 1e3))
    assert read.cost_microusd == (UNKNOWN if cost is None else round(cost * 1e6))


@settings(deadline=None)
@given(NAMES, TEXTS, MOMENTS)
def test_events_without_a_receipt_are_kept_and_count_nothing(name: str, text: str, moment: datetime) -> None:
    changed = e.PolicyChanged(
        id=name,
        source="/flags",
        time=moment,
        subject=name,
        data=e.PolicyChangedData(flag_key=name, changed_by=name, reason=text),
    )
    recommended = e.StageRecommended(
        id=name,
        source="/judge",
        time=moment,
        subject=name,
        data=e.StageRecommendedData(
            verdict_id=name,
            environment=name,
            workflow=name,
            tool=name,
            stage=name,
            cohort=name,
            epoch=name,
            verdict=e.VerdictName.HOLD,
            reasons=(),
            gate_sha256="0" * 64,
            lake_version=0,
            watermark=moment,
        ),
    )
    for event in (changed, recommended):
        read = decode_one(event_to_bytes(event), KEY)
        assert isinstance(read, DecodedEvent), read
        assert (read.kind, read.cell, read.decided_at_us) == (EventKind.UNCOUNTED, None, None)
        assert (read.id, read.time_us) == (name, micros_of(moment))


# Every field that the hot path reads; the last is only in some of the types.
READ = [
    ("id",),
    ("source",),
    ("time",),
    ("subject",),
    ("type",),
    ("specversion",),
    ("datacontenttype",),
    ("data",),
    *[
        ("data", *rest)
        for rest in (
            ("receipt",),
            ("contract",),
            ("contract", "actor", "user"),
            ("contract", "tool"),
            ("contract", "workflow"),
            ("contract", "risk_class"),
            ("contract", "target"),
            ("contract", "target", "environment"),
            ("decision",),
            ("decision", "result"),
            ("decision", "result", "outcome"),
            ("decision", "enforced"),
            ("status",),
            ("latency_ms",),
            ("cost_usd",),
            ("result",),
            ("impact",),
            ("impact", "kind"),
            ("impact", "severity"),
            ("impact", "passed"),
            ("resolution",),
            ("reviewer",),
            ("rationale",),
            ("wait_ms",),
        )
    ],
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["", "x" * 201, "x" * 501, "a\x00b", "a\n", "allow", "1.0", "2026-01-01T00:00:00", "sk1.e30"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
ABSENT = object()


def place_of(document: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
    """The object that holds the field at a path; None where the document has no such field."""
    place: Any = document
    for part in path[:-1]:
        place = place.get(part, {}) if isinstance(place, dict) else {}
    return place if isinstance(place, dict) and path[-1] in place else None


def hold_to_the_models(document: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    """Change one field; where the models refuse the result, so must the hot path."""
    place = place_of(document, path)
    assert place is not None
    if value is ABSENT:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    changed = json.dumps(document).encode()
    try:
        e.EVENT.validate_json(changed)
    except (ValidationError, OverflowError):
        read = decode_one(changed, KEY)
        assert isinstance(read, Fault), f"{path} = {value!r} is no event, but was read as {read}"
        assert read.reason not in {"not_json", "not_object", "too_large", "null_value", "impossible_time"}


TYPICAL = [
    a_decided(key=KEY),
    an_executed(key=KEY, cost_usd=1.0),
    an_undone(key=KEY),
    *[
        e.ActionImpact(
            id="i",
            source="/tests",
            time=NOON,
            subject=a_receipt().decision_id,
            data=e.ActionImpactData(receipt=a_receipt().token(KEY), impact=impact),
        )
        for impact in (e.Incident(severity=2), e.Quality(passed=True))
    ],
    e.ReviewResolved(
        id="r",
        source="/tests",
        time=NOON,
        subject=a_receipt().decision_id,
        data=e.ReviewResolvedData(
            receipt=a_receipt().token(KEY),
            resolution=e.Resolution.APPROVED,
            reviewer="someone",
            rationale="fine",
            wait_ms=1.0,
        ),
    ),
]
UNLIKELY = [
    *(None, True, False, 0, 1, -1, 6, 1.5, 2e6, 1e13, 10**20, [], {}, ABSENT),
    *("x" * length for length in (0, 1, 201, 501, 2_101, 4_001)),
    *("a\x00b", "a\n", "a\x7f", "allow", "approved", "failed", "incident", "1.0", "2026-01-01T00:00:00", "sk1.e30"),
]


@pytest.mark.parametrize("event", TYPICAL, ids=lambda event: type(event).__name__)
def test_no_unlikely_value_is_read_that_the_models_refuse(event: e.Event) -> None:
    for path in READ:
        for value in UNLIKELY:
            document = json.loads(event_to_bytes(event))
            if place_of(document, path) is not None:
                hold_to_the_models(document, path, value)


@settings(deadline=None)
@given(counted_events(), JSON | st.just(ABSENT), st.data())
def test_the_hot_path_is_never_more_lenient(made: tuple[e.Event, Receipt], value: object, data: st.DataObject) -> None:
    document = json.loads(event_to_bytes(made[0]))
    path = data.draw(st.sampled_from([path for path in READ if place_of(document, path) is not None]))
    hold_to_the_models(document, path, value)


@settings(deadline=None)
@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_have_an_answer(value: bytes) -> None:
    assert isinstance(decode_one(value, KEY), Fault)


@settings(deadline=None)
@given(counted_events(), st.integers(1, 10**6))
def test_ahead_of_the_clock(made: tuple[e.Event, Receipt], ahead_us: int) -> None:
    event, receipt = made
    latest = max(event.time, receipt.decided_at)
    now = latest - timedelta(minutes=5)
    assert isinstance(decode_one(event_to_bytes(event), KEY, latest_possible(now)), DecodedEvent)
    late = decode_one(event_to_bytes(event), KEY, latest_possible(now - timedelta(microseconds=ahead_us)))
    assert isinstance(late, Fault)
    assert late.reason == "impossible_time"


@pytest.mark.parametrize("kind", EventKind)
def test_every_kind_counts_only_what_exists(kind: EventKind) -> None:
    assert len(set(COUNTERS_OF_KIND[kind])) == len(COUNTERS_OF_KIND[kind])


@st.composite
def records(draw: st.DrawFn) -> bytes | None:
    """An event as it is, or with one field changed, or bytes that something happened to."""
    event, _ = draw(counted_events())
    value = event_to_bytes(event)
    document = json.loads(value)
    path = draw(st.sampled_from([path for path in READ if place_of(document, path) is not None]))
    place = place_of(document, path)
    assert place is not None
    how = draw(st.sampled_from(["plain", "plain", "escaped", "field", "twice", "bytes", "nothing"]))
    if how == "escaped":
        return json.dumps(document).encode()
    if how == "field":
        place[path[-1]] = draw(JSON | st.sampled_from([each for each in UNLIKELY if each is not ABSENT]))
        return json.dumps(document, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if how == "twice":
        again = json.dumps(path[-1]) + ":" + json.dumps(draw(JSON | st.just(place[path[-1]])))
        cut = draw(
            st.sampled_from([b"{" + again.encode() + b"," + value[1:], value[:-1] + b"," + again.encode() + b"}"])
        )
        return draw(st.sampled_from([cut, value + value, value + b"\n" + value, b" " + value + b"\n"]))
    if how == "bytes":
        at = draw(st.integers(0, len(value)))
        return value[:at] + draw(st.binary(max_size=3)) + value[at + draw(st.integers(0, 2)) :]
    if how == "nothing":
        return draw(
            st.sampled_from([None, b"", b" ", b"{}", b"[]", b"null", b"{" * 3000, b'"' + b"x" * 1_000_001 + b'"'])
        )
    return value


@settings(deadline=None)
@given(st.lists(records(), max_size=5), st.sampled_from([KEY, None, b"another"]), MOMENTS | st.none())
@pytest.mark.slow
def test_a_record_is_read_the_same_alone_and_in_company(
    values: list[bytes | None], key: bytes | None, now: datetime | None
) -> None:
    latest_us = None if now is None else latest_possible(now - timedelta(minutes=5))
    alone = [decode_one(value, key, latest_us) for value in values]
    decoder = EventDecoder(key)
    for _ in range(2):  # the second time its receipts are known
        decoder.begin_batch()
        assert decode_all(values, key, latest_us, decoder) == alone
