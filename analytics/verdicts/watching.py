"""After a promotion: the detector over the recent minutes of every guardrail that is watched."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import polars as pl

from analytics.cells import EPOCH, ONE_MINUTE
from analytics.evidence.detector import NO_ALARM, Watch
from analytics.evidence.sequential import BETS
from analytics.evidence.signals import RATES
from analytics.verdicts.explain import iso

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import numpy.typing as npt

    from analytics.cells import EpochKey, Folded
    from analytics.verdicts.gates import AfterPromotion
    from analytics.verdicts.gatesignals import GateSignal

_Counts: TypeAlias = "npt.NDArray[np.int64]"
_LARGEST_BET = max(BETS["above"])


@dataclass(frozen=True, slots=True)
class Regression:
    """What the detector says about one guardrail of one epoch.

    Attributes:
        log_level: Natural logarithm of the detector's level; None before the first minute.
        threshold: The level at which it alarms, likewise.
        since: The minute that raised the alarm; None where none did.
        failures: Failed trials within its window.
        trials: Trials within its window.
        window_s: How far back it looked, seconds.
    """

    log_level: float | None
    threshold: float
    since: datetime | None
    failures: int
    trials: int
    window_s: float

    def document(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return {
            "log_level": self.log_level,
            "threshold": self.threshold,
            "since": None if self.since is None else iso(self.since),
            "failures": self.failures,
            "trials": self.trials,
            "window_s": self.window_s,
        }


def watch(
    folded: Folded,
    watched: Sequence[tuple[EpochKey, GateSignal]],
    *,
    watermark: datetime,
    rules: AfterPromotion,
) -> list[Regression]:
    """Run the detector over the closed minutes of its window, anew at every look.

    A late outcome changes the minute of its decision, and everything after it; so the level is computed from the
    minutes as they are known now, and is the same for everybody who knows the same. An alarm is latched by the ledger.

    Args:
        folded: Every counter.
        watched: Epochs, each with a guardrail.
        watermark: Minutes that are not over by it are left out.
        rules: Run length and window.

    Returns:
        One answer for each watched pair.
    """
    if not watched:
        return []
    keys = sorted({key for key, _ in watched})
    epochs = pl.DataFrame(keys, schema=dict.fromkeys(EPOCH, pl.String), orient="row").with_row_index("at")
    since, until = watermark - timedelta(seconds=rules.window), watermark - ONE_MINUTE
    minutes = (
        folded.minutes(epochs)
        .filter((pl.col("bucket") >= since) & (pl.col("bucket") <= until))
        .join(epochs, on=EPOCH, how="left")
        .sort("at", "bucket")
    )
    # One table for all: an epoch's minutes lie together, and a signal's counts are taken over all of them at once.
    starts = np.searchsorted(minutes["at"].to_numpy(), np.arange(len(keys) + 1))
    place = {key: at for at, key in enumerate(keys)}
    counted = {name: _counted(minutes, name) for name in {part.signal for _, part in watched}}
    ends = {name: tuple(_summed_until(each) for each in both) for name, both in counted.items()}
    bar = math.log(rules.run_length)
    answers, spans = [], []
    for key, part in watched:
        first, last = int(starts[place[key]]), int(starts[place[key] + 1])
        failures, trials = (int(until[last] - until[first]) for until in ends[part.signal])
        answers.append(Regression(None, bar, None, failures, trials, rules.window))
        spans.append(slice(first, last))
    # No bet wins more than its odds at every failure: where even that stays below the bar, nothing needs computing.
    near = [
        at
        for at, (span, answer) in enumerate(zip(spans, answers, strict=True))
        if answer.trials and answer.failures * math.log(_LARGEST_BET) + math.log(span.stop - span.start + 1) >= bar
    ]
    if not near:
        return answers
    longest = max(spans[at].stop - spans[at].start for at in near)
    x, n = (np.zeros((longest, len(near)), dtype=np.int64) for _ in range(2))
    for column, at in enumerate(near):
        span = spans[at]
        failed, tried = counted[watched[at][1].signal]
        x[: span.stop - span.start, column], n[: span.stop - span.start, column] = failed[span], tried[span]
    limits = np.array([watched[at][1].limit for at in near], dtype=np.float64)
    found = Watch.start(len(near), threshold=limits, run_length=rules.run_length).after(x, n)
    levels = found.log_level
    for column, at in enumerate(near):
        step, level = int(found.alarmed_at[column]), float(levels[column])
        since_minute: datetime | None = None
        if step != NO_ALARM:
            # Minutes without trials do not step.
            acted = np.flatnonzero(n[:, column] > 0)
            since_minute = minutes["bucket"][spans[at].start + int(acted[step - 1])]
        answers[at] = replace(answers[at], log_level=level if math.isfinite(level) else None, since=since_minute)
    return answers


def _summed_until(counts: _Counts) -> _Counts:
    return np.concatenate(([0], counts.cumsum()))


def _counted(minutes: pl.DataFrame, signal: str) -> tuple[_Counts, _Counts]:
    """Failures and trials of a signal in every minute; an event that comes twice for one trial is one failure."""
    rate = RATES[signal]
    both = minutes.select(pl.sum_horizontal(rate.failures).alias("x"), pl.sum_horizontal(rate.trials).alias("n"))
    trials = both["n"].to_numpy()
    return np.minimum(both["x"].to_numpy(), trials), trials
