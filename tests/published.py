"""The fields of the events, as they were ever published: what FULL_TRANSITIVE compatibility is held against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from producers.wire.events import EVENT_CLASSES, type_of
from producers.wire.json_schemas import event_schema, receipt_schema

GOLDEN = Path(__file__).parent / "golden" / "published_fields.json"
Fields = dict[str, dict[str, Any]]

_WORDS = ("description", "title", "examples", "$id", "$schema", "default")


def fields_now() -> dict[str, Fields]:
    """Every field of every event: its path, whether it is required, and what a value must be."""
    found = {type_of(event_class): _fields(event_schema(event_class)) for event_class in EVENT_CLASSES}
    receipt = receipt_schema()
    found["receipt.sk1"] = {
        item["title"]: {"required": place < receipt["minItems"], "value": _bare(item, receipt["$defs"])}
        for place, item in enumerate(receipt["prefixItems"])
    }
    return found


def _fields(schema: dict[str, Any]) -> Fields:
    definitions = schema.get("$defs", {})
    found: Fields = {}
    _walk(schema, definitions, "", found)
    return found


def _walk(node: dict[str, Any], definitions: dict[str, Any], where: str, found: Fields) -> None:
    node = _resolved(node, definitions)
    for branch in [*node.get("anyOf", []), *node.get("oneOf", [])]:
        kind = _kind(_resolved(branch, definitions))
        _walk(branch, definitions, f"{where}({kind})" if kind else where, found)
    if "items" in node:
        _walk(node["items"], definitions, f"{where}[]", found)
    for name, value in node.get("properties", {}).items():
        path = f"{where}.{name}".lstrip(".")
        found[path] = {"required": name in node["required"], "value": _bare(value, definitions)}
        _walk(value, definitions, path, found)


def _kind(branch: dict[str, Any]) -> str:
    """What tells a branch of a union apart from the others."""
    constants = [value["const"] for value in branch.get("properties", {}).values() if "const" in value]
    return str(constants[0]) if constants else ""


def _resolved(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref")
    return definitions[reference.rpartition("/")[2]] if reference else node


def _bare(node: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """What a value must be, without words for people and without the fields below it, which stand on their own."""
    node = _resolved(node, definitions)
    if "properties" in node:
        return "object"
    bare = {key: value for key, value in node.items() if key not in _WORDS}
    for word in ("anyOf", "oneOf"):
        if word in bare:
            bare[word] = [_bare(branch, definitions) for branch in bare[word]]
    if "items" in bare:
        bare["items"] = _bare(bare["items"], definitions)
    return bare


def main() -> None:
    """Add what is new to the golden file; what was published stays as it was."""
    published = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    for event, fields in fields_now().items():
        published[event] = {**fields, **published.get(event, {})}
    events = [
        f"{json.dumps(event)}: {{\n"
        + ",\n".join(f"  {json.dumps(path)}: {json.dumps(fields[path], sort_keys=True)}" for path in sorted(fields))
        + "\n}"
        for event, fields in sorted(published.items())
    ]
    GOLDEN.write_text("{\n" + ",\n".join(events) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
