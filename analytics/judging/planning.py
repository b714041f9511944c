"""What one look judges in full and writes down, out of everything that it glanced at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.judging.glance import UNDECLARED
from analytics.signals.state import microseconds
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from analytics.judging.glance import Glimpse
    from analytics.judging.judge_state import Memory
    from analytics.signals.state import Places

MOST_ROWS: Final = 500
"""Rows that one look writes because something is new; the rest follows with the next looks. So a look takes a bounded
time, also the first one, and that after an edit of the gate file. Rollbacks come first."""


@dataclass(frozen=True)
class Plan:
    """The cells that one look judges in full, and those that it leaves to the next.

    Attributes:
        judged: Cells to judge, by place, what matters most first.
        wanted: Those of them whose row is due.
        left: Cells whose row is due and has to wait.
        is_complete: Whether everything that the ledger says still holds once this is written.
        seen: The number of the change_key that the glance saw, by cell.
    """

    judged: Places
    wanted: frozenset[int]
    left: Places
    is_complete: bool
    seen: dict[int, int]

    @classmethod
    def of(cls, memory: Memory, glimpse: Glimpse, gate_sha256: str, now: datetime) -> Plan:
        """Plan a look.

        Args:
            memory: What the judge knows.
            glimpse: What the glance saw of the cells that are due.
            gate_sha256: Digest of the gate file.
            now: The present moment.
        """
        other, elsewhere = memory.pace.due(glimpse, gate_sha256)
        unseen = glimpse.change_keys == UNDECLARED
        words = np.array(
            [memory.change_keys.change_key(number)[0] for number in range(len(memory.change_keys))], dtype=object
        )
        harmful = np.zeros(glimpse.cells.size, dtype=np.bool_)
        harmful[~unseen] = words[glimpse.change_keys[~unseen]] == VerdictName.ROLL_BACK.value
        changed = np.flatnonzero(other & ~unseen)
        changed = changed[np.argsort(~harmful[changed], kind="stable")]
        due = np.concatenate([glimpse.cells[changed], glimpse.cells[elsewhere & ~unseen]])
        renewed = np.setdiff1d(memory.pace.renewals(microseconds(now)), due)
        written = np.concatenate([due[:MOST_ROWS], renewed])
        # What the glance cannot see is judged each time; whether its row is due shows then.
        judged = np.concatenate([written, np.setdiff1d(glimpse.cells[unseen], written)])
        return cls(
            judged,
            frozenset(written.tolist()),
            due[MOST_ROWS:],
            changed.size <= MOST_ROWS,
            dict(zip(glimpse.cells.tolist(), glimpse.change_keys.tolist(), strict=True)),
        )

    def chunks(self, size: int) -> Iterator[Places]:
        """The cells to judge, so many at a time."""
        for first in range(0, self.judged.size, size):
            yield self.judged[first : first + size]
