"""Regressions after a promotion: the change detector over the minutes of watched guardrails, and the hours before.

It steps by days, by hours, by ten minutes, and by minutes in the end. Most restarts are put where ten minutes begin
(`_RESTARTS`): of a stretch that has become one batch only those at its beginning are left. An outcome that comes late
changes the batch of its decision and everything after it; so the level is computed from what is known now, and is the
same for everybody who knows the same. An alarm is latched by the ledger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.evidence.change_detector import NO_ALARM, Watch, ceiling
from analytics.evidence.clustered_rate import ASSUMPTIONS
from analytics.evidence.mixture import bets
from analytics.evidence.sequential import BET_COUNT, BETS
from analytics.gates.after_promotion import DETECTOR_MINUTES_S
from analytics.signals.cells import MINUTE_US, ROW
from analytics.signals.past_spans import HOUR_US, SPAN_US
from analytics.signals.state import may_pass, moment_of
from analytics.signals.trials import counted, counters_of
from analytics.verdicts.evidence_models import Regression

if TYPE_CHECKING:
    from collections.abc import Iterator
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
_AT_ONCE: Final = 2_000  # epochs whose batches are in memory at a time


@dataclass(frozen=True)
class Watched:
    """A guardrail rate as the detector watches it."""

    signal: str
    limit: float  # a ratio
    run_length: float  # the level that alarms, in batches
    age_s: float = 0.0  # seconds for which a minute must be over


@dataclass
class _Known:
    """What is known of every epoch at the end of the hours, as arrays whose last axis is the epoch's row."""

    stale: Flags = field(default_factory=lambda: np.ones(0, dtype=np.bool_))  # where it has to be computed

    def grow(self, size: int) -> None:
        """Make room for epochs that are new, of which nothing is known."""
        if more := size - self.stale.size:
            for name, values in vars(self).items():
                unknown = np.full((*values.shape[:-1], more), _UNKNOWN[name])
                setattr(self, name, np.concatenate([values, unknown], axis=-1))


@dataclass
class _Past(_Known):
    """What the detector knows of one guardrail."""

    wealth: FloatArray = field(default_factory=lambda: np.zeros((BET_COUNT, 0)))  # log wealth, shape (8, epochs)
    level: FloatArray = field(default_factory=lambda: np.zeros(0))  # its average
    alarmed_us: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # when the batch began, or -1


@dataclass
class _Ceilings(_Known):
    """How high the level of each guardrail can be, at the end and at its peak; shape (guardrails, epochs)."""

    level: FloatArray = field(kw_only=True)
    highest: FloatArray = field(kw_only=True)


_UNKNOWN: Final = {"stale": True, "wealth": -np.inf, "level": -np.inf, "highest": -np.inf, "alarmed_us": -1}


def watched_rates(gates: GateFile) -> set[tuple[str, float, float]]:
    """Signal, limit and age, in seconds, of every guardrail that is watched at any stage."""
    return {
        (part.signal, part.limit, part.harm_age_s)
        for gate in gates.gates
        for part in gate.signals
        if part.limit is not None and any(gate.watches(part, stage) for stage in part.stages)
    }


def watched_counters(gates: GateFile) -> frozenset[str]:
    """The counters of everything that is watched."""
    return frozenset(name for signal, *_ in watched_rates(gates) for name in counters_of(signal))


class ActionDetector:
    """The detector over every epoch, where it counts actions.

    Of each epoch it keeps how high the level can be at the end of the hours (`ceiling`), and how much the minutes since
    can have won. After minutes i a bet's level is a sum of the level before them and of at most as many products as
    there are minutes, each times at most exp(sum_i max(0, w_i)) with w_i = x_i log(omega) - n_i log1p((omega - 1)
    threshold). So the sum over minutes of the largest w_i of any bet, in whole units of 2^-20 and rounded up, bounds
    the level wherever it peaked. Only where that reaches the bar, or somebody asks, are batches stepped through.
    """

    def __init__(self, state: CellState, gates: GateFile, watermark_us: int) -> None:
        self._state = state
        watched = watched_rates(gates)
        self._counters = sorted(watched_counters(gates))
        oldest_us = max((round(age_s * 1_000_000) for *_, age_s in watched), default=0)
        self._window_us = _MINUTES_US + HOUR_US + oldest_us
        self._sums: dict[tuple[str, float], Integers] = {
            (signal, limit): np.zeros(0, dtype=np.int64) for signal, limit, _ in watched
        }
        self._past: dict[Watched, _Past] = {}
        self._ceilings: dict[float, _Ceilings] = {}  # by age, of the guardrails of that age
        self._of_age: dict[float, list[tuple[str, float]]] = {}
        for signal, limit, age_s in watched:
            self._of_age.setdefault(age_s, []).append((signal, limit))
        for age_s, guardrails in self._of_age.items():
            nothing = np.zeros((len(guardrails), 0))
            self._ceilings[age_s] = _Ceilings(level=nothing, highest=nothing)
        self._ends: dict[float, int] = {}  # the end of the hours for which these hold, by age
        self._watermark_us = watermark_us
        self._grow()
        self._add(self._recent(watermark_us - self._window_us, watermark_us - MINUTE_US), 1)

    def advance(self, increment: Increment | None, before_us: int, now_us: int) -> None:
        """Take in an increment that the state holds already, and the minutes that enter and leave the window."""
        self._watermark_us = now_us
        if not self._sums:
            return
        self._grow()
        if increment is not None:
            rows, buckets = (increment.minutes[name].to_numpy() for name in (ROW, "bucket"))
            for age_s, end_us in self._ends.items():
                for known in self._known(age_s):
                    known.stale[rows[buckets < end_us]] = True
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
        """Which of some epochs have to be stepped through."""
        guardrail, most = (watched.signal, watched.limit), self._window_us / MINUTE_US + 60
        self._bound(watched.age_s, epochs)
        place, ceilings = self._of_age[watched.age_s].index(guardrail), self._ceilings[watched.age_s]
        won = self._sums[guardrail][epochs] / _UNIT
        reached = np.logaddexp(ceilings.level[place, epochs], math.log(most)) + won
        bar = math.log(watched.run_length) - _MARGIN
        return np.asarray(np.maximum(reached, ceilings.highest[place, epochs]) >= bar)

    def minutes(self, epochs: EpochRows, age_s: float = 0.0) -> pl.DataFrame:
        """The minutes of some epochs after the hours, closed for an age; by epoch and minute."""
        until_us = self._watermark_us - round(age_s * 1_000_000)
        return self._state.minutes(epochs, since_us=_end_of_hours(until_us), until_us=until_us - MINUTE_US)

    def regressions(self, watched: Watched, epochs: EpochRows, minutes: pl.DataFrame | None = None) -> list[Regression]:
        """What the detector says of some epochs; `minutes` are theirs, where somebody has them."""
        minutes = self.minutes(epochs, watched.age_s) if minutes is None else minutes
        laid = _Laid(minutes[ROW].to_numpy(), minutes["bucket"].to_numpy(), epochs)
        x, n, restarts = laid.out(*_counts(minutes, watched.signal))
        failed, tried = x.sum(axis=0), n.sum(axis=0)
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
        x, n, restarts = x[:, near], n[:, near], restarts[:, near]
        start = _begun(watched, past.wealth[:, epochs[near]])
        watch = start.after(x, n, restarts=restarts) if x.size else None
        for column, at in enumerate(near):
            since: datetime | None = None
            reached = float(level[at] if watch is None else watch.log_level[column])
            if alarmed[at]:
                since = moment_of(past.alarmed_us[epochs[at]])
            elif watch is not None and (step := int(watch.alarmed_at[column])) != NO_ALARM:
                since = moment_of(laid.begins_us(n[:, column], step))
            known = {"log_level": reached if math.isfinite(reached) else None, "since": since}
            answers[at] = answers[at].model_copy(update=known)
        return answers

    def _known_past(self, watched: Watched, epochs: EpochRows) -> _Past:
        """What was known at the end of the hours, computed where it is not yet, or another end than before."""
        past = self._past.setdefault(watched, _Past())
        past.grow(self._state.epochs)
        for some, laid, batches in self._batches(watched.age_s, past, epochs):
            x, n, restarts = laid.out(*_counts(batches, watched.signal))
            past.wealth[:, some] = -np.inf
            watch = _begun(watched, past.wealth[:, some]).after(x, n, restarts=restarts)
            past.wealth[:, some], past.level[some], past.alarmed_us[some] = watch.log_wealth, watch.log_level, -1
            for column in np.flatnonzero(watch.alarmed):
                past.alarmed_us[some[column]] = laid.begins_us(n[:, column], watch.alarmed_at[column])
        return past

    def _bound(self, age_s: float, epochs: EpochRows) -> None:
        """Know the ceilings of some epochs at the end of the hours."""
        ceilings = self._ceilings[age_s]
        for some, laid, batches in self._batches(age_s, ceilings, epochs):
            for place, (signal, limit) in enumerate(self._of_age[age_s]):
                bounds = ceiling(*laid.out(*_counts(batches, signal)), threshold=limit)
                ceilings.level[place, some], ceilings.highest[place, some] = bounds

    def _batches(
        self, age_s: float, known: _Known, epochs: EpochRows
    ) -> Iterator[tuple[EpochRows, _Laid, pl.DataFrame]]:
        """The days and hours of those of some epochs of which nothing is known at their end; it is known afterwards."""
        end_us = _end_of_hours(self._watermark_us - round(age_s * 1_000_000))
        if self._ends.get(age_s) != end_us:
            self._ends[age_s] = end_us
            for other in self._known(age_s):
                other.stale[:] = True
        stale = np.unique(epochs[known.stale[epochs]])
        for first in range(0, stale.size, _AT_ONCE):
            some = stale[first : first + _AT_ONCE]
            flags = np.zeros(self._state.epochs, dtype=np.bool_)
            flags[some] = True
            batches = self._state.past.batches(flags, end_us, self._counters)
            yield some, _Laid(batches[ROW].to_numpy(), batches["span"].to_numpy() * SPAN_US, some), batches
            known.stale[some] = False

    def _known(self, age_s: float) -> list[_Known]:
        """Everything that is known at the end of the hours of an age."""
        return [*(past for watched, past in self._past.items() if watched.age_s == age_s), self._ceilings[age_s]]

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
        for known in (*self._past.values(), *self._ceilings.values()):
            known.grow(size)


def _begun(watched: Watched, wealth: FloatArray) -> Watch:
    """A watch of as many cells that goes on from what they hold."""
    start = Watch.start(wealth.shape[1], threshold=watched.limit, run_length=watched.run_length)
    return Watch(start.threshold, start.run_length, wealth, start.batches, start.alarmed_at)


class _Laid:
    """Where batches or minutes lie in arrays of one row a moment and one column an epoch."""

    def __init__(self, rows: Integers, begins_us: Integers, epochs: EpochRows) -> None:
        self._begins_us, self._step = np.unique(begins_us, return_inverse=True)
        ascending = np.argsort(epochs)
        self._column = ascending[np.searchsorted(epochs[ascending], rows)]
        self._shape = (self._begins_us.size, epochs.size)

    def out(self, failures: Integers, trials: Integers) -> tuple[Integers, Integers, FloatArray]:
        """Failures, trials and restarts of each batch; where there is none, nothing was tried."""
        x, n = (np.zeros(self._shape, dtype=np.int64) for _ in range(2))
        x[self._step, self._column], n[self._step, self._column] = failures, trials
        each, at_ten, at_hour = _RESTARTS
        restarts = np.full(self._shape, each)
        for unit_us, more in ((SPAN_US, at_ten), (HOUR_US, at_hour)):
            # A batch without trials does not step, so what begins there begins with the next one.
            unit = (self._begins_us // unit_us)[:, np.newaxis]
            acted = np.maximum.accumulate(np.where(n > 0, unit, -1), axis=0)
            before = np.vstack([np.full((1, n.shape[1]), -1), acted[:-1]])[: len(n)]
            restarts += more * (before != unit)
        return x, n, restarts

    def begins_us(self, trials: Integers, step: int) -> int:
        """When the batch begins that was an epoch's so-manieth, counted from 1, that had trials."""
        return int(self._begins_us[np.flatnonzero(trials > 0)[step - 1]])


def _end_of_hours(until_us: int) -> int:
    """Up to when the detector steps by hours, where it steps up to a moment."""
    return (until_us - _MINUTES_US) // HOUR_US * HOUR_US


def _counts(rows: pl.DataFrame, signal: str) -> tuple[Integers, Integers]:
    both = rows.select(counted(signal)).cast(pl.Int64)
    return both["x"].to_numpy(), both["n"].to_numpy()
