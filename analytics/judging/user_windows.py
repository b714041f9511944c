"""User-windows: what single users did in a stretch of time, as evidence by user is counted from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl

from analytics.evidence import histogram
from analytics.signals.cells import EPOCH, EpochKey
from analytics.signals.definitions import QUANTILES, RATES, UNREPORTED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from analytics.gates.gate_file import Claim, GateFile
    from analytics.gates.gate_signal import GateSignal

LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""When all windows closed that are held as one; windows are counted from then on."""
MISSING: Final = "missing_outcome"
COUNTED_BY_USER: Final = tuple(
    dict.fromkeys(
        ["expected"]
        + [name for rate in RATES if rate != MISSING for name in (*RATES[rate].trials, *RATES[rate].failures)]
    )
)
"""Counters of a user-window."""
UNDECIDED: Final = tuple(f"unreported_{awaited}" for awaited in UNREPORTED)
FIRST_FAILED: Final = {"execution_error": "first_failed", "timeout": "first_timed_out", "bad_outcome": "first_bad"}
"""Of rates of which much is known as soon as an action ran: whether the first due action of a user's window failed."""
FIRST_ACTIONS: Final = ("first_due", *FIRST_FAILED.values())
IN_WINDOWS: Final = (*COUNTED_BY_USER, *UNDECIDED, *FIRST_ACTIONS, "heavy", "is_first", "due_later", "overdue")
"""What is held of a user-window: its counters, how many of its trials are undecided, by what they await, whether it is
the first closed window of its user in the epoch, how many windows later the last unreported execution became due, and
how many of them were overdue as it closed.
For every measure of latency or cost there is its column, too, and one of the known values of its source."""
FAILED: Final = tuple(
    dict.fromkeys(name for rate in ("execution_error", "timeout", "undo", "incident") for name in RATES[rate].failures)
)
"""Counters of which any makes a user-window one with a failure, where a rate's course in time is looked at."""
READ_OF_EVENTS: Final = (
    *(*EPOCH, "subject", "decided_at", "time", "ingested_at"),
    *("kind", "user", "latency_us", "cost_microusd"),
)
"""Columns of the table `events` that user-windows are folded from."""

BLOCK: Final = 20  # due actions of a heavy user that are one observation
DUE: Final = pl.col("executed") + pl.col("unreported_execution")
"""The actions of a window that were due to run."""
WINDOW: Final = (*EPOCH, "closed_at")
SINGLE_WINDOWS: Final = 168
"""Windows that the detector takes one by one, before it takes spans of them: a week of hours."""
SPAN: Final = 24
"""Windows that it takes together when they are older."""
_IN_SPANS: Final = timedelta(days=28)
BLOCK_FAILED: Final = {"execution_error": "failed", "timeout": "timed_out", "bad_outcome": "bad_outcomes"}
"""Of the same rates: the failures in a block of a heavy user's actions."""


class OpenWindows(NamedTuple):
    """What is known of windows that have not closed, of some epochs."""

    events_version: int  # version of the table `events`
    counts: pl.DataFrame  # `EPOCH`, of how many windows `FIRST_ACTIONS` hold, and `due` actions
    blocks: pl.DataFrame  # `EPOCH`, the failures of `BLOCK_FAILED` in a heavy user's block, and how many are alike


def measure(part: GateSignal) -> str:
    """What is counted of user-windows for a signal: a rate by its name, or the values above a quantile's limit."""
    if part.signal not in QUANTILES or part.limit_micro is None:
        return part.signal
    return f"{QUANTILES[part.signal].source}>{histogram.snap(part.limit_micro)}"


def amounts_of(gates: GateFile) -> tuple[str, ...]:
    """The measures of latency and cost that are counted by user."""
    parts = (part for gate in gates.gates for part in gate.signals if gate.unit_of(part) == "user")
    return tuple(sorted({name for part in parts if (name := measure(part)) not in RATES}))


def known_of(amount: str) -> str:
    """The column of the known values that a measure of latency or cost is taken of."""
    return f"known_{amount.partition('>')[0]}"


class WindowCount(NamedTuple):
    """Which user-windows count, and what their unreported trials count as."""

    age_s: float = 0.0  # seconds for which a window must have been closed
    unreported_failed: bool = False  # whether they count as failed; as fine otherwise
    first_only: bool = False  # whether each user counts once in an epoch, by the first closed window


def promotion_windows(part: GateSignal, deadline_s: float, claim: Claim | None = None) -> list[WindowCount]:
    """The counts of a signal's user-windows that a promotion may rest on; any one of them is valid.

    A claim about users to come rests on different users alone: their first windows are independent draws of users.
    """
    first_only = claim == "users_to_come"
    return [
        WindowCount(age_s, unreported_failed=True, first_only=first_only)
        for age_s in _promotion_ages_s(part, deadline_s)
    ]


def harm_windows(part: GateSignal) -> WindowCount:
    """The count of a signal's user-windows that a rollback rests on."""
    return WindowCount(part.harm_age_s)


def _promotion_ages_s(part: GateSignal, deadline_s: float) -> tuple[float, ...]:
    """As `GateSignal.promotion_ages_s`, of windows: they know when their values were decided, and what is missing."""
    if part.signal == MISSING:
        return (deadline_s,)
    return (0.0, deadline_s) if part.signal in QUANTILES else part.promotion_ages_s(deadline_s)


@dataclass(frozen=True, slots=True)
class ClosedWindows:
    """Closed user-windows of some epochs."""

    events_version: int  # version of the table `events`
    as_of: datetime  # end of the newest closed window
    window_s: float  # length of a window, seconds
    covered: frozenset[EpochKey]  # the epochs that were looked at
    people: Mapping[EpochKey, int]  # different users of each epoch in closed windows
    unnamed: Mapping[EpochKey, int]  # decisions of each epoch in closed windows that name no user
    named: frozenset[EpochKey]  # epochs of which any decision names a user, in a closed window or not
    rows: pl.DataFrame  # `EPOCH`, `closed_at`, the counters, and how many user-windows are alike (`count`)
    # Of the actions whose users are split, one row an epoch, closed window and user: `EPOCH`, `closed_at`, `who`, and
    # the moment `first_at` of the user's first decision there
    assigned: pl.DataFrame
    blocks: pl.DataFrame  # `WINDOW`, the failures of `BLOCK_FAILED` in a heavy user's block, and how many are alike
    heavy: pl.DataFrame  # `EPOCH` and `who`: the users whose actions in the next window are taken in blocks
    # Windows in which anything was due: `WINDOW`, the `hour` of day (UTC) in which they opened, how many (`windows`),
    # and how many of them had a failure (`failed`); those before the newest day that is over closed `LONG_AGO`
    by_hour: pl.DataFrame
    deadline_s: float = 0.0  # seconds after which an execution that did not come is overdue

    def tabled(self, signal: str, counting: WindowCount) -> pl.DataFrame:
        """How many of the windows that count had m trials and y failures; `EPOCH`, `m`, `y`, `count`."""
        return (
            self._windows(signal, self._counted(counting), counting)
            .group_by(*EPOCH, "m", "y")
            .agg(pl.col("count").sum())
            .sort("m", "y")
            .collect()
        )

    def squares(self, signal: str, counting: WindowCount) -> pl.DataFrame:
        """The sum of m^2 over the windows that count, those of heavy users in blocks, by `EPOCH`."""
        windows = self._windows(signal, self._counted(counting), counting)
        size = pl.when(pl.col("heavy") > 0).then(pl.min_horizontal("m", BLOCK)).otherwise("m")
        return windows.group_by(EPOCH).agg((pl.col("m") * size * pl.col("count")).sum().alias("squares")).collect()

    def batches(self, signal: str) -> pl.DataFrame:
        """The windows of a signal that the detector steps through, what is unreported being fine.

        Gives `EPOCH`, `closed_at`, `m` trials, `y` failures and how many windows (`count`) are alike, in that order.
        """
        key = [*WINDOW, "m", "y"]
        windows = self._windows(signal, pl.col("closed_at") <= self.as_of, WindowCount())
        return self.in_batches(windows.collect()).group_by(key).agg(pl.col("count").sum()).sort(key)

    def in_batches(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of windows by the batches of the detector: those that closed together, and what is older in spans."""
        single = singly_since(self.as_of, self.window_s)
        return rows.filter(pl.col("closed_at") > single - _IN_SPANS).with_columns(in_spans(single, self.window_s))

    @property
    def lookback_s(self) -> float:
        """Seconds for which the detector takes windows one by one, at the least."""
        return SINGLE_WINDOWS * self.window_s

    def periods(self, signal: str, counting: WindowCount) -> pl.DataFrame:
        """The windows that count, each with when it closed: `EPOCH`, `closed_at`, m, y and how many are alike."""
        windows = self._windows(signal, self._counted(counting), counting)
        return windows.group_by(*WINDOW, "m", "y").agg(pl.col("count").sum()).sort("closed_at", "m", "y").collect()

    def first_actions(self) -> pl.DataFrame:
        """Of how many closed windows `FIRST_ACTIONS` hold, and their `due` actions, by `EPOCH`."""
        counts = self.rows.with_columns(DUE.alias("due")).group_by(EPOCH)
        return counts.agg((pl.col(*FIRST_ACTIONS, "due") * pl.col("count")).sum())

    @property
    def newest_day(self) -> datetime:
        """The beginning of the newest day (UTC) that is over."""
        return day_before(self.as_of)

    def _counted(self, counting: WindowCount) -> pl.Expr:
        """Which windows count."""
        closed = pl.col("closed_at") + timedelta(seconds=counting.age_s) <= self.as_of
        return closed & (pl.col("is_first") > 0) if counting.first_only else closed

    def _windows(self, signal: str, chosen: pl.Expr, counting: WindowCount) -> pl.LazyFrame:
        """The chosen windows that have trials of a signal: `EPOCH`, `closed_at`, m, y and how many are alike."""
        trials, failures, unreported = self._trials(signal)
        failed = unreported if counting.unreported_failed else pl.lit(0, dtype=pl.Int64)
        return (
            self.rows.lazy()
            .filter(chosen)
            .select(*WINDOW, (trials + unreported).alias("m"), (failures + failed).alias("y"), "count", "heavy")
            .filter(pl.col("m") > 0)
            .with_columns(pl.min_horizontal("m", "y").alias("y"))
        )

    def _trials(self, signal: str) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
        """Decided trials of a window, failures among them, and trials that are undecided."""
        if signal == MISSING:
            undecided = pl.col("unreported_execution") - self._overdue
            return pl.max_horizontal(pl.col("expected") - undecided, 0), self._overdue, undecided
        if signal not in RATES:
            known = pl.min_horizontal(known_of(signal), DUE)
            return known, pl.col(signal), DUE - known
        rate = RATES[signal]
        trials, failures = pl.sum_horizontal(rate.trials), pl.sum_horizontal(rate.failures)
        unreported = pl.col(f"unreported_{rate.awaits}") if rate.awaits in UNREPORTED else pl.lit(0, dtype=pl.Int64)
        if rate.awaits == "everything":
            return trials + self._overdue, failures + self._overdue, unreported - self._overdue
        return trials, failures, unreported

    @property
    def _overdue(self) -> pl.Expr:
        """The executions of a window that have failed by not coming; what became due too lately to say is undecided."""
        due_at = pl.col("closed_at") + pl.col("due_later") * timedelta(seconds=self.window_s)
        all_are = due_at + timedelta(seconds=self.deadline_s) <= self.as_of
        return pl.when(all_are).then("unreported_execution").otherwise("overdue")


def closed_through(watermark: datetime, window_s: float) -> datetime:
    """The end of the newest window that is closed."""
    whole = (watermark - LONG_AGO) // timedelta(seconds=window_s)
    return LONG_AGO + whole * timedelta(seconds=window_s)


def day_before(as_of: datetime) -> datetime:
    """The beginning of the newest day (UTC) that is over at a moment."""
    return as_of.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)


def kept_s(gates: GateFile, window_s: float) -> float:
    """For how long a gate file asks for single windows, seconds: the longest maturity, or the detector's lookback."""
    ages_s = [age_s for gate in gates.gates for part in gate.signals for age_s in gates.ages_s(part)]
    ages_s.append(gates.outcome_deadline_s)
    return max(SINGLE_WINDOWS * window_s, *ages_s, 0.0)


def singly_since(moment: datetime, window_s: float, kept_s: float = 0.0) -> datetime:
    """The end of the last span before windows are taken one by one, at least as many as are kept at a moment."""
    kept = timedelta(seconds=max(kept_s, SINGLE_WINDOWS * window_s))
    return closed_through(max(moment - kept, LONG_AGO), SPAN * window_s)


def in_spans(single: datetime, window_s: float) -> pl.Expr:
    """When the batch closes that a window is in: by itself, or with its span up to the moment `single`."""
    span_us = round(SPAN * window_s * 1_000_000)
    end = (-(-pl.col("closed_at").dt.epoch("us") // span_us) * span_us).cast(pl.Datetime("us", "UTC"))
    return pl.when(pl.col("closed_at") <= single).then(end).otherwise("closed_at").alias("closed_at")


def forgotten_by(single: datetime) -> datetime:
    """Up to when windows need no time of their own, where they are taken one by one since a moment."""
    return max(single - _IN_SPANS, LONG_AGO)
