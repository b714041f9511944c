"""Generate the published documents from the models: JSON Schemas of events and receipt, and an AsyncAPI document.

What is published is what a writer may send, so it is a little stricter than the models are to Python callers: fields
that tell types apart must be there, a number is never a string, and a moment is an RFC 3339 string with its offset.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import yaml
from pydantic.json_schema import GenerateJsonSchema

from producers.wire.events import CONTENT_TYPE, EVENT_CLASSES, Event, event_to_bytes, schema_id, type_of
from producers.wire.examples import EXAMPLES, RECEIPT
from producers.wire.receipt import Receipt
from producers.wire.topics import DEAD_LETTER, MAX_EVENT_BYTES, RECOMMENDATIONS, TOPICS, Topic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel
    from pydantic_core import CoreSchema

Json: TypeAlias = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

# RFC 3339 with an offset: `format` alone is an annotation in this dialect, which a validator may pass over
_MOMENT_PATTERN: Final = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$"
# Fields with one possible value that readers tell events and unions apart by
_ALWAYS_SENT: Final = frozenset({"specversion", "type", "outcome", "kind"})

ASYNCAPI_FILE: Final = "asyncapi.yaml"
DOCUMENT_VERSION: Final = "1.0.0"  # of the published interface: the minor number rises with every added optional field

DEAD_LETTER_CONTENT_TYPE: Final = "application/json"
# Fields of a record on the dead-letter topic; all are always there, and more may come
_DEAD_LETTER_FIELDS: Final[Mapping[str, Json]] = {
    "log_id": {"type": "string", "description": "Identity of the cluster that holds the rejected record."},
    "topic": {"type": "string"},
    "partition": {"type": "integer", "minimum": 0},
    "offset": {"type": "integer", "minimum": 0},
    "reason": {"type": "string", "description": "Reason code, for example `malformed_receipt`."},
    "detail": {"type": "string", "description": "What is wrong with which field, as a sentence."},
    "size": {"type": "integer", "minimum": 0, "description": "Bytes of the value; 0 where there is none."},
    "key_base64": {"type": ["string", "null"], "description": "The record's key; null where there is none."},
    "first_bytes_base64": {"type": "string", "description": "The beginning of the value, at most 256 bytes."},
    "rejected_at": {"type": "string", "format": "date-time"},
}
_DEAD_LETTER_MESSAGE: Final = "RejectedRecord"


class PublishedSchema(GenerateJsonSchema):
    """Generates schemas without the titles that only repeat a field's name."""

    def field_title_should_be_set(self, schema: CoreSchema) -> bool:  # noqa: ARG002 - the base class sets the signature
        """Never."""
        return False


def schema_file(event_class: type[Event]) -> str:
    """The file name under which an event's schema is published, for example `action.decided.v1.json`."""
    return f"{type_of(event_class).removeprefix('stagekeeper.')}.json"


def event_schema(event_class: type[Event]) -> Json:
    """The JSON Schema (2020-12) of an event's whole envelope, with an example."""
    schema = schema_of(event_class)
    return {"$schema": DIALECT, "$id": schema_id(event_class), **schema, "examples": [_example(event_class)]}


def receipt_schema() -> Json:
    """The JSON Schema of the array inside a receipt token: the fields of `Receipt` in their order."""
    schema = schema_of(Receipt)
    fields: Json = schema["properties"]
    # An array has no absent fields: the default is for Python callers only.
    for field in fields.values():
        field.pop("default", None)
    return {
        "$schema": DIALECT,
        "$id": "urn:stagekeeper:schema:receipt.sk1",
        "title": "Receipt",
        "description": (
            "The array inside a receipt token `sk1.<payload>` or `sk1.<payload>.<signature>`, where the payload is "
            "this array as UTF-8 JSON in base64url without padding."
        ),
        "type": "array",
        "prefixItems": [{"title": name, **field} for name, field in fields.items()],
        "items": False,
        "minItems": len(RECEIPT.members),
        "maxItems": len(fields),
        "$defs": schema["$defs"],
        "examples": [list(RECEIPT.model_dump(mode="json").values())[: len(RECEIPT.members)]],
    }


def schema_documents() -> dict[str, str]:
    """Every published JSON Schema as text, by file name."""
    schemas = {schema_file(event_class): event_schema(event_class) for event_class in EVENT_CLASSES}
    schemas["receipt.sk1.json"] = receipt_schema()
    return {name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in schemas.items()}


def _example(event_class: type[Event]) -> Json:
    example: Json = json.loads(event_to_bytes(EXAMPLES[event_class]))
    return example


def schema_of(model: type[BaseModel], *, mode: Literal["validation", "serialization"] = "validation") -> Json:
    """The JSON Schema of a model: what may be sent, or in the mode `serialization` what is written."""
    schema = model.model_json_schema(schema_generator=PublishedSchema, mode=mode)
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
            node["pattern"] = _MOMENT_PATTERN
        properties = node.get("properties")
        if isinstance(properties, dict):
            required = set(node.get("required", ())) | (_ALWAYS_SENT & properties.keys())
            node["required"] = [name for name in properties if name in required]
        for key, value in node.items():
            # Below these keys stand names of fields, which are no keywords.
            _tidy(list(value.values()) if key in {"properties", "$defs"} else value)


def asyncapi_document() -> Json:
    """The AsyncAPI document of all topics."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:stagekeeper:events",
        "info": {
            "title": "Stagekeeper events",
            "version": DOCUMENT_VERSION,
            "description": (
                "What tool routers and their neighbours send about the actions of AI agents, and what Stagekeeper "
                "answers. Events are CloudEvents 1.0 in structured mode; binary mode is read, too. Writers use only "
                "the published fields; readers ignore the ones they do not know. Only optional fields are added or "
                f"withdrawn, against every version ever published. An event has at most {MAX_EVENT_BYTES} bytes."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {_channel_name(topic): _channel(topic) for topic in TOPICS},
        "operations": {f"{_action(topic)}{_channel_name(topic)}": _operation(topic) for topic in TOPICS},
        "components": {"messages": _messages()},
    }


def asyncapi_text() -> str:
    """The AsyncAPI document as YAML."""
    return yaml.safe_dump(asyncapi_document(), sort_keys=False, allow_unicode=True, width=110)


def _headers(content_type: str) -> Json:
    return {
        "type": "object",
        "properties": {"content-type": {"type": "string", "const": content_type}},
        "required": ["content-type"],
    }


def _message_names(topic: Topic) -> list[str]:
    if topic.name == DEAD_LETTER:
        return [_DEAD_LETTER_MESSAGE]
    return [event_class.__name__ for event_class in EVENT_CLASSES if event_class.topic == topic.name]


def _channel_name(topic: Topic) -> str:
    return "".join(part.title() for part in topic.name.replace(".", "-").split("-"))


def _channel(topic: Topic) -> Json:
    return {
        "address": topic.name,
        "description": f"{topic.purpose} Keyed by the {topic.key}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _message_names(topic)},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": _topic_configuration(topic),
                "bindingVersion": "0.5.0",
            }
        },
    }


def _topic_configuration(topic: Topic) -> Json:
    numbers = {"retention.ms", "max.message.bytes"}
    return {
        name: [value] if name == "cleanup.policy" else int(value) if name in numbers else value
        for name, value in topic.settings.items()
    }


def _action(topic: Topic) -> str:
    """What Stagekeeper does with the topic; all but two are written by routers and their neighbours."""
    return "send" if topic.name in {RECOMMENDATIONS, DEAD_LETTER} else "receive"


def _operation(topic: Topic) -> Json:
    channel = _channel_name(topic)
    return {
        "action": _action(topic),
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": topic.purpose,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in _message_names(topic)],
    }


def _messages() -> Json:
    keys = {topic.name: topic.key for topic in TOPICS}
    messages: Json = {event_class.__name__: _message(event_class, keys) for event_class in EVENT_CLASSES}
    messages[_DEAD_LETTER_MESSAGE] = {
        "name": _DEAD_LETTER_MESSAGE,
        "title": "A record that could not be used",
        "summary": "Names the record, says why, and quotes its beginning; the record itself stays where it is.",
        "contentType": DEAD_LETTER_CONTENT_TYPE,
        "headers": _headers(DEAD_LETTER_CONTENT_TYPE),
        "payload": {"type": "object", "properties": dict(_DEAD_LETTER_FIELDS), "required": list(_DEAD_LETTER_FIELDS)},
        "bindings": {"kafka": {"key": _key(keys[DEAD_LETTER]), "bindingVersion": "0.5.0"}},
    }
    return messages


def _message(event_class: type[Event], keys: Mapping[str, str]) -> Json:
    return {
        "name": type_of(event_class),
        "title": event_class.__name__,
        "summary": (event_class.__doc__ or "").strip(),
        "contentType": CONTENT_TYPE,
        "headers": _headers(CONTENT_TYPE),
        "payload": {"$ref": f"./{schema_file(event_class)}"},
        "examples": [
            {"name": event_class.__name__, "headers": {"content-type": CONTENT_TYPE}, "payload": _example(event_class)}
        ],
        "bindings": {
            "kafka": {"key": _key(f"{keys[event_class.topic]}; it equals `subject`"), "bindingVersion": "0.5.0"}
        },
    }


def _key(description: str) -> Json:
    return {"type": "string", "description": f"The {description}; as UTF-8."}
