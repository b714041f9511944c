"""How long it takes from a record's timestamp until its numbers can be read from the lake."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from datetime import datetime

WINDOW: Final = timedelta(minutes=5)
"""How far back the quantiles look."""

_PER_BATCH: Final = 200
_OWN: Final = "stagekeeper.stage.recommended.v1"
"""What the worker's own judge says is no evidence of anything, and keeps no evidence young."""


@dataclass(frozen=True)
class Freshness:
    """What was seen lately.

    Attributes:
        p50_s: Median, in seconds; None where no event came.
        p99_s: 99th percentile, in seconds.
        last_event_at: The latest event time that was stored, other than of recommendations.
    """

    p50_s: float | None = None
    p99_s: float | None = None
    last_event_at: datetime | None = None


class FreshnessGauge:
    """Samples committed batches. Written by the commits, read by whoever asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: deque[tuple[datetime, int, list[float]]] = deque()
        self._last_event_at: datetime | None = None

    def note(self, events: pl.DataFrame, now: datetime) -> None:
        """Take a batch whose counts have just become visible.

        Args:
            events: Its rows for the table `events`.
            now: The present moment.
        """
        if events.is_empty():
            return
        step = max(1, events.height // _PER_BATCH)
        known = events["broker_at"].gather_every(step).drop_nulls()
        ages_s = [(now - at).total_seconds() for at in known]
        latest: datetime | None = events.filter(pl.col("type") != _OWN)["time"].max()  # type: ignore[assignment]
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
