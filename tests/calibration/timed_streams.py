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
from analytics.evidence.histogram import bin_of
from analytics.judging.user_windows import READ_OF_EVENTS
from analytics.lake.table_schemas import COLUMNS, EVENTS, SIGNALS
from analytics.signals.cells import EPOCH
from analytics.signals.definitions import COUNTERS, HISTOGRAMS
from analytics.signals.event_kinds import EventKind
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from simulated import BoolArray, FloatArray, IntArray

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

    def actions(self, rng: np.random.Generator) -> Actions:
        """Draw them; nobody is named, so every action is its own user."""
        size = self.streams * self.minutes * self.per_minute
        stream = np.repeat(np.arange(self.streams), self.minutes * self.per_minute)
        minute = np.tile(np.repeat(np.arange(self.minutes), self.per_minute), self.streams)
        failed = rng.random(size) < self.rate
        delay = np.where(failed, self.failed_after(rng, size), self.succeeded_after(rng, size))
        return Actions(stream, minute.astype(np.float64), failed, delay, minutes=self.minutes)

    def history(self, rng: np.random.Generator) -> History:
        """What becomes known of them, and when."""
        return self.actions(rng).history(failure=self.failure, stage=self.stage)


@dataclass(frozen=True)
class Actions:
    """Executed actions of many streams, one value an action."""

    stream: IntArray
    minute: FloatArray  # of the decision, from the beginning
    failed: BoolArray
    delay: FloatArray  # minutes from the decision to the report of the execution; infinity where there is none
    minutes: float  # how long the streams are
    user: IntArray | None = None  # who asked for it; None where nobody is named
    latency_ms: FloatArray | None = None  # how long the execution took; None where it is not known
    is_base: BoolArray | None = None  # whether it was held back, in the cohort `held-back`; None where nothing was

    def history(self, *, failure: str = "failed", stage: str = "draft_write") -> History:
        """What becomes known of them, and when."""
        decided_in = np.floor(self.minute).astype(np.int64)
        known = np.isfinite(self.delay) & (self.minute + self.delay < self.minutes)
        known_in = np.floor(self.minute[known] + self.delay[known]).astype(np.int64)
        ones = np.ones(self.stream.size, dtype=np.int64)
        outcomes = {"executed": ones[known], failure: self.failed[known].astype(np.int64)}
        decided = dict.fromkeys(("decisions", "allowed", "expected"), ones)
        base = np.zeros(self.stream.size, dtype=np.bool_) if self.is_base is None else self.is_base
        rows = []
        for cohort, arm in (("all", ~base), ("held-back", base)):
            both = known & arm
            of_arm = {name: counts[arm] for name, counts in decided.items()}
            rows.append(
                minute_rows(self.stream[arm], decided_in[arm], decided_in[arm], of_arm, stage=stage, cohort=cohort)
            )
            of_known = {name: counts[arm[known]] for name, counts in outcomes.items()}
            latency = None if self.latency_ms is None else self.latency_ms[both]
            rows.append(
                minute_rows(
                    self.stream[both],
                    decided_in[both],
                    known_in[arm[known]],
                    of_known,
                    stage=stage,
                    cohort=cohort,
                    latency_ms=latency,
                )
            )
        return History.from_rows(pl.concat(rows), self._events(known, stage, failure).lazy())

    def _events(self, known: BoolArray, stage: str, failure: str) -> pl.DataFrame:
        schema = {name: COLUMNS[EVENTS][name] for name in READ_OF_EVENTS}
        if self.user is None:
            return pl.DataFrame(schema=schema)
        bad = EventKind.TIMED_OUT if failure == "timed_out" else EventKind.FAILED
        actions = pl.DataFrame(
            {
                "stream": self.stream,
                "subject": np.arange(self.stream.size),
                "minute": self.minute,
                "delay": self.delay,
                "user": self.user,
                "outcome": np.where(self.failed, int(bad), int(EventKind.SUCCEEDED)),
                "is_base": False if self.is_base is None else self.is_base,
                "latency_ms": None if self.latency_ms is None else self.latency_ms,
            }
        ).with_columns(decided_at=pl.lit(NOON) + pl.duration(microseconds=(pl.col("minute") * 60e6).cast(pl.Int64)))
        reported = actions.filter(pl.Series(known)).with_columns(
            time=pl.col("decided_at") + pl.duration(microseconds=(pl.col("delay") * 60e6).cast(pl.Int64)),
            kind=pl.col("outcome"),
            latency_us=(pl.col("latency_ms").cast(pl.Float64) * 1_000).round().cast(pl.Int64),
        )
        events = [actions.with_columns(time=pl.col("decided_at"), kind=pl.lit(int(EventKind.ALLOWED))), reported]
        return (
            pl.concat(events, how="diagonal_relaxed")
            .select(
                *_epoch(stage),
                pl.col("subject").cast(pl.String),
                "latency_us",
                pl.lit(None, dtype=pl.Int64).alias("cost_microusd"),
                "decided_at",
                "time",
                pl.col("time").alias("ingested_at"),
                "kind",
                pl.col("user").cast(pl.String),
            )
            .cast(schema)
        )  # type: ignore[arg-type]


def _epoch(stage: str) -> list[pl.Expr]:
    """The names of a stream's epoch."""
    cohort = pl.when("is_base").then(pl.lit("held-back")).otherwise(pl.lit("all"))
    names = (pl.lit("production"), pl.lit("w"), pl.format("s{}", "stream"), pl.lit(stage), cohort, pl.lit("e"))
    return [name.alias(column) for column, name in zip(EPOCH, names, strict=True)]


def minute_rows(
    stream: IntArray,
    minute: IntArray,
    known_in: IntArray,
    counts: Mapping[str, IntArray],
    *,
    stage: str,
    cohort: str = "all",
    latency_ms: FloatArray | None = None,
) -> pl.DataFrame:
    """Rows of the table `signals`: what became known in a minute about the decisions of a minute of a stream."""
    table = pl.DataFrame({"stream": stream, "minute": minute, "known_in": known_in, **counts})
    key = ["stream", "minute", "known_in"]
    summed = table.group_by(key).agg(pl.col(list(counts)).sum()).with_columns(is_base=pl.lit(cohort != "all"))
    bins = pl.lit([], dtype=pl.List(pl.Int64))
    latency = {"bins": bins, "counts": bins}
    if latency_ms is not None:
        binned = table.with_columns(
            bin=pl.Series(bin_of(np.round(latency_ms * 1_000).astype(np.int64)), dtype=pl.Int64)
        )
        by_bin = binned.group_by(*key, "bin").agg(pl.len().cast(pl.Int64).alias("seen")).sort("bin")
        summed = summed.join(by_bin.group_by(key, maintain_order=True).agg("bin", "seen"), on=key)
        latency = {"bins": pl.col("bin"), "counts": pl.col("seen")}
    return summed.select(
        *_epoch(stage),
        (pl.lit(NOON) + pl.col("minute") * _MINUTE).alias("bucket"),
        pl.lit(_RISK_RANK).alias("risk_rank"),
        (pl.lit(NOON) + pl.col("known_in") * _MINUTE + timedelta(seconds=59)).alias("last_event_at"),
        pl.lit(None).alias("last_ingested_at"),
        *(pl.col(name) if name in counts else pl.lit(0).alias(name) for name in COUNTERS),
        *(
            (latency[part] if name == "latency" else bins).alias(f"{name}_{part}")
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
        if verdict.inputs.cell.cohort != "all":
            continue
        stream = int(verdict.inputs.cell.tool[1:])
        at[stream] = min(at[stream], (turn.at - NOON) / _MINUTE)
    return Crossings(first[VerdictName.PROMOTE], first[VerdictName.ROLL_BACK])


def intervals(share: float, runs: int) -> Sequence[float]:
    """The 95 % Wilson interval of a share."""
    z = 1.959964
    middle = (share + z * z / (2 * runs)) / (1 + z * z / runs)
    half = z / (1 + z * z / runs) * np.sqrt(share * (1 - share) / runs + z * z / (4 * runs * runs))
    return (float(middle - half), float(middle + half))
