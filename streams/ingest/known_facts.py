"""Know what came of each decision, so that a decision counts once whatever is told of it, how often and when.

All outcomes of a decision have its id as their key, and so share a partition; all of them carry its moment. So what is
known is told by the decision alone, as a repeat is (`streams.ingest.dedupe`): what is recent is held here, and for what
is older the table `events` is asked. Beside a decision lies the set of its facts (`analytics.signals.aftermath`); an
event counts what the set counts with it, less what it counted before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from analytics.signals.aftermath import FACTS_OF_KIND
from streams.ingest.dedupe import HORIZON, SeenIds
from streams.ingest.event_columns import NO_CELL, UNDATED, EventColumns, Longs, chained
from streams.ingest.id_store import NEVER, Words, words_of
from streams.ingest.identities import Identities

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

_A_DECISION = 1  # any value but `OWN`: what is told by its decision and not by its own id


class FactChanges(NamedTuple):
    """What events changed about what is known of their decisions; a position for each of these events throughout."""

    places: Longs  # which events, ascending
    before: Longs  # the set of facts that was known before each
    after: Longs  # and with it

    @classmethod
    def joined(cls, changes: Sequence[FactChanges]) -> FactChanges:
        """Those of one partition after the other; their places are among the events of all."""
        return cls(*(chained(column) for column in zip(*changes, strict=True))) if changes else cls(*[_NONE] * 3)


_NONE = np.empty(0, dtype=np.int64)


class KnownFacts:
    """What is known of the decisions of one partition; see `SeenIds` for what is asked for."""

    def __init__(
        self,
        horizon: timedelta = HORIZON,
        *,
        earlier: Callable[[Identities], Longs] | None = None,
        latest_us: int = NEVER,
    ) -> None:
        self._decisions = SeenIds(horizon, earlier=earlier, latest_us=latest_us)

    def take(self, events: EventColumns, words: Words, first: int = 0) -> FactChanges:
        """Take in events in their order, of which `words` are the words of the subjects, and `first` the first place.

        Raises `LakeError` where the earlier ones cannot be read.
        """
        told = FACTS_OF_KIND[events.kinds]
        places = np.flatnonzero((told != 0) & (events.cell_of != NO_CELL) & (events.decided_at_us != UNDATED))
        if not places.size:
            return FactChanges(places, places, places)
        decisions = _decisions(
            events.subjects.take(pa.array(places)), words[places], events.decided_at_us[places], told[places]
        )
        before, after = _gathered(decisions, self._decisions.marks_of(decisions))
        new = np.flatnonzero(before != after)
        self._decisions.keep(replace(decisions, marks=after).take(new))
        return FactChanges(places[new] + first, before[new], after[new])

    def remember(self, subjects: pa.Array, decided_at_us: Longs, kinds: Longs) -> None:
        """Take what events told that were counted before, in any order.

        Of a decision everything is given that was told of it, or nothing.
        """
        decisions = _decisions(subjects, words_of(subjects), decided_at_us, FACTS_OF_KIND[kinds])
        _, after = _gathered(decisions, self._decisions.held(decisions.words))
        self._decisions.remember(replace(decisions, marks=after))


def _decisions(subjects: pa.Array, words: Words, decided_at_us: Longs, facts: Longs) -> Identities:
    return Identities(
        subjects, subjects, np.full(len(subjects), _A_DECISION, dtype=np.int8), words, decided_at_us, facts
    )


def _gathered(decisions: Identities, marks: Longs) -> tuple[Longs, Longs]:
    """The facts known before each of some events in their order, and with it, given the marks of what was known."""
    known = np.maximum(marks, 0)  # `NOT_FOUND` is less
    if not len(decisions):
        return known, known
    order = np.argsort(decisions.words[:, 0], kind="stable")
    words = decisions.words[order]
    begins = np.append([True], (words[1:] != words[:-1]).any(axis=1))
    of = begins.cumsum()
    after = (decisions.marks | known)[order]
    # The union over all events of a decision up to each, over twice as many of them at every step.
    step, longest = 1, int(np.bincount(of).max())
    while step < longest:
        after[step:] |= np.where(of[step:] == of[:-step], after[:-step], 0)
        step *= 2
    in_order = np.empty((2, order.size), dtype=np.int64)
    in_order[:, order] = np.where(begins, known[order], np.append([0], after[:-1])), after
    return in_order[0], in_order[1]
