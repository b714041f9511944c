"""Trends: the counters of each cell in equal bins of event time, for sparklines and charts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.signals.cells import MINUTE_US, ROW

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.signals.state import CellState, Increment, Integers
    from producers.wire.receipt import Cell

_WIDTHS_MIN = (1, 2, 5, 10, 15, 30, 60, 120, 240, 480, 720, 1_440)
_SUMS: Final = ("decisions", "denied", "executed", "undone", "undo_failed", "not_undoable")
_SUM_AGAIN_AT: Final = 50_000


@dataclass(frozen=True)
class Trend:
    """What a cell did, bin by bin, oldest first. All trends of one board share their bins."""

    denial: tuple[float | None, ...]  # denied of decided, a ratio; None where nothing was decided
    undo: tuple[float | None, ...]  # undone or not undoable of executed, a ratio; None where nothing was executed


def bin_minutes(first: datetime, last: datetime, *, most: int) -> int:
    """The narrowest bin, in minutes, that shows a stretch of time in at most `most` bins."""
    return _width_min((last - first).total_seconds() / 60 + 1, most)


def _width_min(minutes: float, most: int) -> int:
    return next((width for width in _WIDTHS_MIN if minutes / width <= most), _WIDTHS_MIN[-1])


class Trends:
    """The minutes of the newest hours, of every cell; each increment of the state is to be added here."""

    def __init__(self, state: CellState, *, hours: int = 24) -> None:
        self._state = state
        self._hours = hours
        self._minutes = pl.DataFrame(schema={"cell": pl.UInt32, "bucket": pl.Int64, **dict.fromkeys(_SUMS, pl.Int64)})
        self._summed = 0

    def add(self, increment: Increment) -> None:
        """Take in what an increment brought."""
        cells = self._state.cell_of[increment.minutes[ROW].to_numpy()].astype(np.uint32)
        fresh = increment.minutes.select(pl.Series("cell", cells), "bucket", *_SUMS)
        self._minutes = pl.concat([self._minutes, fresh], rechunk=False)
        if self._minutes.height > 2 * self._summed + _SUM_AGAIN_AT:
            self._sum_up()

    def of_cells(self, *, most: int = 20) -> dict[Cell, Trend]:
        """A trend for each cell that has counts in the stretch, in at most so many shared bins."""
        self._sum_up()
        if self._minutes.is_empty():
            return {}
        cell, bucket = (self._minutes[name].to_numpy() for name in ("cell", "bucket"))
        width_us = _width_min((bucket.max() - bucket.min()) / MINUTE_US + 1, most) * MINUTE_US
        bins = bucket // width_us
        bins = bins - bins.min()
        present, row_of = np.unique(cell, return_inverse=True)
        shape = (present.size, int(bins.max()) + 1)

        def summed(*names: str) -> Integers:
            table = np.zeros(shape, dtype=np.int64)
            for name in names:
                np.add.at(table, (row_of, bins), self._minutes[name].to_numpy())
            return table

        denial = _ratios(summed("denied"), summed("decisions"))
        undo = _ratios(summed("undone", "undo_failed", "not_undoable"), summed("executed"))
        cells = [self._state.cells[place] for place in present]
        return {name: Trend(denied, undone) for name, denied, undone in zip(cells, denial, undo, strict=True)}

    def _sum_up(self) -> None:
        """Add up the rows of each minute, and let go of those that lie too far back."""
        newest = pl.col("bucket").max()
        self._minutes = (
            self._minutes.filter(pl.col("bucket") > newest - self._hours * 60 * MINUTE_US)
            .group_by("cell", "bucket")
            .agg(pl.col(_SUMS).sum())
        )
        self._summed = self._minutes.height


def _ratios(part: Integers, whole: Integers) -> list[tuple[float | None, ...]]:
    """Row by row; None where there is nothing to divide by."""
    divisible = whole > 0
    ratios = np.where(divisible, part / np.where(divisible, whole, 1), np.nan)
    return [
        tuple(None if value != value else value for value in row)  # noqa: PLR0124 - NaN alone differs from itself
        for row in ratios.tolist()
    ]
