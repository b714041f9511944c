"""Events to increments: one row for each cell, epoch and minute, to be summed by whoever reads them.

Every column is a sum of what single events add (or a maximum), so that late, shuffled, split or merged input gives the
same totals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from analytics.counters import COUNTERS
from analytics.evidence.histogram import BIN_COUNT, bin_of
from analytics.lake.schemas import COLUMNS, SIGNALS
from streams.data.decode import UNKNOWN
from streams.data.kinds import INCREMENTS
from streams.data.wire import CellEpoch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.data.decode import Decoded

_MINUTE_US: Final = 60_000_000
_COST: Final = COUNTERS.index("cost_microusd")
_Longs = npt.NDArray[np.int64]


def roll_up(events: Sequence[Decoded]) -> pl.DataFrame:
    """Fold accepted events into increments.

    Args:
        events: Accepted events; those without a receipt count nothing.

    Returns:
        Rows for the table `signals`, in the order in which their first event came.
    """
    counted = [event for event in events if event.cell is not None and event.decided_at_us is not None]
    rows: dict[tuple[CellEpoch | None, int], int] = {}
    row_of = np.fromiter(
        (rows.setdefault((event.cell, (event.decided_at_us or 0) // _MINUTE_US), len(rows)) for event in counted),
        dtype=np.int64,
        count=len(counted),
    )
    height = len(rows)
    kinds = _column([event.kind for event in counted])
    by_kind = np.bincount(row_of * len(INCREMENTS) + kinds, minlength=height * len(INCREMENTS))
    counters: _Longs = by_kind.reshape(height, len(INCREMENTS)).astype(np.int64) @ INCREMENTS
    costs = _column([event.cost_microusd for event in counted])
    priced = costs != UNKNOWN
    np.add.at(counters[:, _COST], row_of[priced], costs[priced])
    risks = _highest(row_of, _column([event.risk_rank for event in counted]), height, UNKNOWN)
    last_event = _highest(row_of, _column([event.time_us for event in counted]), height, np.iinfo(np.int64).min)
    latency_bins, latency_counts = _histogram(row_of, _column([event.latency_us for event in counted]), height)
    cost_bins, cost_counts = _histogram(row_of, costs, height)
    cells = [cell for cell, _ in rows]
    columns: dict[str, pl.Series] = {
        name: pl.Series(name, [getattr(cell, name) for cell in cells], dtype=pl.String) for name in CellEpoch._fields
    }
    minutes = np.fromiter((minute for _, minute in rows), dtype=np.int64, count=height)
    columns["bucket"] = pl.Series("bucket", minutes * _MINUTE_US)
    columns["risk_rank"] = pl.Series("risk_rank", [None if risk == UNKNOWN else int(risk) for risk in risks])
    columns["last_event_at"] = pl.Series("last_event_at", last_event)
    columns |= {name: pl.Series(name, counters[:, index]) for index, name in enumerate(COUNTERS)}
    columns |= {
        "latency_bins": latency_bins,
        "latency_counts": latency_counts,
        "cost_bins": cost_bins,
        "cost_counts": cost_counts,
    }
    return pl.DataFrame(columns).select(pl.col(name).cast(kind) for name, kind in COLUMNS[SIGNALS].items())


def _column(values: list[int]) -> _Longs:
    return np.array(values, dtype=np.int64)


def _highest(row_of: _Longs, values: _Longs, height: int, floor: int) -> _Longs:
    """The largest value of each row."""
    highest = np.full(height, floor, dtype=np.int64)
    np.maximum.at(highest, row_of, values)
    return highest


def _histogram(row_of: _Longs, micro: _Longs, height: int) -> tuple[pl.Series, pl.Series]:
    """The sparse histogram of each row: bins that hold something, rising, and the counts in them."""
    known = micro != UNKNOWN
    places, counts = np.unique(row_of[known] * BIN_COUNT + bin_of(micro[known]), return_counts=True)
    ends = np.searchsorted(places, np.arange(height + 1) * BIN_COUNT)
    bounds = pa.array(ends, type=pa.int32())
    bins = pa.array(places % BIN_COUNT, type=pa.int16())
    return (
        pl.Series(pa.ListArray.from_arrays(bounds, bins)),
        pl.Series(pa.ListArray.from_arrays(bounds, pa.array(counts, type=pa.int64()))),
    )
