"""Keys of cells and epochs."""

from __future__ import annotations

from datetime import timedelta
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

ONE_MINUTE: Final = timedelta(minutes=1)
MINUTE_US: Final = 60_000_000
NEVER: Final = -(2**62)  # a moment before all others, in microseconds
EpochKey = tuple[str, ...]  # values of the columns `EPOCH`, in their order

Histogram = tuple["npt.NDArray[np.int16]", "npt.NDArray[np.int64]"]  # bins and the observations in each, equally long


def epoch_frame(keys: Collection[EpochKey]) -> pl.DataFrame:
    """Epochs as a frame with the columns of `EPOCH`, in the order given."""
    return pl.DataFrame(list(keys), schema=dict.fromkeys(EPOCH, pl.String), orient="row")


def rows_of(rows: pl.LazyFrame, names: Sequence[str], keys: Collection[Sequence[str]]) -> pl.LazyFrame:
    """The rows whose columns `names` hold one of some keys; files that hold none of their values are passed over."""
    wanted = pl.DataFrame(list(keys), schema=dict.fromkeys(names, pl.String), orient="row").unique()
    rows = rows.filter(*(pl.col(name).is_in(wanted[name].unique().implode()) for name in names))
    return rows if wanted.height == 1 else rows.join(wanted.lazy(), on=list(names), how="semi")


def known_count(histogram: Histogram | None) -> int:
    """Observations in a histogram; none where there is no histogram."""
    return 0 if histogram is None else int(histogram[1].sum())
