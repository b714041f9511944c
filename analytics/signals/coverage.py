"""Where in time decisions lie: the hours that had any, and the days and hours of the day that these are somewhere.

Hours are all that is left of minutes that were rolled up, so a time zone whose clock is half an hour off counts each by
its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import polars as pl

from analytics.signals.cells import ROW

if TYPE_CHECKING:
    import numpy.typing as npt

HOURS: Final = pl.Schema({ROW: pl.UInt32, "day": pl.Int32, "hours": pl.Int32})
"""The hours in which decisions of each epoch lie: one bit an hour of a day since 1970, in any number of rows a day."""

_HOUR_S: Final = 3_600
_BITS: Final = pl.DataFrame(
    {"hour": range(24), "bit": [1 << hour for hour in range(24)]}, schema={"hour": pl.Int32, "bit": pl.Int32}
)
_PARTS: Final = ("days", "weekdays", "hours")


def decided_hours(minutes: pl.DataFrame) -> pl.DataFrame:
    """The hours of minutes (`row`, `bucket` in microseconds, `decisions`) in which anything was decided."""
    hour = pl.col("bucket") // (_HOUR_S * 1_000_000)
    bits = pl.lit(2, dtype=pl.Int64).pow(hour % 24).cast(pl.Int32)
    decided = minutes.filter(pl.col("decisions") > 0)
    return summed_hours(decided.select(ROW, (hour // 24).cast(pl.Int32).alias("day"), bits.alias("hours")))


def summed_hours(hours: pl.DataFrame) -> pl.DataFrame:
    """The same hours in one row a day."""
    return hours.group_by(ROW, "day").agg(pl.col("hours").bitwise_or())


@dataclass(frozen=True)
class Coverage:
    """On how many different days, days of the week, and hours of the day epochs had decisions; one value an epoch."""

    days: npt.NDArray[np.int64]
    weekdays: npt.NDArray[np.int64]
    hours: npt.NDArray[np.int64]

    @classmethod
    def from_hours(cls, hours: pl.DataFrame, timezone: str, epochs: int) -> Self:
        """Count the hours of so many epochs by the clock of a time zone."""
        had = hours.join(_BITS, how="cross").filter(pl.col("hours") & pl.col("bit") != 0)
        had = had.select(ROW, (pl.col("day") * 24 + pl.col("hour")).alias("hour"))
        clock = had.select(pl.col("hour").unique())
        at = pl.from_epoch(pl.col("hour").cast(pl.Int64) * _HOUR_S).dt.replace_time_zone("UTC")
        local = at.dt.convert_time_zone(timezone)
        clock = clock.with_columns(days=local.dt.date(), weekdays=local.dt.weekday(), hours=local.dt.hour())
        distinct = had.join(clock, on="hour").group_by(ROW).agg(pl.col(_PARTS).n_unique())
        counts = np.zeros((len(_PARTS), epochs), dtype=np.int64)
        counts[:, distinct[ROW].to_numpy()] = distinct.select(_PARTS).to_numpy().T
        return cls(*counts)

    def of(self, epochs: npt.NDArray[np.intp]) -> Coverage:
        """That of some epochs, in their order."""
        return Coverage(self.days[epochs], self.weekdays[epochs], self.hours[epochs])
