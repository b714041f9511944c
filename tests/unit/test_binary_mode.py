"""An event in binary mode is the same event in structured mode, in everything that is made of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Message
from decoding import DecodedEvent, Headers, binary, decode_records
from fakes import KEY, NOON, FakeClock, a_decided, an_executed
from source_logs import FIRST, Letters, rows

from analytics.lake.table_schemas import EVENTS, REJECTS
from analytics.lake.tables import Lake
from producers.wire.events import EVENT_CLASSES, Event, event_to_bytes
from producers.wire.examples import EXAMPLES
from producers.wire.topics import RECOMMENDATIONS
from streams.ingest.decode import EventDecoder
from streams.ingest.pipeline import Assignment, Pipeline
from streams.ingest.records import Batch, PartitionRecords
from streams.ingest.recovery import resume
from streams.ingest.source import Source
from streams.metrics import Progress
from streams.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


BATCH: Headers = [("content-type", b"application/cloudevents-batch+json; charset=UTF-8")]


def reasons(records: Sequence[tuple[bytes | None, Headers | None]]) -> list[str]:
    return [read.reason if not isinstance(read, DecodedEvent) else "" for read in decode_records(records)]


def executed() -> tuple[bytes, Headers]:
    return binary(json.loads(event_to_bytes(an_executed())))


@pytest.mark.parametrize("event_class", EVENT_CLASSES, ids=lambda event_class: event_class.__name__)
@pytest.mark.parametrize("content_type", [None, "application/json", "application/json; charset=utf-8"])
def test_both_modes_are_read_alike(event_class: type[Event], content_type: str | None) -> None:
    value = event_to_bytes(EXAMPLES[event_class])
    one, other = decode_records([(value, None), binary(json.loads(value), content_type)])
    assert isinstance(one, DecodedEvent)
    assert one == other


def test_modes_are_mixed_in_one_batch() -> None:
    whole = event_to_bytes(a_decided())
    records: list[tuple[bytes, Headers | None]] = [
        (whole, None),
        executed(),
        (b"nothing", None),
        executed(),
        (whole, [("content-type", b"x")]),
    ]
    assert reasons(records) == ["", "", "not_json", "", ""]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b'{}, "subject": "another"', id="an attribute behind the data"),
        pytest.param(b'{"receipt": "sk1.x"}}', id="one bracket too many"),
        pytest.param(b"\xff", id="no UTF-8"),
        pytest.param(b'{"a": "\xff"}', id="no UTF-8 within"),
        pytest.param(b"[" * 200_000, id="nested beyond reason"),
        pytest.param(b"<x/>", id="XML"),
    ],
)
def test_a_value_that_is_no_json_is_no_data(value: bytes) -> None:
    assert reasons([(value, executed()[1])]) == ["not_json"]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        pytest.param(("ce_id", b"another"), "wrong_type", id="twice, and differently"),
        pytest.param(("CE_ID", b"another"), "wrong_type", id="twice, in another case"),
        pytest.param(("ce_note", b"\xff"), "not_json", id="not UTF-8"),
        pytest.param(("ce_data", b"{}"), "wrong_type", id="the data once more"),
        pytest.param(("ce_data_base64", b"e30="), "wrong_type", id="the data in base64"),
        pytest.param(("ce_datacontenttype", b"application/json"), "wrong_type", id="what is another header"),
        pytest.param(("ce_", b"x"), "wrong_type", id="no name"),
        pytest.param(('ce_a"b', b"x"), "wrong_type", id="no name of an attribute"),
        pytest.param(("ce_note", b'"},{'), "", id="JSON in an attribute that nobody reads"),
        pytest.param(("ce_note", None), "", id="null"),
        pytest.param(("trace", b"\xff"), "", id="a header that is no attribute"),
    ],
)
def test_headers_that_are_no_attributes_are_named(header: tuple[str, bytes | None], reason: str) -> None:
    value, headers = executed()
    assert reasons([(value, [*headers, header])]) == [reason]


def test_what_is_missing_is_named_as_in_structured_mode() -> None:
    value, headers = executed()
    for name in ("type", "id", "source", "time", "subject", "specversion"):
        (fault,) = decode_records([(value, [header for header in headers if header[0] != f"ce_{name}"])])
        assert fault == ("missing_field", f"{name}: missing")
    assert reasons([(None, headers), (b"", headers)]) == ["null_value", "null_value"]
    text = [header for header in headers if header[0] != "content-type"]
    assert reasons([(value, [*text, ("content-type", b"text/xml")])]) == ["wrong_type"]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_batch_is_refused_by_name(count: int) -> None:
    events = [json.loads(event_to_bytes(an_executed())) for _ in range(count)]
    value = json.dumps(events).encode()
    (fault,) = decode_records([(value, BATCH)])
    assert not isinstance(fault, DecodedEvent)
    assert fault.reason == "batched_events"
    assert "each event in its own record" in fault.detail
    assert reasons([(value, None)]) == ["batched_events" if count else "not_object"], "also where no header says so"


def test_headers_are_asked_for_only_where_a_value_is_no_event() -> None:
    asked: list[int] = []

    def headers_of(place: int) -> None:
        asked.append(place)

    values = [event_to_bytes(a_decided()), b"nothing", event_to_bytes(an_executed()), None]
    EventDecoder(None).decode(values, None, headers_of=headers_of)
    assert asked == [1]


def test_the_lake_holds_the_structured_form_and_counts_both_modes_once(tmp_path: Path) -> None:
    lake, letters = Lake.open(str(tmp_path)), Letters()
    value = event_to_bytes(an_executed(key=KEY))
    data, headers = binary(json.loads(value))
    records = PartitionRecords(headers_of=[headers, None, headers, BATCH].__getitem__)
    for offset, each in enumerate([data, value, data, b"[]"]):
        records.add(offset, b"key", each, 1_700_000_000_000)
    pipeline = Pipeline(lake, letters, key=KEY, now=FakeClock(NOON))
    pipeline.assign(Assignment(1, resume(lake, {FIRST: (0, 4)})))
    folded = pipeline.fold(Batch(2, {FIRST: records}))
    pipeline.commit(folded)
    assert (folded.tally.accepted, folded.tally.repeats) == (1, 2)
    (stored,) = rows(lake, EVENTS)["value"].to_list()
    assert json.loads(stored) == json.loads(value) | {"datacontenttype": "application/json"}
    assert rows(lake, REJECTS)["reason"].to_list() == ["batched_events"]
    assert rows(lake, REJECTS)["first_bytes"].to_list() == [b"[]"], "as it was sent"
    again = resume(lake, {FIRST: (0, 4)})[FIRST]
    assert again.start == 3 or again.rejects == 3


def test_the_source_hands_on_the_headers_of_each_record() -> None:
    value, headers = executed()
    batches: list[Any] = []
    none: Any = None
    source = Source("nowhere:1", "log", none, batches.append, Progress(), on_failure=lambda _: None)
    messages = [
        Message(topic=FIRST.topic, partition=0, offset=place, key=b"k", value=value, timestamp=(1, 1), headers=own)
        for place, own in enumerate([headers, None])
    ]
    (records,) = source._collect(messages).values()  # noqa: SLF001 - what the broker hands out is made of C
    assert records.headers_of is not None
    assert [records.headers_of(0), records.headers_of(1)] == [headers, None]


def test_what_is_written_is_compressed_so_that_every_client_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go's, Java's and Node's clients read gzip alone with nothing added; lz4 and snappy need more in some of them."""
    configs: list[dict[str, Any]] = []
    monkeypatch.setattr("streams.publisher.Producer", lambda config, **_: configs.append(config))
    Publisher("nowhere:1", RECOMMENDATIONS, client_id="t")
    assert [config["compression.type"] for config in configs] == ["gzip"]
