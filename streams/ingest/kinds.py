"""The kinds of countable events: which counters one event of each kind moves."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np

from analytics.signals.definitions import COUNTERS


class Kind(IntEnum):
    """What an event counts as. The number is its row in `INCREMENTS`.

    UNENFORCED stands for a decision after which nothing runs: the stage only observes, or a constraint has no variant.
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


COUNTERS_OF_KIND: Final[dict[Kind, tuple[str, ...]]] = {
    Kind.UNCOUNTED: (),
    Kind.ALLOWED: ("decisions", "allowed", "expected"),
    Kind.ALLOWED_UNENFORCED: ("decisions", "allowed"),
    Kind.CONSTRAINED: ("decisions", "constrained", "expected"),
    Kind.CONSTRAINED_UNENFORCED: ("decisions", "constrained"),
    Kind.QUEUED: ("decisions", "queued"),
    Kind.DENIED: ("decisions", "denied"),
    Kind.FELL_BACK: ("decisions", "fell_back"),
    Kind.SUCCEEDED: ("executed",),
    Kind.FAILED: ("executed", "failed"),
    Kind.TIMED_OUT: ("executed", "timed_out"),
    Kind.UNDONE: ("undone",),
    Kind.UNDO_FAILED: ("undo_failed",),
    Kind.NOT_UNDOABLE: ("not_undoable",),
    Kind.INCIDENT: ("incidents",),
    Kind.SEVERE_INCIDENT: ("incidents", "severe_incidents"),
    Kind.SUPPORT: ("support",),
    Kind.QUALITY_PASSED: ("quality_checks",),
    Kind.QUALITY_FAILED: ("quality_checks", "quality_failures"),
    Kind.REVIEW_APPROVED: ("reviews_approved", "expected"),
    Kind.REVIEW_REJECTED: ("reviews_rejected",),
}
"""The counters that one event of a kind adds 1 to."""

INCREMENTS: Final = np.array(
    [[int(name in COUNTERS_OF_KIND[kind]) for name in COUNTERS] for kind in Kind], dtype=np.int64
)
"""The same as a matrix, kinds x counters: the events of each kind times this are the counters."""
INCREMENTS.setflags(write=False)
