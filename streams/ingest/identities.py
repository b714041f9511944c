"""What makes two events the same one, as numbers.

A decision, its execution and its review count once for each decision id, whatever the ids of their events. An undo or
an impact counts once for each event id within its decision, and so does what is about no action. Two events of one
identity are the same if they count as the same kind in the same cell and epoch; else they contradict each other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from analytics.signals.event_kinds import ONCE, EventKind
from streams.ingest.event_columns import NO_CELL, EventColumns, Longs
from streams.ingest.faults import Fault, make_fault
from streams.ingest.id_store import Words, words_of

if TYPE_CHECKING:
    import numpy.typing as npt

    Places = npt.NDArray[np.intp]
    Texts = tuple[pa.Array, pa.Array]  # subjects and ids
    Moments = tuple[Longs, Longs]  # event times and moments of the decisions, microseconds since 1970 UTC

MARK_BITS: Final = 31
KIND_BITS: Final = 5  # of a mark; the others are of the receipt
KIND_MASK: Final = (1 << KIND_BITS) - 1
SEPARATOR: Final = "\x1f"  # between the names of a cell and epoch: none of them holds a control character
OWN: Final = 0  # among the values of `ONCE`: the event's own id tells it

_THINGS: Final = ("the event {id!r} about", "the decision", "the execution of", "the review of")
_WORD: Final = np.uint64
_SALTS: Final = np.frombuffer(os.urandom(2 * 8 * 8), dtype=np.uint64).reshape(8, 2)  # by the values of `ONCE`
_ODD: Final = _WORD(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Identities:
    """Events as far as repeats are told by it, a position for each."""

    subjects: pa.Array  # decision ids, flag keys or cells
    ids: pa.Array  # event ids
    once: npt.NDArray[np.int8]  # what is counted once for each decision (`ONCE`), or `OWN`
    words: Words  # shape (events, 2): rows are equal where the events have one identity
    dates_us: Longs  # microseconds since 1970 UTC, the same for all of one identity: `decided_at`, or the event's time
    marks: Longs  # kind, cell and epoch: equal where events of one identity are the same

    @classmethod
    def from_columns(
        cls, texts: Texts, words: Words, *, kinds: npt.NDArray[np.int8], moments_us: Moments, cells: Words
    ) -> Identities:
        """The identities of events in cells and epochs (`cell_words`; 0 where an event is in none).

        `words` are those of the subjects (`words_of`), and stay as they are.
        """
        (subjects, ids), once, (time_us, decided_at_us) = texts, ONCE[kinds], moments_us
        words = words.copy()
        own = np.flatnonzero(once == OWN)
        if own.size:
            words[own] = words[own] * _ODD + words_of(ids if own.size == len(ids) else ids.take(pa.array(own)))
        words ^= _SALTS[once]
        # Not of `decided_at`: a transcript that is imported again is dated anew, and is the same.
        of_cell = (cells * _ODD >> _WORD(64 - MARK_BITS + KIND_BITS)).astype(np.int64) << KIND_BITS
        return cls(subjects, ids, once, words, np.where(once == OWN, time_us, decided_at_us), of_cell | kinds)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, places: Places) -> Identities:
        """The events at some places."""
        if places.size == len(self):
            return self
        chosen = pa.array(places)
        texts = self.subjects.take(chosen), self.ids.take(chosen)
        return Identities(*texts, self.once[places], self.words[places], self.dates_us[places], self.marks[places])


def identities_of(events: EventColumns, words: Words) -> Identities:
    """The identities of events, of which `words` are the words of the subjects."""
    named = np.flatnonzero(events.cell_of != NO_CELL)
    cells = np.zeros(len(events), dtype=np.uint64)
    if named.size:
        used, cell_of = np.unique(events.cell_of[named], return_inverse=True)
        names = [SEPARATOR.join(events.cells[number]) for number in used.tolist()]
        cells[named] = cell_words(pa.array(names, pa.string()))[cell_of]
    moments_us = events.time_us, events.decided_at_us
    texts = events.subjects, events.ids
    return Identities.from_columns(texts, words, kinds=events.kinds, moments_us=moments_us, cells=cells)


def cell_words(names: pa.Array) -> Words:
    """A word for each cell and epoch, given by their joined names: the same in the whole process."""
    return np.ascontiguousarray(words_of(names)[:, 0])


def conflict_fault(events: Identities, place: int, before: int) -> Fault:
    """Why an event cannot be accepted after one of its identity, by that one's mark."""
    subject, now = events.subjects[place].as_py(), int(events.marks[place])
    thing = _THINGS[int(events.once[place])].format(id=events.ids[place].as_py())
    kinds = [EventKind(mark & KIND_MASK).name.lower() for mark in (before, now)]
    contradiction = f"as {kinds[0]}, and this says {kinds[1]}" if kinds[0] != kinds[1] else "in another cell or epoch"
    return make_fault("conflicting_event", f"subject: {thing} {subject!r} was accepted before {contradiction}")
