"""Usable events as columns: what the fold, the counters and the table `events` read."""

from __future__ import annotations

from dataclasses import dataclass, replace
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

UNKNOWN: Final = -1  # stands for a risk, latency or cost that an event does not have
NO_CELL: Final = -1
UNDATED: Final = -(2**63)  # stands for a `decided_at` that an event does not have


@dataclass(frozen=True)
class EventColumns:
    """Events, one a position, in columns of equal length."""

    ids: pa.StringArray  # event ids
    types: pa.StringArray  # CloudEvents types
    sources: pa.StringArray  # who emitted them
    record_numbers: pa.StringArray  # incarnations of the sources, a dot, and numbers; null where there is none
    subjects: pa.StringArray  # decision ids, flag keys or cells
    users: pa.StringArray  # the users that decisions name; null where none is named, and for every other event
    time_us: Longs  # event times, microseconds since 1970 UTC
    decided_at_us: Longs  # when the actions were decided, microseconds since 1970 UTC, or `UNDATED`
    kinds: Bytes  # what they count as (`analytics.signals.event_kinds.EventKind`)
    risk_ranks: Longs  # ranks of the contracts' risk classes, or `UNKNOWN`
    latency_us: Longs  # latencies in whole microseconds, or `UNKNOWN`
    cost_microusd: Longs  # costs in whole millionths of a dollar, or `UNKNOWN`
    cell_of: Longs  # position of each event's cell in `cells`, or `NO_CELL`
    cells: Sequence[CellEpoch]  # cells and epochs; more than the events name, perhaps

    def __len__(self) -> int:
        return len(self.ids)

    def span(self, begin: int, end: int) -> EventColumns:
        """The events from one position to another, which is excluded."""
        texts = {name: getattr(self, name).slice(begin, end - begin) for name in _TEXTS}
        return replace(self, **texts, **{name: getattr(self, name)[begin:end] for name in _NUMBERS})

    def at(self, places: npt.NDArray[np.intp]) -> EventColumns:
        """The events at some places."""
        chosen = pa.array(places)
        texts = {name: getattr(self, name).take(chosen) for name in _TEXTS}
        return replace(self, **texts, **{name: getattr(self, name)[places] for name in _NUMBERS})

    def kept(self, keep: Flags) -> EventColumns:
        """The events at which `keep` holds, in their order."""
        if keep.all():
            return self
        mask = pa.array(keep)
        texts = {name: getattr(self, name).filter(mask) for name in _TEXTS}
        return replace(self, **texts, **{name: getattr(self, name)[keep] for name in _NUMBERS})


_TEXTS: Final = ("ids", "types", "sources", "record_numbers", "subjects", "users")
_NUMBERS: Final = ("time_us", "decided_at_us", "kinds", "risk_ranks", "latency_us", "cost_microusd", "cell_of")


def joined(parts: Sequence[EventColumns]) -> EventColumns:
    """The events of several columns, one after the other; there must be one at least."""
    if len(parts) == 1:
        return parts[0]
    cells: dict[CellEpoch, int] = {}
    cell_of: list[Longs] = []
    positions_of: dict[int, Longs] = {}  # by the list of cells, which most parts share
    for part in parts:
        positions = positions_of.get(id(part.cells))
        if positions is None:
            own = [cells.setdefault(cell, len(cells)) for cell in part.cells]
            positions = positions_of[id(part.cells)] = longs([*own, NO_CELL])  # `NO_CELL` is the last position
        cell_of.append(positions[part.cell_of])
    texts = {name: pa.concat_arrays([getattr(part, name) for part in parts]) for name in _TEXTS}
    numbers = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _NUMBERS}
    return EventColumns(**texts, **numbers | {"cell_of": np.concatenate(cell_of)}, cells=list(cells))


def longs(values: Iterable[int]) -> Longs:
    """Whole numbers as an array."""
    return np.fromiter(values, dtype=np.int64)


def binary(values: Sequence[bytes], joined: bytes, ends: Longs) -> pa.Array:
    """Byte strings, given one by one and `joined`, as an Arrow array; a chunked one where they need 2 GiB or more."""
    if ends[-1] >= 2**31:
        return pa.chunked_array([pa.array([value], pa.binary()) for value in values])
    return pa.Array.from_buffers(
        pa.binary(), len(values), [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(joined)]
    )


def chained(arrays: Iterable[Longs]) -> Longs:
    """Arrays one after the other."""
    return np.concatenate([np.empty(0, dtype=np.int64), *arrays])
