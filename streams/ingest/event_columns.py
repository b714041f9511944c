"""Usable events as columns: what the fold, the counters and the table `events` read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from analytics.signals.event_structs import CellEpoch

Longs = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.int8]
Flags = npt.NDArray[np.bool_]

UNKNOWN: Final = -1
"""Stands for a risk, latency or cost that an event does not have."""
NO_CELL: Final = -1
UNDATED: Final = -(2**63)
"""Stands for a `decided_at` that an event does not have."""


@dataclass(frozen=True)
class EventColumns:
    """Events, one a position, in columns of equal length.

    Attributes:
        ids: Event ids.
        types: CloudEvents types.
        sources: Who emitted them.
        subjects: Decision ids, flag keys or cells.
        time_us: Event times, microseconds since 1970 UTC.
        decided_at_us: When the actions were decided, microseconds since 1970 UTC, or `UNDATED`.
        users: The users that decisions name; None where none is named, and for every other event.
        kinds: What they count as (`analytics.signals.event_kinds.EventKind`).
        risk_ranks: Ranks of the contracts' risk classes, or `UNKNOWN`.
        latency_us: Latencies in whole microseconds, or `UNKNOWN`.
        cost_microusd: Costs in whole millionths of a dollar, or `UNKNOWN`.
        cell_of: Position of each event's cell in `cells`, or `NO_CELL`.
        cells: Cells and epochs; more than the events name, perhaps.
    """

    ids: list[str]
    types: list[str]
    sources: list[str]
    subjects: list[str]
    users: list[str | None]
    time_us: Longs
    decided_at_us: Longs
    kinds: Bytes
    risk_ranks: Longs
    latency_us: Longs
    cost_microusd: Longs
    cell_of: Longs
    cells: Sequence[CellEpoch]

    def __len__(self) -> int:
        return len(self.ids)

    def kept(self, keep: Flags) -> EventColumns:
        """The events at which `keep` holds, in their order."""
        if keep.all():
            return self
        flags = keep.tolist()
        return EventColumns(
            ids=list(compress(self.ids, flags)),
            types=list(compress(self.types, flags)),
            sources=list(compress(self.sources, flags)),
            subjects=list(compress(self.subjects, flags)),
            users=list(compress(self.users, flags)),
            time_us=self.time_us[keep],
            decided_at_us=self.decided_at_us[keep],
            kinds=self.kinds[keep],
            risk_ranks=self.risk_ranks[keep],
            latency_us=self.latency_us[keep],
            cost_microusd=self.cost_microusd[keep],
            cell_of=self.cell_of[keep],
            cells=self.cells,
        )


def joined(parts: Sequence[EventColumns]) -> EventColumns:
    """The events of several columns, one after the other."""
    if len(parts) == 1:
        return parts[0]
    cells: dict[CellEpoch, int] = {}
    cell_of: list[Longs] = []
    places_in: dict[int, Longs] = {}  # most parts share their list of cells
    for part in parts:
        places = places_in.get(id(part.cells))
        if places is None:
            own = [cells.setdefault(cell, len(cells)) for cell in part.cells]
            places = places_in[id(part.cells)] = longs([*own, NO_CELL])  # `NO_CELL` is the last position
        cell_of.append(places[part.cell_of])
    return EventColumns(
        ids=[each for part in parts for each in part.ids],
        types=[each for part in parts for each in part.types],
        sources=[each for part in parts for each in part.sources],
        subjects=[each for part in parts for each in part.subjects],
        users=[each for part in parts for each in part.users],
        time_us=chained(part.time_us for part in parts),
        decided_at_us=chained(part.decided_at_us for part in parts),
        kinds=np.concatenate([part.kinds for part in parts]) if parts else np.empty(0, dtype=np.int8),
        risk_ranks=chained(part.risk_ranks for part in parts),
        latency_us=chained(part.latency_us for part in parts),
        cost_microusd=chained(part.cost_microusd for part in parts),
        cell_of=chained(cell_of),
        cells=list(cells),
    )


def longs(values: Iterable[int]) -> Longs:
    """Whole numbers as an array."""
    return np.fromiter(values, dtype=np.int64)


def binary(values: Sequence[bytes], joined: bytes, ends: Longs) -> pa.Array:
    """Byte strings as an Arrow array, or a chunked one where they need more than 2 GiB.

    Args:
        values: The byte strings.
        joined: The same, one after the other.
        ends: Where each begins and the last ends in these.
    """
    if ends[-1] >= 2**31:
        return pa.chunked_array([pa.array([value], pa.binary()) for value in values])
    return pa.Array.from_buffers(
        pa.binary(), len(values), [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(joined)]
    )


def chained(arrays: Iterable[Longs]) -> Longs:
    """Arrays one after the other."""
    parts = list(arrays)
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
