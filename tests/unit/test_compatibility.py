"""FULL_TRANSITIVE: every version reads every other version's events, so only optional fields come and go."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from decoding import DecodedEvent, decode_one
from published import GOLDEN, Fields, fields_now

from producers.wire.events import EVENT_CLASSES, type_of
from producers.wire.examples import EXAMPLES

PUBLISHED: dict[str, Fields] = json.loads(GOLDEN.read_text(encoding="utf-8"))


def breaks(before: Fields, now: Fields) -> list[str]:
    """What keeps a writer of one version from being read by a reader of the other."""
    found = [f"{path} was required and is gone" for path in before.keys() - now.keys() if before[path]["required"]]
    for path, field in now.items():
        old = before.get(path)
        if old is None and field["required"] and not _is_below_new(path, before):
            found.append(f"{path} is new and required")
        elif old is not None and old["required"] != field["required"]:
            found.append(f"{path} is {'now' if field['required'] else 'no longer'} required")
        elif old is not None and old["value"] != field["value"] and not _has_more_words(old["value"], field["value"]):
            found.append(f"{path} takes other values: {old['value']} became {field['value']}")
    return sorted(found)


def _has_more_words(before: Any, now: Any) -> bool:
    """Whether a field only takes further words: a reader that lacks them rejects these events alone, by name."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return False
    before, now = ({**value, "enum": value.get("enum", [value.get("const")])} for value in (before, now))
    rests = [{key: value for key, value in words.items() if key not in {"enum", "const"}} for words in (before, now)]
    return set(before["enum"]) < set(now["enum"]) and rests[0] == rests[1]


def _is_below_new(path: str, before: Fields) -> bool:
    """Whether a field belongs to an object that is new itself: it is only required where that object is sent."""
    parent = path.rpartition(".")[0].removesuffix("[]").partition("(")[0]
    return parent != "" and parent not in before


@pytest.mark.parametrize("event", list(fields_now()))
def test_nothing_that_was_ever_published_is_broken(event: str) -> None:
    assert breaks(PUBLISHED[event], fields_now()[event]) == []


def test_what_is_published_now_is_remembered_for_ever() -> None:
    missing = {event: sorted(fields.keys() - PUBLISHED[event].keys()) for event, fields in fields_now().items()}
    assert {event: paths for event, paths in missing.items() if paths} == {}, "run `python tests/published.py`"


FIELD: dict[str, Any] = {"required": False, "value": {"type": "string"}}


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"note": FIELD}, ""),
        ({"note": {**FIELD, "required": True}}, "note is new and required"),
        ({"note": FIELD | {"value": "object"}, "note.by": {**FIELD, "required": True}}, ""),
        ({"data.status": None}, "data.status was required and is gone"),
        ({"data.latency_ms": None}, ""),
        ({"data.latency_ms": {**FIELD, "required": True}}, "data.latency_ms is now required"),
        ({"data.error_type": FIELD}, "data.error_type takes other values"),
        ({"data.status": {"required": False}}, "data.status is no longer required"),
        (
            {"data.status": {"required": True, "value": {"enum": ["succeeded"], "type": "string"}}},
            "data.status takes other",
        ),
    ],
)
def test_what_would_break_a_reader_is_found(change: dict[str, Any], wrong: str) -> None:
    before = PUBLISHED["stagekeeper.action.executed.v1"]
    now = {path: field for path, field in {**copy.deepcopy(before), **change}.items() if field is not None}
    found = breaks(before, now)
    assert [line.startswith(wrong) for line in found] == ([True] if wrong else [])


def _with_unknown_fields(node: object) -> object:
    if isinstance(node, list):
        return [_with_unknown_fields(item) for item in node]
    if isinstance(node, dict):
        return {**{key: _with_unknown_fields(value) for key, value in node.items()}, "from_the_future": {"x": [1]}}
    return node


@pytest.mark.parametrize("event_class", EVENT_CLASSES, ids=type_of)
def test_readers_ignore_fields_that_they_do_not_know(event_class: type[Any]) -> None:
    document = _with_unknown_fields(json.loads(EXAMPLES[event_class].model_dump_json(exclude_none=True)))
    assert isinstance(decode_one(json.dumps(document).encode()), DecodedEvent)
