"""Drop repeated events: the ids accepted in each partition.

An event is a repeat if and only if an event with the same id was accepted earlier in the same partition, and that
earlier one's event time is not below the partition's watermark (the latest event time accepted so far) minus the
horizon. Retries of one writer carry the same record key and so share a partition. The rule asks for nothing but what
was accepted before, which is what the table `events` holds: a replay decides as the first reading did.

Memory: two bytes for each id within the horizon, and on disk 24 (`streams.ingest.id_store`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from streams.ingest.id_store import NEVER, SIZES, IdStore, Sizes, Times, Words, words_of

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Flags = npt.NDArray[np.bool_]

HORIZON: Final = timedelta(hours=1)  # how far back an id is remembered, in event time


class SeenIds:
    """The ids accepted in one partition; `horizon` is how far back one is remembered, in event time."""

    def __init__(self, horizon: timedelta = HORIZON, *, sizes: Sizes = SIZES) -> None:
        self._horizon_us = horizon // timedelta(microseconds=1)
        self.ids = IdStore(sizes)
        self._latest_us = NEVER

    def remember(self, ids: pa.Array, times_us: Times) -> None:
        """Add ids accepted before, in any order; those beyond the horizon may be left out, but not the latest."""
        self._keep(words_of(ids), times_us)

    def accept_all(self, ids: pa.Array, times_us: Times) -> Flags:
        """Accept events, in order, unless they are repeats: False for each of these.

        The ids are a string array without nulls, the event times microseconds since 1970 UTC.
        """
        words = words_of(ids)
        stored_us = self.ids.times_of(words)
        accepted = np.ones(len(words), dtype=np.bool_)
        doubtful = (stored_us != NEVER) | _twice(words[:, 0])
        if doubtful.any():
            self._accept_doubtful(words, times_us, stored_us, doubtful, accepted)
            words, times_us = words[accepted], times_us[accepted]
        self._keep(words, times_us)
        return accepted

    def _accept_doubtful(
        self, words: Words, times_us: Times, stored_us: Times, doubtful: Flags, accepted: Flags
    ) -> None:
        """Clear `accepted` for the doubtful events that are repeats, in order; all others are accepted."""
        positions = np.flatnonzero(doubtful)
        # The watermark before each event, as far as the events without a doubt have moved it.
        watermarks_us = np.maximum.accumulate(np.append([self._latest_us], np.where(doubtful, NEVER, times_us)))
        columns = [column[positions].tolist() for column in (words, times_us, stored_us, watermarks_us)]
        latest_us, within = NEVER, dict[tuple[int, int], int]()
        for position, (first, second), time_us, stored, watermark_us in zip(positions.tolist(), *columns, strict=True):
            before_us = max(stored, within.get((first, second), NEVER))
            if before_us != NEVER and before_us >= max(watermark_us, latest_us) - self._horizon_us:
                accepted[position] = False
            else:
                within[first, second] = max(before_us, time_us)
                latest_us = max(latest_us, time_us)

    def _keep(self, words: Words, times_us: Times) -> None:
        """Remember what was accepted; what can never be a repeat again may go, since the watermark only rises."""
        if len(words):
            self._latest_us = max(self._latest_us, int(times_us.max()))
            self.ids.add(words, times_us, max(self._latest_us - self._horizon_us, NEVER + 1))


def _twice(first: Words) -> Flags:
    order = np.argsort(first)
    equal = first[order[1:]] == first[order[:-1]]
    is_twice = np.zeros(len(first), dtype=np.bool_)
    if equal.any():
        is_twice[order[1:][equal]] = True
        is_twice[order[:-1][equal]] = True
    return is_twice
