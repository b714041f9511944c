"""The counters of cells, folded from the increments in the lake: one commutative sum, however it was cut."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.counters import COUNTERS, HISTOGRAMS
from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

CELL: Final[tuple[str, ...]] = Cell._fields
EPOCH: Final[tuple[str, ...]] = (*CELL, "epoch")
MINUTE: Final[tuple[str, ...]] = (*EPOCH, "bucket")

MATURE: Final[tuple[str, ...]] = ("mature_expected", "mature_missing")
"""Columns that `Folded.mature` adds: executions expected in mature minutes, and those of them that never came."""

_MOMENT: Final = pl.Datetime("us", "UTC")
_ONE_MINUTE: Final = timedelta(minutes=1)

EpochKey = tuple[str, ...]
"""Values of the columns `EPOCH`, in their order."""

Histogram = tuple["npt.NDArray[np.int16]", "npt.NDArray[np.int64]"]
"""Bins and the observations in each, equally long."""


@dataclass(frozen=True)
class Folded:
    """Everything counted so far, by cell and epoch. Fold increments in any order and any grouping: the sum is the same.

    Attributes:
        totals: One row an epoch of a cell: the columns of `EPOCH`, every counter, `risk_rank` (null where unknown),
            `first_bucket`, `last_bucket` and `last_event_at`.
        minutes: One row a minute: the columns of `MINUTE`, `expected`, `executed`, and `expected_at`, the newest event
            time of an increment in which an execution came to be expected (null where none is).
        histograms: By name (`latency`, `cost`), one row an occupied bin: the columns of `EPOCH`, `bin`, `count`.
    """

    totals: pl.DataFrame
    minutes: pl.DataFrame
    histograms: Mapping[str, pl.DataFrame]

    @classmethod
    def of(cls, increments: pl.DataFrame) -> Folded:
        """Fold rows of the table `signals`."""
        expecting = pl.when(pl.col("expected") > 0).then(pl.col("last_event_at"))
        totals = increments.select(
            *EPOCH,
            *COUNTERS,
            "risk_rank",
            pl.col("bucket").alias("first_bucket"),
            pl.col("bucket").alias("last_bucket"),
            "last_event_at",
        )
        minutes = increments.select(*MINUTE, "expected", "executed", expecting.alias("expected_at"))
        histograms = {name: _occupied(increments, name) for name in HISTOGRAMS}
        return cls(_sum_totals(totals), _sum_minutes(minutes), {k: _sum_bins(v) for k, v in histograms.items()})

    def plus(self, other: Folded) -> Folded:
        """Add two folds."""
        return Folded(
            _sum_totals(pl.concat([self.totals, other.totals])),
            _sum_minutes(pl.concat([self.minutes, other.minutes])),
            {name: _sum_bins(pl.concat([bins, other.histograms[name]])) for name, bins in self.histograms.items()},
        )

    @property
    def latest_event_at(self) -> datetime | None:
        """The newest event time of all; None where nothing was counted."""
        return _moment(self.totals["last_event_at"].max())

    @property
    def earliest_bucket(self) -> datetime:
        """The oldest minute of all; the beginning of time where nothing was counted."""
        return _moment(self.totals["first_bucket"].min()) or datetime.min.replace(tzinfo=UTC)

    def cells(self) -> set[Cell]:
        """Every cell that has counts."""
        return {Cell(*row) for row in self.totals.select(CELL).unique().iter_rows()}

    def current(self) -> pl.DataFrame:
        """The totals of each cell's current epoch: the one with the newest minute.

        A tie is broken by the newest event, then by the epoch's name, so that everybody agrees.
        """
        newest_last = self.totals.sort("last_bucket", "last_event_at", "epoch")
        return newest_last.unique(subset=CELL, keep="last").sort(CELL)

    def maturing(self, outcome_deadline_s: float) -> pl.DataFrame:
        """When each minute that expects executions becomes mature: the columns of `MINUTE`, and `mature_at`.

        A minute is mature once it is over, and nothing new came to be expected of it, for the outcome deadline: an
        approval that arrives late must not count as missing before its execution had its time.
        """
        settled = pl.max_horizontal(pl.col("bucket") + _ONE_MINUTE, pl.col("expected_at"))
        return self.minutes.filter(pl.col("expected") > 0).with_columns(
            (settled + timedelta(seconds=outcome_deadline_s)).alias("mature_at")
        )

    def mature(self, watermark: datetime, outcome_deadline_s: float, *, by: Sequence[str] = EPOCH) -> pl.DataFrame:
        """Expected and missing executions over the mature minutes: the columns of `by` and of `MATURE`.

        Missing is counted minute by minute and never below zero, so that an execution nobody expected does not make
        up for one that never came.
        """
        missing = (pl.col("expected") - pl.col("executed")).clip(lower_bound=0)
        return (
            self.maturing(outcome_deadline_s)
            .filter(pl.col("mature_at") <= watermark)
            .group_by(by)
            .agg(pl.col("expected").sum().alias(MATURE[0]), missing.sum().alias(MATURE[1]))
        )

    def histogram(self, name: str, *, by: Sequence[str] = EPOCH) -> dict[tuple[str, ...], Histogram]:
        """The sparse histogram of every epoch (or cell) that has observations, with ascending bins."""
        summed = self.histograms[name].group_by(*by, "bin").agg(pl.col("count").sum()).sort("bin")
        grouped = summed.group_by(by).agg("bin", "count")
        return {
            key: (bins.to_numpy(), counts.to_numpy())
            for key, bins, counts in zip(grouped.select(by).iter_rows(), grouped["bin"], grouped["count"], strict=True)
        }


def known_count(histogram: Histogram | None) -> int:
    """Observations in a histogram; none where there is no histogram."""
    return 0 if histogram is None else int(histogram[1].sum())


def _sum_totals(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by(EPOCH).agg(
        *(pl.col(name).sum() for name in COUNTERS),
        pl.col("risk_rank").max(),
        pl.col("first_bucket").min(),
        pl.col("last_bucket").max(),
        pl.col("last_event_at").max(),
    )


def _sum_minutes(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by(MINUTE).agg(
        pl.col("expected").sum(), pl.col("executed").sum(), pl.col("expected_at").cast(_MOMENT).max()
    )


def _occupied(increments: pl.DataFrame, name: str) -> pl.DataFrame:
    bins, counts = f"{name}_bins", f"{name}_counts"
    return (
        increments.filter(pl.col(bins).list.len() > 0)
        .select(*EPOCH, pl.col(bins).alias("bin"), pl.col(counts).alias("count"))
        .explode("bin", "count")
    )


def _sum_bins(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by(*EPOCH, "bin").agg(pl.col("count").sum())


def _moment(value: object) -> datetime | None:
    return value.astimezone(UTC) if isinstance(value, datetime) else None
