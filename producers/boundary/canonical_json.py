"""Canonical JSON (RFC 8785), digests of arguments that are equal in every language, copies to digest, and redaction.

docs/boundary.md says how values that JSON lacks are written; `docs/canonical_json_vectors.json` holds examples.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import hmac
import secrets
from datetime import date
from decimal import Decimal
from enum import Enum
from json.encoder import encode_basestring as quoted
from typing import TYPE_CHECKING, Final
from uuid import UUID

import rfc8785
from pydantic import BaseModel, SecretBytes, SecretStr

from producers.errors import UsageError
from producers.wire.contract import ArgumentsDigest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

REDACTED: Final = "[redacted]"

_PROCESS_KEY: Final = secrets.token_bytes(32)
PROCESS_KEY_ID: Final = f"process-{secrets.token_hex(8)}"

_EXACT: Final = 2**53 - 1  # the largest integer that every JSON reader holds exactly; RFC 8785 knows no larger ones
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})  # values that nobody can change, and that hide nothing
# Begins the string in place of a larger integer; a string that begins so itself gets it once more in front
_TAG: Final = "integer:"


class ArgumentError(UsageError):
    """A value has no canonical form, so nobody could tell later whether it was changed."""


def canonical(value: object) -> bytes:
    """Write a value as canonical JSON; `ArgumentError`, with the type's name, where a part of it has no such form."""
    try:
        return _text(value).encode()
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{error}. Pass plain values, dates, decimals, enums or pydantic models.") from error
    except RecursionError as error:
        raise ArgumentError("a value that holds itself, or is nested too deeply, has no canonical form") from error
    except ArgumentError:
        raise
    except Exception as error:  # whatever a value of the caller's raises when it is looked at
        raise ArgumentError(
            f"a value cannot be looked at ({type(error).__name__}), and has no canonical form"
        ) from error


def digest(value: object) -> str:
    """SHA-256 of the canonical form, in hexadecimal."""
    return hashlib.sha256(canonical(value)).hexdigest()


def copied(arguments: dict[str, object]) -> dict[str, object]:
    """Arguments that nobody else can change, to be digested and then run; `ArgumentError` if they cannot be copied.

    The dictionary itself must be the caller's own; it comes back where nothing in it can change. What has no canonical
    form is left as it is, since its digest is refused.
    """
    if _PLAIN.issuperset(map(type, arguments.values())):
        return arguments
    try:
        return {name: _copy(value) for name, value in arguments.items()}
    except RecursionError as error:
        raise ArgumentError("a value that holds itself, or is nested too deeply, has no canonical form") from error
    except Exception as error:  # whatever a value of the caller's raises when it is copied
        raise ArgumentError(f"a value cannot be copied ({type(error).__name__}), and so not be digested") from error


def _copy(value: object) -> object:
    kind = type(value)
    if kind in _PLAIN:
        return value
    # Copied whole before its members are looked at: another thread may change it meanwhile.
    if kind is dict:
        members = value.copy()  # type: ignore[attr-defined]
        if _PLAIN.issuperset(map(type, members)) and _PLAIN.issuperset(map(type, members.values())):
            return members
        return {_copy(name): _copy(item) for name, item in members.items()}
    if kind is list:
        items = value.copy()  # type: ignore[attr-defined]
        return items if _PLAIN.issuperset(map(type, items)) else [_copy(item) for item in items]
    if isinstance(
        value, dict | list | tuple | set | frozenset | bytearray | str | BaseModel | SecretStr | SecretBytes
    ) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return copy.deepcopy(value)
    return value


class ArgumentDigester:
    """Digests the arguments of calls, so that nobody without the key can try out which ones they were.

    Without a key of its own it uses SHA-256 where nothing is redacted, and else a key that ends with this process: such
    a digest binds an approval here, and is not for events.
    """

    def __init__(self, key: bytes | None) -> None:
        self._of_process = key is None
        self._key_id = PROCESS_KEY_ID if key is None else key_id_of(key)
        self._keyed = hmac.new(_PROCESS_KEY if key is None else key, digestmod="sha256")

    def digest(self, arguments: object, redact: Collection[str]) -> ArgumentsDigest:
        """The digest of arguments of which those named are redacted; `ArgumentError` where they have none."""
        written = canonical(arguments)
        if self._of_process and not redact and not _holds_secret(arguments):
            return ArgumentsDigest(hashlib.sha256(written).hexdigest())
        keyed = self._keyed.copy()  # `hmac.digest` would hand the interpreter to another thread
        keyed.update(written)
        return ArgumentsDigest(None, keyed.hexdigest(), self._key_id)


def key_id_of(key: bytes) -> str:
    """Name a key without telling it: 16 hexadecimal digits of the HMAC-SHA256 of `stagekeeper.key-id` under it."""
    return hmac.digest(key, b"stagekeeper.key-id", "sha256").hex()[:16]


def published(arguments: ArgumentsDigest) -> ArgumentsDigest:
    """What an event may say: nothing where no key outlives the process."""
    return ArgumentsDigest() if arguments.key_id == PROCESS_KEY_ID else arguments


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


def _holds_secret(value: object) -> bool:
    members: Iterable[object]
    if isinstance(value, dict):
        members = value.values()
    elif isinstance(value, list | tuple):
        members = value
    elif isinstance(value, SecretStr | SecretBytes):
        return True
    elif isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        members = _fields(value).values()
    else:
        return False
    # Most are plain, and the types are looked at in one step.
    return not _PLAIN.issuperset(map(type, members)) and any(
        _holds_secret(member) for member in members if type(member) not in _PLAIN
    )


def _fields(value: object) -> dict[str, object]:
    """What a model or a dataclass holds, field by field: its own way to write itself may mask or leave out some."""
    if isinstance(value, BaseModel):
        return {**{name: getattr(value, name) for name in type(value).model_fields}, **(value.model_extra or {})}
    return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}  # type: ignore[arg-type]


def _has_ascii_names(members: dict[str, object]) -> bool:
    try:
        return "".join(members).isascii()
    except TypeError:  # a name that is no string
        return False


def _text(value: object) -> str:
    """Plain values, and objects whose names are ASCII, in a sixth of the library's time (benchmarks/decision.py).

    Exact types only, since a subclass may be written otherwise; other names are sorted in UTF-16, by the library.
    """
    kind = type(value)
    if kind is str and not value.startswith(_TAG):  # type: ignore[attr-defined]
        return quoted(value)  # type: ignore[arg-type]
    if kind is int and -_EXACT <= value <= _EXACT:  # type: ignore[operator]
        return str(value)
    if kind is list:
        return f"[{','.join(map(_text, value))}]"  # type: ignore[call-overload]
    if kind is dict and _has_ascii_names(value):  # type: ignore[arg-type]
        members = [f"{quoted(name)}:{_text(value[name])}" for name in sorted(value)]  # type: ignore[call-overload,index]
        return f"{{{','.join(members)}}}"
    return rfc8785.dumps(_json(value)).decode()


def _json(value: object) -> Json:  # noqa: C901, PLR0911, PLR0912 - one line for each kind
    match value:
        case Enum():
            return _json(value.value)
        case None | bool() | float():
            return value
        case str():
            text = str.__str__(value)
            return f"{_TAG}{text}" if text.startswith(_TAG) else text
        case int():
            return value if -_EXACT <= value <= _EXACT else f"{_TAG}{int(value)}"
        case dict():
            return {_name(name): _json(item) for name, item in value.items()}
        case list() | tuple():
            return [_json(item) for item in value]
        case BaseModel():
            return _json(_fields(value))
        case SecretStr() | SecretBytes():
            return {"secret_sha256": digest(value.get_secret_value())}
        case date():
            return value.isoformat()
        case Decimal() | UUID():
            return str(value)
        case bytes():
            return value.hex()
        case set() | frozenset():
            return [_json(item) for item in sorted(value, key=canonical)]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return _json(_fields(value))
        case _:
            raise TypeError(f"a {type(value).__name__} has no canonical form")


def _name(name: object) -> str:
    """Refuse a key that is not a string: JSON would write `1` and `"1"` alike."""
    if not isinstance(name, str):
        raise TypeError(f"a mapping with a key of type {type(name).__name__} has no canonical form")
    return name
