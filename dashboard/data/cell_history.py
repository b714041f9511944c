"""One cell over time: exact rates and latency quantiles in bins as wide as the stretch asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from analytics.evidence import histogram
from analytics.lake.rollup import is_rolled
from dashboard.data.trends import bin_minutes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from producers.wire.receipt import Cell

_COUNTS = ("decisions", "denied", "executed", "failed", "undone", "undo_failed", "not_undoable")
_SUMS = {
    **{name: pl.col(name) for name in ("decisions", "denied", "executed", "failed")},
    "taken_back": pl.col("undone") + pl.col("undo_failed") + pl.col("not_undoable"),
}
_RATES = {
    "denial": ("denied", "decisions"),
    "undo": ("taken_back", "executed"),
    "execution_error": ("failed", "executed"),
}


@dataclass(frozen=True)
class CellHistory:
    """A cell's signals over time."""

    width_min: int  # of a bin
    # A row for each bin with counts: bucket (UTC), decisions, executed, denial, undo, execution_error (ratios or null),
    # the same with `_so_far` (over the epoch up to the end of the bin), latency_p50, latency_p95 (milliseconds or null)
    rows: pl.DataFrame


def cell_history(signals: pl.LazyFrame, cell: Cell, epoch: str | None, *, most: int = 45) -> CellHistory:
    """Sum the increments of one cell into at most about `most` bins, unless they would be wider than a day.

    Latency histograms are merged before a quantile is taken, so that a wide bin is as exact as a narrow one. The
    running rates are over the epoch, or over all epochs together where it is None.
    """
    of_cell = pl.all_horizontal(pl.col(name) == value for name, value in cell._asdict().items())
    rows = signals.filter(of_cell).select("bucket", "epoch", *_COUNTS, "latency_bins", "latency_counts").collect()
    if rows.is_empty():
        return CellHistory(1, rows)
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
        *(_ratio(pl.col(part), pl.col(whole)).alias(name) for name, (part, whole) in _RATES.items()),
        *(
            _ratio(pl.col(f"{part}_of_epoch").cum_sum(), pl.col(f"{whole}_of_epoch").cum_sum()).alias(f"{name}_so_far")
            for name, (part, whole) in _RATES.items()
        ),
    )
    return CellHistory(width, rates.join(_latency(binned), on="bucket", how="left").sort("bucket"))


def _ratio(part: pl.Expr, whole: pl.Expr) -> pl.Expr:
    return pl.when(whole > 0).then(part / whole)


def _latency(binned: pl.DataFrame) -> pl.DataFrame:
    histograms = (
        binned.select("bucket", bin="latency_bins", count="latency_counts")
        .explode("bin", "count")
        .drop_nulls()
        .group_by("bucket", "bin")
        .agg(pl.col("count").sum())
        .sort("bucket", "bin")
    )
    quantiles: Mapping[str, list[object]] = {"bucket": [], "latency_p50": [], "latency_p95": []}
    for (bucket,), rows in histograms.group_by("bucket", maintain_order=True):
        bins, counts = rows["bin"].to_numpy(), rows["count"].to_numpy().astype(np.int64)
        quantiles["bucket"].append(bucket)
        for name, q in (("latency_p50", 0.5), ("latency_p95", 0.95)):
            micros = histogram.quantile(bins, counts, q)
            quantiles[name].append(None if micros is None else float(micros) / 1_000)
    return pl.DataFrame(
        quantiles, schema={"bucket": binned.schema["bucket"], "latency_p50": pl.Float64, "latency_p95": pl.Float64}
    )
