"""Regressions after a promotion: the change detector over the minutes of watched guardrails, and the hours before.

It steps by days, by hours, by ten minutes, and by minutes in the end. Most restarts are put where ten minutes begin
(`_RESTARTS`): of a stretch that has become one batch only those at its beginning are left. An outcome that comes late
changes the batch of its decision and everything after it; so the level is computed from what is known now, and is the
same for everybody who knows the same. An alarm is latched by the ledger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.evidence.change_detector import NO_ALARM, Watch
from analytics.evidence.clustered_rate import ASSUMPTIONS
from analytics.evidence.mixture import bets
from analytics.evidence.sequential import BETS
from analytics.gates.after_promotion import DETECTOR_MINUTES_S
from analytics.signals.cells import ROW
from analytics.signals.past_spans import HOUR_US, SPAN_US
from analytics.signals.state import MINUTE_US, may_pass, moment_of
from analytics.signals.trials import counted, counters_of
from analytics.verdicts.evidence_models import Regression

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.evidence.sequential import FloatArray
    from analytics.gates.gate_file import GateFile
    from analytics.signals.state import CellState, EpochRows, Flags, Increment, Integers

MINUTE_S: Final = 60.0
_LARGEST_BET: Final = max(BETS["above"])
_MINUTES_US: Final = round(DETECTOR_MINUTES_S * 1_000_000)
_UNIT: Final = 2.0**20
# How far below the bar the detector is run already: more than its own slack and rounding amount to.
_MARGIN: Final = 1e-6
# What the detector begins with at each minute, at the first of ten, and at the first of an hour: 60 an hour in all.
_RESTARTS: Final = (0.15, 8.0, 3.0)


@dataclass(frozen=True)
class Watched:
    """A guardrail rate as the detector watches it."""

    signal: str
    limit: float  # a ratio
    run_length: float  # the level that alarms, in batches
    age_s: float = 0.0  # seconds for which a minute must be over


@dataclass
class _Past:
    """What the detector knows of every epoch at the end of the hours, as arrays by row."""

    wealth: FloatArray  # log wealth, shape (8, epochs)
    level: FloatArray  # its average
    alarmed_us: Integers  # when the batch began that raised the alarm, or -1
    stale: Flags  # where it has to be computed

    @classmethod
    def nothing(cls, size: int) -> _Past:
        """Of so many epochs nothing is known."""
        return cls(
            np.full((len(BETS["above"]), size), -np.inf),
            np.full(size, -np.inf),
            np.full(size, -1, dtype=np.int64),
            np.ones(size, dtype=np.bool_),
        )

    def grown(self, size: int) -> _Past:
        """With room for epochs that are new."""
        new = _Past.nothing(size - self.stale.size)
        return _Past(*(np.concatenate([getattr(self, f.name), getattr(new, f.name)], axis=-1) for f in fields(_Past)))


class ActionDetector:
    """The detector over every epoch, where it counts actions.

    Of each epoch it keeps what it knew at the end of the hours, and how much the minutes since can have won. After
    minutes i a bet's level is a sum of the level before them and of at most as many products as there are minutes, each
    times at most exp(sum_i max(0, w_i)) with w_i = x_i log(omega) - n_i log1p((omega - 1) threshold). So the sum over
    minutes of the largest w_i of any bet, in whole units of 2^-20 and rounded up, bounds the level wherever it peaked.
    Only where that reaches the bar are the minutes stepped through.
    """

    def __init__(self, state: CellState, gates: GateFile, watermark_us: int) -> None:
        self._state = state
        watched = {
            (part.signal, part.limit, part.harm_age_s)
            for gate in gates.gates
            for part in gate.signals
            if part.limit is not None and any(gate.watches(part, stage) for stage in part.stages)
        }
        oldest_us = max((round(age_s * 1_000_000) for *_, age_s in watched), default=0)
        self._window_us = _MINUTES_US + HOUR_US + oldest_us
        self._sums: dict[tuple[str, float], Integers] = {
            (signal, limit): np.zeros(0, dtype=np.int64) for signal, limit, _ in watched
        }
        self._past: dict[Watched, _Past] = {}
        self._past_until: dict[Watched, int] = {}
        self._watermark_us = watermark_us
        self._grow()
        self._add(self._recent(watermark_us - self._window_us, watermark_us - MINUTE_US), 1)

    def advance(self, increment: Increment | None, before_us: int, now_us: int) -> None:
        """Take in an increment that the state holds already, and the minutes that enter and leave the window."""
        self._watermark_us = now_us
        if not self._sums:
            return
        self._grow()
        if increment is not None and self._past:
            buckets = increment.minutes["bucket"].to_numpy()
            for watched, past in self._past.items():
                past.stale[increment.minutes[ROW].to_numpy()[buckets < self._past_until[watched]]] = True
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

    def near(self, watched: Watched, epochs: EpochRows) -> Flags:
        """Which of some epochs the minutes have to be stepped through for."""
        past, most = self._known_past(watched, epochs), self._window_us / MINUTE_US + 60
        bar = math.log(watched.run_length) - _MARGIN
        won = self._sums[watched.signal, watched.limit][epochs] / _UNIT
        reached = np.logaddexp(past.level[epochs], math.log(most)) + won
        return np.asarray((reached >= bar) | (past.alarmed_us[epochs] >= 0))

    def minutes(self, epochs: EpochRows, age_s: float = 0.0) -> pl.DataFrame:
        """The minutes of some epochs after the hours, closed for an age; by epoch and minute."""
        until_us = self._watermark_us - round(age_s * 1_000_000)
        return self._state.minutes(epochs, since_us=_end_of_hours(until_us), until_us=until_us - MINUTE_US)

    def regressions(self, watched: Watched, epochs: EpochRows, minutes: pl.DataFrame | None = None) -> list[Regression]:
        """What the detector says of some epochs, given ascending; `minutes` are theirs, where somebody has them."""
        minutes = self.minutes(epochs, watched.age_s) if minutes is None else minutes
        of = minutes[ROW].to_numpy()
        starts, ends = np.searchsorted(of, epochs, side="left"), np.searchsorted(of, epochs, side="right")
        failures, trials = _counts(minutes, watched.signal)
        failed, tried = (np.concatenate(([0], counts.cumsum())) for counts in (failures, trials))
        failed, tried = failed[ends] - failed[starts], tried[ends] - tried[starts]
        past, bar = self._known_past(watched, epochs), math.log(watched.run_length)
        answers = [
            Regression(
                threshold=bar,
                failures=x,
                trials=n,
                window_s=DETECTOR_MINUTES_S,
                value=x / n if n else None,
                assumes=ASSUMPTIONS["action"],
            )
            for x, n in zip(failed.tolist(), tried.tolist(), strict=True)
        ]
        # No bet wins more than its odds at every failure: where even that stays below the bar, nothing needs computing.
        level, alarmed = past.level[epochs], past.alarmed_us[epochs] >= 0
        most = np.logaddexp(level, math.log((_MINUTES_US + HOUR_US) / MINUTE_US))
        (near,) = np.nonzero(alarmed | ((tried > 0) & (failed * math.log(_LARGEST_BET) + most >= bar)))
        if not near.size:
            return answers
        buckets = minutes["bucket"].to_numpy()
        spans = list(zip(starts[near].tolist(), ends[near].tolist(), strict=True))
        x, n, restarts = _padded(failures, trials, buckets, spans)
        start = _begun(watched, past.wealth[:, epochs[near]])
        watch = start.after(x, n, restarts=restarts) if x.size else None
        for column, at in enumerate(near):
            since: datetime | None = None
            reached = float(level[at] if watch is None else watch.log_level[column])
            if alarmed[at]:
                since = moment_of(past.alarmed_us[epochs[at]])
            elif watch is not None and (step := int(watch.alarmed_at[column])) != NO_ALARM:
                # Minutes without trials do not step.
                acted = np.flatnonzero(n[:, column] > 0)
                since = moment_of(buckets[starts[at] + acted[step - 1]])
            known = {"log_level": reached if math.isfinite(reached) else None, "since": since}
            answers[at] = answers[at].model_copy(update=known)
        return answers

    def _known_past(self, watched: Watched, epochs: EpochRows) -> _Past:
        """What was known at the end of the hours, computed where it is not yet, or another end than before."""
        size = self._state.epochs
        past = self._past.get(watched) or _Past.nothing(size)
        past = past if past.stale.size == size else past.grown(size)
        until_us = _end_of_hours(self._watermark_us - round(watched.age_s * 1_000_000))
        if self._past_until.get(watched) != until_us:
            past = _Past.nothing(size)
        self._past[watched], self._past_until[watched] = past, until_us
        stale = epochs[past.stale[epochs]]
        if stale.size:
            self._step(watched, past, np.unique(stale), until_us)
        return past

    def _step(self, watched: Watched, past: _Past, epochs: EpochRows, until_us: int) -> None:
        """Step through the days and hours of some epochs."""
        flags = np.zeros(self._state.epochs, dtype=np.bool_)
        flags[epochs] = True
        batches = self._state.past.batches(flags, until_us)
        past.wealth[:, epochs], past.level[epochs], past.alarmed_us[epochs] = -np.inf, -np.inf, -1
        past.stale[epochs] = False
        if batches.is_empty():
            return
        of, begins_us = batches[ROW].to_numpy(), batches["span"].to_numpy().astype(np.int64) * SPAN_US
        failures, trials = _counts(batches, watched.signal)
        rows, starts = np.unique(of, return_index=True)
        ends = np.append(starts[1:], of.size)
        spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
        x, n, restarts = _padded(failures, trials, begins_us, spans)
        watch = _begun(watched, past.wealth[:, rows]).after(x, n, restarts=restarts)
        past.wealth[:, rows], past.level[rows] = watch.log_wealth, watch.log_level
        for column in np.flatnonzero(watch.alarmed):
            acted = np.flatnonzero(n[:, column] > 0)
            past.alarmed_us[rows[column]] = begins_us[starts[column] + acted[watch.alarmed_at[column] - 1]]

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
        for watched, past in self._past.items():
            self._past[watched] = past if past.stale.size == size else past.grown(size)

    @property
    def _counters(self) -> list[str]:
        signals = {signal for signal, _ in self._sums}
        return sorted({name for signal in signals for name in counters_of(signal)})


def _begun(watched: Watched, wealth: FloatArray) -> Watch:
    """A watch of as many cells that goes on from what they hold."""
    start = Watch.start(wealth.shape[1], threshold=watched.limit, run_length=watched.run_length)
    return Watch(start.threshold, start.run_length, wealth, start.batches, start.alarmed_at)


def _padded(
    failures: Integers, trials: Integers, begins_us: Integers, spans: list[tuple[int, int]]
) -> tuple[Integers, Integers, FloatArray]:
    """Failures, trials and restarts of batches, those of each span in a column that is filled up with nothing."""
    longest = max(last - first for first, last in spans)
    x, n = (np.zeros((longest, len(spans)), dtype=np.int64) for _ in range(2))
    restarts = np.ones((longest, len(spans)))
    each, at_ten, at_hour = _RESTARTS
    for column, (first, last) in enumerate(spans):
        acted = np.flatnonzero(trials[first:last] > 0)
        x[: last - first, column], n[: last - first, column] = failures[first:last], trials[first:last]
        # A batch without trials does not step, so what begins there begins with the next one.
        begins = begins_us[first:last][acted]
        new_ten, new_hour = (np.diff(begins // unit_us, prepend=-1) != 0 for unit_us in (SPAN_US, HOUR_US))
        restarts[acted, column] = each + at_ten * new_ten + at_hour * new_hour
    return x, n, restarts


def _end_of_hours(until_us: int) -> int:
    """Up to when the detector steps by hours, where it steps up to a moment."""
    return (until_us - _MINUTES_US) // HOUR_US * HOUR_US


def _counts(rows: pl.DataFrame, signal: str) -> tuple[Integers, Integers]:
    both = rows.select(counted(signal)).cast(pl.Int64)
    return both["x"].to_numpy(), both["n"].to_numpy()
