"""The counters of cells, folded from the increments in the lake: one commutative sum, however it was cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.signals.definitions import COUNTERS, HISTOGRAMS
from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

CELL: Final[tuple[str, ...]] = Cell._fields
EPOCH: Final[tuple[str, ...]] = (*CELL, "epoch")
MINUTE: Final[tuple[str, ...]] = (*EPOCH, "bucket")
ACTION: Final[tuple[str, ...]] = CELL[:3]

MATURE: Final[tuple[str, ...]] = ("mature_expected", "mature_missing", "pending")
"""Columns that `Folded.mature` adds: executions expected in mature minutes, those of them that never came, and those
that did not come yet although their minute is mature, because an approval came late."""

ESTABLISHED_DECISIONS: Final = 10
"""Decisions that make an epoch one of its own, and not a slip."""
ESTABLISHED_AFTER: Final = timedelta(minutes=10)
"""How long (event time) an epoch of fewer decisions must have been the only one that decides."""
STILL_ALIVE: Final = timedelta(minutes=5)
"""An established epoch that has been silent for longer than this, while another decided, is over."""

ONE_MINUTE: Final = timedelta(minutes=1)
_MOMENT: Final = pl.Datetime("us", "UTC")
_SUM_AGAIN_AT: Final = 50_000

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
        recent: The minutes that may still matter, in any number of rows a minute: the columns of `MINUTE`, every
            counter, and `expected_at`, the newest event time of an increment in which an execution came to be expected
            (null where none is). `settled` takes out what no longer matters.
        histograms: By name (`latency`, `cost`), one row an occupied bin: the columns of `EPOCH`, `bin`, `count`.
        summed: Rows of `recent` when they were last summed.
    """

    totals: pl.DataFrame
    recent: pl.DataFrame
    histograms: Mapping[str, pl.DataFrame]
    summed: int = 0

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
        minutes = _sum_minutes(increments.select(*MINUTE, *COUNTERS, expecting.cast(_MOMENT).alias("expected_at")))
        histograms = {name: _occupied(increments, name) for name in HISTOGRAMS}
        summed = {name: _sum_bins(bins) for name, bins in histograms.items()}
        return cls(_sum_totals(totals), minutes, summed, minutes.height)

    def plus(self, other: Folded) -> Folded:
        """Add two folds."""
        recent, summed = pl.concat([self.recent, other.recent]), self.summed
        # Summing all minutes at every look would cost by the minute; a few rows more a minute cost nothing.
        if recent.height > 2 * summed + _SUM_AGAIN_AT:
            recent = _sum_minutes(recent)
            summed = recent.height
        return Folded(
            _sum_totals(pl.concat([self.totals, other.totals])),
            recent,
            {name: _sum_bins(pl.concat([bins, other.histograms[name]])) for name, bins in self.histograms.items()},
            summed,
        )

    def settled(self, watermark: datetime, horizon_s: float, *, whole: Collection[tuple[str, ...]] = ()) -> Folded:
        """Take out the minutes that no later look depends on, so that memory is bounded by the horizon.

        A minute leaves once it is older than the horizon and as many executions came as were expected. Whatever still
        arrives for it then stands for itself: the sums of `mature` come out the same.

        Args:
            watermark: Event time up to which everything has been read.
            horizon_s: Seconds for which single minutes matter; at least the outcome deadline.
            whole: Actions (environment, workflow, tool) whose minutes all matter.
        """
        before = watermark - timedelta(seconds=horizon_s)
        recent = _sum_minutes(self.recent)
        late = pl.max_horizontal(pl.col("bucket") + ONE_MINUTE, pl.col("expected_at")) > before
        keep = late | (pl.col("expected") != pl.col("executed"))
        if whole:
            keep |= pl.struct(ACTION).is_in([dict(zip(ACTION, action, strict=True)) for action in whole])
        recent = recent.filter(keep)
        return replace(self, recent=recent, summed=recent.height)

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

    def epochs(self) -> set[EpochKey]:
        """Every epoch of every cell that has counts."""
        return set(self.totals.select(EPOCH).iter_rows())

    def current(self, watermark: datetime, *, of: pl.DataFrame | None = None) -> pl.DataFrame:
        """The totals of each cell's current epoch; of some actions only, by a frame with the columns of `ACTION`.

        A new epoch takes over once it is established: after `ESTABLISHED_DECISIONS` decisions, or after
        `ESTABLISHED_AFTER` in which no other epoch decided anything. So a single odd decision (the flags were at their
        safe defaults for a second) neither ends an epoch nor is counted in it. Among the established ones that are
        still alive, the one that began last is current, and a late arrival of an older one does not bring it back.
        While none is established, it is the one with most decisions.
        """
        totals = self.totals if of is None else self.totals.join(of.select(ACTION), on=ACTION, how="semi")
        return current_epochs(totals, watermark)

    def minutes(self, epochs: pl.DataFrame | None = None) -> pl.DataFrame:
        """The recent minutes, one row each; of some epochs only, where a frame with the columns of `EPOCH` is given."""
        rows = self.recent if epochs is None else self.recent.join(epochs.select(EPOCH), on=EPOCH, how="semi")
        return _sum_minutes(rows)

    def immature(self, epochs: pl.DataFrame, watermark: datetime, window_s: float) -> pl.DataFrame:
        """What was counted in minutes that are not older than a maturity window: `EPOCH` and every counter."""
        before = watermark - timedelta(seconds=window_s) - ONE_MINUTE
        young = self.recent.filter(pl.col("bucket") > before).join(epochs.select(EPOCH), on=EPOCH, how="semi")
        return young.group_by(EPOCH).agg(pl.col(COUNTERS).sum())

    def changing(
        self, after: datetime, through: datetime, windows_s: Collection[float], deadline_s: float
    ) -> set[Cell]:
        """The cells for which event time alone, from one watermark to another, makes a minute mature or overdue."""
        over = pl.col("bucket") + ONE_MINUTE
        moments = [over + timedelta(seconds=window_s) for window_s in {*windows_s, deadline_s}]
        moments.append(pl.col("expected_at") + timedelta(seconds=deadline_s))
        crossed = pl.any_horizontal((moment > after) & (moment <= through) for moment in moments)
        return {Cell(*row) for row in self.recent.filter(crossed).select(CELL).unique().iter_rows()}

    def mature(
        self,
        watermark: datetime,
        outcome_deadline_s: float,
        *,
        by: Sequence[str] = EPOCH,
        of: pl.DataFrame | None = None,
    ) -> pl.DataFrame:
        """Expected, missing and pending executions over the mature minutes: the columns of `by` and of `MATURE`.

        A minute is mature once it is over for the outcome deadline. An execution that did not come is missing if
        nothing new came to be expected of its minute for the deadline, and pending otherwise: an approval that arrives
        late must not count as missing before its execution had its time, nor as fine. Missing is counted minute by
        minute and never below zero, so that an execution nobody expected does not make up for one that never came.
        """
        deadline = timedelta(seconds=outcome_deadline_s)
        rows = self.minutes(of).filter(pl.col("expected") > 0)
        over = pl.col("bucket") + ONE_MINUTE + deadline <= watermark
        short = (pl.col("expected") - pl.col("executed")).clip(lower_bound=0)
        waiting = (pl.col("expected_at") + deadline > watermark).fill_null(value=False)
        counted = rows.group_by(by).agg(
            pl.col("expected").filter(~over).sum().alias("young"),
            short.filter(over & ~waiting).sum().alias(MATURE[1]),
            short.filter(over & waiting).sum().alias(MATURE[2]),
        )
        epochs = self.totals if of is None else self.totals.join(of.select(EPOCH), on=EPOCH, how="semi")
        totals = epochs.group_by(by).agg(pl.col("expected").sum())
        return (
            totals.join(counted, on=by, how="left")
            .with_columns(pl.col("young", *MATURE[1:]).fill_null(0))
            .select(*by, (pl.col("expected") - pl.col("young") - pl.col("pending")).alias(MATURE[0]), *MATURE[1:])
        )

    def histogram(
        self, name: str, *, by: Sequence[str] = EPOCH, of: pl.DataFrame | None = None
    ) -> dict[tuple[str, ...], Histogram]:
        """The sparse histogram of every epoch (or cell) that has observations, with ascending bins.

        Args:
            name: Name of the histogram.
            by: Columns that tell the histograms apart.
            of: A frame with the columns of `EPOCH`; only these epochs. All where it is None.
        """
        rows = self.histograms[name]
        if of is not None:
            rows = rows.join(of.select(EPOCH), on=EPOCH, how="semi")
        summed = rows.group_by(*by, "bin").agg(pl.col("count").sum()).sort("bin")
        grouped = summed.group_by(by).agg("bin", "count")
        return {
            key: (bins.to_numpy(), counts.to_numpy())
            for key, bins, counts in zip(grouped.select(by).iter_rows(), grouped["bin"], grouped["count"], strict=True)
        }


def current_epochs(totals: pl.DataFrame, watermark: datetime, *, cell: Sequence[str] = CELL) -> pl.DataFrame:
    """The rows of each cell's current epoch, by cell; the rule stands at `Folded.current`.

    Args:
        totals: One row an epoch of a cell: the columns of `cell`, `epoch`, `decisions`, `first_bucket`, `last_bucket`
            and `last_event_at`, and whatever else is wanted.
        watermark: Event time up to which everything has been read.
        cell: Columns that tell cells apart.
    """
    others = pl.col("last_bucket").sort(descending=True).first().over(cell)
    second = pl.col("last_bucket").sort(descending=True).slice(1, 1).first().over(cell)
    newest_other = pl.when(pl.col("last_bucket") == others).then(second).otherwise(others)
    alone = newest_other.is_null() | (newest_other <= pl.col("first_bucket"))
    old_enough = pl.col("first_bucket") + ESTABLISHED_AFTER <= watermark
    marked = totals.with_columns(
        ((pl.col("decisions") >= ESTABLISHED_DECISIONS) | (alone & old_enough)).alias("established")
    )
    newest = pl.col("last_bucket").filter(pl.col("established")).max().over(cell)
    ranked = marked.with_columns(
        (pl.col("established") & (pl.col("last_bucket") >= newest - STILL_ALIVE)).fill_null(False).alias("alive")  # noqa: FBT003
    ).with_columns(
        pl.when("alive").then(pl.col("first_bucket")).alias("began"),
        pl.when(~pl.col("alive")).then(pl.col("decisions")).otherwise(0).alias("backing"),
    )
    order = ["alive", "began", "backing", "last_bucket", "last_event_at", "epoch"]
    last = ranked.sort(order, nulls_last=False).unique(subset=cell, keep="last").sort(cell)
    return last.drop("established", "alive", "began", "backing")


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
    return rows.group_by(MINUTE).agg(pl.col(COUNTERS).sum(), pl.col("expected_at").max())


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
