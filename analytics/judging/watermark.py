"""The watermark: the event time up to which whatever was going to be read has been read."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from typing import Final

SETTLE_S: Final = 5.0  # seconds that a newest event time must have been known before the watermark moves there


class Watermark:
    """Follows the newest event time at a distance, never ahead of the clock, and never back.

    Decisions and outcomes travel in different partitions, and a reader that catches up meets them minutes of event time
    apart: were all older executions overdue by the newest event of one partition, those still unread in another would
    count as missing, and a healthy action be rolled back for it. So the watermark moves to a newest event time only
    when it has been known for `settle_s` seconds, and stands still while the reader says that it lags.
    """

    def __init__(self, *, settle_s: float = SETTLE_S, at: datetime | None = None) -> None:
        self._settle = timedelta(seconds=settle_s)
        self._known: deque[tuple[datetime, datetime]] = deque()
        self._at = at

    @property
    def at(self) -> datetime | None:
        """Where it stands; None while it has never stood anywhere."""
        return self._at

    def follow(self, newest: datetime, now: datetime, *, caught_up: bool) -> datetime | None:
        """Take note of the newest event time; gives the watermark, None while it has never stood anywhere.

        While not everything that the broker holds was read (`caught_up`), it stops, and what was noted counts for
        nothing.
        """
        if not caught_up:
            self._known.clear()
            return self._at
        # A router whose clock runs fast must not make everybody else's executions overdue.
        self._known.append((now, min(newest, now)))
        while self._known and self._known[0][0] <= now - self._settle:
            _, settled = self._known.popleft()
            self._at = settled if self._at is None else max(self._at, settled)
        return self._at
