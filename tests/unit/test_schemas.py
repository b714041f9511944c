from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from analytics.lake.tables import SourcePartition
from producers.wire.contract import RiskClass
from producers.wire.events import (
    CONTENT_TYPE,
    EVENT_CLASSES,
    ActionExecuted,
    ActionExecutedData,
    Event,
    EventError,
    ExecutionStatus,
    PolicyChanged,
    PolicyChangedData,
    event_from_bytes,
    event_to_bytes,
    schema_id,
)
from producers.wire.examples import EXAMPLES, RECEIPT
from producers.wire.json_schemas import asyncapi_document, event_schema, receipt_schema, schema_file
from producers.wire.receipt import open_token
from producers.wire.topics import TOPICS
from stagekeeper.commands import cli
from stagekeeper.commands.schemas import published, stale
from streams.ingest.rejects import reject

CHECKED_IN = Path(__file__).parents[2] / "docs" / "schemas"
FORMATS = FormatChecker()


@FORMATS.checks("date-time", raises=ValueError)
def _is_moment(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def validator(event_class: type[Event]) -> Draft202012Validator:
    return Draft202012Validator(event_schema(event_class), format_checker=FORMATS)


VALIDATORS = {event_class: validator(event_class) for event_class in EVENT_CLASSES}


def example(event_class: type[Event]) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(event_to_bytes(EXAMPLES[event_class]))
    return written


def paths(node: object, here: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every path in a JSON document, leaves and inner nodes alike."""
    if isinstance(node, dict):
        inner = [path for key, value in node.items() for path in paths(value, (*here, key))]
    elif isinstance(node, list):
        inner = [path for index, value in enumerate(node) for path in paths(value, (*here, index))]
    else:
        inner = []
    return [here, *inner] if here else inner


def at(document: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        document = document[step]
    return document


def model_refuses(document: dict[str, Any]) -> bool:
    try:
        event_from_bytes(json.dumps(document).encode())
    except EventError:
        return True
    return False


by_class = pytest.mark.parametrize("event_class", EVENT_CLASSES, ids=lambda event_class: event_class.__name__)


def test_what_is_checked_in_is_what_the_models_say() -> None:
    assert stale(CHECKED_IN) == [], "run `stagekeeper schemas`"


@by_class
def test_each_schema_is_a_schema_with_the_identifier_that_events_name(event_class: type[Event]) -> None:
    schema = event_schema(event_class)
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == schema_id(event_class) == EXAMPLES[event_class].dataschema


@by_class
def test_each_example_is_valid_and_reads_back(event_class: type[Event]) -> None:
    VALIDATORS[event_class].validate(example(event_class))
    assert event_from_bytes(event_to_bytes(EXAMPLES[event_class])) == EXAMPLES[event_class]


@by_class
def test_a_wrong_type_anywhere_is_refused_by_schema_and_model(event_class: type[Event]) -> None:
    for path in paths(example(event_class)):
        bad = example(event_class)
        at(bad, path[:-1])[path[-1]] = [{"not": "this"}]
        assert not VALIDATORS[event_class].is_valid(bad), path
        assert model_refuses(bad), path


@by_class
def test_an_unpublished_field_anywhere_is_refused_by_schema_and_model(event_class: type[Event]) -> None:
    for path in [(), *paths(example(event_class))]:
        bad = example(event_class)
        if isinstance(at(bad, path), dict):
            at(bad, path)["extra"] = 1
            assert not VALIDATORS[event_class].is_valid(bad), path
            assert model_refuses(bad), path


@by_class
def test_schema_and_model_agree_on_what_may_be_left_out(event_class: type[Event]) -> None:
    for path in paths(example(event_class)):
        less = example(event_class)
        if not isinstance(path[-1], str) or path == ("specversion",):
            continue
        del at(less, path[:-1])[path[-1]]
        assert VALIDATORS[event_class].is_valid(less) is not model_refuses(less), path


def test_an_event_without_its_specversion_is_not_a_cloud_event() -> None:
    less = example(ActionExecuted)
    del less["specversion"]
    assert not VALIDATORS[ActionExecuted].is_valid(less)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("specversion",), "0.3"),
        (("type",), "stagekeeper.action.executed.v2"),
        (("id",), ""),
        (("id",), "a\x00b"),
        (("time",), "2026-03-02T09:30:13"),
        (("time",), "2026-13-02T09:30:13Z"),
        (("time",), "2026-03-02T09:30:13+00:00Z"),
        (("traceparent",), "00-XYZ-b7ad6b7169203331-01"),
        (("data", "receipt"), "sk2.abc"),
        (("data", "receipt"), "sk1.abc.def.ghi"),
        (("data", "latency_ms"), -1),
        (("data", "cost_usd"), -0.01),
        (("data", "cost_usd"), 1e7),
        (("data", "latency_ms"), 1e13),
        (("data", "status"), "ok"),
        (("data", "error_type"), "x" * 201),
    ],
)
def test_an_unusable_value_is_refused_by_schema_and_model(path: tuple[str, ...], value: object) -> None:
    bad = example(ActionExecuted)
    at(bad, path[:-1])[path[-1]] = value
    assert not VALIDATORS[ActionExecuted].is_valid(bad)
    assert model_refuses(bad)


NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=200)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)
MOMENTS = st.datetimes(timezones=st.just(UTC))
AMOUNTS = st.none() | st.floats(min_value=0, max_value=1e6)
EVENTS = st.builds(
    ActionExecuted,
    id=NAMES,
    source=NAMES,
    time=MOMENTS,
    subject=NAMES,
    data=st.builds(
        ActionExecutedData,
        receipt=st.just(RECEIPT.token()),
        status=st.sampled_from(ExecutionStatus),
        latency_ms=AMOUNTS,
        cost_usd=AMOUNTS,
        error_type=st.none() | NAMES,
    ),
) | st.builds(
    PolicyChanged,
    id=NAMES,
    source=NAMES,
    time=MOMENTS,
    subject=NAMES,
    data=st.builds(
        PolicyChangedData, flag_key=NAMES, changed_by=NAMES, reason=TEXTS, before=st.none() | TEXTS, tool=NAMES
    ),
)


@given(event=EVENTS)
@settings(deadline=None)
def test_whatever_the_models_can_say_the_schemas_allow(event: Event) -> None:
    VALIDATORS[type(event)].validate(json.loads(event_to_bytes(event)))


def test_the_array_in_a_receipt_is_described() -> None:
    schema = receipt_schema()
    Draft202012Validator.check_schema(schema)
    values = json.loads(open_token(RECEIPT.token(), None))
    check = Draft202012Validator(schema, format_checker=FORMATS)
    for good in (values, [*values, 2], [*values, 1, 10]):
        check.validate(good)
    for bad in (
        values[:-1],
        [*values, "more"],
        [*values, 0],
        [*values, 1, 11],
        [*values, 2, 3, 4],
        [*values[:5], "expert", *values[6:]],
        [1, *values[1:]],
    ):
        assert not check.is_valid(bad), bad
    assert [item["title"] for item in schema["prefixItems"]] == list(type(RECEIPT).model_fields)


def test_descriptions_of_fields_reach_the_schema() -> None:
    definitions = event_schema(EVENT_CLASSES[0])["$defs"]
    assert "before any flag" in definitions["Authorization"]["description"]
    assert "as a URI reference" in event_schema(EVENT_CLASSES[0])["properties"]["source"]["description"]
    assert definitions["RiskClass"]["enum"] == [risk.value for risk in RiskClass]


def resolve(document: dict[str, Any], reference: str) -> Any:
    assert reference.startswith("#/"), reference
    return at(document, tuple(reference[2:].split("/")))


def test_the_asyncapi_document_has_every_topic_with_its_messages_and_one_operation() -> None:
    document = asyncapi_document()
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= document["info"].keys()
    channels = document["channels"]
    assert [channel["address"] for channel in channels.values()] == [topic.name for topic in TOPICS]
    on_topic = {channel["address"]: set(channel["messages"]) for channel in channels.values()}
    for event_class in EVENT_CLASSES:
        assert event_class.__name__ in on_topic[event_class.topic]
    operations = document["operations"].values()
    assert {operation["action"] for operation in operations} == {"send", "receive"}
    targets = [resolve(document, operation["channel"]["$ref"])["address"] for operation in operations]
    assert sorted(targets) == sorted(on_topic)
    for operation in operations:
        its_channel = resolve(document, operation["channel"]["$ref"])
        assert [resolve(document, each["$ref"]) for each in operation["messages"]] == list(
            its_channel["messages"].values()
        )


def test_every_message_of_the_asyncapi_document_names_its_schema_headers_key_and_example() -> None:
    document = asyncapi_document()
    used = {each["$ref"] for channel in document["channels"].values() for each in channel["messages"].values()}
    assert used == {f"#/components/messages/{name}" for name in document["components"]["messages"]}
    for event_class in EVENT_CLASSES:
        message = document["components"]["messages"][event_class.__name__]
        assert message["payload"] == {"$ref": f"./{schema_file(event_class)}"}
        assert (CHECKED_IN / schema_file(event_class)).is_file()
        assert message["contentType"] == CONTENT_TYPE == message["headers"]["properties"]["content-type"]["const"]
        assert message["bindings"]["kafka"]["key"]["description"]
        for each in message["examples"]:
            VALIDATORS[event_class].validate(each["payload"])


def test_a_dead_letter_is_as_published() -> None:
    letter = reject(
        SourcePartition("cluster", "agent.outcomes", 3),
        41,
        reason="negative_value",
        detail="data.latency_ms: -1 is below zero",
        now=datetime(2026, 3, 2, tzinfo=UTC),
        value=b"{}",
    ).dead_letter()
    schema = asyncapi_document()["components"]["messages"]["RejectedRecord"]["payload"]
    check = Draft202012Validator(schema, format_checker=FORMATS)
    check.validate(json.loads(letter))
    assert set(json.loads(letter)) == set(schema["properties"])
    assert not check.is_valid({**json.loads(letter), "offset": "41"})


def test_the_asyncapi_file_is_the_document() -> None:
    assert yaml.safe_load((CHECKED_IN / "asyncapi.yaml").read_text()) == asyncapi_document()


def test_the_command_writes_and_then_finds_nothing_stale(tmp_path: Path) -> None:
    out = tmp_path / "schemas"
    written = CliRunner().invoke(cli, ["schemas", "--out", str(out)])
    assert written.exit_code == 0, written.output
    assert {path.name for path in out.iterdir()} == published().keys()
    assert CliRunner().invoke(cli, ["schemas", "--check", "--out", str(out)]).exit_code == 0


def test_the_command_names_what_is_changed_missing_or_left_over(tmp_path: Path) -> None:
    CliRunner().invoke(cli, ["schemas", "--out", str(tmp_path)])
    (tmp_path / "action.undone.v1.json").write_text("{}")
    (tmp_path / "policy.changed.v1.json").unlink()
    (tmp_path / "action.retired.v1.json").write_text("{}")
    before = sorted(path.name for path in tmp_path.iterdir())
    checked = CliRunner().invoke(cli, ["schemas", "--check", "--out", str(tmp_path)])
    assert checked.exit_code == 1
    assert stale(tmp_path) == ["action.retired.v1.json", "action.undone.v1.json", "policy.changed.v1.json"]
    assert "action.retired.v1.json, action.undone.v1.json, policy.changed.v1.json" in str(checked.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
