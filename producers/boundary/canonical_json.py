"""One way to write arguments, so that equal ones have equal digests on any machine; and what of them may be shown."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from json.encoder import encode_basestring as quoted
from typing import TYPE_CHECKING, Final
from uuid import UUID

from pydantic import BaseModel, SecretBytes, SecretStr

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
    if type(value) is dict and (flat := _flat(value)) is not None:
        return flat
    try:
        _require_names(value)
        return _ENCODER.encode(value).encode()
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{error}. Pass plain values, dates, decimals, enums or pydantic models.") from error


def digest(value: object) -> str:
    """SHA-256 of the canonical form, in hexadecimal."""
    return hashlib.sha256(canonical(value)).hexdigest()


def redacted(arguments: Mapping[str, object], fields: Collection[str]) -> dict[str, object]:
    """The arguments with the named fields blanked, at any depth: what may be stored and shown to a reviewer."""
    return {name: REDACTED if name in fields else _redact(value, fields) for name, value in arguments.items()}


def _redact(value: object, fields: Collection[str]) -> object:
    if isinstance(value, SecretStr | SecretBytes):
        return REDACTED
    if isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        value = _fields(value)
    if isinstance(value, dict):
        return redacted(value, fields)
    if isinstance(value, list | tuple):
        return [_redact(item, fields) for item in value]
    return value


def _fields(value: object) -> dict[str, object]:
    """What a model or a dataclass holds, field by field: its own way to write itself may mask or leave out some."""
    if isinstance(value, BaseModel):
        return {**{name: getattr(value, name) for name in type(value).model_fields}, **(value.model_extra or {})}
    return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}  # type: ignore[arg-type]


def _flat(arguments: dict[str, object]) -> bytes | None:
    """The canonical form of plain values by plain names, in half the time; None where something else is among them.

    Exact types only: a subclass may be written otherwise.
    """
    written = []
    try:
        for name in sorted(arguments):
            value = arguments[name]
            if type(name) is not str:
                return None
            kind = type(value)
            if kind is str:
                written.append(f"{quoted(name)}:{quoted(value)}")  # type: ignore[arg-type] # its type was looked at
            elif kind is int:
                written.append(f"{quoted(name)}:{value}")
            elif kind is bool or value is None:
                written.append(f"{quoted(name)}:{_CONSTANTS[value]}")  # type: ignore[index] # as above
            else:
                return None
        return f"{{{','.join(written)}}}".encode()
    except (TypeError, ValueError):
        return None


_CONSTANTS: Final = {None: "null", True: "true", False: "false"}


def _require_names(value: object) -> None:
    """Refuse mappings whose keys are not strings: JSON would write `1` and `"1"` alike."""
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise TypeError(f"a mapping with a key of type {type(name).__name__} has no canonical form")
            _require_names(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _require_names(item)


def _plain(value: object) -> object:  # noqa: PLR0911 - one line for each kind
    match value:
        case BaseModel():
            return _named(_fields(value))
        case SecretStr() | SecretBytes():
            return {"secret_sha256": digest(value.get_secret_value())}
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
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return _named(_fields(value))
        case _:
            raise TypeError(f"a {type(value).__name__} has no canonical form")


def _named(fields: dict[str, object]) -> dict[str, object]:
    _require_names(fields)
    return fields


_ENCODER = json.JSONEncoder(default=_plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
