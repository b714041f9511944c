"""Executions that did not come although they were expected, and those that came although nobody expected them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import polars as pl

from analytics.signals.cells import MINUTE_US, NEVER, ROW

if TYPE_CHECKING:
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]

EVENT_TIMES: Final = ("expected_at", "executed_at")
"""Columns of minutes: since when an execution is awaited, and when one last came; see `known_at`."""

HISTORY_AFTER: Final = timedelta(days=1)
"""What is read so long after it happened is history that somebody brings in, and not a delivery that was late."""


def known_at(event_at: str, ingested_at: str) -> pl.Expr:
    """From when on an outcome can be overdue: when the event happened, or when a worker read it if that was later.

    Decisions and outcomes travel on different topics. What lay in an outbox, or was dated by a slow clock, would be
    overdue as it is read, before its outcome can be. History goes by event time alone, and so does what was counted
    before rows said when they were read.
    """
    late = pl.col(ingested_at).is_between(event_at, pl.col(event_at) + HISTORY_AFTER)
    return pl.when(late).then(ingested_at).otherwise(event_at)


@dataclass(frozen=True)
class MissingOutcomes:
    """Executions over the mature minutes, of every epoch; see `from_minutes`."""

    expected: Integers  # without those that are pending
    missing: Integers
    pending: Integers  # not there yet although their minute is mature
    in_flight: Integers  # not there yet, and their minute is not mature
    unpermitted: Integers  # there, although no decision or approval of their minute expects them

    @classmethod
    def from_minutes(cls, minutes: pl.DataFrame, all_expected: Integers, watermark_us: int, deadline_us: int) -> Self:
        """Count by minutes, of which `all_expected` are the executions ever expected, epoch by epoch.

        A minute is mature once it is over for the outcome deadline. An execution that did not come is missing if
        nothing new came to be expected of its minute for the deadline (`known_at`), and pending otherwise: an approval
        that arrives late must not count as missing before its execution had its time, nor as fine. Missing is counted
        minute by minute and never below zero, so that an execution nobody expected does not make up for one that never
        came.

        One that nobody expected is unpermitted once its minute is mature and no execution came in it for the deadline:
        its decision, or its approval, travels on another topic and may be read after it.
        """
        names = (ROW, "bucket", "expected", "executed")
        at, bucket, expected, executed = (minutes[name].to_numpy() for name in names)
        expected_at, executed_at = (minutes[name].fill_null(NEVER).to_numpy() for name in EVENT_TIMES)
        over = bucket + MINUTE_US + deadline_us <= watermark_us
        waiting = expected_at + deadline_us > watermark_us
        settled = over & (executed_at + deadline_us <= watermark_us)
        due = np.maximum(expected, 0)
        # Minutes of which nothing was expected have no part in what is missing.
        short, surplus = np.maximum(due - executed, 0), np.maximum(executed - due, 0)
        sums = [np.zeros(all_expected.size, dtype=np.int64) for _ in range(5)]
        for total, where, values in zip(
            sums,
            (~over, over & ~waiting, over & waiting, ~over, settled),
            (due, short, short, short, surplus),
            strict=True,
        ):
            np.add.at(total, at[where], values[where])
        young, missing, pending, in_flight, unpermitted = sums
        return cls(np.maximum(all_expected - young - pending, 0), missing, pending, in_flight, unpermitted)

    @property
    def columns(self) -> tuple[Integers, ...]:
        """The counts in the order of `MATURE`."""
        return self.expected, self.missing, self.pending, self.in_flight, self.unpermitted

    @property
    def unreported(self) -> Integers:
        """Executions that are due and not there, whatever the age of their minute."""
        return self.in_flight + self.overdue

    @property
    def overdue(self) -> Integers:
        """Those of them whose minute is mature."""
        return self.missing + self.pending
