"""Events to increments: one row for each cell, epoch and minute, to be summed by whoever reads them.

Every column is a sum of what single events add (or a maximum), so that late, shuffled, split or merged input gives the
same totals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
import pyarrow as pa

from analytics.counters import COUNTERS
from analytics.evidence.histogram import BIN_COUNT, bin_of
from analytics.lake.schemas import COLUMNS, SIGNALS
from streams.data.columns import NO_CELL, UNDATED, EventColumns, Longs
from streams.data.decode import UNKNOWN
from streams.data.kinds import INCREMENTS
from streams.data.wire import CellEpoch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.data.decode import Decoded

_MINUTE_US: Final = 60_000_000
_COST: Final = COUNTERS.index("cost_microusd")


def roll_up(events: Sequence[Decoded]) -> pl.DataFrame:
    """`count` for events that were decoded one by one."""
    return count(EventColumns.of(events))


def count(events: EventColumns) -> pl.DataFrame:
    """Fold accepted events into increments.

    Args:
        events: Accepted events; those without a receipt count nothing.

    Returns:
        Rows for the table `signals`, in the order in which their first event came.
    """
    counted = (events.cell_of != NO_CELL) & (events.decided_at_us != UNDATED)
    cell_of, minutes = events.cell_of[counted], events.decided_at_us[counted] // _MINUTE_US
    rows, row_of = _rows(cell_of, minutes)
    height = len(rows)
    by_kind = np.bincount(row_of * len(INCREMENTS) + events.kinds[counted], minlength=height * len(INCREMENTS))
    counters: Longs = by_kind.reshape(height, len(INCREMENTS)).astype(np.int64) @ INCREMENTS
    costs = events.cost_microusd[counted]
    priced = costs != UNKNOWN
    np.add.at(counters[:, _COST], row_of[priced], costs[priced])
    risks = _highest(row_of, events.risk_ranks[counted], height, UNKNOWN)
    last_event = _highest(row_of, events.time_us[counted], height, np.iinfo(np.int64).min)
    latency_bins, latency_counts = _histogram(row_of, events.latency_us[counted], height)
    cost_bins, cost_counts = _histogram(row_of, costs, height)
    cells = [events.cells[number] for number in cell_of[rows].tolist()]
    columns: dict[str, pl.Series] = {
        name: pl.Series(name, [getattr(cell, name) for cell in cells], dtype=pl.String) for name in CellEpoch._fields
    }
    columns["bucket"] = pl.Series("bucket", minutes[rows] * _MINUTE_US)
    columns["risk_rank"] = pl.Series("risk_rank", [None if risk == UNKNOWN else risk for risk in risks.tolist()])
    columns["last_event_at"] = pl.Series("last_event_at", last_event)
    columns |= {name: pl.Series(name, counters[:, index]) for index, name in enumerate(COUNTERS)}
    columns |= {
        "latency_bins": latency_bins,
        "latency_counts": latency_counts,
        "cost_bins": cost_bins,
        "cost_counts": cost_counts,
    }
    return pl.DataFrame(columns).select(pl.col(name).cast(kind) for name, kind in COLUMNS[SIGNALS].items())


def _rows(cell_of: Longs, minutes: Longs) -> tuple[Longs, Longs]:
    """The first event of each different pair, and for each event the position of its pair among these."""
    if not len(cell_of):
        return cell_of, cell_of
    # The minutes of all years together are fewer than 2^33, and a batch has fewer than 2^30 cells.
    pairs = cell_of * (1 << 33) + (minutes - minutes.min())
    _, first, pair_of = np.unique(pairs, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[pair_of]


def _highest(row_of: Longs, values: Longs, height: int, floor: int) -> Longs:
    """The largest value of each row."""
    highest = np.full(height, floor, dtype=np.int64)
    np.maximum.at(highest, row_of, values)
    return highest


def _histogram(row_of: Longs, micro: Longs, height: int) -> tuple[pl.Series, pl.Series]:
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
