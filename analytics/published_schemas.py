"""The published JSON Schemas of the gate file and of the verdict document."""

from __future__ import annotations

import json
from typing import Any

from analytics.gates.gate_file import GateFile
from analytics.signals.definitions import SIGNALS
from analytics.verdicts.document import VerdictDocument
from producers.wire.json_schemas import DIALECT, PublishedSchema, schema_of


def gate_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a gate file; what contradicts what, only `stagekeeper gate lint` says."""
    schema = GateFile.model_json_schema(schema_generator=PublishedSchema)
    _tidy(schema)
    return {"$schema": DIALECT, "$id": "urn:stagekeeper:schema:gates.v1", **schema}


def verdict_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a verdict document; later releases may add fields, so others are allowed."""
    schema = schema_of(VerdictDocument, mode="serialization")
    for part in (schema, *schema["$defs"].values()):
        part.pop("additionalProperties", None)
        for field in part.get("properties", {}).values():
            field.pop("default", None)
    schema["required"] = [name for name in schema["required"] if not name.startswith("confirmed_")]
    return {"$schema": DIALECT, "$id": "urn:stagekeeper:schema:verdict.v1", **schema}


def schema_texts() -> dict[str, str]:
    """Both as text, by file name."""
    schemas = {"gates.v1.json": gate_schema(), "verdict.v1.json": verdict_schema()}
    return {name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in schemas.items()}


def _tidy(node: object) -> None:
    """Drop defaults that no file can state as they are: durations are kept in seconds and written with their unit."""
    if isinstance(node, list):
        for item in node:
            _tidy(item)
    elif isinstance(node, dict):
        if "default" in node and (node["default"] is None or "pattern" in node or isinstance(node["default"], dict)):
            del node["default"]
        if node.get("enum") == list(SIGNALS):
            node["description"] = "Name of the signal; docs/gates.md says what each counts."
        for key, value in node.items():
            _tidy(list(value.values()) if key in {"properties", "$defs"} else value)
