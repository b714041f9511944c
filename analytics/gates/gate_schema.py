"""The published JSON Schema of the gate file, for editors and for whoever writes gate files by program."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from pydantic.json_schema import GenerateJsonSchema

from analytics.gates.gate_file import GateFile
from analytics.signals.definitions import SIGNALS

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

GATE_SCHEMA_FILE: Final = "gates.v1.json"
GATE_SCHEMA_ID: Final = "urn:stagekeeper:schema:gates.v1"

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


class _Published(GenerateJsonSchema):
    """Leaves out the titles that only repeat a field's name."""

    def field_title_should_be_set(self, schema: CoreSchema) -> bool:  # noqa: ARG002 - the base class sets the signature
        return False


def gate_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a gate file.

    It says which keys, words and numbers there are; what contradicts what, `stagekeeper gate lint` says.
    """
    schema = GateFile.model_json_schema(schema_generator=_Published)
    _tidy(schema)
    return {"$schema": _DIALECT, "$id": GATE_SCHEMA_ID, **schema}


def gate_schema_text() -> str:
    """The same as the text of its file."""
    return json.dumps(gate_schema(), indent=2, ensure_ascii=False) + "\n"


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
