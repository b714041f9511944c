"""Which epochs of a cell decide now: the current one, and those that go on beside it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import polars as pl

from analytics.signals.cells import MINUTE_US, NEVER, ONE_MINUTE, ROW
from analytics.signals.state import microseconds

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.evidence.sequential import FloatArray
    from analytics.signals.state import CellState, EpochRows, Flags, Integers

ESTABLISHED_DECISIONS: Final = 10  # decisions that make an epoch one of its own, and not a slip
ESTABLISHED_AFTER: Final = timedelta(minutes=10)
"""How long (event time) an epoch of fewer decisions must have been the only one that decides."""
STILL_ALIVE: Final = timedelta(minutes=5)
"""An established epoch that has been silent for longer than this, while another decided, is over."""
SHARE_OVER: Final = timedelta(hours=1)
"""Over how long, up to the cell's newest decision, it is counted how much each of several epochs decides."""
SLOW_PARTS: Final = 10
"""Of fewer decisions in that time than make an epoch one of its own, a tenth of the cell's counts all the same."""
SLOW_GAPS: Final = 3
"""An epoch that decides so seldom is over once it has been silent for this many of its usual gaps."""

_MOMENT: Final = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class AliveEpochs:
    """The epochs of some cells that decide now. Few cells have any beside the current one."""

    current: EpochRows  # the current epoch of each cell, in the order of the cells
    beside: EpochRows  # those that are alive beside the current one of their cell, by cell
    decisions: Integers  # what each of `beside` decided in the last hour beside the current one; -1 where not known
    among: Integers  # decisions of all alive epochs of its cell in that time

    @classmethod
    def from_state(cls, state: CellState, cells: Flags, watermark: datetime, horizon_s: float) -> Self:
        """Those of some cells of a state that holds all minutes within a horizon of the watermark."""
        (epochs,) = np.nonzero(cells[state.cell_of])
        several = np.bincount(state.cell_of[epochs], minlength=len(state.cells))[state.cell_of[epochs]] > 1
        current, among = epochs[~several], epochs[several]
        beside = among[:0]
        if among.size:
            moments = (
                ("first_bucket", state.first_us),
                ("last_bucket", state.last_us),
                ("last_event_at", state.event_us),
            )
            totals = pl.DataFrame(
                {
                    ROW: among,
                    "cell": state.cell_of[among],
                    "epoch": state.names(among, ["epoch"])["epoch"],
                    "decisions": state.counter("decisions")[among],
                    "severe": state.counter("severe_incidents")[among] > 0,
                    **{name: pl.Series(values[among]).cast(_MOMENT) for name, values in moments},
                }
            )
            going = epochs_going_on(totals, watermark)
            rows, is_current = going[ROW].to_numpy().astype(np.intp), going["is_current"].to_numpy()
            current, beside = np.concatenate([current, rows[is_current]]), rows[~is_current]
            harmed = going["harmed"].to_numpy()[~is_current]
        current = current[np.argsort(state.cell_of[current], kind="stable")]
        if not beside.size:
            return cls(current, *(np.empty(0, dtype=np.intp) for _ in range(3)))
        decisions, among, silent_us, gap_us = _side_by_side(state, current, beside, watermark, horizon_s)
        alive = silent_us <= np.maximum(STILL_ALIVE // ONE_MINUTE * MINUTE_US, SLOW_GAPS * gap_us)
        # As with an epoch that begins: a single odd decision of one that had ended brings it not back.
        slow = (decisions > 1) & (decisions * SLOW_PARTS >= among)
        counts = alive & ((decisions < 0) | (decisions >= ESTABLISHED_DECISIONS) | slow) | (harmed & (decisions != 0))
        return cls(current, beside[counts], decisions[counts], among[counts])

    @classmethod
    def nothing(cls) -> Self:
        """The state before any look."""
        return cls(*(np.empty(0, dtype=np.intp) for _ in range(4)))

    def updated(self, state: CellState, cells: Flags, now: AliveEpochs) -> AliveEpochs:
        """The same with what is alive now in some cells in place of what was."""
        kept = ~cells[state.cell_of[self.beside]]
        current = np.append(self.current, np.zeros(len(state.cells) - self.current.size, dtype=np.intp))
        current[state.cell_of[now.current]] = now.current
        columns = ((self.beside, now.beside), (self.decisions, now.decisions), (self.among, now.among))
        return AliveEpochs(current, *(np.concatenate([before[kept], after]) for before, after in columns))

    def of_cell(self, state: CellState, cell: int) -> tuple[str, tuple[tuple[str, int, int], ...]] | None:
        """The name of a cell's current epoch, and of each beside it the name and counts; None where there is none."""
        places = np.flatnonzero(state.cell_of[self.beside] == cell)
        if not places.size:
            return None
        current, *names = state.names(np.append(self.current[cell], self.beside[places]), ["epoch"])["epoch"]
        counts = (column[places].tolist() for column in (self.decisions, self.among))
        return current, tuple(zip(names, *counts, strict=True))

    @property
    def epochs(self) -> EpochRows:
        """The current epochs, then those beside them."""
        return np.concatenate([self.current, self.beside])

    @property
    def shares(self) -> FloatArray:
        """The share of their cell's decisions that each of `beside` makes; 1 where it is not known."""
        return np.where(self.decisions < 0, 1.0, self.decisions / np.maximum(self.among, 1))


def epochs_going_on(totals: pl.DataFrame, watermark: datetime) -> pl.DataFrame:
    """The row of each cell's current epoch (`is_current`), and before it those of epochs that may be alive beside it.

    A new epoch takes over once it is established: after `ESTABLISHED_DECISIONS` decisions, or after `ESTABLISHED_AFTER`
    in which no other epoch decided anything. So a single odd decision (the flags were at their safe defaults for a
    second) neither ends an epoch nor is counted in it. Among the established ones that are still alive, the one that
    began last is current, and a late arrival of an older one does not bring it back. While none is established, it is
    the one with most decisions.

    The others may be beside it that are established, or had a severe incident (`harmed`), and decided within the hour
    before the cell's newest decision and over a minute after the current one began: routers that change one after the
    other within a minute leave nothing beside the new epoch.

    `totals` has one row an epoch of a cell: `cell`, `epoch`, `decisions`, `first_bucket`, `last_bucket`,
    `last_event_at` and `severe`, and whatever else is wanted.
    """
    others = pl.col("last_bucket").sort(descending=True).first().over("cell")
    second = pl.col("last_bucket").sort(descending=True).slice(1, 1).first().over("cell")
    newest_other = pl.when(pl.col("last_bucket") == others).then(second).otherwise(others)
    alone = newest_other.is_null() | (newest_other <= pl.col("first_bucket"))
    old_enough = pl.col("first_bucket") + ESTABLISHED_AFTER <= watermark
    marked = totals.with_columns(
        ((pl.col("decisions") >= ESTABLISHED_DECISIONS) | (alone & old_enough)).alias("established")
    )
    newest = pl.col("last_bucket").filter(pl.col("established")).max().over("cell")
    alive = (pl.col("established") & (pl.col("last_bucket") >= newest - STILL_ALIVE)).fill_null(value=False)
    # Of two that are alive and began together the same one is always current, whichever decided last.
    order = (
        pl.when("alive").then("first_bucket"),
        *(pl.when(~pl.col("alive")).then(name) for name in ("decisions", "last_bucket", "last_event_at")),
    )
    harmed = ~pl.col("established") & pl.col("severe")
    late = pl.col("last_bucket") >= pl.col("last_bucket").max().over("cell") - SHARE_OVER
    near = (pl.col("established") | harmed) & late
    chosen = pl.col("alive") | pl.col("near") | ~pl.col("alive").any().over("cell")
    ranked = (
        marked.with_columns(alive=alive, near=near, harmed=harmed)
        .filter(chosen)
        .sort("cell", "alive", *order, "epoch", nulls_last=False)
    )
    goes_on = pl.col("last_bucket") > pl.col("first_bucket").last().over("cell") + ONE_MINUTE
    is_current = pl.int_range(pl.len()).over("cell") == pl.len().over("cell") - 1
    return (
        ranked.with_columns(is_current=is_current, goes_on=goes_on)
        .filter(pl.col("is_current") | (pl.col("near") & pl.col("goes_on")))
        .drop("established", "alive", "near", "goes_on")
    )


def _side_by_side(
    state: CellState, current: EpochRows, beside: EpochRows, watermark: datetime, horizon_s: float
) -> tuple[Integers, Integers, Integers, Integers]:
    """What epochs decided in the last hour beside the current one, and what all of their cell did; -1 where not known.

    Then for how long each has been silent, and its usual gap between decisions, 0 where not known; microseconds.
    """
    current_of = np.zeros(len(state.cells), dtype=np.intp)
    current_of[state.cell_of[current]] = current
    cells = state.cell_of[beside]
    alive = np.concatenate([beside, np.unique(current_of[cells])])
    newest_us = np.full(len(state.cells), NEVER, dtype=np.int64)
    np.maximum.at(newest_us, state.cell_of[alive], state.last_us[alive])
    since_us = newest_us - SHARE_OVER // ONE_MINUTE * MINUTE_US
    # Minutes that are older may have been let go.
    known = since_us[cells] >= microseconds(watermark - timedelta(seconds=horizon_s))
    since_us[cells] = np.maximum(since_us[cells], state.first_us[current_of[cells]] + MINUTE_US)
    minutes = state.minutes(alive, since_us=int(since_us[cells].min()), until_us=-NEVER)
    rows = minutes[ROW].to_numpy()
    counted = minutes["bucket"].to_numpy() > since_us[state.cell_of[rows]]
    by_epoch, by_cell = np.zeros(state.epochs, dtype=np.int64), np.zeros(len(state.cells), dtype=np.int64)
    np.add.at(by_epoch, rows[counted], minutes["decisions"].to_numpy()[counted])
    np.add.at(by_cell, state.cell_of[rows[counted]], minutes["decisions"].to_numpy()[counted])
    decisions = np.where(known, by_epoch[beside], -1)
    passed_us = newest_us[cells] - since_us[cells]
    gap_us = np.where(decisions > 0, passed_us // np.maximum(decisions, 1), 0)
    return decisions, np.where(known, by_cell[cells], -1), newest_us[cells] - state.last_us[beside], gap_us
