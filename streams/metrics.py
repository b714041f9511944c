"""A worker's totals and freshness, as its status line and as metrics in Prometheus's text format."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from streams.ingest.fold import Tally

CONTENT_TYPE: Final = "text/plain; version=0.0.4"
WINDOW: Final = timedelta(minutes=5)  # how far back the quantiles of freshness look

_SAMPLES_A_BATCH: Final = 200
_RECOMMENDED: Final = "stagekeeper.stage.recommended.v1"  # by the worker's own judge: it keeps no evidence young


@dataclass(frozen=True)
class Totals:
    """Sums since the worker started."""

    read: int = 0  # records, repeats and rejects included
    stored: int = 0  # events committed to the lake
    repeats: int = 0  # dropped
    rejects: int = 0
    batches: int = 0  # committed
    commit_s: float = 0.0  # time spent on commits, in seconds
    lag: int | None = None  # records in the log that are not yet read; None until the first look


@dataclass
class Progress:
    """Totals and the last committed item, shared between the source's thread, the agent and the status line."""

    _changed: threading.Condition = field(default_factory=threading.Condition)
    _committed: int = 0
    _totals: Totals = field(default_factory=Totals)
    _hurry: bool = False

    @property
    def totals(self) -> Totals:
        """The sums at this moment."""
        with self._changed:
            return self._totals

    @property
    def reached(self) -> int:
        """The last item of the source that is dealt with, and all before it."""
        with self._changed:
            return self._committed

    def reach(self, number: int) -> None:
        """Item `number` of the source, and all before it, are dealt with."""
        with self._changed:
            self._committed = number
            self._changed.notify_all()

    def count(self, tally: Tally, commit_s: float) -> None:
        """Add a committed batch."""
        with self._changed:
            totals = self._totals
            self._totals = replace(
                totals,
                read=totals.read + tally.accepted + tally.repeats + tally.rejected + tally.known_rejects,
                stored=totals.stored + tally.accepted,
                repeats=totals.repeats + tally.repeats,
                rejects=totals.rejects + tally.rejected,
                batches=totals.batches + 1,
                commit_s=totals.commit_s + commit_s,
            )

    def lag_is(self, lag: int) -> None:
        """Note how many records are not yet read."""
        with self._changed:
            self._totals = replace(self._totals, lag=lag)

    @property
    def hurry(self) -> bool:
        """Whether what comes next should be committed sooner than usual."""
        return self._hurry

    def hurry_is(self, hurry: bool) -> None:  # noqa: FBT001 - as `lag_is`
        """Note whether what comes next should be committed sooner than usual."""
        self._hurry = hurry

    def wait_for(self, number: int, timeout_s: float, given_up: Callable[[], bool]) -> bool:
        """Wait until item `number` is dealt with; False when `timeout_s` passed, or `given_up` said so, before."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while self._committed < number:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or given_up():
                    return False
                self._changed.wait(min(left_s, 0.5))
            return True

    def wake(self) -> None:
        """Let those who wait look again at whether they should give up."""
        with self._changed:
            self._changed.notify_all()


@dataclass(frozen=True)
class Freshness:
    """How long events took lately from the broker's timestamp until their counts could be read."""

    p50_s: float | None = None  # None where no event came
    p99_s: float | None = None
    last_event_at: datetime | None = None  # the latest event time that was stored, other than of recommendations


class FreshnessGauge:
    """Samples of the batches committed lately. Written by the commits, read by whoever asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: deque[tuple[datetime, int, list[float]]] = deque()
        self._last_event_at: datetime | None = None

    def note(self, events: pl.DataFrame, now: datetime) -> None:
        """Take a batch whose counts have just become visible: its rows for the table `events`."""
        if events.is_empty():
            return
        step = max(1, events.height // _SAMPLES_A_BATCH)
        moments = events["broker_at"].gather_every(step).drop_nulls()
        ages_s = [(now - at).total_seconds() for at in moments]
        latest: datetime | None = events.filter(pl.col("type") != _RECOMMENDED)["time"].max()  # type: ignore[assignment]
        with self._lock:
            self._samples.append((now, step, ages_s))
            self._forget(now)
            if latest is not None and (self._last_event_at is None or latest > self._last_event_at):
                self._last_event_at = latest

    def seen(self, now: datetime) -> Freshness:
        """The quantiles over the events of the last minutes."""
        with self._lock:
            self._forget(now)
            batches, last_event_at = list(self._samples), self._last_event_at
        ages_s = np.array([age_s for _, _, ages in batches for age_s in ages])
        if not ages_s.size:
            return Freshness(last_event_at=last_event_at)
        # A sample of a large batch stands for many events, one of a small batch for itself.
        weights = np.repeat([step for _, step, _ in batches], [len(ages) for _, _, ages in batches])
        order = np.argsort(ages_s)
        reached = np.cumsum(weights[order])
        median, high = (float(ages_s[order][np.searchsorted(reached, q * reached[-1])]) for q in (0.5, 0.99))
        return Freshness(median, high, last_event_at)

    def _forget(self, now: datetime) -> None:
        while self._samples and now - self._samples[0][0] > WINDOW:
            self._samples.popleft()


def status_line(before: Totals, now: Totals, seconds: float, *, as_json: bool) -> str:
    """One line about what moved in some seconds; JSON or text."""
    events_per_s = round((now.read - before.read) / seconds) if seconds > 0 else None
    batches = now.batches - before.batches
    commit_ms = (now.commit_s - before.commit_s) * 1_000 / batches if batches else None
    if as_json:
        numbers = {name: getattr(now, name) for name in ("read", "stored", "repeats", "rejects", "lag")}
        rounded_ms = None if commit_ms is None else round(commit_ms, 1)
        return json.dumps({"events_per_s": events_per_s, **numbers, "commit_ms": rounded_ms})
    return (
        f"{events_per_s:,} events/s · stored {now.stored:,} · repeats {now.repeats:,} · "
        f"rejects {now.rejects:,} · lag {'?' if now.lag is None else f'{now.lag:,}'} · "
        f"commit {'-' if commit_ms is None else f'{commit_ms:.0f} ms'}"
    )


@dataclass(frozen=True)
class Enacting:
    """What a worker that enacts has to say."""

    is_holder: bool = False  # whether it is the one that enacts
    fault: bool = False  # whether something cannot be carried out at this moment
    lives: Mapping[str, int] = field(default_factory=dict)  # recommendations by how far they are
    seconds_to_apply: tuple[float, ...] = ()  # from verdict to changed stage, of each change


def exposition(
    totals: Totals,
    freshness: Freshness,
    *,
    up_s: float,
    judging: bool,
    judge_fault: bool,
    now: datetime,
    enacting: Enacting | None = None,
) -> str:
    """All metrics of a worker in Prometheus's text format; `judge_fault` says that its last look failed.

    `enacting` is None where the worker was not told to enact.
    """
    age_s = None if freshness.last_event_at is None else (now - freshness.last_event_at).total_seconds()
    commit_s = {"_sum": totals.commit_s, "_count": totals.batches}
    quantiles = {'{quantile="0.5"}': freshness.p50_s, '{quantile="0.99"}': freshness.p99_s}
    lines = [
        *_metric("events_read_total", "counter", "Records read, repeats and rejects included.", totals.read),
        *_metric("events_stored_total", "counter", "Events committed to the lake.", totals.stored),
        *_metric("repeats_total", "counter", "Repeats dropped.", totals.repeats),
        *_metric("rejects_total", "counter", "Records rejected.", totals.rejects),
        *_metric("lag_records", "gauge", "Records in the log that are not yet read.", totals.lag),
        *_metric("commit_seconds", "summary", "Time of the commits of a batch.", commit_s),
        *_metric("freshness_seconds", "gauge", "From a record's timestamp until its counts can be read.", quantiles),
        *_metric("evidence_age_seconds", "gauge", "Age of the newest event that is stored.", age_s),
        *_metric("uptime_seconds", "gauge", "Since the worker started.", up_s),
        *_metric("judging", "gauge", "1 in the worker that judges.", int(judging)),
        *_metric("judge_fault", "gauge", "1 while nothing can be judged.", int(judge_fault)),
    ]
    return "\n".join([*lines, *([] if enacting is None else _enacting(enacting)), ""])


def _enacting(enacting: Enacting) -> list[str]:
    lives = {f'{{life="{life}"}}': count for life, count in sorted(enacting.lives.items())}
    applied_s = {"_sum": sum(enacting.seconds_to_apply), "_count": len(enacting.seconds_to_apply)}
    late = enacting.lives.get("not in force", 0)
    return [
        *_metric("enacting", "gauge", "1 in the worker that changes stages.", int(enacting.is_holder)),
        *_metric("enactor_fault", "gauge", "1 while a change cannot be carried out.", int(enacting.fault)),
        *_metric("recommendations", "gauge", "Recommendations by how far they are.", lives),
        *_metric("changes_not_in_force", "gauge", "Changes that a source does not decide by in time.", late),
        *_metric("verdict_to_applied_seconds", "summary", "From a verdict to the changed stage.", applied_s),
    ]


def _metric(name: str, kind: str, purpose: str, value: float | Mapping[str, float | None] | None) -> list[str]:
    """One number, or one for each suffix; what is unknown is left out."""
    values = value if isinstance(value, Mapping) else {"": value}
    lines = [f"stagekeeper_{name}{suffix} {number!r}" for suffix, number in values.items() if number is not None]
    return [f"# HELP stagekeeper_{name} {purpose}", f"# TYPE stagekeeper_{name} {kind}", *lines] if lines else []
