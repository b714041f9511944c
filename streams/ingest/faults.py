"""Why a record cannot be used: the reason codes of the table `rejects`, and the text that names the field.

The first of these checks that fails gives the reason (`docs/events.md` says what each means):

1. `null_value`, `too_large`, `batched_events`, `not_json`, `not_object`.
2. The `type`: `missing_field`, `wrong_type`, `unknown_version` (a known name with another version), `unknown_type`.
3. `specversion`: `wrong_type`, or `unknown_version` where it is not 1.0.
4. `missing_receipt`, `negative_value`.
5. Any other field that is absent or unusable: `missing_field`, `wrong_type`; the detail names it.
6. The receipt: `malformed_receipt`, `unsigned_receipt`, `forged_receipt`, `receipt_mismatch`.
7. `impossible_time`, `beyond_retention`.
8. `conflicting_event`: it contradicts one that was accepted before.

All but the last three are functions of the record (its value, and headers where it is in binary mode) and the receipt
key alone. Fields that nobody publishes are ignored,
whatever JSON they hold.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec
import numpy as np

from analytics.signals.event_structs import COUNTED_TYPES, TYPES, ReceiptRow, WireEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


MAX_DEPTH: Final = 100  # of objects and arrays: every JSON parser in use, here and elsewhere, reads that
LONGEST_DETAIL: Final = 500

_MISSING: Final = re.compile(r"Object missing required field `(.+)`")
_UNVERSIONED: Final = frozenset(name.rpartition(".")[0] for name in TYPES)
_AMOUNTS: Final = ("latency_ms", "cost_usd", "wait_ms")
_OPENING, _CLOSING, _QUOTE = np.array([ord("{"), ord("[")]), np.array([ord("}"), ord("]")]), ord('"')
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
PARSE_ERRORS: Final = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)

Parsed = TypeVar("Parsed", bound="WireEvent | ReceiptRow")


class Fault(NamedTuple):
    """Why a record cannot be used."""

    reason: str  # the reason code; see the module's list
    detail: str  # what is wrong with which field, at most `LONGEST_DETAIL` characters


def make_fault(reason: str, detail: str) -> Fault:
    """A fault whose detail is cut to its largest length."""
    return Fault(reason, detail if len(detail) <= LONGEST_DETAIL else f"{detail[: LONGEST_DETAIL - 1]}…")


def is_too_deep(value: bytes) -> bool:
    """Whether a record is nested deeper than `MAX_DEPTH`; of what is no JSON either answer may come."""
    letters = np.frombuffer(value.replace(b"\\\\", b"").replace(b'\\"', b""), dtype=np.uint8)
    within_text = np.cumsum(letters == _QUOTE) % 2 == 1
    steps = np.isin(letters, _OPENING).astype(np.int64) - np.isin(letters, _CLOSING)
    return bool(np.cumsum(np.where(within_text, 0, steps)).max(initial=0) > MAX_DEPTH)


def parse_fault(value: bytes, error: Exception) -> Fault:
    """The reason for a record that is no event: its parser failed with `error`."""
    try:
        value.decode()
        document: object = msgspec.json.decode(value)
    except msgspec.ValidationError as unusable:
        return make_fault("wrong_type", str(unusable))
    except ValueError as malformed:
        return make_fault("not_json", str(malformed))
    if isinstance(document, list) and any(isinstance(item, dict) and "specversion" in item for item in document):
        return make_fault("batched_events", f"a batch of {len(document)}; send each event in its own record")
    if not isinstance(document, dict):
        return make_fault("not_object", f"a JSON {_json_name(document)} where an object is expected")
    return _envelope_fault(document) or _data_fault(document) or _field_fault(str(error))


def _envelope_fault(document: dict[str, object]) -> Fault | None:
    if "type" not in document:
        return make_fault("missing_field", "type: missing")
    name = document["type"]
    if not isinstance(name, str):
        return make_fault("wrong_type", f"type: a {_json_name(name)} where a string is expected")
    if name not in TYPES:
        is_version = name in _UNVERSIONED or name.rpartition(".")[0] in _UNVERSIONED
        return make_fault("unknown_version" if is_version else "unknown_type", f"type: {name!r} is not read here")
    version = document.get("specversion", "1.0")
    if not isinstance(version, str):
        return make_fault("wrong_type", f"specversion: a {_json_name(version)} where a string is expected")
    if version != "1.0":
        return make_fault("unknown_version", f"specversion: {version!r} is not read here, only '1.0'")
    return None


def _data_fault(document: dict[str, object]) -> Fault | None:
    data = document.get("data")
    if document["type"] not in COUNTED_TYPES or not isinstance(data, dict):
        return None
    if data.get("receipt") is None:
        return make_fault("missing_receipt", "data.receipt: missing")
    for field in _AMOUNTS:
        amount = data.get(field)
        if isinstance(amount, int | float) and amount < 0:
            return make_fault("negative_value", f"data.{field}: {amount!r} is below zero")
    return None


def _field_fault(message: str) -> Fault:
    """The field that a message of msgspec is about, such as "Expected `str`, got `int` - at `$.data.status`"."""
    text, _, path = message.partition(" - at `$")
    field = path.strip("`.")
    if field == "data.receipt" and text.startswith("Expected `str` of length"):
        return make_fault("malformed_receipt", f"{field}: {text[:1].lower()}{text[1:]}")
    if missing := _MISSING.fullmatch(text):
        return make_fault("missing_field", f"{field + '.' if field else ''}{missing[1]}: missing")
    return make_fault("wrong_type", f"{field or 'event'}: {text[:1].lower()}{text[1:]}")


def _json_name(value: object) -> str:
    names: dict[type, str] = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string"}
    return names.get(type(value), "array" if isinstance(value, list) else "object")


def parse_all(
    parse: Callable[[bytes], Parsed], values: Sequence[bytes], blank: Parsed, errors: dict[int, Exception]
) -> list[Parsed]:
    """Parse each value; `blank` stands for those that cannot be, and `errors` takes why, by position."""
    parsed: list[Parsed] = []
    remaining = iter(values)
    while len(parsed) < len(values):
        try:
            parsed.extend(map(parse, remaining))
        except PARSE_ERRORS as error:  # of the value after those that were parsed
            errors[len(parsed)] = error
            parsed.append(blank)
    return parsed


def control_characters(values: Sequence[bytes], joined: bytes, parsed: Sequence[Parsed]) -> Iterator[tuple[int, str]]:
    """Positions and paths of names with control characters, in JSON (also `joined`) and what it was parsed into."""
    # A control character in JSON is either escaped or DEL, so most values need no look at each name.
    if b"\\" in joined or b"\x7f" in joined:
        for place, value in enumerate(values):
            if b"\\" in value or b"\x7f" in value:
                yield from ((place, field) for field, text in parsed[place].names() if _CONTROL.search(text))
