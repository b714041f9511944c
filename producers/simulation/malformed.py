"""Malformed records: one for every reason for which the data plane rejects a record."""

from __future__ import annotations

import json
from datetime import timedelta
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
    _BROKEN[reason](document, event)
    return json.dumps(document, separators=(",", ":")).encode()


def _wrong_type(document: Document, _: ActionExecuted) -> None:
    document["data"]["latency_ms"] = "quick"


def _missing_field(document: Document, _: ActionExecuted) -> None:
    del document["data"]["status"]


def _unknown_type(document: Document, _: ActionExecuted) -> None:
    document["type"] = "stagekeeper.action.dreamt.v1"


def _unknown_version(document: Document, _: ActionExecuted) -> None:
    document["type"] = document["type"].removesuffix(".v1") + ".v9"


def _missing_receipt(document: Document, _: ActionExecuted) -> None:
    del document["data"]["receipt"]


def _malformed_receipt(document: Document, _: ActionExecuted) -> None:
    document["data"]["receipt"] = "not a receipt"


def _unsigned_receipt(document: Document, _: ActionExecuted) -> None:
    document["data"]["receipt"] = ".".join(document["data"]["receipt"].split(".")[:2])


def _forged_receipt(document: Document, _: ActionExecuted) -> None:
    unsigned, _dot, signature = document["data"]["receipt"].rpartition(".")
    document["data"]["receipt"] = f"{unsigned}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


def _receipt_mismatch(document: Document, _: ActionExecuted) -> None:
    document["subject"] = "another-decision"


def _impossible_time(document: Document, event: ActionExecuted) -> None:
    document["time"] = (event.time + timedelta(days=365)).isoformat()


def _negative_value(document: Document, _: ActionExecuted) -> None:
    document["data"]["latency_ms"] = -5.0


_WHOLE_VALUES: dict[str, bytes | None] = {
    "not_json": b'{"specversion": "1.0", "type": ',
    "not_object": b'["stagekeeper.action.executed.v1"]',
    "null_value": None,
    "too_large": b'{"padding": "' + b"x" * MAX_EVENT_BYTES + b'"}',
}
_BROKEN: dict[str, Callable[[Document, ActionExecuted], None]] = {
    "wrong_type": _wrong_type,
    "missing_field": _missing_field,
    "unknown_type": _unknown_type,
    "unknown_version": _unknown_version,
    "missing_receipt": _missing_receipt,
    "malformed_receipt": _malformed_receipt,
    "unsigned_receipt": _unsigned_receipt,
    "forged_receipt": _forged_receipt,
    "receipt_mismatch": _receipt_mismatch,
    "impossible_time": _impossible_time,
    "negative_value": _negative_value,
}
REASONS: tuple[str, ...] = (*_WHOLE_VALUES, *_BROKEN)  # every reason that a record can be broken for
