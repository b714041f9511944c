"""When a batch is handed over: at most once in `commit_every_s`, sooner only where it is large or something may cross.

A commit costs a file and a log entry for each table whatever is in it, so a busy lake gets one a second. What waits for
it is seen by the judge at its next look, some seconds apart, so that the wait costs a verdict half of it on average. A
limit is crossed by many failures and not by one: where they come in a row in one cell, the batches that follow go as
soon as they can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.signals.cells import EPOCH
from analytics.signals.definitions import COUNTERS, COUNTS, RATES

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMIT_EVERY_S: Final = 1.0  # between two batches, where nothing hurries
SOONEST_S: Final = 0.25  # between two batches where something does, and how long the first record after a pause waits
LARGE_RECORDS: Final = 10_000  # takes longer to fold than to commit, so that waiting for more would save little
IDLE_S: Final = 2.0  # after which the source says that nothing more is there
MOST_IN_HASTE: Final = 40  # batches one after the other, ten seconds; a batch without a row of failures earns one more

_IN_A_ROW: Final = 3  # failures of one cell in one batch, and half of its trials, that may be a crossing under way
_SEVERE: Final = tuple(count.counted for count in COUNTS.values() if count.counted in COUNTERS)  # some are derived
_HARM: Final = ("execution_error", "timeout", "undo", "incident", "support", "quality_failure")


class Haste:
    """Tells whether the next batch hurries. What fails for long has crossed by then: haste ends, and is earned anew."""

    def __init__(self) -> None:
        self._left = MOST_IN_HASTE

    def after(self, signals: pl.DataFrame) -> bool:
        """Whether the batch after one with these rows for the table `signals` hurries."""
        in_a_row = may_cross(signals)
        self._left = max(0, self._left - 1) if in_a_row else min(MOST_IN_HASTE, self._left + 1)
        return in_a_row and self._left > 0


def may_cross(signals: pl.DataFrame) -> bool:
    """Whether harm came in a row to one epoch of a cell, by the rows of a batch for the table `signals`."""
    if signals.is_empty():
        return False
    summed = signals.lazy().group_by(EPOCH).agg(pl.col(sorted(set(_counters()))).sum())
    in_a_row = (
        (_sum(RATES[name].failures) >= _IN_A_ROW) & (2 * _sum(RATES[name].failures) >= _sum(RATES[name].trials))
        for name in _HARM
    )
    severe = (pl.col(name) > 0 for name in _SEVERE)
    return bool(summed.select(pl.any_horizontal(*in_a_row, *severe).any()).collect().item())


def _counters() -> Iterator[str]:
    for name in _HARM:
        yield from (*RATES[name].failures, *RATES[name].trials)
    yield from _SEVERE


def _sum(columns: tuple[str, ...]) -> pl.Expr:
    return pl.sum_horizontal(columns)
