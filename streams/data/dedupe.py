"""Repeated ids within a partition.

An event is a repeat if and only if an event with the same id was accepted earlier in the same partition, and that
earlier one's event time is not below the partition's watermark minus the horizon. The watermark is the latest event
time accepted so far in the partition. Retries of one writer carry the same record key and so share a partition; the
rule asks for nothing but what was accepted before in that partition, which is what the table `events` holds: the state
can be rebuilt from there at any offset, and a replay decides as the first reading did.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

HORIZON: Final = timedelta(hours=1)
"""How far back an id is remembered, in event time."""

_PRUNE_AT_LEAST = 50_000


class SeenIds:
    """The ids accepted in one partition.

    Args:
        horizon: How far back an id is remembered, in event time.
        accepted: Id and event time (microseconds since 1970 UTC) of what was accepted before, in any order; what lies
            beyond the horizon may be left out, but not the latest.
    """

    def __init__(self, horizon: timedelta = HORIZON, accepted: Iterable[tuple[str, int]] = ()) -> None:
        self._horizon_us = horizon // timedelta(microseconds=1)
        self._seen: dict[str, int] = {}
        self._latest_us: int | None = None
        for event_id, time_us in accepted:
            self._remember(event_id, time_us)
        self._prune_at = max(_PRUNE_AT_LEAST, 2 * len(self._seen))

    def __len__(self) -> int:
        return len(self._seen)

    def accept(self, event_id: str, time_us: int) -> bool:
        """Accept an event unless it is a repeat.

        Args:
            event_id: The event's id.
            time_us: Its event time, microseconds since 1970 UTC.

        Returns:
            False for a repeat.
        """
        earlier_us = self._seen.get(event_id)
        if earlier_us is not None and self._latest_us is not None and earlier_us >= self._latest_us - self._horizon_us:
            return False
        self._remember(event_id, time_us)
        if len(self._seen) >= self._prune_at:
            self._prune()
        return True

    def _remember(self, event_id: str, time_us: int) -> None:
        earlier_us = self._seen.get(event_id)
        if earlier_us is None or time_us > earlier_us:
            self._seen[event_id] = time_us
        if self._latest_us is None or time_us > self._latest_us:
            self._latest_us = time_us

    def _prune(self) -> None:
        """Forget what can never be a repeat again: the watermark only rises."""
        if self._latest_us is None:
            return
        oldest_us = self._latest_us - self._horizon_us
        self._seen = {event_id: time_us for event_id, time_us in self._seen.items() if time_us >= oldest_us}
        self._prune_at = max(_PRUNE_AT_LEAST, 2 * len(self._seen))
