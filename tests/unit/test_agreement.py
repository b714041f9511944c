"""The published schemas and the decoder agree: what a writer may send is read, and what is read may be sent.

Of fields that nothing counts, shows or rests on the decoder looks at nothing, so that a router's slip in them loses no
action: docs/events.md says so, and `UNREAD` names them.
"""

from __future__ import annotations

import copy
import json
import re
from typing import Any, Final

import pytest
from decoding import DecodedEvent, decode_one
from jsonschema import Draft202012Validator

from producers.wire.events import (
    EVENT_CLASSES,
    ActionDecided,
    ActionUndone,
    Event,
    PolicyChanged,
    RouterStatus,
    event_from_bytes,
    event_to_bytes,
)
from producers.wire.examples import EXAMPLES
from producers.wire.json_schemas import event_schema

UNREAD: Final = re.compile(
    r"dataschema|traceparent|tracestate|partitionkey"
    r"|data\.contract\.(intent|reversibility|tool_version|tool_call|conversation|scope|evidence|fallback|arguments_\w+"
    r"|key_id|requested_tool|actor\.(agent|account|service_identity|model|prompt_version)|target\.(system|record))(\..*)?"
    r"|data\.decision\.(authorization|flags|ruleset_sha256|decide_ms)(\..*)?"
    r"|data\.(error_type|before|after|authenticated|earlier_approvals|impact\.(score|evaluator|reference))"
    r"|data\.(gate_sha256|lake_version|watermark|reasons|to_stage)"
)
ALSO_UNREAD: Final[dict[type[Event], set[str]]] = {
    ActionUndone: {"data.reason"},
    PolicyChanged: {"data.environment", "data.workflow", "data.tool", "data.ruleset_sha256"},
    RouterStatus: {"data.flags_sha256", "data.since", "data.confirmed_at"},
}
# What these name is tied to a receipt, which a change breaks.
TIED: Final = re.compile(r"subject|data\.receipt|data\.contract\.(tool|workflow|target\.environment)")

VALIDATORS: Final = {event_class: Draft202012Validator(event_schema(event_class)) for event_class in EVENT_CLASSES}
GONE: Final = object()
VALUES: Final[tuple[object, ...]] = (
    GONE,
    None,
    "",
    "a\nb",
    "a\x7f",
    "x" * 201,
    "x" * 4_001,
    5,
    -1,
    0.5,
    1e300,
    True,
    [],
    "live",
)


def example(event_class: type[Event]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(event_to_bytes(EXAMPLES[event_class]))
    return document


def paths(node: object, before: str = "") -> list[str]:
    inner = node.items() if isinstance(node, dict) else ()
    return [path for name, value in inner for path in (before + name, *paths(value, f"{before}{name}."))]


def changed(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    document = copy.deepcopy(document)
    *outer, last = path.split(".")
    place = document
    for name in outer:
        place = place[name]
    if value is GONE:
        place.pop(last, None)
    else:
        place[last] = value
    return document


def is_read(document: dict[str, Any]) -> bool:
    return isinstance(decode_one(json.dumps(document).encode()), DecodedEvent)


def agree(event_class: type[Event], document: dict[str, Any]) -> bool:
    return VALIDATORS[event_class].is_valid(document) is is_read(document)


by_class = pytest.mark.parametrize("event_class", EVENT_CLASSES, ids=lambda event_class: event_class.__name__)


@by_class
def test_every_field_that_is_read_takes_what_the_schema_says(event_class: type[Event]) -> None:
    document = example(event_class)
    wrong = [
        (path, "gone" if value is GONE else value)
        for path in paths(document)
        if not (UNREAD.fullmatch(path) or TIED.fullmatch(path) or path in ALSO_UNREAD.get(event_class, ()))
        for value in VALUES
        if not agree(event_class, changed(document, path, value))
    ]
    assert wrong == []


@by_class
def test_whatever_the_schema_takes_is_read(event_class: type[Event]) -> None:
    document = example(event_class)
    lost = [
        (path, value)
        for path in paths(document)
        if not TIED.fullmatch(path)
        for value in VALUES
        if VALIDATORS[event_class].is_valid(each := changed(document, path, value)) and not is_read(each)
    ]
    assert lost == []


@by_class
@pytest.mark.parametrize("written", ["", "; charset=utf-8", "; charset=UTF-8", ";charset=utf-8", ";charset=UTF-8"])
def test_json_may_say_that_it_is_utf_8(event_class: type[Event], written: str) -> None:
    document = example(event_class) | {"datacontenttype": f"application/json{written}"}
    assert VALIDATORS[event_class].is_valid(document)
    assert is_read(document)
    event_from_bytes(json.dumps(document).encode())


@pytest.mark.parametrize("wrong", [None, "", "application/xml", "application/json; charset=latin-1", "text/json"])
def test_data_in_another_form_is_refused_by_both(wrong: str | None) -> None:
    document = example(ActionDecided) | {"datacontenttype": wrong}
    assert not VALIDATORS[ActionDecided].is_valid(document)
    assert not is_read(document)


@by_class
def test_a_partition_key_may_be_named(event_class: type[Event]) -> None:
    document = example(event_class)
    document["partitionkey"] = document["subject"]
    assert VALIDATORS[event_class].is_valid(document)
    assert is_read(document)


RESULTS: Final[list[dict[str, Any]]] = [
    {"outcome": outcome, **mode, **reason, **runs}
    for outcome in ("allow", "constrain", "queue_for_review", "deny", "fallback", "shrug", None)
    for mode in ({}, {"mode": "search_only"}, {"mode": None}, {"mode": ""}, {"mode": "a\nb"})
    for reason in ({}, {"reason": "why"}, {"reason": None}, {"reason": ""}, {"reason": 5}, {"reason": "a\nb"})
    for runs in ({}, {"runs": True}, {"runs": None}, {"runs": 0})
]


@pytest.mark.slow
def test_every_outcome_says_what_it_must() -> None:
    for result in RESULTS:
        document = changed(example(ActionDecided), "data.decision.result", result)
        is_valid = VALIDATORS[ActionDecided].is_valid(document)
        if is_valid or _is_of_published_fields(result):
            assert is_valid is is_read(document), result


def _is_of_published_fields(result: dict[str, Any]) -> bool:
    """Readers ignore fields that are not published, which the schemas refuse."""
    published = {"allow": {"reason"}, "constrain": {"mode", "reason", "runs"}, "fallback": {"mode", "reason"}}
    return result.keys() - {"outcome"} <= published.get(str(result["outcome"]), {"reason"})


@pytest.mark.parametrize("outcome", ["constrain", "queue_for_review", "deny", "fallback"])
def test_an_outcome_without_its_reason_is_named(outcome: str) -> None:
    result = {"outcome": outcome, "mode": "search_only"}
    fault = decode_one(json.dumps(changed(example(ActionDecided), "data.decision.result", result)).encode())
    assert fault == ("missing_field", "data.decision.result.reason: missing")


@pytest.mark.parametrize("path", ["data.decision.enforced", "data.decision.provenance", "data.contract.actor.user"])
def test_what_a_decision_counts_by_is_never_guessed(path: str) -> None:
    values: tuple[object, ...] = ("", 0, [])
    for wrong in values:
        document = changed(example(ActionDecided), path, wrong)
        assert not VALIDATORS[ActionDecided].is_valid(document)
        assert not is_read(document)
    document = changed(example(ActionDecided), path, None)
    assert VALIDATORS[ActionDecided].is_valid(document) is is_read(document) is path.endswith("user")
