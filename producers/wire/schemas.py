"""The published documents: JSON Schemas of the events and of the receipt, generated from the models.

What is published is what a writer may send, so it is a little stricter than the models are to Python callers: fields
that tell types apart must be there, a number is never a string, and a moment is an RFC 3339 string with its offset.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pydantic.json_schema import GenerateJsonSchema

from producers.wire.events import EVENT_CLASSES, Event, schema_id, type_of
from producers.wire.examples import EXAMPLES, RECEIPT
from producers.wire.receipt import Receipt

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import CoreSchema

Json: TypeAlias = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
RECEIPT_SCHEMA_ID: Final = "urn:stagekeeper:schema:receipt.sk1"
RECEIPT_FILE: Final = "receipt.sk1.json"

MOMENT_PATTERN: Final = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$"
"""RFC 3339 with an offset: `format` alone is an annotation in this dialect, which a validator may pass over."""

_ALWAYS_SENT: Final = frozenset({"specversion", "type", "outcome", "kind"})
"""Fields with one possible value that readers tell events and unions apart by."""


class _Published(GenerateJsonSchema):
    """Leaves out the titles that only repeat a field's name."""

    def field_title_should_be_set(self, schema: CoreSchema) -> bool:  # noqa: ARG002 - the base class sets the signature
        return False


def schema_file(event_class: type[Event]) -> str:
    """The file name under which an event's schema is published, for example `action.decided.v1.json`."""
    return f"{type_of(event_class).removeprefix('stagekeeper.')}.json"


def event_schema(event_class: type[Event]) -> Json:
    """The JSON Schema (2020-12) of an event's whole envelope, with an example."""
    schema = _schema_of(event_class)
    return {
        "$schema": DIALECT,
        "$id": schema_id(event_class),
        **schema,
        "examples": [json.loads(EXAMPLES[event_class].model_dump_json(exclude_none=True))],
    }


def receipt_schema() -> Json:
    """The JSON Schema of the array inside a receipt token: the fields of `Receipt` in their order."""
    schema = _schema_of(Receipt)
    fields: Json = schema["properties"]
    # An array has no absent fields: the default is for Python callers only.
    del fields["cohort"]["default"]
    return {
        "$schema": DIALECT,
        "$id": RECEIPT_SCHEMA_ID,
        "title": "Receipt",
        "description": (
            "The array inside a receipt token `sk1.<payload>` or `sk1.<payload>.<signature>`, where the payload is "
            "this array as UTF-8 JSON in base64url without padding."
        ),
        "type": "array",
        "prefixItems": [{"title": name, **field} for name, field in fields.items()],
        "items": False,
        "minItems": len(fields),
        "maxItems": len(fields),
        "$defs": schema["$defs"],
        "examples": [list(RECEIPT.model_dump(mode="json").values())],
    }


def schema_documents() -> dict[str, str]:
    """Every published JSON Schema as text, by file name."""
    schemas = {schema_file(event_class): event_schema(event_class) for event_class in EVENT_CLASSES}
    schemas[RECEIPT_FILE] = receipt_schema()
    return {name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in schemas.items()}


def _schema_of(model: type[BaseModel]) -> Json:
    schema = model.model_json_schema(schema_generator=_Published)
    _tidy(schema)
    return schema


def _tidy(node: object) -> None:
    """Make a generated schema say what a writer must send, in place."""
    if isinstance(node, list):
        for item in node:
            _tidy(item)
    elif isinstance(node, dict):
        # An OpenAPI word; `oneOf` with one constant each says the same in this dialect.
        node.pop("discriminator", None)
        # "Null when absent" and "empty when absent" tell a writer nothing that `required` does not.
        if node.get("default", "") is None or isinstance(node.get("default"), dict):
            del node["default"]
        if node.get("format") == "date-time":
            node["pattern"] = MOMENT_PATTERN
        properties = node.get("properties")
        if isinstance(properties, dict):
            required = set(node.get("required", ())) | (_ALWAYS_SENT & properties.keys())
            node["required"] = [name for name in properties if name in required]
        for key, value in node.items():
            # Below these keys stand names of fields, which are no keywords.
            _tidy(list(value.values()) if key in {"properties", "$defs"} else value)
