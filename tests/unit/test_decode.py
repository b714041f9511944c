"""Every reason for which a record is rejected, and what is not a reason."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from decoding import DecodedEvent, binary, decode_one, decode_records
from fakes import KEY, NOON, a_decided, a_receipt, an_executed, an_undone

from producers.wire.events import Resolution, ReviewResolved, ReviewResolvedData, event_to_bytes
from producers.wire.topics import MAX_EVENT_BYTES
from streams.ingest.decode import latest_possible
from streams.ingest.faults import MAX_DEPTH, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

Document = dict[str, Any]
LATEST = latest_possible(NOON)


def decided() -> Document:
    document: Document = json.loads(event_to_bytes(a_decided(key=KEY)))
    return document


def executed() -> Document:
    document: Document = json.loads(event_to_bytes(an_executed(key=KEY, cost_usd=0.5)))
    return document


def reviewed() -> Document:
    receipt = a_receipt()
    event = ReviewResolved(
        id="r-1",
        source="/tests",
        time=NOON,
        subject=receipt.decision_id,
        data=ReviewResolvedData(
            receipt=receipt.token(KEY), resolution=Resolution.APPROVED, reviewer="r", rationale="fine", wait_ms=5.0
        ),
    )
    document: Document = json.loads(event_to_bytes(event))
    return document


def put(make: Callable[[], Document], path: str, value: object) -> bytes:
    """The event that `make` gives with one field changed."""
    document = make()
    *outer, last = path.split(".")
    place = document
    for part in outer:
        place = place[part]
    place[last] = value
    return json.dumps(document).encode()


def without(make: Callable[[], Document], path: str) -> bytes:
    document = make()
    *outer, last = path.split(".")
    place = document
    for part in outer:
        place = place[part]
    del place[last]
    return json.dumps(document).encode()


def token_of(payload: bytes) -> str:
    return "sk1." + base64.urlsafe_b64encode(payload).rstrip(b"=").decode()


def faulty(value: bytes | None, key: bytes | None = KEY) -> Fault:
    read = decode_one(value, key, LATEST)
    assert isinstance(read, Fault), read
    return read


OTHER = a_receipt(decision_id="another")

CASES: list[tuple[str, bytes | None, str, str]] = [
    ("no value", None, "null_value", ""),
    ("an empty value", b"", "null_value", ""),
    ("2 MB", b'{"type": "' + b"x" * 2_000_000 + b'"}', "too_large", "2000012 bytes"),
    ("text", b"hello", "not_json", ""),
    ("half an event", event_to_bytes(a_decided())[:-5], "not_json", ""),
    ("not UTF-8", b'{"type": "\xff"}', "not_json", "utf-8"),
    ("not UTF-8 where nobody looks", put(decided, "dataschema", "@").replace(b"@", b"\xff"), "not_json", "utf-8"),
    ("nested beyond reason", b"[" * 100_000, "not_json", "nested"),
    ("two events", event_to_bytes(a_decided()) * 2, "not_json", "trailing"),
    ("a list", b"[1]", "not_object", "array"),
    ("a string", b'"decided"', "not_object", "string"),
    ("null as JSON", b"null", "not_object", "null"),
    ("no type", without(decided, "type"), "missing_field", "type"),
    ("a number as type", put(decided, "type", 7), "wrong_type", "type"),
    ("an unknown type", put(decided, "type", "com.example.created.v1"), "unknown_type", "com.example.created.v1"),
    ("a later version", put(decided, "type", "stagekeeper.action.decided.v2"), "unknown_version", "decided.v2"),
    ("no version", put(decided, "type", "stagekeeper.action.decided"), "unknown_version", "decided"),
    ("another CloudEvents version", put(decided, "specversion", "0.3"), "unknown_version", "specversion"),
    ("a number as specversion", put(decided, "specversion", 1.0), "wrong_type", "specversion"),
    ("no id", without(decided, "id"), "missing_field", "id: missing"),
    ("an empty id", put(decided, "id", ""), "wrong_type", "id"),
    ("a number as id", put(decided, "id", 1), "wrong_type", "id"),
    ("a long id", put(decided, "id", "x" * 201), "wrong_type", "id"),
    ("an id with a line break", put(decided, "id", "a\n"), "wrong_type", "id"),
    ("an id with DEL", put(decided, "id", "a@").replace(b"a@", b"a\x7f"), "wrong_type", "id"),
    ("a tool with a null character", put(decided, "data.contract.tool", "a\x00"), "wrong_type", "contract.tool"),
    ("no time zone", put(decided, "time", "2026-03-14T12:00:00"), "wrong_type", "time"),
    ("no time", without(decided, "time"), "missing_field", "time"),
    ("before year 1 in UTC", put(decided, "time", "0001-01-01T00:00:00+10:00"), "wrong_type", "time"),
    ("another content type", put(decided, "datacontenttype", "text/xml"), "wrong_type", "datacontenttype"),
    ("no data", without(decided, "data"), "missing_field", "data"),
    ("data as text", put(decided, "data", "{}"), "wrong_type", "data"),
    ("no contract", without(decided, "data.contract"), "missing_field", "data.contract: missing"),
    ("no actor", without(decided, "data.contract.actor"), "missing_field", "data.contract.actor: missing"),
    ("no target", without(decided, "data.contract.target"), "missing_field", "data.contract.target: missing"),
    ("an unknown risk class", put(decided, "data.contract.risk_class", "mild"), "wrong_type", "risk_class"),
    ("an unknown outcome", put(decided, "data.decision.result.outcome", "shrug"), "wrong_type", "outcome"),
    ("enforced as text", put(decided, "data.decision.enforced", "yes"), "wrong_type", "enforced"),
    ("an unknown status", put(executed, "data.status", "exploded"), "wrong_type", "status"),
    ("latency as text", put(executed, "data.latency_ms", "120"), "wrong_type", "data.latency_ms: expected"),
    ("an endless latency", put(executed, "data.latency_ms", 1e300), "wrong_type", "latency_ms"),
    ("an absurd cost", put(executed, "data.cost_usd", 2e6), "wrong_type", "cost_usd"),
    ("a number beyond any", put(executed, "data.latency_ms", 0).replace(b": 0", b": 1e999"), "wrong_type", ""),
    ("NaN", put(executed, "data.latency_ms", float("nan")), "not_json", ""),
    ("a negative latency", put(executed, "data.latency_ms", -0.5), "negative_value", "latency_ms"),
    ("a negative cost", put(executed, "data.cost_usd", -1), "negative_value", "cost_usd"),
    ("a negative wait", put(reviewed, "data.wait_ms", -1), "negative_value", "wait_ms"),
    ("no receipt", without(executed, "data.receipt"), "missing_receipt", "receipt"),
    ("a null receipt", put(executed, "data.receipt", None), "missing_receipt", "receipt"),
    ("a number as receipt", put(executed, "data.receipt", 5), "wrong_type", "receipt"),
    ("an empty receipt", put(executed, "data.receipt", ""), "malformed_receipt", "receipt"),
    ("an endless receipt", put(executed, "data.receipt", "sk1." + "A" * 4_000), "malformed_receipt", "receipt"),
    ("another kind of receipt", put(executed, "data.receipt", "sk2.abcd"), "malformed_receipt", "receipt"),
    ("padded base64", put(executed, "data.receipt", "sk1.abc="), "malformed_receipt", "receipt"),
    ("an unsigned receipt", put(executed, "data.receipt", a_receipt().token()), "unsigned_receipt", "not signed"),
    ("a forged receipt", put(executed, "data.receipt", a_receipt().token(b"guess")), "forged_receipt", "signature"),
    ("another decision", put(executed, "data.receipt", OTHER.token(KEY)), "receipt_mismatch", "decision_id"),
    ("another subject", put(executed, "subject", "another"), "receipt_mismatch", "subject"),
    ("another tool", put(decided, "data.contract.tool", "wipe"), "receipt_mismatch", "contract.tool"),
    ("another workflow", put(decided, "data.contract.workflow", "x"), "receipt_mismatch", "contract.workflow"),
    ("another environment", put(decided, "data.contract.target.environment", "x"), "receipt_mismatch", "environment"),
    ("from the future", put(decided, "time", (NOON + timedelta(minutes=6)).isoformat()), "impossible_time", "time"),
    (
        "decided in the future",
        put(executed, "data.receipt", a_receipt(decided_at=NOON + timedelta(minutes=6)).token(KEY)),
        "impossible_time",
        "decided_at",
    ),
]


@pytest.mark.parametrize(("value", "reason", "named"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_a_fault_has_its_reason_and_names_the_field(value: bytes | None, reason: str, named: str) -> None:
    fault = faulty(value)
    assert fault.reason == reason, fault
    assert named in fault.detail
    assert len(fault.detail) <= 500


@pytest.mark.parametrize(("value", "reason"), [pytest.param(*case[1:3], id=case[0]) for case in CASES])
def test_binary_mode_has_the_same_faults(value: bytes | None, reason: str) -> None:
    try:
        document = json.loads(value or b"")
    except (ValueError, RecursionError):
        return  # no value in binary mode says this
    if not isinstance(document, dict) or "data" not in document:
        return
    if all(isinstance(text, str) for name, text in document.items() if name != "data"):  # as headers are
        (read,) = decode_records([binary(document, document.get("datacontenttype"))], KEY, LATEST)
        assert isinstance(read, Fault)
        assert read.reason == reason


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"nothing", id="not JSON"),
        pytest.param(b"{}", id="an object"),
        pytest.param(b'["d","2026-03-14T12:00:00Z","p","w","t","draft_write","all"]', id="too short"),
        pytest.param(b'["d","2026-03-14T12:00:00Z","p","w","t","draft_write","all","e",1,2,3]', id="too long"),
        pytest.param(b'["d","yesterday","p","w","t","draft_write","all","e"]', id="no moment"),
        pytest.param(b'["d","2026-03-14T12:00:00","p","w","t","draft_write","all","e"]', id="no zone"),
        pytest.param(b'["d","2026-03-14T12:00:00Z","p","w","t","boss","all","e"]', id="no stage"),
        pytest.param(b'["d","2026-03-14T12:00:00Z","p\\n","w","t","draft_write","all","e"]', id="a line break"),
        pytest.param(b'["d","2026-03-14T12:00:00Z","","w","t","draft_write","all","e"]', id="an empty name"),
        pytest.param(b"[" * 2_000, id="nested"),
    ],
)
def test_a_receipt_with_the_wrong_inside_is_malformed(payload: bytes) -> None:
    value = put(executed, "data.receipt", token_of(payload))
    assert faulty(value, key=None).reason == "malformed_receipt"


def test_without_a_key_a_signature_is_not_looked_at() -> None:
    for token in (a_receipt().token(), a_receipt().token(b"whatever")):
        assert isinstance(decode_one(put(executed, "data.receipt", token), None, LATEST), DecodedEvent)


def test_five_minutes_ahead_is_possible_and_without_a_clock_everything_is() -> None:
    value = put(decided, "time", (NOON + timedelta(minutes=5)).isoformat())
    assert isinstance(decode_one(value, KEY, LATEST), DecodedEvent)
    value = put(decided, "time", (NOON + timedelta(days=5)).isoformat())
    assert isinstance(decode_one(value, KEY, None), DecodedEvent)


def test_what_nobody_publishes_is_ignored() -> None:
    value = put(executed, "data.mood", "good")
    assert isinstance(decode_one(value, KEY, LATEST), DecodedEvent)


@pytest.mark.parametrize("odd", ["1e999", "1" * 5_000, "[{},{}]", '"[{[{[{"', '"\\\\\\"[["'])
def test_what_nobody_publishes_may_be_any_json(odd: str) -> None:
    value = put(executed, "data.mood", "@odd").replace(b'"@odd"', odd.encode())
    assert isinstance(decode_one(value, KEY, LATEST), DecodedEvent)


@pytest.mark.parametrize(
    ("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('["[{",', "]"), (r'["\\",', "]"), (r'["\\\"[[",', "]")]
)
def test_nesting_has_a_limit_that_no_callers_stack_moves(opening: str, closing: str) -> None:
    def nested(depth: int) -> bytes:
        deep = opening * (depth - 2) + "1" + closing * (depth - 2)  # two levels lie around it
        return put(executed, "data.mood", "@odd").replace(b'"@odd"', deep.encode())

    def decode_below(frames: int, value: bytes) -> DecodedEvent | Fault:
        return decode_below(frames - 1, value) if frames else decode_one(value, KEY, LATEST)

    for frames in (0, 500):
        assert isinstance(decode_below(frames, nested(MAX_DEPTH)), DecodedEvent)
        fault = decode_below(frames, nested(MAX_DEPTH + 1))
        assert fault == ("not_json", "nested too deeply: the limit is 100 levels")


def test_many_brackets_side_by_side_are_not_deep() -> None:
    value = put(executed, "data.mood", "@odd").replace(b'"@odd"', b"[" + b"{}," * 5_000 + b"[]]")
    assert isinstance(decode_one(value, KEY, LATEST), DecodedEvent)


@pytest.mark.parametrize("user", ["", 5, "a\n", "x" * 201])
def test_a_user_is_a_name(user: object) -> None:
    assert faulty(put(decided, "data.contract.actor.user", user)).reason == "wrong_type"


def test_an_event_of_the_largest_size_is_read() -> None:
    padding = MAX_EVENT_BYTES - len(event_to_bytes(an_undone(key=KEY)))
    value = event_to_bytes(an_undone(key=KEY)) + b" " * padding
    assert isinstance(decode_one(value, KEY, latest_possible(NOON + timedelta(hours=1))), DecodedEvent)
    assert faulty(value + b" ").reason == "too_large"


def test_the_first_check_that_fails_gives_the_reason() -> None:
    document = executed()
    document["id"] = 7
    document["data"]["latency_ms"] = -1
    assert faulty(json.dumps(document).encode()).reason == "negative_value"
    del document["data"]["receipt"]
    assert faulty(json.dumps(document).encode()).reason == "missing_receipt"
    document["specversion"] = "2.0"
    assert faulty(json.dumps(document).encode()).reason == "unknown_version"
