"""The AsyncAPI 3 document: topics as channels, events as messages, and who sends what."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import yaml

from producers.wire.events import CONTENT_TYPE, EVENT_CLASSES, Event, type_of
from producers.wire.examples import EXAMPLES
from producers.wire.schemas import Json, schema_file
from producers.wire.topics import DEAD_LETTER, MAX_EVENT_BYTES, RECOMMENDATIONS, TOPICS, Topic

if TYPE_CHECKING:
    from collections.abc import Mapping

ASYNCAPI_FILE: Final = "asyncapi.yaml"
ASYNCAPI_VERSION: Final = "3.0.0"
DOCUMENT_VERSION: Final = "1.0.0"
"""Version of the published interface: the minor number rises with every added optional field."""

DEAD_LETTER_CONTENT_TYPE: Final = "application/json"

DEAD_LETTER_FIELDS: Final[Mapping[str, Json]] = {
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
"""Fields of a record on the dead-letter topic. All are always there; more may come."""

_DEAD_LETTER_MESSAGE: Final = "RejectedRecord"


def asyncapi_document() -> Json:
    """The whole document, ready to be written as YAML or JSON."""
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "id": "urn:stagekeeper:events",
        "info": {
            "title": "Stagekeeper events",
            "version": DOCUMENT_VERSION,
            "description": (
                "What tool routers and their neighbours send about the actions of AI agents, and what Stagekeeper "
                "answers. Events are CloudEvents 1.0 in structured mode. Writers use only the published fields; "
                "readers ignore the ones they do not know. Only optional fields are added or withdrawn, against "
                f"every version ever published. An event has at most {MAX_EVENT_BYTES} bytes."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {_channel_name(topic): _channel(topic) for topic in TOPICS},
        "operations": {_operation_name(topic): _operation(topic) for topic in TOPICS},
        "components": {"messages": _messages()},
    }


def asyncapi_text() -> str:
    """The document as YAML."""
    return yaml.safe_dump(asyncapi_document(), sort_keys=False, allow_unicode=True, width=110)


def dead_letter_schema() -> Json:
    """The JSON Schema of a record on the dead-letter topic."""
    return {"type": "object", "properties": dict(DEAD_LETTER_FIELDS), "required": list(DEAD_LETTER_FIELDS)}


def _headers(content_type: str) -> Json:
    return {
        "type": "object",
        "properties": {"content-type": {"type": "string", "const": content_type}},
        "required": ["content-type"],
    }


def _classes_on(topic: Topic) -> list[type[Event]]:
    return [event_class for event_class in EVENT_CLASSES if event_class.topic == topic.name]


def _message_names(topic: Topic) -> list[str]:
    if topic.name == DEAD_LETTER:
        return [_DEAD_LETTER_MESSAGE]
    return [event_class.__name__ for event_class in _classes_on(topic)]


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


def _operation_name(topic: Topic) -> str:
    return f"{'send' if _is_sent(topic) else 'receive'}{_channel_name(topic)}"


def _is_sent(topic: Topic) -> bool:
    """Whether Stagekeeper itself writes the topic; the others are written by routers and their neighbours."""
    return topic.name in {RECOMMENDATIONS, DEAD_LETTER}


def _operation(topic: Topic) -> Json:
    channel = _channel_name(topic)
    return {
        "action": "send" if _is_sent(topic) else "receive",
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
        "payload": dead_letter_schema(),
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
            {
                "name": event_class.__name__,
                "headers": {"content-type": CONTENT_TYPE},
                "payload": json.loads(EXAMPLES[event_class].model_dump_json(exclude_none=True)),
            }
        ],
        "bindings": {
            "kafka": {"key": _key(f"{keys[event_class.topic]}; it equals `subject`"), "bindingVersion": "0.5.0"}
        },
    }


def _key(description: str) -> Json:
    return {"type": "string", "description": f"The {description}; as UTF-8."}
