"""The state of counts: everything counted about every epoch of every cell, as arrays.

Epochs and cells have row numbers, counters are arrays by row, and the minutes that still matter lie in a table of
integers. So taking in an increment costs by what was appended and not by what there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import numpy as np
import polars as pl

from analytics.signals.cells import ACTION, CELL, EPOCH, MINUTE_US, NEVER, ROW, Histogram
from analytics.signals.coverage import HOURS, Coverage, decided_hours, summed_hours
from analytics.signals.definitions import COUNTERS, HISTOGRAMS
from analytics.signals.missing_outcomes import EVENT_TIMES, MissingOutcomes, known_at
from analytics.signals.past_spans import PAST_COUNTERS, PastSpans
from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import numpy.typing as npt


EpochRows: TypeAlias = "npt.NDArray[np.intp]"
"""Row numbers of epochs, counted from 0 in the order in which they were first seen."""
CellRows: TypeAlias = "npt.NDArray[np.intp]"  # row numbers of cells, likewise
Integers: TypeAlias = "npt.NDArray[np.int64]"
Flags: TypeAlias = "npt.NDArray[np.bool_]"

UNKNOWN_RISK: Final = -1

_SUM_AGAIN_AT: Final = 50_000
_CHUNKS: Final = 32
_DAY: Final = timedelta(days=1)
_1970: Final = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(moment: datetime) -> int:
    """Whole microseconds since 1970."""
    return (moment - _1970) // timedelta(microseconds=1)


def moment_of(since_1970_us: int) -> datetime:
    """The moment that so many microseconds since 1970 stand for."""
    return _1970 + timedelta(microseconds=int(since_1970_us))


def may_pass(since_us: int, until_us: int) -> bool:
    """Whether a bucket may lie after one moment and up to another: a minute, or a rolled hour just after one."""
    return since_us % MINUTE_US == 0 or since_us // MINUTE_US < until_us // MINUTE_US


@dataclass(frozen=True)
class Increment:
    """What one addition brought."""

    minutes: pl.DataFrame  # one row an epoch and minute: `row`, `bucket` (microseconds), every counter, event times
    epochs: EpochRows  # the epochs that it is about, ascending
    bins: Mapping[str, pl.DataFrame]  # by name of the histogram, one row an epoch and bin: `row`, `bin`, `count`
    risen: EpochRows  # epochs that are new, or whose risk class is another one than before


class CellState:
    """Everything counted so far. Add increments in any order and any grouping: the sums are the same."""

    def __init__(self, *, past: Collection[str] = PAST_COUNTERS) -> None:
        self.cells: list[Cell] = []  # every cell, by its row
        self.actions: list[tuple[str, ...]] = []  # every action (environment, workflow and tool), by its row
        self.stages: list[str] = []  # every stage that occurs, by its number in `stage_of`
        self.action_of: CellRows = np.empty(0, dtype=np.intp)  # the action of each cell
        self.stage_of: Integers = np.empty(0, dtype=np.int64)  # the stage of each cell
        self.cell_of: EpochRows = np.empty(0, dtype=np.intp)  # the cell of each epoch
        # Every counter of each epoch. Shape (counters, epochs), in the order of `COUNTERS`.
        self.counts: Integers = np.zeros((len(COUNTERS), 0), dtype=np.int64)
        self.risk: npt.NDArray[np.int8] = np.empty(0, dtype=np.int8)  # each epoch's highest risk class by its rank
        # Each epoch's first and last minute, and its newest event time, microseconds since 1970.
        self.first_us, self.last_us, self.event_us = (np.empty(0, dtype=np.int64) for _ in range(3))
        # The minutes that may still matter, in any number of rows a minute: `row`, `bucket` (microseconds), every
        # counter, and `expected_at` and `executed_at`, since when an execution is awaited, and when one last came (null
        # where none).
        self.recent = pl.DataFrame(schema=_RECENT)
        self._keys = pl.DataFrame(schema={**dict.fromkeys(EPOCH, pl.String), ROW: pl.UInt32})
        self._cell_rows: dict[Cell, int] = {}
        self._action_rows: dict[tuple[str, ...], int] = {}
        self._stage_rows: dict[str, int] = {}
        self._bins = {name: pl.DataFrame(schema=_BINS) for name in HISTOGRAMS}
        self._hours = pl.DataFrame(schema=HOURS)
        self.past = PastSpans(past)  # of these counters
        self._summed = dict.fromkeys(("recent", "hours", *HISTOGRAMS), 0)

    @classmethod
    def from_increments(cls, increments: pl.DataFrame) -> CellState:
        """The state after rows of the table `signals`."""
        state = cls()
        state.add(increments)
        return state

    @property
    def epochs(self) -> int:
        """How many epochs there are."""
        return self.cell_of.size

    @property
    def latest_event_at(self) -> datetime | None:
        """The newest event time of all; None where nothing was counted."""
        return moment_of(self.event_us.max()) if self.epochs else None

    @property
    def earliest_bucket(self) -> datetime:
        """The oldest minute of all; the beginning of time where nothing was counted."""
        return moment_of(self.first_us.min()) if self.epochs else datetime.min.replace(tzinfo=UTC)

    def counter(self, name: str) -> Integers:
        """One counter of every epoch."""
        return np.asarray(self.counts[_ROW[name]])

    def names(self, epochs: EpochRows, columns: Sequence[str] = EPOCH) -> pl.DataFrame:
        """The names of some epochs, in the order given: some columns of `EPOCH`."""
        return self._keys.select(columns)[epochs]

    def rows_of(self, epochs: pl.DataFrame) -> Integers:
        """The row of each of some epochs, given by the columns of `EPOCH`; -1 where one is unknown."""
        rows = epochs.select(EPOCH).join(self._keys, on=EPOCH, how="left", maintain_order="left")[ROW]
        return rows.cast(pl.Int64).fill_null(-1).to_numpy()

    def cell_row(self, cell: Cell) -> int | None:
        """The row of a cell; None where it is unknown."""
        return self._cell_rows.get(cell)

    def epochs_of_actions(self, cells: CellRows) -> EpochRows:
        """The epochs of all cells of the actions that some cells belong to."""
        wanted = np.zeros(len(self.actions), dtype=np.bool_)
        wanted[self.action_of[cells]] = True
        return np.flatnonzero(wanted[self.action_of][self.cell_of])

    def add(self, increments: pl.DataFrame) -> Increment:
        """Add rows of the table `signals`."""
        rows = increments.join(self._keys, on=EPOCH, how="left", maintain_order="left")
        epochs_before = self.epochs
        if rows[ROW].null_count():
            self._register(rows.filter(pl.col(ROW).is_null()).select(EPOCH).unique(maintain_order=True))
            rows = rows.drop(ROW).join(self._keys, on=EPOCH, how="left", maintain_order="left")
        rows = rows.with_columns(*_in_microseconds())
        minutes = _sum_minutes(rows, "last_event_at", "risk_rank")
        totals = (
            minutes.group_by(ROW)
            .agg(
                pl.col(COUNTERS).sum(),
                pl.col("bucket").min().alias("first"),
                pl.col("bucket").max().alias("last"),
                pl.col("last_event_at").max(),
                pl.col("risk_rank").max().fill_null(UNKNOWN_RISK),
            )
            .sort(ROW)
        )
        epochs = totals[ROW].to_numpy().astype(np.intp)
        for row, name in enumerate(COUNTERS):
            self.counts[row, epochs] += totals[name].to_numpy()
        self.first_us[epochs] = np.minimum(self.first_us[epochs], totals["first"].to_numpy())
        self.last_us[epochs] = np.maximum(self.last_us[epochs], totals["last"].to_numpy())
        self.event_us[epochs] = np.maximum(self.event_us[epochs], totals["last_event_at"].to_numpy())
        risk = np.maximum(self.risk[epochs], totals["risk_rank"].to_numpy())
        risen = epochs[(risk != self.risk[epochs]) | (epochs >= epochs_before)]
        self.risk[epochs] = risk
        hours = pl.concat([self._hours, decided_hours(minutes)], rechunk=False)
        self._hours = self._summed_again("hours", hours)
        self.past.add(minutes)
        minutes = minutes.select(_RECENT.names())
        self.recent = self._summed_again("recent", pl.concat([self.recent, minutes], rechunk=False))
        bins = {name: _occupied(rows, name) for name in HISTOGRAMS}
        for name, occupied in bins.items():
            self._bins[name] = self._summed_again(name, pl.concat([self._bins[name], occupied], rechunk=False))
        return Increment(minutes, epochs, bins, risen)

    def remember(self, increments: pl.DataFrame) -> None:
        """Take the minutes of increments that were added before once more; after `forget`."""
        minutes = _sum_minutes(increments.join(self._keys, on=EPOCH, how="left").with_columns(*_in_microseconds()))
        self.past.add(minutes)
        self.recent = self._summed_again("recent", pl.concat([self.recent, minutes], rechunk=False))

    def forget(self, *, past: Collection[str]) -> None:
        """Let go of all minutes, to take them once more because older ones matter than before, or other counters."""
        self.recent = self.recent.clear()
        self.past = PastSpans(past)
        self._summed["recent"] = 0

    def settle(self, watermark: datetime, horizon_s: float, *, whole: Flags) -> None:
        """Take out the minutes that no later look depends on; so memory is bounded by the horizon.

        The horizon is at least the outcome deadline; `whole` flags epochs whose minutes all matter.
        """
        before = microseconds(watermark - timedelta(seconds=horizon_s))
        self.past.settle(before)
        aged = pl.col("bucket") + MINUTE_US <= before
        keep = (pl.col("expected_at") > before).fill_null(value=False) | (pl.col("expected") != pl.col("executed"))
        if whole.any():
            keep |= pl.col(ROW).is_in(np.flatnonzero(whole).astype(np.uint32))
        # Only minutes of which a part would be kept need to be added up: all others go as they are.
        old = self.recent.filter(aged)
        old = _sum_minutes(old.join(old.filter(keep), on=[ROW, "bucket"], how="semi"))
        self.recent = pl.concat([self.recent.filter(~aged), old.filter(keep)])

    def minutes(self, epochs: EpochRows, *, since_us: int, until_us: int) -> pl.DataFrame:
        """The recent minutes of some epochs from one bucket to another, both included; one row each, in their order."""
        within = self.recent.filter(pl.col("bucket").is_between(since_us, until_us))
        wanted = pl.Series(self._flagged(epochs)[within[ROW].to_numpy()])
        return _sum_minutes(within.filter(wanted)).sort(ROW, "bucket")

    def coverage(self, epochs: EpochRows, timezone: str) -> Coverage:
        """On how many days, days of the week and hours of the day some epochs had decisions, by a time zone's clock."""
        hours = self._hours.filter(pl.Series(self._flagged(epochs)[self._hours[ROW].to_numpy()]))
        return Coverage.from_hours(hours, timezone, self.epochs).of(epochs)

    def histograms(self, name: str, epochs: EpochRows) -> dict[int, Histogram]:
        """The sparse histograms of some epochs by row, with ascending bins; none for an epoch without observations."""
        table = self._bins[name]
        wanted = table.filter(pl.Series(self._flagged(epochs)[table[ROW].to_numpy()]))
        grouped = _sum_bins(wanted).sort(ROW, "bin").group_by(ROW, maintain_order=True).agg("bin", "count")
        return {
            row: (bins.to_numpy(), counts.to_numpy())
            for row, bins, counts in zip(grouped[ROW], grouped["bin"], grouped["count"], strict=True)
        }

    def missing_outcomes(
        self, watermark_us: int, deadline_us: int, *, minutes: pl.DataFrame | None = None
    ) -> MissingOutcomes:
        """Executions that are missing, and those that nobody expected, by the minutes of every epoch.

        `minutes` may leave out minutes that are neither young nor miss an execution, nor have one too many; it is
        everything recent unless given.
        """
        rows = _sum_minutes(self.recent) if minutes is None else minutes
        return MissingOutcomes.from_minutes(rows, self.counter("expected"), watermark_us, deadline_us)

    def bins(self, name: str) -> pl.DataFrame:
        """Every occupied bin of a histogram: `at`, `bin`, `count`, in any number of rows a bin."""
        return self._bins[name]

    def _flagged(self, epochs: EpochRows) -> Flags:
        flagged = np.zeros(self.epochs, dtype=np.bool_)
        flagged[epochs] = True
        return flagged

    def _register(self, new: pl.DataFrame) -> None:
        first = self.epochs
        cells = np.empty(new.height, dtype=np.intp)
        actions: list[int] = []
        stages: list[int] = []
        for at, names in enumerate(new.select(CELL).iter_rows()):
            cell = Cell(*names)
            row = self._cell_rows.get(cell)
            if row is None:
                row = self._cell_rows[cell] = len(self.cells)
                self.cells.append(cell)
                actions.append(number_of(cell[:_ACTION], self._action_rows, self.actions))
                stages.append(number_of(cell.stage, self._stage_rows, self.stages))
            cells[at] = row
        self.action_of = np.append(self.action_of, np.array(actions, dtype=np.intp))
        self.stage_of = np.append(self.stage_of, np.array(stages, dtype=np.int64))
        rows = pl.Series(ROW, np.arange(first, first + new.height), dtype=pl.UInt32)
        self._keys = pl.concat([self._keys, new.with_columns(rows)], rechunk=True)
        self.cell_of = np.concatenate([self.cell_of, cells])
        self.counts = np.hstack([self.counts, np.zeros((len(COUNTERS), new.height), dtype=np.int64)])
        self.risk = np.concatenate([self.risk, np.full(new.height, UNKNOWN_RISK, dtype=np.int8)])
        self.first_us = np.concatenate([self.first_us, np.full(new.height, -NEVER, dtype=np.int64)])
        for name in ("last_us", "event_us"):
            setattr(self, name, np.concatenate([getattr(self, name), np.full(new.height, NEVER, dtype=np.int64)]))

    def _summed_again(self, name: str, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows, added up once there are twice as many as there were: adding all up each time would cost by it."""
        if rows.height > 2 * self._summed[name] + _SUM_AGAIN_AT:
            rows = _SUMMED.get(name, _sum_bins)(rows)
            self._summed[name] = rows.height
        return rows.rechunk() if rows.n_chunks() > _CHUNKS else rows


_ACTION: Final = len(ACTION)
_Name = TypeVar("_Name")
_ROW: Final = {name: row for row, name in enumerate(COUNTERS)}
_RECENT: Final = pl.Schema({ROW: pl.UInt32, "bucket": pl.Int64, **dict.fromkeys((*COUNTERS, *EVENT_TIMES), pl.Int64)})
_BINS: Final = pl.Schema({ROW: pl.UInt32, "bin": pl.Int16, "count": pl.Int64})


def number_of(name: _Name, numbers: dict[_Name, int], names: list[_Name]) -> int:
    """The number of a name, which is appended where it is new."""
    number = numbers.setdefault(name, len(names))
    if number == len(names):
        names.append(name)
    return number


def _in_microseconds() -> list[pl.Expr]:
    at = {
        name: pl.when(pl.col(name) > 0).then(known_at("last_event_at", "last_ingested_at").dt.epoch("us"))
        for name in ("expected", "executed")
    }
    return [
        *(moment.alias(f"{name}_at") for name, moment in at.items()),
        *(pl.col(name).dt.epoch("us") for name in ("bucket", "last_event_at")),
    ]


def _sum_minutes(rows: pl.DataFrame, *newest: str) -> pl.DataFrame:
    """One row an epoch and minute, also with the largest of what is `newest`."""
    names, maxima = [*_RECENT.names(), *newest], pl.col(*EVENT_TIMES, *newest).max()
    keys = rows[ROW].to_numpy().astype(np.int64) << 32 | rows["bucket"].to_numpy() // MINUTE_US
    order = np.argsort(keys, kind="stable")
    new = np.diff(keys[order], prepend=-1, append=-1) != 0
    # Most are one row already, and copying that costs a tenth of adding it up. (Those of a rolled hour look like its
    # first minute here, which does no harm.)
    alone = np.zeros(rows.height, dtype=np.bool_)
    alone[order] = new[:-1] & new[1:]
    several = rows.filter(~pl.Series(alone)).group_by(ROW, "bucket").agg(pl.col(COUNTERS).sum(), maxima)
    one = rows.filter(pl.Series(alone)).with_columns(pl.col(COUNTERS).fill_null(0))
    return pl.concat([one.select(names), several.select(names)])


def _sum_bins(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by(ROW, "bin").agg(pl.col("count").sum()).select(_BINS.names())


_SUMMED: Final[Mapping[str, Callable[[pl.DataFrame], pl.DataFrame]]] = {"recent": _sum_minutes, "hours": summed_hours}


def _occupied(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    bins, counts = f"{name}_bins", f"{name}_counts"
    return _sum_bins(
        rows.filter(pl.col(bins).list.len() > 0)
        .select(ROW, pl.col(bins).alias("bin"), pl.col(counts).alias("count"))
        .explode("bin", "count")
    )
