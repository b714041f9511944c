"""Streams of actions whose outcomes become known late, many at once, through the engine that production runs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
from verdict_cases import NOON

from analytics.backtest.history import History, run
from analytics.judging.user_windows import READ_OF_EVENTS
from analytics.lake.table_schemas import COLUMNS, EVENTS, SIGNALS
from analytics.signals.cells import CELL
from analytics.signals.definitions import COUNTERS, HISTOGRAMS
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from simulated import FloatArray, IntArray

    from analytics.gates.gate_file import GateFile

    Delays = Callable[[np.random.Generator, int], FloatArray]

NEVER_REPORTED: Final = np.inf
_MINUTE: Final = timedelta(minutes=1)
_RISK_RANK: Final = 4


def after(minutes: float) -> Delays:
    """Every outcome becomes known so many minutes after its decision."""
    return lambda _, size: np.full(size, minutes)


def exponential(mean_minutes: float) -> Delays:
    """Exponential delays."""
    return lambda rng, size: rng.exponential(mean_minutes, size)


def lognormal(median_minutes: float, sigma: float) -> Delays:
    """Log-normal delays."""
    return lambda rng, size: rng.lognormal(np.log(median_minutes), sigma, size)


@dataclass(frozen=True)
class Streams:
    """Independent streams of executed actions, one cell each."""

    streams: int
    minutes: int
    per_minute: int
    rate: float  # of failures
    failed_after: Delays  # minutes from a decision until its failure is reported
    succeeded_after: Delays  # minutes from a decision until its success is reported
    failure: str = "failed"  # the counter that a failure moves
    stage: str = "draft_write"

    def history(self, rng: np.random.Generator) -> History:
        """What becomes known of them, and when."""
        size = self.streams * self.minutes * self.per_minute
        stream = np.repeat(np.arange(self.streams), self.minutes * self.per_minute)
        minute = np.tile(np.repeat(np.arange(self.minutes), self.per_minute), self.streams)
        failed = rng.random(size) < self.rate
        delay = np.where(failed, self.failed_after(rng, size), self.succeeded_after(rng, size))
        known = np.isfinite(delay) & (minute + delay < self.minutes)
        at = minute[known] + np.floor(delay[known]).astype(np.int64)
        outcomes = {"executed": np.ones(at.size, dtype=np.int64), self.failure: failed[known].astype(np.int64)}
        decided = dict.fromkeys(("decisions", "allowed", "expected"), np.ones(size, dtype=np.int64))
        rows = pl.concat(
            [
                minute_rows(stream, minute, minute, decided, stage=self.stage),
                minute_rows(stream[known], minute[known], at, outcomes, stage=self.stage),
            ]
        )
        return History.from_rows(rows, pl.LazyFrame(schema={name: COLUMNS[EVENTS][name] for name in READ_OF_EVENTS}))


def minute_rows(
    stream: IntArray, minute: IntArray, known_in: IntArray, counts: Mapping[str, IntArray], *, stage: str
) -> pl.DataFrame:
    """Rows of the table `signals`: what became known in a minute about the decisions of a minute of a stream."""
    summed = (
        pl.DataFrame({"stream": stream, "minute": minute, "known_in": known_in, **counts})
        .group_by("stream", "minute", "known_in")
        .agg(pl.col(list(counts)).sum())
    )
    names = ("production", "w", None, stage, "all")
    return summed.select(
        *(
            (pl.lit(name) if name is not None else pl.format("s{}", "stream")).alias(column)
            for column, name in zip(CELL, names, strict=True)
        ),
        pl.lit("e").alias("epoch"),
        (pl.lit(NOON) + pl.col("minute") * _MINUTE).alias("bucket"),
        pl.lit(_RISK_RANK).alias("risk_rank"),
        (pl.lit(NOON) + pl.col("known_in") * _MINUTE + timedelta(seconds=59)).alias("last_event_at"),
        *(pl.col(name) if name in counts else pl.lit(0).alias(name) for name in COUNTERS),
        *(
            pl.lit([], dtype=pl.List(pl.Int64)).alias(f"{name}_{part}")
            for name in HISTOGRAMS
            for part in ("bins", "counts")
        ),
    ).cast(dict(COLUMNS[SIGNALS]))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Crossings:
    """When each stream was first promoted, and first rolled back: minutes from its beginning; infinity for never."""

    promoted: FloatArray
    rolled_back: FloatArray

    @property
    def promotions(self) -> float:
        """Share of streams that were ever promoted."""
        return float(np.isfinite(self.promoted).mean())

    @property
    def rollbacks(self) -> float:
        """Share of streams that were ever rolled back."""
        return float(np.isfinite(self.rolled_back).mean())


def crossings(history: History, gates: GateFile, streams: int, *, every: timedelta = timedelta(minutes=5)) -> Crossings:
    """Look at a history over and over, and note the first crossings."""
    first: dict[VerdictName, FloatArray] = defaultdict(lambda: np.full(streams, np.inf))
    for turn in run(history, gates, every=every):
        verdict = turn.verdict
        at = first[verdict.result.verdict]
        stream = int(verdict.inputs.cell.tool[1:])
        at[stream] = min(at[stream], (turn.at - NOON) / _MINUTE)
    return Crossings(first[VerdictName.PROMOTE], first[VerdictName.ROLL_BACK])


def intervals(share: float, runs: int) -> Sequence[float]:
    """The 95 % Wilson interval of a share."""
    z = 1.959964
    middle = (share + z * z / (2 * runs)) / (1 + z * z / runs)
    half = z / (1 + z * z / runs) * np.sqrt(share * (1 - share) / runs + z * z / (4 * runs * runs))
    return (float(middle - half), float(middle + half))
