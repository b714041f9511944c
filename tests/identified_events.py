"""Identities by plain names, and a table of what was accepted, for tests of repeats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from analytics.signals.event_kinds import EventKind
from streams.ingest.earlier_events import NOT_FOUND
from streams.ingest.id_store import words_of
from streams.ingest.identities import Identities

if TYPE_CHECKING:
    from collections.abc import Sequence


def identities(names: Sequence[str], times_us: Sequence[int]) -> Identities:
    """Undos of one decision, told apart by their names."""
    times = np.array(times_us, dtype=np.int64)
    return Identities.from_columns(
        (subjects := pa.array([""] * len(names), pa.string()), pa.array(names, pa.string())),
        words_of(subjects),
        kinds=np.full(len(names), EventKind.UNDONE, dtype=np.int8),
        moments_us=(times, np.zeros_like(times)),
        cells=np.zeros(len(names), dtype=np.uint64),
    )


class Table:
    """Stands for the table `events`; `asked` are the names that it was asked for."""

    def __init__(self) -> None:
        self.times: dict[str, int] = {}
        self.asked: list[str] = []

    def store(self, names: Sequence[str], times_us: Sequence[int]) -> None:
        """What was accepted; the first time of each name holds."""
        for name, time_us in zip(names, times_us, strict=True):
            self.times.setdefault(name, time_us)

    def find(self, wanted: Identities) -> np.ndarray:
        """As `EarlierEvents.marks_of` answers."""
        names = wanted.ids.to_pylist()
        self.asked += names
        return np.where([name in self.times for name in names], wanted.marks, NOT_FOUND)
