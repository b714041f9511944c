"""Single events out of the decoder's columns, and columns of single events."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa

from analytics.signals.event_kinds import EventKind
from streams.ingest.decode import EventDecoder
from streams.ingest.event_columns import NO_CELL, UNDATED, UNKNOWN, EventColumns, longs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analytics.signals.event_structs import CellEpoch
    from streams.ingest.faults import Fault


Headers: TypeAlias = list[tuple[str, bytes | str | None]]


@dataclass(frozen=True)
class DecodedEvent:
    """One position of `EventColumns`."""

    id: str
    type: str
    source: str
    subject: str
    time_us: int
    kind: EventKind
    cell: CellEpoch | None = None
    decided_at_us: int | None = None
    user: str | None = None
    risk_rank: int = UNKNOWN
    latency_us: int = UNKNOWN
    cost_microusd: int = UNKNOWN
    record_number: str | None = None


def decode_all(
    values: Sequence[bytes | None], key: bytes | None, latest_us: int | None, decoder: EventDecoder | None = None
) -> list[DecodedEvent | Fault]:
    """What the decoder makes of each record."""
    decoded = (decoder or EventDecoder(key)).decode(values, latest_us)
    assert decoded.values.to_pylist() == [value or b"" for value in values]
    assert decoded.usable.tolist() == [place not in decoded.faults for place in range(len(values))]
    return [
        decoded.faults[place] if place in decoded.faults else event_at(decoded.events, place)
        for place in range(len(values))
    ]


def binary(document: dict[str, Any], content_type: str | None = "application/json") -> tuple[bytes, Headers]:
    """The value and the headers of an event in binary mode, as the Kafka protocol binding writes them."""
    named = {name: text for name, text in document.items() if name not in {"data", "datacontenttype"}}
    headers: Headers = [(f"ce_{name}", text.encode()) for name, text in named.items()]
    if content_type is not None:
        headers.append(("content-type", content_type.encode()))
    return json.dumps(document["data"]).encode(), headers


def decode_records(
    records: Sequence[tuple[bytes | None, Headers | None]], key: bytes | None = None, latest_us: int | None = None
) -> list[DecodedEvent | Fault]:
    """What the decoder makes of each value with its headers."""
    values = [value for value, _ in records]
    decoded = EventDecoder(key).decode(values, latest_us, headers_of=lambda place: records[place][1])
    return [decoded.faults.get(place) or event_at(decoded.events, place) for place in range(len(records))]


def decode_one(value: bytes | None, key: bytes | None = None, latest_us: int | None = None) -> DecodedEvent | Fault:
    """What the decoder makes of one record."""
    (decoded,) = decode_all([value], key, latest_us)
    return decoded


def event_at(events: EventColumns, place: int) -> DecodedEvent:
    """The event at a position."""
    cell, decided_at_us = int(events.cell_of[place]), int(events.decided_at_us[place])
    return DecodedEvent(
        id=events.ids[place].as_py(),
        type=events.types[place].as_py(),
        source=events.sources[place].as_py(),
        subject=events.subjects[place].as_py(),
        time_us=int(events.time_us[place]),
        kind=EventKind(events.kinds[place]),
        cell=None if cell == NO_CELL else events.cells[cell],
        decided_at_us=None if decided_at_us == UNDATED else decided_at_us,
        user=events.users[place].as_py(),
        risk_rank=int(events.risk_ranks[place]),
        latency_us=int(events.latency_us[place]),
        cost_microusd=int(events.cost_microusd[place]),
        record_number=events.record_numbers[place].as_py(),
    )


def columns_of(events: Sequence[DecodedEvent]) -> EventColumns:
    """The events as columns."""
    cells: dict[CellEpoch, int] = {}
    cell_of = [NO_CELL if event.cell is None else cells.setdefault(event.cell, len(cells)) for event in events]
    return EventColumns(
        ids=pa.array([event.id for event in events], pa.string()),
        types=pa.array([event.type for event in events], pa.string()),
        sources=pa.array([event.source for event in events], pa.string()),
        record_numbers=pa.array([event.record_number for event in events], pa.string()),
        subjects=pa.array([event.subject for event in events], pa.string()),
        users=pa.array([event.user for event in events], pa.string()),
        time_us=longs(event.time_us for event in events),
        decided_at_us=longs(UNDATED if event.decided_at_us is None else event.decided_at_us for event in events),
        kinds=np.array([event.kind for event in events], dtype=np.int8),
        risk_ranks=longs(event.risk_rank for event in events),
        latency_us=longs(event.latency_us for event in events),
        cost_microusd=longs(event.cost_microusd for event in events),
        cell_of=longs(cell_of),
        cells=list(cells),
    )
