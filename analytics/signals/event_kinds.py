"""What an event counts as: the one table of event kinds and the counters that an event of each kind moves.

The decoder (`streams.ingest`) writes every event's kind to the column `kind` of the table `events`. All that counts
events reads that column; nothing parses the event's bytes again.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np

from analytics.signals.definitions import COUNTED_ONCE, COUNTERS


class EventKind(IntEnum):
    """What an event counts as. The number is its row in `INCREMENTS`, and stored in the lake: none changes its meaning.

    UNENFORCED stands for a decision after which nothing has to run: the stage only observes, a constraint has no
    variant, or a router only watches. What it then sees run is OBSERVED: expected once it is here, by no decision.
    """

    UNCOUNTED = 0
    ALLOWED = 1
    ALLOWED_UNENFORCED = 2
    CONSTRAINED = 3
    CONSTRAINED_UNENFORCED = 4
    QUEUED = 5
    DENIED = 6
    FELL_BACK = 7
    SUCCEEDED = 8
    FAILED = 9
    TIMED_OUT = 10
    UNDONE = 11
    UNDO_FAILED = 12
    NOT_UNDOABLE = 13
    INCIDENT = 14
    SEVERE_INCIDENT = 15
    SUPPORT = 16
    QUALITY_PASSED = 17
    QUALITY_FAILED = 18
    REVIEW_APPROVED = 19
    REVIEW_REJECTED = 20
    CANCELLED = 21
    REFUSED = 22
    OBSERVED_SUCCEEDED = 23
    OBSERVED_FAILED = 24
    OBSERVED_TIMED_OUT = 25


COUNTERS_OF_KIND: Final[dict[EventKind, tuple[str, ...]]] = {
    EventKind.UNCOUNTED: (),
    EventKind.ALLOWED: ("decisions", "allowed", "expected"),
    EventKind.ALLOWED_UNENFORCED: ("decisions", "allowed"),
    EventKind.CONSTRAINED: ("decisions", "constrained", "expected"),
    EventKind.CONSTRAINED_UNENFORCED: ("decisions", "constrained"),
    EventKind.QUEUED: ("decisions", "queued"),
    EventKind.DENIED: ("decisions", "denied"),
    EventKind.FELL_BACK: ("decisions", "fell_back"),
    EventKind.SUCCEEDED: ("executed",),
    EventKind.FAILED: ("executed", "failed"),
    EventKind.TIMED_OUT: ("executed", "timed_out"),
    EventKind.UNDONE: ("undone",),
    EventKind.UNDO_FAILED: ("undo_failed",),
    EventKind.NOT_UNDOABLE: ("not_undoable",),
    EventKind.INCIDENT: ("incidents",),
    EventKind.SEVERE_INCIDENT: ("incidents", "severe_incidents"),
    EventKind.SUPPORT: ("support",),
    EventKind.QUALITY_PASSED: ("quality_checks",),
    EventKind.QUALITY_FAILED: ("quality_checks", "quality_failures"),
    EventKind.REVIEW_APPROVED: ("reviews_approved", "expected"),
    EventKind.REVIEW_REJECTED: ("reviews_rejected",),
    EventKind.CANCELLED: (),
    EventKind.REFUSED: (),
    EventKind.OBSERVED_SUCCEEDED: ("executed", "expected"),
    EventKind.OBSERVED_FAILED: ("executed", "failed", "expected"),
    EventKind.OBSERVED_TIMED_OUT: ("executed", "timed_out", "expected"),
}
"""The counters that one event of a kind adds 1 to, or of `COUNTED_ONCE`: that it tells of."""

NO_LONGER_EXPECTED: Final = (EventKind.CANCELLED, EventKind.REFUSED)
"""Kinds of events that take 1 from `expected`: what was called off, or never begun, is no execution, good or bad."""


def change_of(kind: EventKind, counter: str) -> int:
    """What one event of a kind adds to a counter: 1, 0, or -1 where nothing is expected any more."""
    return int(counter in COUNTERS_OF_KIND[kind]) - int(counter == "expected" and kind in NO_LONGER_EXPECTED)


INCREMENTS: Final = np.array(
    [[0 if name in COUNTED_ONCE else change_of(kind, name) for name in COUNTERS] for kind in EventKind], dtype=np.int64
)
"""The same as a matrix, kinds x counters: the events of each kind times this are the counters but `COUNTED_ONCE`."""
INCREMENTS.setflags(write=False)

_DECISIONS: Final = [kind for kind, counters in COUNTERS_OF_KIND.items() if "decisions" in counters]
_EXECUTIONS: Final = [
    *(kind for kind, counters in COUNTERS_OF_KIND.items() if "executed" in counters),
    *NO_LONGER_EXPECTED,
]
_REVIEWS: Final = (EventKind.REVIEW_APPROVED, EventKind.REVIEW_REJECTED)

ONCE: Final = np.zeros(len(EventKind), dtype=np.int8)
"""By kind: which of the things that happen once to a decision it is; 0 where each event counts by its own id."""
for _number, _kinds in enumerate((_DECISIONS, _EXECUTIONS, _REVIEWS), 1):
    ONCE[list(_kinds)] = _number
ONCE.setflags(write=False)


def kinds_moving(counter: str, by: int = 1) -> list[int]:
    """The kinds of events that add so much to a counter, or tell of it."""
    return [int(kind) for kind in EventKind if change_of(kind, counter) == by]
