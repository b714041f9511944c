"""What came of a decision: facts that events about it tell, and what it counts by all that is known of it.

An undo may be tried again, an incident reported by many, an action evaluated by several. A decision counts once for
each thing all the same: its facts are a set, and what it adds to the counters is a function of that set, so no order,
repeat or split of its events makes a difference.

- An execution that was called off, or refused, never happened. What is undone of it, and what is said to have come of
  it, is no outcome of an execution, and counts nowhere; only an incident of severity 1 is believed before it.
- Of several undos the worst counts: that one failed stays true when a later one works.
- Evaluations are counted by the decisions that they are about: one has failed where any evaluation of it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from analytics.signals.definitions import BAD, COUNTED_ONCE, TAKEN_BACK
from analytics.signals.event_kinds import NO_LONGER_EXPECTED, EventKind, kinds_moving

if TYPE_CHECKING:
    from collections.abc import Mapping

Truth = TypeVar("Truth", npt.NDArray[np.bool_], pl.Expr)

FACTS: Final[dict[str, list[int]]] = {
    **{name: kinds_moving(name) for name in dict.fromkeys((*BAD, *COUNTED_ONCE)) if kinds_moving(name)},
    "called_off": [int(kind) for kind in NO_LONGER_EXPECTED],
}
"""The kinds of events that tell each fact."""


def counted_once(facts: Mapping[str, Truth]) -> dict[str, Truth]:
    """Which of `COUNTED_ONCE` decisions of which such facts are known add 1 to."""
    ran = ~facts["called_off"]
    undone, undo_failed, not_undoable = (ran & facts[name] for name in TAKEN_BACK)
    incident, severe = ran & facts["incidents"], facts["severe_incidents"]
    return {
        "undone": undone & ~undo_failed & ~not_undoable,
        "undo_failed": undo_failed & ~not_undoable,
        "not_undoable": not_undoable,
        "incidents": incident | severe,
        "severe_incidents": severe,
        "support": ran & facts["support"],
        "quality_checks": facts["quality_checks"],
        "quality_failures": facts["quality_failures"],
        "bad_outcomes": facts["failed"] | facts["timed_out"] | undone | undo_failed | not_undoable | incident,
    }


FACT_BITS: Final = len(FACTS)  # of a set of facts

FACTS_OF_KIND: Final = np.zeros(len(EventKind), dtype=np.int64)
"""By kind of event: the set of facts that it tells."""
for _bit, _kinds in enumerate(FACTS.values()):
    FACTS_OF_KIND[_kinds] |= 1 << _bit
FACTS_OF_KIND.setflags(write=False)

TELLING: Final = np.flatnonzero(FACTS_OF_KIND).tolist()  # the kinds of events that tell any

_SETS: Final = np.arange(1 << FACT_BITS)
COUNTS_OF_FACTS: Final = np.column_stack(
    [
        counted_once({name: (_SETS >> bit & 1).astype(np.bool_) for bit, name in enumerate(FACTS)})[name]
        for name in COUNTED_ONCE
    ]
).astype(np.int64)
"""What each set of facts counts. Shape (sets, `COUNTED_ONCE`)."""
COUNTS_OF_FACTS.setflags(write=False)
