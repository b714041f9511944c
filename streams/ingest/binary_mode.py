"""CloudEvents in binary mode, read as the same events in structured mode; batches, refused by name.

In binary mode (CloudEvents 1.0, Kafka protocol binding, section 3.2) a record's value is the event's `data` alone, and
each attribute is a header `ce_<name>`, in UTF-8. What such a record says is written as one structured event, and all
that follows reads that, so that no check can differ between the modes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import msgspec

from streams.ingest.faults import PARSE_ERRORS, Fault, make_fault

Headers: TypeAlias = Sequence[tuple[str, bytes | str | None]]
HeadersOf: TypeAlias = Callable[[int], Headers | None]
"""A record's headers by its position. They are asked for where the value alone is no event: librdkafka takes longer to
hand out a record's headers than all else that is done for the record outside the decoder."""

_PREFIX: Final = "ce_"
_CONTENT_TYPE: Final = "content-type"
_STRUCTURED: Final = "application/cloudevents"
_BATCH: Final = "application/cloudevents-batch"
_NO_ATTRIBUTES: Final = frozenset({"data", "data_base64", "datacontenttype"})  # the last is the header `content-type`
_is_json: Final = msgspec.json.Decoder(msgspec.Raw).decode


def to_structured(value: bytes, headers: Headers) -> bytes | Fault | None:
    """The structured form of a record in binary mode; None where it is in no such mode, or its value is no JSON.

    A batch, and headers that cannot be read as attributes, are a fault.
    """
    content_type = next((_text(text) for name, text in headers if name.lower() == _CONTENT_TYPE), None)
    mode = (content_type or "").lower()
    if mode.startswith(_BATCH):
        return make_fault("batched_events", f"header content-type: {content_type}; send each event in its own record")
    attributes = {} if mode.startswith(_STRUCTURED) else _attributes(headers)
    if isinstance(attributes, Fault):
        return attributes
    if not attributes:
        return None
    try:
        _is_json(value)  # or what follows it here could be taken for attributes
    except PARSE_ERRORS:
        return None
    if content_type is not None:
        attributes["datacontenttype"] = content_type
    return msgspec.json.encode(attributes)[:-1] + b',"data":' + value + b"}"


def _attributes(headers: Headers) -> dict[str, str] | Fault:
    attributes: dict[str, str] = {}
    for name, raw in headers:
        attribute = name.lower().removeprefix(_PREFIX)
        if not name.lower().startswith(_PREFIX) or raw is None:
            continue
        text = _text(raw)
        if text is None:
            return make_fault("not_json", f"header {name}: not UTF-8")
        if attribute in _NO_ATTRIBUTES or not (attribute.isascii() and attribute.isalnum()):
            return make_fault("wrong_type", f"header {name}: names no attribute of an event in binary mode")
        if attributes.setdefault(attribute, text) != text:
            return make_fault("wrong_type", f"header {name}: sent twice, with different values")
    return attributes


def _text(raw: bytes | str | None) -> str | None:
    """A header's value; None where there is none, or it is not UTF-8."""
    if not isinstance(raw, bytes):
        return raw
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
