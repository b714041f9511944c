"""Tell the first event of each decision that says that its outcome was bad.

A decision that failed, was undone a day later and had an incident after a week counts once among the bad outcomes. All
outcomes of a decision have its id as their key, and so share a partition; all of them carry its moment. So this is a
repeat as any other (`streams.ingest.dedupe`), told by the decision alone: what is recent is held here, and for what is
older the table `events` is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from analytics.signals.event_kinds import BAD_KINDS
from streams.ingest.dedupe import HORIZON, SeenIds
from streams.ingest.earlier_events import NOT_FOUND
from streams.ingest.event_columns import NO_CELL, UNDATED, EventColumns, Flags
from streams.ingest.id_store import NEVER, words_of
from streams.ingest.identities import Identities

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from streams.ingest.event_columns import Longs

_A_DECISION = 1  # any value but `OWN`: what is told by its decision and not by its own id


class BadDecisions:
    """The decisions of one partition whose outcome is known to be bad; see `SeenIds` for what is asked for."""

    def __init__(
        self,
        horizon: timedelta = HORIZON,
        *,
        earlier: Callable[[Identities], Longs] | None = None,
        latest_us: int = NEVER,
    ) -> None:
        self._decisions = SeenIds(horizon, earlier=earlier, latest_us=latest_us)

    def firsts(self, events: EventColumns) -> Flags:
        """Of events in their order, those that are the first of a decision to tell of a bad outcome.

        Raises `LakeError` where the earlier ones cannot be read.
        """
        firsts: Flags = np.isin(events.kinds, BAD_KINDS)
        firsts &= (events.cell_of != NO_CELL) & (events.decided_at_us != UNDATED)
        if firsts.any():
            subjects = events.subjects.filter(pa.array(firsts))
            decisions = _identities(subjects, events.decided_at_us[firsts])
            firsts[firsts] = self._decisions.accept_all(decisions) == NOT_FOUND
        return firsts

    def remember(self, subjects: pa.Array, decided_at_us: Longs) -> None:
        """Take decisions of which bad outcomes were counted before, in any order."""
        self._decisions.remember(_identities(subjects, decided_at_us))


def _identities(subjects: pa.Array, decided_at_us: Longs) -> Identities:
    once = np.full(len(subjects), _A_DECISION, dtype=np.int8)
    marks = np.zeros(len(subjects), dtype=np.int64)
    return Identities(subjects, subjects, once, words_of(subjects), decided_at_us, marks)
