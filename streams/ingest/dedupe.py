"""Drop what was accepted before: the identities (`streams.ingest.identities`) accepted in each partition.

An event is a repeat if and only if one of its identity was accepted earlier in the same partition, however long ago.
Retries of one writer carry the same record key and so share a partition. The rule asks for nothing but what was
accepted before, which is what the table `events` holds: a replay decides as the first reading did.

What is dated within the horizon of the latest date accepted is held here, and so is whatever was accepted since that
date was the latest. For anything older the table itself is asked (`streams.ingest.earlier_events`). All events of one
identity have one date, so neither can miss what the other would find.

Memory: two bytes for each identity within the horizon, and on disk 24 (`streams.ingest.id_store`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.signals.cells import MINUTE_US
from streams.ingest.earlier_events import NOT_FOUND
from streams.ingest.id_store import NEVER, SIZES, IdStore, Sizes, Words
from streams.ingest.identities import MARK_BITS

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from streams.ingest.event_columns import Longs
    from streams.ingest.identities import Identities

    Flags = npt.NDArray[np.bool_]

HORIZON: Final = timedelta(hours=1)  # how far back, by date, what was accepted is held in memory

_MARK: Final = (1 << MARK_BITS) - 1


class SeenIds:
    """What was accepted in one partition.

    `earlier` finds the marks of what was accepted longer ago than `horizon`, or `NOT_FOUND`; without it nothing is
    forgotten. `latest_us` is the date up to which a rebuild has read.
    """

    def __init__(
        self,
        horizon: timedelta = HORIZON,
        *,
        earlier: Callable[[Identities], Longs] | None = None,
        latest_us: int = NEVER,
        sizes: Sizes = SIZES,
    ) -> None:
        self._horizon_us = horizon // timedelta(microseconds=1)
        self._earlier = earlier
        self._latest_us = latest_us
        self.ids = IdStore(sizes)

    @property
    def held_since_us(self) -> int:
        """Whatever is dated from here on, and was accepted, is held."""
        if self._earlier is None or self._latest_us == NEVER:
            return NEVER
        return self._latest_us - self._horizon_us

    def remember(self, accepted: Identities) -> None:
        """Add what was accepted before, in any order; what is dated before `held_since_us` may be left out."""
        if len(accepted):
            self._latest_us = max(self._latest_us, int(accepted.dates_us.max()))
            self._keep(accepted.words, accepted.dates_us, accepted.marks)

    def accept_all(self, events: Identities) -> Longs:
        """Accept events, in order, unless one of their identity was: its mark for each of these, else `NOT_FOUND`.

        Raises `LakeError` where the earlier ones cannot be read.
        """
        before = self.marks_of(events)
        _mark_twins(events.words, events.marks, before)
        self.keep(events.take(np.flatnonzero(before == NOT_FOUND)))
        return before

    def marks_of(self, events: Identities) -> Longs:
        """The marks under which identities were accepted before, or `NOT_FOUND`; raises as `accept_all`."""
        before = self.held(events.words)
        if self._earlier is not None:
            older = np.flatnonzero((before == NOT_FOUND) & (events.dates_us < self.held_since_us))
            if older.size:
                before[older] = self._earlier(events.take(older))
        return before

    def held(self, words: Words) -> Longs:
        """The same of what is held here."""
        stored = self.ids.times_of(words)
        return np.where(stored == NEVER, NOT_FOUND, stored & _MARK)

    def keep(self, accepted: Identities) -> None:
        """Add what is accepted now; of one identity the largest of the latest marks stands."""
        if len(accepted):
            # By the latest date: so what is not yet in the table outlives the batch, whatever its own date.
            self._latest_us = max(self._latest_us, int(accepted.dates_us.max()))
            self._keep(accepted.words, np.full(len(accepted), self._latest_us), accepted.marks)

    def _keep(self, words: Words, dates_us: Longs, marks: Longs) -> None:
        since_us = self.held_since_us
        self.ids.add(
            words, _packed(dates_us) | marks, since_us if since_us == NEVER else int(_packed(np.array(since_us)))
        )


def _packed(dates_us: Longs) -> Longs:
    """Dates in whole minutes above the bits of a mark; they sort as the dates do, and fit for the years 1 to 9999."""
    return dates_us // MINUTE_US << MARK_BITS


def _mark_twins(words: Words, marks: Longs, before: Longs) -> None:
    """Of events of one identity that was not accepted before, all but the first come after that one."""
    new = np.flatnonzero(before == NOT_FOUND)
    new = new[_twice(words[new, 0])]
    first: dict[tuple[int, ...], int] = {}
    for place, pair in zip(new.tolist(), map(tuple, words[new].tolist()), strict=True):
        place_before = first.setdefault(pair, place)
        if place_before != place:
            before[place] = marks[place_before]


def _twice(first: Words) -> Flags:
    order = np.argsort(first)
    equal = first[order[1:]] == first[order[:-1]]
    is_twice = np.zeros(len(first), dtype=np.bool_)
    if equal.any():
        is_twice[order[1:][equal]] = True
        is_twice[order[:-1][equal]] = True
    return is_twice
