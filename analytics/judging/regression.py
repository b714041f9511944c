"""After a promotion: the detector over the recent minutes, or user-windows, of every guardrail that is watched."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import polars as pl

from analytics.evidence.change_detector import NO_ALARM, Watch
from analytics.evidence.clustered_rate import ASSUMPTIONS, UserWindows
from analytics.evidence.sequential import BETS
from analytics.signals.cells import EPOCH, ONE_MINUTE
from analytics.signals.definitions import RATES
from analytics.verdicts.document import Regression

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    import numpy.typing as npt

    from analytics.gates.gate_file import AfterPromotion
    from analytics.gates.gate_signal import GateSignal
    from analytics.judging.user_windows import Users
    from analytics.signals.cells import EpochKey, Folded

_Counts: TypeAlias = "npt.NDArray[np.int64]"
_LARGEST_BET = max(BETS["above"])
_MINUTE_S = ONE_MINUTE.total_seconds()


def watch_actions(
    folded: Folded,
    watched: Sequence[tuple[EpochKey, GateSignal]],
    *,
    watermark: datetime,
    rules: AfterPromotion,
) -> list[Regression]:
    """Run the detector over the closed minutes of its window, action by action, anew at every look.

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
    run_length = rules.run_length(_MINUTE_S)
    bar = math.log(run_length)
    answers, spans = [], []
    for key, part in watched:
        first, last = int(starts[place[key]]), int(starts[place[key] + 1])
        failures, trials = (int(until[last] - until[first]) for until in ends[part.signal])
        value = failures / trials if trials else None
        answers.append(
            Regression(
                threshold=bar,
                failures=failures,
                trials=trials,
                window_s=rules.window,
                value=value,
                assumes=ASSUMPTIONS["action"],
            )
        )
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
    found = Watch.start(len(near), threshold=limits, run_length=run_length).after(x, n)
    levels = found.log_level
    for column, at in enumerate(near):
        step, level = int(found.alarmed_at[column]), float(levels[column])
        since_minute: datetime | None = None
        if step != NO_ALARM:
            # Minutes without trials do not step.
            acted = np.flatnonzero(n[:, column] > 0)
            since_minute = minutes["bucket"][spans[at].start + int(acted[step - 1])]
        reached = {"log_level": level if math.isfinite(level) else None, "since": since_minute}
        answers[at] = answers[at].model_copy(update=reached)
    return answers


def watch_users(
    users: Users,
    watched: Sequence[tuple[EpochKey, GateSignal]],
    *,
    rules: AfterPromotion,
) -> list[Regression]:
    """Run the detector over closed user-windows, those that closed together being one batch, anew at every look.

    Args:
        users: Closed user-windows.
        watched: Epochs, each with a guardrail that is counted by user.
        rules: Run length and window.

    Returns:
        One answer for each watched pair.
    """
    run_length, lookback_s = rules.run_length(users.window_s), rules.lookback_s(users.window_s)
    nothing = Regression(
        threshold=math.log(run_length), window_s=lookback_s, by="user", windows=0, assumes=ASSUMPTIONS["user"]
    )
    since = users.as_of - timedelta(seconds=lookback_s)
    told: dict[tuple[str, EpochKey], Regression] = {}
    near: dict[tuple[str, EpochKey], pl.DataFrame] = {}
    for signal in {part.signal for _, part in watched}:
        rows = users.batches(signal, since=since)
        for key, answer, ceiling, place in _summed_windows(rows, nothing):
            told[signal, key] = answer
            # No bet wins more than the largest: where even that stays below the bar, nothing needs computing.
            if ceiling >= nothing.threshold:
                near[signal, key] = rows[place]
    answers = [told.get((part.signal, key), nothing) for key, part in watched]
    stepped = [at for at, (key, part) in enumerate(watched) if (part.signal, key) in near]
    if stepped:
        tables = [near[watched[at][1].signal, watched[at][0]] for at in stepped]
        limits = np.array([watched[at][1].limit for at in stepped], dtype=np.float64)
        for at, (level, alarm) in zip(stepped, _step(tables, limits, run_length), strict=True):
            began = None if alarm is None else alarm - timedelta(seconds=users.window_s)
            answers[at] = answers[at].model_copy(update={"log_level": level, "since": began})
    return answers


def _step(
    tables: Sequence[pl.DataFrame], limits: npt.NDArray[np.float64], run_length: float
) -> Iterator[tuple[float, datetime | None]]:
    """Step through the user-windows of many epochs at once: the level of each, and when the alarming batch closed."""
    pairs = len(tables)
    batches = [table["closed_at"].rle_id().to_numpy().astype(np.int64) for table in tables]
    longest = max(int(each[-1]) for each in batches) + 1
    cell = np.concatenate([each * pairs + column for column, each in enumerate(batches)])
    m, y, count = (np.concatenate([table[name].to_numpy() for table in tables]) for name in ("m", "y", "count"))
    windows = UserWindows.of(longest * pairs, cell=cell, actions=m, failures=y, count=count)
    watch = Watch.start(pairs, threshold=limits, run_length=run_length).after_windows(windows)
    for column, table in enumerate(tables):
        step = int(watch.alarmed_at[column])
        alarm = None if step == NO_ALARM else table["closed_at"][int(np.searchsorted(batches[column], step - 1))]
        yield float(watch.log_level[column]), alarm


def _summed_windows(rows: pl.DataFrame, nothing: Regression) -> Iterator[tuple[EpochKey, Regression, float, slice]]:
    """Per epoch: its sums, how high the detector could stand at the most (a natural logarithm), and its rows."""
    if rows.is_empty():
        return
    m, y, count = (rows[name].to_numpy() for name in ("m", "y", "count"))
    of = rows.select(pl.struct(EPOCH).rle_id().alias("of"))["of"].to_numpy().astype(np.intp)
    # Row by row in their order, so that the sums come out the same at every replay.
    failures, trials, windows, shares, won = (
        np.bincount(of, weights=each)
        for each in (y * count, m * count, count, (y / m) * count, np.log1p((_LARGEST_BET - 1) * (y / m)) * count)
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


def _summed_until(counts: _Counts) -> _Counts:
    return np.concatenate(([0], counts.cumsum()))


def _counted(minutes: pl.DataFrame, signal: str) -> tuple[_Counts, _Counts]:
    """Failures and trials of a signal in every minute; an event that comes twice for one trial is one failure."""
    rate = RATES[signal]
    both = minutes.select(pl.sum_horizontal(rate.failures).alias("x"), pl.sum_horizontal(rate.trials).alias("n"))
    trials = both["n"].to_numpy()
    return np.minimum(both["x"].to_numpy(), trials), trials
