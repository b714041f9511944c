"""How long it takes from a record's timestamp until its numbers can be read from the lake."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from datetime import datetime

    import polars as pl

SAMPLES: Final = 20_000
"""How many of the newest samples the quantiles are taken of."""

_PER_BATCH: Final = 200


@dataclass(frozen=True)
class Freshness:
    """What was seen lately.

    Attributes:
        p50_s: Median, in seconds; None before the first event.
        p99_s: 99th percentile, in seconds.
        last_event_at: The latest event time that was stored.
    """

    p50_s: float | None = None
    p99_s: float | None = None
    last_event_at: datetime | None = None


class FreshnessGauge:
    """Samples committed batches. Written by the commits, read by whoever asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ages_s: deque[float] = deque(maxlen=SAMPLES)
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
        latest: datetime = events["time"].max()  # type: ignore[assignment]
        with self._lock:
            self._ages_s.extend(ages_s)
            if self._last_event_at is None or latest > self._last_event_at:
                self._last_event_at = latest

    @property
    def seen(self) -> Freshness:
        """The quantiles at this moment."""
        with self._lock:
            ages_s, last_event_at = list(self._ages_s), self._last_event_at
        if not ages_s:
            return Freshness(last_event_at=last_event_at)
        median, high = np.quantile(ages_s, (0.5, 0.99))
        return Freshness(float(median), float(high), last_event_at)
