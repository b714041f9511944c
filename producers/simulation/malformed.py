"""Malformed records: one for every reason for which the data plane rejects a record."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from producers.wire.topics import MAX_EVENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from producers.wire.events import ActionExecuted

Document = dict[str, Any]  # an event as JSON, on its way to being broken

UNSIGNED_FAULTS = ("unsigned_receipt", "forged_receipt")  # reasons that exist only where receipts are signed


def malformed(reason: str, event: ActionExecuted) -> bytes | None:
    """Break a well-formed event so that it must be rejected for one of `REASONS` alone; None is a null value.

    Nobody else may have emitted the event, and for the faults of signatures its receipt must be signed.
    """
    if reason in _WHOLE_VALUES:
        return _WHOLE_VALUES[reason]
    document: Document = json.loads(event.model_dump_json(exclude_none=True))
    _BROKEN[reason](document, document["data"])
    return json.dumps(document, separators=(",", ":")).encode()


def _forged(token: str) -> str:
    unsigned, _dot, signature = token.rpartition(".")
    return f"{unsigned}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


def _a_year_after(moment: str) -> str:
    return (datetime.fromisoformat(moment) + timedelta(days=365)).isoformat()


_WHOLE_VALUES: dict[str, bytes | None] = {
    "not_json": b'{"specversion": "1.0", "type": ',
    "not_object": b'["stagekeeper.action.executed.v1"]',
    "null_value": None,
    "too_large": b'{"padding": "' + b"x" * MAX_EVENT_BYTES + b'"}',
}
# What breaks an event, given the event and its data
_BROKEN: dict[str, Callable[[Document, Document], object]] = {
    "wrong_type": lambda _, data: data.update(latency_ms="quick"),
    "missing_field": lambda _, data: data.pop("status"),
    "unknown_type": lambda event, _: event.update(type="stagekeeper.action.dreamt.v1"),
    "unknown_version": lambda event, _: event.update(type=event["type"].removesuffix(".v1") + ".v9"),
    "missing_receipt": lambda _, data: data.pop("receipt"),
    "malformed_receipt": lambda _, data: data.update(receipt="not a receipt"),
    "unsigned_receipt": lambda _, data: data.update(receipt=".".join(data["receipt"].split(".")[:2])),
    "forged_receipt": lambda _, data: data.update(receipt=_forged(data["receipt"])),
    "receipt_mismatch": lambda event, _: event.update(subject="another-decision"),
    "impossible_time": lambda event, _: event.update(time=_a_year_after(event["time"])),
    "negative_value": lambda _, data: data.update(latency_ms=-5.0),
}
REASONS: tuple[str, ...] = (*_WHOLE_VALUES, *_BROKEN)  # every reason that a record can be broken for
