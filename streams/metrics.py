"""A worker's totals and freshness, as its status line and as metrics in Prometheus's text format."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.lake.table_schemas import LAYOUT

if TYPE_CHECKING:
    from streams.ingest.fold import Tally

CONTENT_TYPE: Final = "text/plain; version=0.0.4"
WINDOW: Final = timedelta(minutes=5)  # how far back the quantiles of freshness look

_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
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
    reasons: Mapping[str, int] = field(default_factory=dict)  # rejects by reason code, of which there are few


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

    def count(self, tally: Tally, commit_s: float, reasons: Iterable[str] = ()) -> None:
        """Add a committed batch, with the reason of each reject."""
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
                reasons=dict(Counter(totals.reasons) + Counter(reasons)),  # `asdict` cannot copy a Counter
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
    seconds_to_force: tuple[float, ...] = ()  # from there until every source decided by it


def exposition(
    totals: Totals,
    freshness: Freshness,
    *,
    up_s: float,
    judging: bool,
    judge_fault: bool,
    now: datetime,
    enacting: Enacting | None = None,
    more: Iterable[str] = (),
) -> str:
    """All metrics of a worker in Prometheus's text format; `judge_fault` says that its last look failed.

    `enacting` is None where the worker was not told to enact; `more` are lines of others.
    """
    age_s = None if freshness.last_event_at is None else (now - freshness.last_event_at).total_seconds()
    commit_s = {"_sum": totals.commit_s, "_count": totals.batches}
    quantiles = {'{quantile="0.5"}': freshness.p50_s, '{quantile="0.99"}': freshness.p99_s}
    rejects = {labels(reason=reason): count for reason, count in sorted(totals.reasons.items())}
    build = {labels(version=version("stagekeeper"), layout=str(LAYOUT)): 1}
    lines = [
        *metric("build_info", "gauge", "1, for the release and the layout of lakes that it writes.", build),
        *metric("events_read_total", "counter", "Records read, repeats and rejects included.", totals.read),
        *metric("events_stored_total", "counter", "Events committed to the lake.", totals.stored),
        *metric("repeats_total", "counter", "Repeats dropped.", totals.repeats),
        *metric("rejects_total", "counter", "Records rejected.", totals.rejects),
        *metric("rejects_by_reason_total", "counter", "The same by reason code.", rejects),
        *metric("lag_records", "gauge", "Records in the log that are not yet read.", totals.lag),
        *metric("commit_seconds", "summary", "Time of the commits of a batch.", commit_s),
        *metric("freshness_seconds", "summary", "From a record's timestamp until its counts can be read.", quantiles),
        *metric("evidence_age_seconds", "gauge", "Age of the newest event that is stored.", age_s),
        *metric("uptime_seconds", "gauge", "Since the worker started.", up_s),
        *metric("judging", "gauge", "1 in the worker that judges.", int(judging)),
        *metric("judge_fault", "gauge", "1 while nothing can be judged.", int(judge_fault)),
    ]
    return "\n".join([*lines, *([] if enacting is None else _enacting(enacting)), *more, ""])


def _enacting(enacting: Enacting) -> list[str]:
    lives = {f'{{life="{life}"}}': count for life, count in sorted(enacting.lives.items())}
    applied_s, force_s = map(_summed, (enacting.seconds_to_apply, enacting.seconds_to_force))
    late = enacting.lives.get("not in force", 0)
    return [
        *metric("enacting", "gauge", "1 in the worker that changes stages.", int(enacting.is_holder)),
        *metric("enactor_fault", "gauge", "1 while a change cannot be carried out.", int(enacting.fault)),
        *metric("recommendations", "gauge", "Recommendations by how far they are.", lives),
        *metric("changes_not_in_force", "gauge", "Changes that a source does not decide by in time.", late),
        *metric("verdict_to_applied_seconds", "summary", "From a verdict to the changed stage.", applied_s),
        *metric("applied_to_in_force_seconds", "summary", "From there until every source decided by it.", force_s),
    ]


def _summed(seconds: tuple[float, ...]) -> dict[str, float | None]:
    return {"_sum": sum(seconds), "_count": len(seconds)}


def metric(name: str, kind: str, purpose: str, value: float | Mapping[str, float | None] | None) -> list[str]:
    """The lines of one number, or of one for each suffix, such as `labels`; what is unknown is left out."""
    values = value if isinstance(value, Mapping) else {"": value}
    lines = [f"stagekeeper_{name}{suffix} {number!r}" for suffix, number in values.items() if number is not None]
    return [f"# HELP stagekeeper_{name} {purpose}", f"# TYPE stagekeeper_{name} {kind}", *lines] if lines else []


def labels(**values: str) -> str:
    """Labels as a suffix of a metric's name, whatever their values hold."""
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in values.items()) + "}"
