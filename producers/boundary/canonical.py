"""One way to write arguments, so that equal ones have equal digests on any machine; and what of them may be shown."""

from __future__ import annotations

import hashlib
import json
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import BaseModel

from producers.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

REDACTED = "[redacted]"


class ArgumentError(UsageError):
    """An argument cannot be written canonically, so nobody could tell later whether it was changed."""


def canonical(value: object) -> bytes:
    """Write a value as JSON with sorted keys and no spaces.

    Raises:
        ArgumentError: It holds something that has no canonical form; the message names its type.
    """
    try:
        return json.dumps(
            value, default=_plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
        ).encode()
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{error}. Pass plain values, dates, decimals, enums or pydantic models.") from error


def digest(value: object) -> str:
    """SHA-256 of the canonical form, in hexadecimal."""
    return hashlib.sha256(canonical(value)).hexdigest()


def redacted(arguments: Mapping[str, object], fields: Collection[str]) -> dict[str, object]:
    """The arguments with the named fields blanked, at any depth: what may be stored and shown to a reviewer."""
    return {name: REDACTED if name in fields else _redact(value, fields) for name, value in arguments.items()}


def _redact(value: object, fields: Collection[str]) -> object:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return redacted(value, fields)
    if isinstance(value, list | tuple):
        return [_redact(item, fields) for item in value]
    return value


def _plain(value: object) -> object:
    match value:
        case BaseModel():
            return value.model_dump(mode="json")
        case Enum():
            return value.value
        case datetime() | date():
            return value.isoformat()
        case Decimal() | UUID():
            return str(value)
        case bytes():
            return value.hex()
        case set() | frozenset():
            return sorted(value, key=canonical)
        case _:
            raise TypeError(f"a {type(value).__name__} has no canonical form")
