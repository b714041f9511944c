"""Trends: the counters of each cell in equal bins of event time, for sparklines and charts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from datetime import datetime

_WIDTHS_MIN = (1, 2, 5, 10, 15, 30, 60, 120, 240, 480, 720, 1_440)
_CELL = list(Cell._fields)
_SUMS = ("decisions", "denied", "executed", "undone", "undo_failed", "not_undoable")


@dataclass(frozen=True)
class Trend:
    """What a cell did, bin by bin, oldest first. All trends of one board share their bins.

    Attributes:
        denial: Denied of decided, a ratio; None where nothing was decided.
        undo: Undone or not undoable of executed, a ratio; None where nothing was executed.
    """

    denial: tuple[float | None, ...]
    undo: tuple[float | None, ...]


def bin_minutes(first: datetime, last: datetime, *, most: int) -> int:
    """The narrowest bin, in minutes, that shows a stretch of time in at most `most` bins."""
    minutes = (last - first).total_seconds() / 60 + 1
    return next((width for width in _WIDTHS_MIN if minutes / width <= most), _WIDTHS_MIN[-1])


def trends(signals: pl.LazyFrame, *, most: int = 20, hours: int = 24) -> dict[Cell, Trend]:
    """Sum the increments of the newest stretch into shared bins.

    Args:
        signals: The increments, as the lake keeps them.
        most: Bins at most.
        hours: How far back a trend goes at most, from the newest bucket.

    Returns:
        A trend for each cell that has counts in the stretch.
    """
    newest = signals.select(pl.col("bucket").max()).collect().item()
    if newest is None:
        return {}
    recent = (
        signals.filter(pl.col("bucket") > newest - pl.duration(hours=hours))
        .group_by(*_CELL, "bucket")
        .agg(pl.col(_SUMS).sum())
        .collect()
    )
    first = recent["bucket"].min()
    width = f"{bin_minutes(first, newest, most=most)}m"  # type: ignore[arg-type] # a column of moments
    binned = (
        recent.with_columns(pl.col("bucket").dt.truncate(width))
        .group_by(*_CELL, "bucket")
        .agg(pl.col(_SUMS).sum())
        .with_columns(
            denial=_ratio(pl.col("denied"), pl.col("decisions")),
            undo=_ratio(pl.col("undone") + pl.col("undo_failed") + pl.col("not_undoable"), pl.col("executed")),
        )
    )
    bins = binned.select(
        pl.datetime_range(pl.col("bucket").min(), pl.col("bucket").max(), interval=width, time_unit="us")
    )
    found: dict[Cell, Trend] = {}
    for names, rows in binned.group_by(_CELL):
        placed = bins.join(rows, on="bucket", how="left").sort("bucket")
        found[Cell(*map(str, names))] = Trend(tuple(placed["denial"].to_list()), tuple(placed["undo"].to_list()))
    return found


def _ratio(part: pl.Expr, whole: pl.Expr) -> pl.Expr:
    return pl.when(whole > 0).then(part / whole)
