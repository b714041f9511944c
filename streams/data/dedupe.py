"""Repeated ids within a partition.

An event is a repeat if and only if an event with the same id was accepted earlier in the same partition, and that
earlier one's event time is not below the partition's watermark minus the horizon. The watermark is the latest event
time accepted so far in the partition. Retries of one writer carry the same record key and so share a partition; the
rule asks for nothing but what was accepted before in that partition, which is what the table `events` holds: the state
can be rebuilt from there at any offset, and a replay decides as the first reading did.

Memory: 24 bytes for each id within the horizon. The newest ids are in a dictionary; when it is full they become a
sorted run (`streams.data.runs`), and runs are merged as they grow, without what the horizon has passed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from streams.data.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

HORIZON: Final = timedelta(hours=1)
"""How far back an id is remembered, in event time."""

NEWEST: Final = 50_000
"""How many ids are kept in the dictionary."""


class SeenIds:
    """The ids accepted in one partition.

    Args:
        horizon: How far back an id is remembered, in event time.
        accepted: Id and event time (microseconds since 1970 UTC) of what was accepted before, in any order; what lies
            beyond the horizon may be left out, but not the latest.
        newest: How many ids are kept in the dictionary.
    """

    def __init__(
        self, horizon: timedelta = HORIZON, accepted: Iterable[tuple[str, int]] = (), *, newest: int = NEWEST
    ) -> None:
        self._horizon_us = horizon // timedelta(microseconds=1)
        self._newest_limit = newest
        self._newest: dict[str, int] = {}
        self._older = Runs()
        self._latest_us: int | None = None
        for event_id, time_us in accepted:
            self._remember(event_id, time_us)
            if len(self._newest) >= newest:
                self._spill()

    def __len__(self) -> int:
        """How many ids are held, at most; some may be held twice."""
        return len(self._newest) + len(self._older)

    def accept(self, event_id: str, time_us: int) -> bool:
        """Accept an event unless it is a repeat: `accept_all` for one."""
        return self.accept_all([event_id], [time_us])[0]

    def accept_all(self, ids: Sequence[str], times_us: Sequence[int]) -> list[bool]:
        """Accept events, in order, unless they are repeats.

        Args:
            ids: Their ids.
            times_us: Their event times, microseconds since 1970 UTC.

        Returns:
            For each, False for a repeat.
        """
        newest = self._newest
        for event_id, time_us in self._older.times_of(ids).items():
            if time_us > newest.get(event_id, time_us - 1):
                newest[event_id] = time_us
        accepted = self._accept_surely(ids, times_us)
        if accepted is None:
            accepted = [self._accept(event_id, time_us) for event_id, time_us in zip(ids, times_us, strict=True)]
        if len(newest) >= self._newest_limit:
            self._spill()
        return accepted

    def _accept_surely(self, ids: Sequence[str], times_us: Sequence[int]) -> list[bool] | None:
        """Accept events where their order among themselves cannot matter; None, and nothing is done, where it could.

        The watermark ends up at the latest time or below it. Whoever is a repeat even at that watermark is one at any
        moment before.
        """
        if not ids:
            return []
        newest = self._newest
        oldest_us = self._later(times_us) - self._horizon_us
        known = list(map(newest.get, ids))
        if len(set(ids)) == len(ids) and known.count(None) == len(ids):
            newest.update(zip(ids, times_us, strict=True))
            self._latest_us = self._later(times_us)
            return [True] * len(ids)
        fresh: dict[str, int] = {}
        accepted = []
        for event_id, time_us, known_us in zip(ids, times_us, known, strict=True):
            earlier_us = fresh.get(event_id) if known_us is None else known_us
            if earlier_us is None:
                fresh[event_id] = time_us
            elif earlier_us < oldest_us:
                return None
            accepted.append(earlier_us is None)
        newest.update(fresh)
        if fresh:
            self._latest_us = self._later(fresh.values())
        return accepted

    def _later(self, times_us: Collection[int]) -> int:
        """The watermark once these are accepted."""
        latest_us = max(times_us)
        return latest_us if self._latest_us is None else max(latest_us, self._latest_us)

    def _accept(self, event_id: str, time_us: int) -> bool:
        earlier_us = self._newest.get(event_id)
        if earlier_us is not None and self._latest_us is not None and earlier_us >= self._latest_us - self._horizon_us:
            return False
        self._remember(event_id, time_us)
        return True

    def _remember(self, event_id: str, time_us: int) -> None:
        earlier_us = self._newest.get(event_id)
        if earlier_us is None or time_us > earlier_us:
            self._newest[event_id] = time_us
        if self._latest_us is None or time_us > self._latest_us:
            self._latest_us = time_us

    def _spill(self) -> None:
        """Move the newest into a run; what can never be a repeat again is forgotten, since the watermark only rises."""
        oldest_us = (self._latest_us or 0) - self._horizon_us
        self._older.add(self._newest, oldest_us)
        self._newest = {}
