"""Keys of cells and epochs, and which epoch of a cell is current."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy as np
    import numpy.typing as npt

CELL: Final[tuple[str, ...]] = Cell._fields
EPOCH: Final[tuple[str, ...]] = (*CELL, "epoch")
ROW: Final = "row"  # the column that holds an epoch's row number
ACTION: Final[tuple[str, ...]] = CELL[:3]

MATURE: Final[tuple[str, ...]] = ("mature_expected", "mature_missing", "pending", "in_flight", "unpermitted")
"""What is counted beside the counters: executions expected in mature minutes, those of them that never came, and those
that did not come yet although their minute is mature, because an approval came late, those that did not come yet in
other minutes, and executions that no decision had expected."""

ESTABLISHED_DECISIONS: Final = 10  # decisions that make an epoch one of its own, and not a slip
ESTABLISHED_AFTER: Final = timedelta(minutes=10)
"""How long (event time) an epoch of fewer decisions must have been the only one that decides."""
STILL_ALIVE: Final = timedelta(minutes=5)
"""An established epoch that has been silent for longer than this, while another decided, is over."""

ONE_MINUTE: Final = timedelta(minutes=1)
EpochKey = tuple[str, ...]  # values of the columns `EPOCH`, in their order

Histogram = tuple["npt.NDArray[np.int16]", "npt.NDArray[np.int64]"]  # bins and the observations in each, equally long


def epoch_frame(keys: Collection[EpochKey]) -> pl.DataFrame:
    """Epochs as a frame with the columns of `EPOCH`, in the order given."""
    return pl.DataFrame(list(keys), schema=dict.fromkeys(EPOCH, pl.String), orient="row")


def current_epochs(totals: pl.DataFrame, watermark: datetime, *, cell: Sequence[str] = CELL) -> pl.DataFrame:
    """The rows of each cell's current epoch, by cell.

    A new epoch takes over once it is established: after `ESTABLISHED_DECISIONS` decisions, or after `ESTABLISHED_AFTER`
    in which no other epoch decided anything. So a single odd decision (the flags were at their safe defaults for a
    second) neither ends an epoch nor is counted in it. Among the established ones that are still alive, the one that
    began last is current, and a late arrival of an older one does not bring it back. While none is established, it is
    the one with most decisions.

    `totals` has one row an epoch of a cell: the columns that tell cells apart, `epoch`, `decisions`, `first_bucket`,
    `last_bucket` and `last_event_at`, and whatever else is wanted.
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
