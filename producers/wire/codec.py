"""Events to bytes and back, as they travel through Kafka."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from producers.errors import StagekeeperError
from producers.wire.events import CONTENT_TYPE, EVENT, Event

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADERS: Sequence[tuple[str, bytes]] = (("content-type", CONTENT_TYPE.encode()),)
"""The headers of every record that carries an event."""


class EventError(StagekeeperError):
    """Bytes that are not an event as published."""


def to_bytes(event: Event) -> bytes:
    """Write an event as compact UTF-8 JSON; unknown values are left out."""
    return event.model_dump_json(exclude_none=True).encode()


def of_bytes(value: bytes) -> Event:
    """Read an event, strictly as published.

    Raises:
        EventError: The bytes are not JSON, or not one of the published events; the message names the field.
    """
    try:
        return EVENT.validate_json(value)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'event'}: {fault['msg']}" for fault in error.errors())
        raise EventError(f"not an event as published: {faults}") from error


def record_key(event: Event) -> bytes:
    """What the event's record is keyed by: its subject (decision id, flag key or cell)."""
    return event.subject.encode()


class Encoded(NamedTuple):
    """An event as it travels."""

    topic: str
    key: bytes
    value: bytes


def encoded(event: Event) -> Encoded:
    """Write an event for the wire."""
    return Encoded(event.topic, record_key(event), to_bytes(event))
