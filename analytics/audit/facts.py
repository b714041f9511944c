"""Facts about stored events that the quality suites check: fields by flat names, and what several of them imply.

An audit reads the stored bytes again, independently of the decoder that accepted them, so that a fault of the decoder
shows. Nothing counts by these facts: what an event counts as is its column `kind`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pydantic import ValidationError

from producers.wire.events import EVENT
from producers.wire.receipt import Receipt, ReceiptError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from producers.wire.events import Event

Value: TypeAlias = str | float | None
Facts: TypeAlias = dict[str, Value]

_COUNTS: Final = ("flag_count", "reason_count", "severity")
_DISTANCES: Final = ("ahead_of_arrival_s", "decided_ahead_s", "watermark_ahead_s")
NUMBERS: Final = frozenset({*_COUNTS, *_DISTANCES, "decide_ms", "latency_ms", "cost_usd", "wait_ms"})

_EXECUTION: Final = ("status", "latency_ms", "cost_usd", "error_type")
_REVIEW: Final = ("resolution", "reviewer", "rationale", "wait_ms")

# Facts that are called as their field, by where that is; then those that are not.
_FIELDS: Final[Mapping[tuple[str, ...], tuple[str, ...]]] = {
    (): ("id", "source", "dataschema"),
    ("data", "decision", "result"): ("outcome", "reason", "mode"),
    ("data", "decision"): ("provenance", "ruleset_sha256", "decide_ms"),
    ("data", "decision", "authorization"): ("permitted",),
    ("data", "contract"): ("risk_class", "reversibility"),
    ("data", "contract", "actor"): ("agent",),
    ("data", "impact"): ("kind", "severity"),
    ("data",): (*_EXECUTION, *_REVIEW, "flag_key", "changed_by", "verdict", "to_stage"),
}
_PLAIN: Final[Mapping[str, tuple[str, ...]]] = {
    **{name: (*place, name) for place, names in _FIELDS.items() for name in names},
    "undo_result": ("data", "result"),
    "undo_reason": ("data", "reason"),
    "quality_passed": ("data", "impact", "passed"),
    "change_reason": ("data", "reason"),
}

_USER: Final = ("data", "contract", "actor", "user")
_OWNERS: Final = ("user", "account", "service_identity")


def facts_of(row: Mapping[str, Any]) -> Facts:
    """The facts of one row of the table `events`: None for what is absent or unusable, and `fault` then names why."""
    document, fault, unpublished = _read(row["value"])
    at = _moment(document.get("time"))
    owners = (_text(_at(document, ("data", "contract", "actor", name))) for name in _OWNERS)
    facts: Facts = {name: _scalar(name, _at(document, path)) for name, path in _PLAIN.items()}
    facts |= {
        "fault": fault,
        "unpublished": unpublished,
        "event_id": str(row["id"]),  # from the row, so that an event whose bytes have no id can still be found
        "event_type": _text(document.get("type")),
        "ahead_of_arrival_s": _seconds_between(row["ingested_at"], at),
        "row_differs": _row_difference(row, document),
        "flag_count": _length(_at(document, ("data", "decision", "flags"))),
        "reason_count": _length(_at(document, ("data", "reasons"))),
        "owner": next(filter(None, owners), None),
        "changed": _scalar("changed", _at(document, ("data", "before")) != _at(document, ("data", "after"))),
        "watermark_ahead_s": _seconds_between(at, _moment(_at(document, ("data", "watermark")))),
    }
    return facts | _receipt_facts(row, document, at)


def stored_event(value: bytes) -> Event | None:
    """A stored event without what its writer added to the published fields; None where it is not as published."""
    try:
        return EVENT.validate_json(value, extra="ignore")
    except (ValidationError, OverflowError):
        return None


def _receipt_facts(row: Mapping[str, Any], document: Mapping[str, Any], at: datetime | None) -> Facts:
    token = _text(_at(document, ("data", "receipt")))
    facts: Facts = {"decided_at": None, "decided_ahead_s": None, "stage": None, "epoch": None, "receipt_fault": None}
    if token is None:
        return facts
    try:
        # The stream has checked the signature; here only the content is compared.
        receipt = Receipt.from_token(token)
    except ReceiptError as error:
        return facts | {"receipt_fault": str(error)}
    of_receipt = (*receipt.cell, receipt.epoch, receipt.decided_at)
    of_row = tuple(row[name] for name in ("environment", "workflow", "tool", "stage", "cohort", "epoch", "decided_at"))
    if receipt.decision_id != document.get("subject"):
        facts["receipt_fault"] = f"the receipt is of decision {receipt.decision_id}"
    elif of_receipt != of_row:
        facts["receipt_fault"] = f"the row says {of_row}, the receipt {of_receipt}"
    return facts | {
        "decided_at": receipt.decided_at.isoformat(),
        "decided_ahead_s": _seconds_between(at, receipt.decided_at),
        "stage": receipt.stage.value,
        "epoch": receipt.epoch,
    }


def _read(value: bytes) -> tuple[Mapping[str, Any], str | None, str | None]:
    """The document, why it is not the published event, and which of its fields are not published."""
    try:
        document = json.loads(value)
    except (ValueError, RecursionError) as error:
        return {}, f"not JSON: {error}", None
    if not isinstance(document, dict):
        return {}, "not a JSON object", None
    try:
        EVENT.validate_json(value)
    except OverflowError as error:
        return document, str(error), None
    except ValidationError as error:
        faults = [
            (".".join(map(str, fault["loc"])), fault["type"], fault["msg"])
            for fault in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        unpublished = ", ".join(where for where, kind, _ in faults if kind == "extra_forbidden")
        unusable = "; ".join(f"{where}: {message}" for where, kind, message in faults if kind != "extra_forbidden")
        return document, unusable or None, unpublished or None
    return document, None, None


def _row_difference(row: Mapping[str, Any], document: Mapping[str, Any]) -> str | None:
    """The first column of the row that differs from the bytes beside it."""
    for name in ("id", "type", "subject", "source"):
        if row[name] != document.get(name):
            return name
    user = _at(document, _USER)
    if row["user"] != (user if isinstance(user, str) else None):
        return "user"
    return None if row["time"] == _moment(document.get("time")) else "time"


def _at(document: object, path: tuple[str, ...]) -> object:
    for step in path:
        if not isinstance(document, dict):
            return None
        document = document.get(step)
    return document


def _scalar(name: str, value: object) -> Value:
    if name in NUMBERS:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    # Row conditions of great-expectations take texts and numbers, but no truth values.
    return str(value).lower() if isinstance(value, bool) else _text(value)


def _text(value: object) -> str | None:
    """A text that is not blank; None for everything else."""
    return value if isinstance(value, str) and value.strip() else None


def _length(value: object) -> float | None:
    return float(len(value)) if isinstance(value, list) else None


def _moment(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo is not None else None


def _seconds_between(earlier: datetime | None, later: datetime | None) -> float | None:
    return None if earlier is None or later is None else (later - earlier).total_seconds()
