"""Regressions after a promotion: the change detector over recent minutes, or user-windows, of watched guardrails."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.evidence.change_detector import NO_ALARM, Watch
from analytics.evidence.clustered_rate import ASSUMPTIONS, UserWindows
from analytics.evidence.mixture import bets
from analytics.evidence.sequential import BETS
from analytics.signals.cells import EPOCH, ROW
from analytics.signals.state import MINUTE_US, may_pass, moment_of
from analytics.signals.trials import counted, counters_of
from analytics.verdicts.evidence_models import Regression

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from analytics.gates.gate_file import AfterPromotion, GateFile
    from analytics.judging.user_windows import ClosedWindows
    from analytics.signals.state import CellState, EpochRows, Flags, Increment, Integers

_LARGEST_BET: Final = max(BETS["above"])
_MINUTE_S: Final = 60.0
_UNIT: Final = 2.0**20
# How far below the bar the detector is run already: more than its own slack and rounding amount to.
_MARGIN: Final = 1e-6


class DetectorPrefilter:
    """Which epochs can be near an alarm, by sums over the detector's window.

    After minutes i the detector's level of a bet is a sum of at most as many products as there are minutes, each at
    most exp(sum_i max(0, w_i)) with w_i = x_i log(omega) - n_i log1p((omega - 1) threshold). So the sum over minutes of
    the largest w_i of any bet, in whole units of 2^-20 and rounded up, bounds the level wherever it peaked. It is kept
    up as minutes enter and leave the window; only where it reaches the bar is the detector itself run.
    """

    def __init__(self, state: CellState, gates: GateFile, watermark_us: int) -> None:
        self._state = state
        self._window_us = round(gates.after_promotion.window * 1_000_000)
        minutes = 2 + self._window_us / MINUTE_US
        # The rolled hours of a window are rows beside its minutes.
        self._enough = (
            math.log(gates.after_promotion.run_length(_MINUTE_S)) - _MARGIN - math.log(minutes * (1 + 1 / 60))
        )
        watched = {
            (part.signal, part.limit)
            for gate in gates.gates
            for part in gate.signals
            if part.limit is not None and any(gate.watches(part, stage) for stage in part.stages)
        }
        self._sums: dict[tuple[str, float], Integers] = {key: np.zeros(0, dtype=np.int64) for key in watched}
        self._grow()
        self._add(self._recent(watermark_us - self._window_us, watermark_us - MINUTE_US), 1)

    def advance(self, increment: Increment | None, before_us: int, now_us: int) -> None:
        """Take in an increment that the state holds already, and the minutes that enter and leave the window."""
        if not self._sums:
            return
        self._grow()
        since_us, until_us = before_us - self._window_us, before_us - MINUTE_US
        if increment is not None:
            late = increment.minutes.filter(pl.col("bucket").is_between(since_us, until_us))
            if late.height:
                whole = self._recent(late["bucket"].min(), late["bucket"].max(), of=late)
                both = whole.join(late, on=[ROW, "bucket"], how="left", suffix="_late")
                names = self._counters
                self._add(both.select(ROW, *(pl.col(name) - pl.col(f"{name}_late") for name in names)), -1)
                self._add(whole, 1)
        if may_pass(since_us - 1, now_us - self._window_us - 1):
            self._add(self._recent(since_us, min(now_us - self._window_us - 1, until_us)), -1)
        if may_pass(until_us, now_us - MINUTE_US):
            self._add(self._recent(max(until_us + 1, now_us - self._window_us), now_us - MINUTE_US), 1)

    def near(self, signal: str, limit: float, epochs: EpochRows) -> Flags:
        """Which of some epochs the detector has to be run for."""
        return np.asarray(self._sums[signal, limit][epochs] / _UNIT >= self._enough)

    def _add(self, minutes: pl.DataFrame, sign: int) -> None:
        """Add what minutes, one row each, can have won."""
        if minutes.is_empty():
            return
        rows = minutes[ROW].to_numpy()
        odds = np.log(bets("above"))
        for (signal, limit), sums in self._sums.items():
            failures, trials = _counts(minutes, signal)
            (failed,) = np.nonzero(failures > 0)
            won = failures[failed] * odds - trials[failed] * np.log1p((bets("above") - 1.0) * limit)
            np.add.at(sums, rows[failed], sign * np.ceil(np.maximum(won.max(axis=0), 0.0) * _UNIT).astype(np.int64))

    def _recent(self, since_us: object, until_us: object, *, of: pl.DataFrame | None = None) -> pl.DataFrame:
        """The minutes from one bucket to another, both included, with what is needed; those `of` a frame alone."""
        within = self._state.recent.filter(pl.col("bucket").is_between(pl.lit(since_us), pl.lit(until_us)))
        within = within if of is None else within.join(of, on=[ROW, "bucket"], how="semi")
        return within.group_by(ROW, "bucket").agg(pl.col(self._counters).sum())

    def _grow(self) -> None:
        size = self._state.epochs
        for key, sums in self._sums.items():
            self._sums[key] = np.append(sums, np.zeros(size - sums.size, dtype=np.int64))

    @property
    def _counters(self) -> list[str]:
        signals = {signal for signal, _ in self._sums}
        return sorted({name for signal in signals for name in counters_of(signal)})


def _counts(minutes: pl.DataFrame, signal: str) -> tuple[Integers, Integers]:
    both = minutes.select(counted(signal))
    return both["x"].to_numpy(), both["n"].to_numpy()


def detector_minutes(
    state: CellState, epochs: EpochRows, *, watermark_us: int, rules: AfterPromotion, age_s: float = 0.0
) -> pl.DataFrame:
    """The minutes that the detector looks at, of some epochs, closed for an age; by epoch and minute."""
    since_us = watermark_us - round(rules.window * 1_000_000)
    return state.minutes(epochs, since_us=since_us, until_us=watermark_us - round(age_s * 1_000_000) - MINUTE_US)


def watch_actions(
    minutes: pl.DataFrame, signal: str, limit: float, epochs: EpochRows, rules: AfterPromotion
) -> list[Regression]:
    """Run the detector over the closed minutes of its window, anew at every look; one answer an epoch.

    A late outcome changes the minute of its decision, and everything after it; so the level is computed from the
    minutes as they are known now, and is the same for everybody who knows the same. An alarm is latched by the ledger.
    """
    of = minutes[ROW].to_numpy()
    starts, ends = np.searchsorted(of, epochs, side="left"), np.searchsorted(of, epochs, side="right")
    failures, trials = _counts(minutes, signal)
    failed, tried = (np.concatenate(([0], counts.cumsum())) for counts in (failures, trials))
    failed, tried = failed[ends] - failed[starts], tried[ends] - tried[starts]
    run_length = rules.run_length(_MINUTE_S)
    bar = math.log(run_length)
    answers = [
        Regression(
            threshold=bar,
            failures=x,
            trials=n,
            window_s=rules.window,
            value=x / n if n else None,
            assumes=ASSUMPTIONS["action"],
        )
        for x, n in zip(failed.tolist(), tried.tolist(), strict=True)
    ]
    # No bet wins more than its odds at every failure: where even that stays below the bar, nothing needs computing.
    steps = ends - starts
    (near,) = np.nonzero((tried > 0) & (failed * math.log(_LARGEST_BET) + np.log(steps + 1.0) >= bar))
    if not near.size:
        return answers
    x, n = (np.zeros((int(steps[near].max()), near.size), dtype=np.int64) for _ in range(2))
    for column, at in enumerate(near):
        span = slice(starts[at], ends[at])
        x[: steps[at], column], n[: steps[at], column] = failures[span], trials[span]
    watch = Watch.start(near.size, threshold=limit, run_length=run_length).after(x, n)
    buckets = minutes["bucket"].to_numpy()
    for column, at in enumerate(near):
        step, level = int(watch.alarmed_at[column]), float(watch.log_level[column])
        since: datetime | None = None
        if step != NO_ALARM:
            # Minutes without trials do not step.
            acted = np.flatnonzero(n[:, column] > 0)
            since = moment_of(buckets[starts[at] + acted[step - 1]])
        reached = {"log_level": level if math.isfinite(level) else None, "since": since}
        answers[at] = answers[at].model_copy(update=reached)
    return answers


def watch_users(
    users: ClosedWindows, signal: str, limit: float, epochs: pl.DataFrame, *, rules: AfterPromotion, age_s: float
) -> list[Regression]:
    """Run the detector over user-windows closed for an age, a batch a closing time; one answer an epoch."""
    run_length, lookback_s = rules.run_length(users.window_s), rules.lookback_s(users.window_s)
    nothing = Regression(
        threshold=math.log(run_length), window_s=lookback_s, by="user", windows=0, assumes=ASSUMPTIONS["user"]
    )
    since, until = (users.as_of - timedelta(seconds=seconds) for seconds in (lookback_s, age_s))
    rows = users.batches(signal, since=since).filter(pl.col("closed_at") <= until)
    answers: dict[tuple[str, ...], Regression] = {}
    near: dict[tuple[str, ...], pl.DataFrame] = {}
    for key, answer, ceiling, span in _summed_windows(rows, nothing):
        answers[key] = answer
        # No bet wins more than the largest: where even that stays below the bar, nothing needs computing.
        if ceiling >= nothing.threshold:
            near[key] = rows[span]
    if near:
        for key, (level, alarm) in zip(near, _step(list(near.values()), limit, run_length), strict=True):
            began = None if alarm is None else alarm - timedelta(seconds=users.window_s)
            answers[key] = answers[key].model_copy(update={"log_level": level, "since": began})
    return [answers.get(key, nothing) for key in epochs.iter_rows()]


def _step(tables: Sequence[pl.DataFrame], limit: float, run_length: float) -> Iterator[tuple[float, datetime | None]]:
    """Step through the user-windows of many epochs at once: the level of each, and when the alarming batch closed."""
    pairs = len(tables)
    batches = [table["closed_at"].rle_id().to_numpy().astype(np.int64) for table in tables]
    longest = max(int(numbers[-1]) for numbers in batches) + 1
    cell = np.concatenate([numbers * pairs + column for column, numbers in enumerate(batches)])
    m, y, count = (np.concatenate([table[name].to_numpy() for table in tables]) for name in ("m", "y", "count"))
    windows = UserWindows.of(longest * pairs, cell=cell, actions=m, failures=y, count=count)
    watch = Watch.start(pairs, threshold=limit, run_length=run_length).after_windows(windows)
    for column, table in enumerate(tables):
        step = int(watch.alarmed_at[column])
        alarm = None if step == NO_ALARM else table["closed_at"][int(np.searchsorted(batches[column], step - 1))]
        yield float(watch.log_level[column]), alarm


def _summed_windows(
    rows: pl.DataFrame, nothing: Regression
) -> Iterator[tuple[tuple[str, ...], Regression, float, slice]]:
    """Per epoch: its sums, how high the detector could stand at the most (a natural logarithm), and its rows."""
    if rows.is_empty():
        return
    m, y, count = (rows[name].to_numpy() for name in ("m", "y", "count"))
    of = rows.select(pl.struct(EPOCH).rle_id().alias("of"))["of"].to_numpy().astype(np.intp)
    # Row by row in their order, so that the sums come out the same at every replay.
    failures, trials, windows, shares, won = (
        np.bincount(of, weights=weights)
        for weights in (y * count, m * count, count, (y / m) * count, np.log1p((_LARGEST_BET - 1) * (y / m)) * count)
    )
    starts = np.flatnonzero(np.diff(of, prepend=-1))
    keys = rows.select(EPOCH)[starts].iter_rows()
    ends = [*starts[1:].tolist(), of.size]
    for at, (key, start, end) in enumerate(zip(keys, starts.tolist(), ends, strict=True)):
        summed = {
            "failures": int(failures[at]),
            "trials": int(trials[at]),
            "windows": int(windows[at]),
            "value": float(shares[at] / windows[at]),
        }
        answer = nothing.model_copy(update=summed)
        yield key, answer, float(won[at]) + math.log(end - start + 1), slice(start, end)
