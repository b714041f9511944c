"""Every number that the table `signals` holds about an epoch, and their digest."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from analytics.signals.definitions import ADDED, COUNTERS, HISTOGRAMS
from analytics.signals.state import UNKNOWN_RISK, CellState, moment_of
from analytics.text import iso

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from analytics.signals.state import EpochRows

_COUNTERS = [name for name in COUNTERS if name not in ADDED]  # which digests of earlier layouts are about
_NAMES = (*_COUNTERS, *HISTOGRAMS, "risk_rank", "last_event_at")


def counted_numbers(state: CellState, epochs: EpochRows) -> list[dict[str, object]]:
    """What was counted about some epochs, in their order; a histogram without observations is left out."""
    columns = [state.counter(name)[epochs].tolist() for name in _COUNTERS]
    histograms = {name: state.histograms(name, epochs) for name in HISTOGRAMS}
    numbers: list[dict[str, object]] = []
    for epoch, counts in zip(epochs.tolist(), zip(*columns, strict=True), strict=True):
        rank = int(state.risk[epoch])
        numbers.append(
            {
                **dict(zip(_COUNTERS, counts, strict=True)),
                **{name: [part.tolist() for part in bins[epoch]] for name, bins in histograms.items() if epoch in bins},
                "risk_rank": None if rank == UNKNOWN_RISK else rank,
                "last_event_at": iso(moment_of(state.event_us[epoch])),
            }
        )
    return numbers


def counts_digest(numbers: Mapping[str, object]) -> str:
    """SHA-256 of what was counted about an epoch; other numbers among them have no part in it."""
    counted = {name: numbers[name] for name in _NAMES if name in numbers}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()


def digest_of_increments(increments: pl.DataFrame) -> str | None:
    """The same of rows of `signals` on one epoch; None where there are none."""
    state = CellState.from_increments(increments)
    if not state.epochs:
        return None
    (numbers,) = counted_numbers(state, state.rows_of(increments.head(1)).astype("intp"))
    return counts_digest(numbers)
