"""One cell over time: exact rates and latency quantiles in bins as wide as the stretch asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.evidence import histogram
from analytics.lake.rollup import is_rolled

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from producers.wire.receipt import Cell

_COUNTS = ("decisions", "denied", "executed", "failed", "undone", "undo_failed", "not_undoable", "incidents")
_SUMS = {
    **{name: pl.col(name) for name in ("decisions", "denied", "executed", "failed", "incidents")},
    "taken_back": pl.col("undone") + pl.col("undo_failed") + pl.col("not_undoable"),
}
_RATES = {
    "denial": ("denied", "decisions"),
    "undo": ("taken_back", "executed"),
    "execution_error": ("failed", "executed"),
}
_WIDTHS_MIN: Final = (1, 2, 5, 10, 15, 30, 60, 120, 240, 480, 720, 1_440)


@dataclass(frozen=True)
class CellHistory:
    """A cell's signals over time."""

    width_min: int  # of a bin
    # A row for each bin with counts: bucket (UTC), decisions, executed, denial, undo, execution_error (ratios or null),
    # the same with `_so_far` (over the epoch up to the end of the bin), latency_p50, latency_p95 (milliseconds or null)
    # and the same sums with `_of_epoch`; incidents
    rows: pl.DataFrame
    latency: pl.DataFrame  # a row for each bin of time and of latency: bucket, low_ms, high_ms, share (of its column)


def cell_history(signals: pl.LazyFrame, cell: Cell, epoch: str | None, *, most: int = 45) -> CellHistory:
    """Sum the increments of one cell into at most about `most` bins, unless they would be wider than a day.

    Latency histograms are merged before a quantile is taken, so that a wide bin is as exact as a narrow one. The
    running rates are over the epoch, or over all epochs together where it is None.
    """
    of_cell = pl.all_horizontal(pl.col(name) == value for name, value in cell._asdict().items())
    rows = signals.filter(of_cell).select("bucket", "epoch", *_COUNTS, "latency_bins", "latency_counts").collect()
    if rows.is_empty():
        return CellHistory(1, rows, pl.DataFrame())
    first, last = rows["bucket"].min(), rows["bucket"].max()
    width = bin_minutes(first, last, most=most)  # type: ignore[arg-type] # a column of moments
    if rows.select(is_rolled().any()).item():
        width = max(width, 60)  # narrower bins would show a rolled hour as one busy minute
    binned = rows.with_columns(pl.col("bucket").dt.truncate(f"{width}m"))
    of_epoch = pl.lit(value=True) if epoch is None else pl.col("epoch") == epoch
    sums = [sum_.sum().alias(name) for name, sum_ in _SUMS.items()]
    sums += [sum_.filter(of_epoch).sum().alias(f"{name}_of_epoch") for name, sum_ in _SUMS.items()]
    counted = binned.group_by("bucket").agg(sums).sort("bucket")
    rates = counted.select(
        "bucket",
        "decisions",
        "executed",
        "incidents",
        *(pl.col(f"{name}_of_epoch").cum_sum() for name in _SUMS),
        *(_ratio(pl.col(part), pl.col(whole)).alias(name) for name, (part, whole) in _RATES.items()),
        *(
            _ratio(pl.col(f"{part}_of_epoch").cum_sum(), pl.col(f"{whole}_of_epoch").cum_sum()).alias(f"{name}_so_far")
            for name, (part, whole) in _RATES.items()
        ),
    )
    histograms = _histograms(binned)
    quantiles = _latency(histograms, binned.schema["bucket"])
    return CellHistory(width, rates.join(quantiles, on="bucket", how="left").sort("bucket"), _heat(histograms))


def bin_minutes(first: datetime, last: datetime, *, most: int) -> int:
    """The narrowest bin, in minutes, that shows a stretch of time in at most `most` bins."""
    minutes = (last - first).total_seconds() / 60 + 1
    return next((width for width in _WIDTHS_MIN if minutes / width <= most), _WIDTHS_MIN[-1])


def _ratio(part: pl.Expr, whole: pl.Expr) -> pl.Expr:
    return pl.when(whole > 0).then(part / whole)


def _histograms(binned: pl.DataFrame) -> pl.DataFrame:
    return (
        binned.select("bucket", bin="latency_bins", count="latency_counts")
        .explode("bin", "count")
        .drop_nulls()
        .group_by("bucket", "bin")
        .agg(pl.col("count").sum())
        .sort("bucket", "bin")
    )


def _heat(histograms: pl.DataFrame) -> pl.DataFrame:
    """The histograms in steps of the square root of two, as shares of their bin of time."""
    micros = np.append(histogram.BOUNDS, histogram.LARGEST_BOUND).astype(np.float64)
    step = np.floor(2 * np.log2(micros[histograms["bin"].to_numpy()])) / 2
    return (
        histograms.with_columns(step=pl.Series(step, dtype=pl.Float64))
        .group_by("bucket", "step")
        .agg(pl.col("count").sum())
        .with_columns(share=pl.col("count") / pl.col("count").sum().over("bucket"))
        .select(
            "bucket",
            (2.0 ** pl.col("step") / 1_000).alias("low_ms"),
            (2.0 ** (pl.col("step") + 0.5) / 1_000).alias("high_ms"),
            "share",
        )
        .sort("bucket", "low_ms")
    )


def _latency(histograms: pl.DataFrame, moment: pl.DataType) -> pl.DataFrame:
    quantiles: Mapping[str, list[object]] = {"bucket": [], "latency_p50": [], "latency_p95": []}
    for (bucket,), rows in histograms.group_by("bucket", maintain_order=True):
        bins, counts = rows["bin"].to_numpy(), rows["count"].to_numpy().astype(np.int64)
        quantiles["bucket"].append(bucket)
        for name, q in (("latency_p50", 0.5), ("latency_p95", 0.95)):
            micros = histogram.quantile(bins, counts, q)
            quantiles[name].append(None if micros is None else float(micros) / 1_000)
    return pl.DataFrame(quantiles, schema={"bucket": moment, "latency_p50": pl.Float64, "latency_p95": pl.Float64})
