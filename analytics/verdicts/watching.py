"""After a promotion: the detector over the recent minutes of every guardrail that is watched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

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

    from analytics.cells import EpochKey, Folded
    from analytics.verdicts.gates import AfterPromotion
    from analytics.verdicts.gatesignals import GateSignal

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


@dataclass(frozen=True, slots=True)
class _Track:
    buckets: list[datetime]
    failures: np.ndarray[tuple[int], np.dtype[np.int64]]
    trials: np.ndarray[tuple[int], np.dtype[np.int64]]


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
    epochs = pl.DataFrame(sorted({key for key, _ in watched}), schema=dict.fromkeys(EPOCH, pl.String), orient="row")
    since, until = watermark - timedelta(seconds=rules.window), watermark - ONE_MINUTE
    minutes = folded.minutes(epochs).filter((pl.col("bucket") >= since) & (pl.col("bucket") <= until)).sort("bucket")
    by_epoch = {tuple(map(str, key)): rows for key, rows in minutes.group_by(EPOCH, maintain_order=True)}
    tracks = [_track(by_epoch.get(key), part) for key, part in watched]
    bar = math.log(rules.run_length)
    answers = [
        Regression(None, bar, None, int(track.failures.sum()), int(track.trials.sum()), rules.window)
        for track in tracks
    ]
    # No bet wins more than its odds at every failure: where even that stays below the bar, nothing needs computing.
    near = [
        at
        for at, track in enumerate(tracks)
        if track.buckets and track.failures.sum() * math.log(_LARGEST_BET) + math.log(len(track.buckets) + 1) >= bar
    ]
    if not near:
        return answers
    longest = max(len(tracks[at].buckets) for at in near)
    failures, trials = (np.zeros((longest, len(near)), dtype=np.int64) for _ in range(2))
    for column, at in enumerate(near):
        track = tracks[at]
        failures[: len(track.buckets), column], trials[: len(track.buckets), column] = track.failures, track.trials
    limits = np.array([watched[at][1].limit for at in near], dtype=np.float64)
    found = Watch.start(len(near), threshold=limits, run_length=rules.run_length).after(failures, trials)
    for column, at in enumerate(near):
        step = int(found.alarmed_at[column])
        acted = [bucket for bucket, n in zip(tracks[at].buckets, tracks[at].trials, strict=True) if n > 0]
        level = float(found.log_level[column])
        answers[at] = Regression(
            level if math.isfinite(level) else None,
            bar,
            None if step == NO_ALARM else acted[step - 1],
            answers[at].failures,
            answers[at].trials,
            rules.window,
        )
    return answers


def _track(minutes: pl.DataFrame | None, part: GateSignal) -> _Track:
    if minutes is None:
        nothing = np.zeros(0, dtype=np.int64)
        return _Track([], nothing, nothing)
    rate = RATES[part.signal]
    trials = minutes.select(pl.sum_horizontal(rate.trials)).to_series().to_numpy()
    failures = minutes.select(pl.sum_horizontal(rate.failures)).to_series().to_numpy()
    return _Track(minutes["bucket"].to_list(), np.minimum(failures, trials), trials)
