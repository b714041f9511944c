"""Bytes to what is counted, or to the reason why not.

The fast path is one typed msgspec decode of the record and one of the receipt inside it. Only a record that fails it
is looked at slowly, and then the first of these checks that fails gives its reason:

1. `null_value`: no value, or an empty one.
2. `too_large`: more than `MAX_EVENT_BYTES`.
3. `not_json`: not UTF-8 JSON, or nested beyond reason.
4. `not_object`: JSON, but not an object.
5. The `type`: `missing_field`, `wrong_type` (not a string), `unknown_version` (a known name with another version),
   `unknown_type`; then `specversion`: `wrong_type`, or `unknown_version` where it is not 1.0.
6. `missing_receipt`: an event about an action without a receipt.
7. `negative_value`: a latency, cost or wait below zero.
8. `missing_field`, `wrong_type`: any other field that is absent or unusable; the detail names it.
9. The receipt: `malformed_receipt`, `unsigned_receipt`, `forged_receipt`.
10. `receipt_mismatch`: the receipt is about another decision than the subject, or another action than the contract.
11. `impossible_time`: the event or its decision lies more than five minutes ahead of the clock.

All but the last are functions of the bytes and the receipt key alone.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, NoReturn

import msgspec

from analytics.signals.event_kinds import EventKind
from analytics.signals.event_structs import (
    COUNTED_TYPES,
    TYPES,
    CellEpoch,
    Counted,
    Decided,
    Executed,
    Names,
    PolicyChanged,
    ReceiptRow,
    Recommended,
    WireEvent,
)
from producers.wire.contract import RiskClass
from producers.wire.receipt import ReceiptError, open_token
from producers.wire.topics import MAX_EVENT_BYTES

AHEAD_LIMIT: Final = timedelta(minutes=5)
"""How far an event may lie ahead of the clock."""

UNKNOWN: Final = -1
"""Stands for a risk, latency or cost that an event does not have, in columns of whole numbers."""

LONGEST_DETAIL: Final = 500

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST_US = -62_135_596_800_000_000  # the first moment of year 1
LATEST_US = 253_402_300_799_999_999  # the last moment of year 9999
RANKS = {risk.value: risk.rank for risk in RiskClass}
BASE64URL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
_MISSING = re.compile(r"Object missing required field `(.+)`")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNVERSIONED = frozenset(name.rpartition(".")[0] for name in TYPES)
DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)
_FORM_FAULT = "data.receipt: not of the form sk1.<payload> or sk1.<payload>.<signature>"
_AMOUNTS = ("latency_ms", "cost_usd", "wait_ms")


class Fault(NamedTuple):
    """Why a record cannot be used.

    Attributes:
        reason: The reason code; see the module's list.
        detail: What is wrong with which field, at most `LONGEST_DETAIL` characters.
    """

    reason: str
    detail: str


class _UnusableError(Exception):
    """Leaves the decoder with a fault; never leaves this module."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        short = detail if len(detail) <= LONGEST_DETAIL else f"{detail[: LONGEST_DETAIL - 1]}…"
        self.fault = Fault(reason, short)


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a usable event.

    Attributes:
        id: The event's id.
        type: Its CloudEvents type.
        source: Who emitted it.
        subject: Decision id, flag key or cell.
        time_us: Event time, microseconds since 1970 UTC.
        kind: What it counts as.
        cell: What it is counted under; None for an event that carries no receipt.
        decided_at_us: When the action was decided, microseconds since 1970 UTC; None as above.
        risk_rank: Rank of the contract's risk class, or `UNKNOWN`.
        latency_us: Latency in whole microseconds, or `UNKNOWN`.
        cost_microusd: Cost in whole millionths of a dollar, or `UNKNOWN`.
        user: The user that a decision's contract names; None where it names none, and for every other event.
    """

    id: str
    type: str
    source: str
    subject: str
    time_us: int
    kind: EventKind = EventKind.UNCOUNTED
    cell: CellEpoch | None = None
    decided_at_us: int | None = None
    risk_rank: int = UNKNOWN
    latency_us: int = UNKNOWN
    cost_microusd: int = UNKNOWN
    user: str | None = None


def micros_of(moment: datetime) -> int:
    """Microseconds since 1970 UTC, exactly."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def latest_possible(now: datetime) -> int:
    """The last event time that is possible at a moment, in microseconds since 1970 UTC."""
    return micros_of(now + AHEAD_LIMIT)


class EventDecoder:
    """Decodes records under one receipt key.

    Args:
        key: The receipt key; None accepts receipts without looking at signatures.
    """

    def __init__(self, key: bytes | None) -> None:
        self._key = key
        self._event: msgspec.json.Decoder[WireEvent] = msgspec.json.Decoder(WireEvent)
        self._receipt: msgspec.json.Decoder[ReceiptRow] = msgspec.json.Decoder(ReceiptRow)

    def decode(self, value: bytes | None, latest_us: int | None) -> Decoded | Fault:
        """Decode one record.

        Args:
            value: The record's value.
            latest_us: The last possible event time (`latest_possible`); None skips that check.

        Returns:
            The event, or the first fault in the order of the module's list.
        """
        try:
            event = self._read(value)
            if isinstance(event, (PolicyChanged, Recommended)):
                time_us = _possible("time", event.time, latest_us, "wrong_type")
                return Decoded(event.id, event.type_name, event.source, event.subject, time_us)
            receipt = self._open(event.data.receipt)
            _match(event, receipt)
            time_us = _possible("time", event.time, latest_us, "wrong_type")
            decided_at_us = _possible("data.receipt decided_at", receipt.decided_at, latest_us, "malformed_receipt")
        except _UnusableError as error:
            return error.fault
        latency, cost = _amounts(event)
        return Decoded(
            event.id,
            event.type_name,
            event.source,
            event.subject,
            time_us,
            event.kind,
            receipt.cell_epoch,
            decided_at_us,
            RANKS[event.data.contract.risk_class] if isinstance(event, Decided) else UNKNOWN,
            latency,
            cost,
            event.data.contract.actor.user if isinstance(event, Decided) else None,
        )

    def receipt(self, token: str) -> ReceiptRow | None:
        """What a receipt token says; None where an event that carries it cannot be used."""
        try:
            return self._open(token)
        except _UnusableError:
            return None

    def _read(self, value: bytes | None) -> WireEvent:
        if not value:
            raise _UnusableError("null_value", "the record has no value")
        if len(value) > MAX_EVENT_BYTES:
            raise _UnusableError("too_large", f"{len(value)} bytes, the limit is {MAX_EVENT_BYTES}")
        try:
            event = self._event.decode(value)
            # Fields that nobody reads are skipped without a look at their encoding.
            if not value.isascii():
                value.decode()
        except DECODE_ERRORS as error:
            _explain(value, error)
        # A control character in JSON is either escaped or DEL, so most records need no look at each name.
        if b"\\" in value or b"\x7f" in value:
            _check_names(event.names(), "wrong_type")
        return event

    def _open(self, token: str) -> ReceiptRow:
        if not _is_token(token):
            raise _UnusableError("malformed_receipt", _FORM_FAULT)
        try:
            payload = open_token(token, self._key)
            receipt = self._receipt.decode(payload)
        except ReceiptError as error:
            raise _UnusableError(error.fault, f"data.receipt: {error}") from error
        except DECODE_ERRORS as error:
            raise _UnusableError("malformed_receipt", f"data.receipt: {error}") from error
        if b"\\" in payload or b"\x7f" in payload:
            _check_names(receipt.names(), "malformed_receipt")
        return receipt


def _is_token(token: str) -> bool:
    """Whether a token has the form `sk1.<payload>` or `sk1.<payload>.<signature>`, both base64url without padding.

    What is left of it without the letters of base64url is its dots; a regular expression takes three times as long.
    """
    raw = token.encode(errors="replace")
    dots = raw.translate(None, BASE64URL)
    return raw.startswith(b"sk1.") and (dots == b"." or (dots == b".." and b".." not in raw)) and raw[-1:] != b"."


def _match(event: Counted, receipt: ReceiptRow) -> None:
    """Refuse a receipt that is about something else than its event."""
    if receipt.decision_id != event.subject:
        raise _mismatch("decision_id", receipt.decision_id, "subject", event.subject)
    if isinstance(event, Decided):
        contract = event.data.contract
        if receipt.tool != contract.tool:
            raise _mismatch("tool", receipt.tool, "data.contract.tool", contract.tool)
        if receipt.workflow != contract.workflow:
            raise _mismatch("workflow", receipt.workflow, "data.contract.workflow", contract.workflow)
        environment = contract.target.environment
        if receipt.environment != environment:
            raise _mismatch("environment", receipt.environment, "data.contract.target.environment", environment)


def _mismatch(field: str, said: str, where: str, instead: str) -> _UnusableError:
    return _UnusableError("receipt_mismatch", f"the receipt's {field} is {said!r}, but {where} is {instead!r}")


def _possible(field: str, moment: datetime, latest_us: int | None, out_of_range: str) -> int:
    """Microseconds of a moment that can be stored and has come."""
    at_us = micros_of(moment)
    if not EARLIEST_US <= at_us <= LATEST_US:
        raise _UnusableError(out_of_range, f"{field}: outside the years 1 to 9999")
    if latest_us is not None and at_us > latest_us:
        raise _UnusableError(
            "impossible_time", f"{field}: {moment.isoformat()} lies more than 5 minutes ahead of the clock"
        )
    return at_us


def _amounts(event: Counted) -> tuple[int, int]:
    """Latency and cost in whole micro-units."""
    if not isinstance(event, Executed):
        return UNKNOWN, UNKNOWN
    latency, cost = event.data.latency_ms, event.data.cost_usd
    return (
        UNKNOWN if latency is None else round(latency * 1_000),
        UNKNOWN if cost is None else round(cost * 1_000_000),
    )


def _explain(value: bytes, error: Exception) -> NoReturn:
    """Raise the reason for a record that failed the typed decode with `error`."""
    try:
        value.decode()
        document: object = msgspec.json.decode(value)
    except msgspec.ValidationError as unusable:
        raise _UnusableError("wrong_type", str(unusable)) from error
    except RecursionError:
        raise _UnusableError("not_json", "nested too deeply") from error
    except ValueError as malformed:
        raise _UnusableError("not_json", str(malformed)) from error
    if not isinstance(document, dict):
        raise _UnusableError("not_object", f"a JSON {_json_name(document)} where an object is expected") from error
    _check_envelope(document)
    _check_data(document)
    said = str(error)
    if said.endswith("`$.data.receipt`") and said.startswith("Expected `str` of length"):
        raise _UnusableError("malformed_receipt", _FORM_FAULT) from error
    text, _, path = said.partition(" - at `$")
    where = path.strip("`.")
    if missing := _MISSING.fullmatch(text):
        raise _UnusableError("missing_field", f"{where + '.' if where else ''}{missing[1]}: missing") from error
    raise _UnusableError("wrong_type", f"{where or 'event'}: {text[:1].lower()}{text[1:]}") from error


def _check_envelope(document: dict[str, object]) -> None:
    if "type" not in document:
        raise _UnusableError("missing_field", "type: missing")
    name = document["type"]
    if not isinstance(name, str):
        raise _UnusableError("wrong_type", f"type: a {_json_name(name)} where a string is expected")
    if name not in TYPES:
        known = name in _UNVERSIONED or name.rpartition(".")[0] in _UNVERSIONED
        raise _UnusableError("unknown_version" if known else "unknown_type", f"type: {name!r} is not read here")
    version = document.get("specversion", "1.0")
    if not isinstance(version, str):
        raise _UnusableError("wrong_type", f"specversion: a {_json_name(version)} where a string is expected")
    if version != "1.0":
        raise _UnusableError("unknown_version", f"specversion: {version!r} is not read here, only '1.0'")


def _check_data(document: dict[str, object]) -> None:
    data = document.get("data")
    if document["type"] not in COUNTED_TYPES or not isinstance(data, dict):
        return
    if data.get("receipt") is None:
        raise _UnusableError("missing_receipt", "data.receipt: missing")
    for field in _AMOUNTS:
        amount = data.get(field)
        if isinstance(amount, int | float) and amount < 0:
            raise _UnusableError("negative_value", f"data.{field}: {amount!r} is below zero")


def _check_names(names: Names, reason: str) -> None:
    for field, text in names:
        if CONTROL.search(text):
            raise _UnusableError(reason, f"{field}: holds a control character")


def _json_name(value: object) -> str:
    names: dict[type, str] = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string"}
    return names.get(type(value), "array" if isinstance(value, list) else "object")
