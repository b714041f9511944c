"""How far the plane has come: what the source waits for, and what the status line says."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.data.fold import Tally


@dataclass(frozen=True)
class Totals:
    """Sums since the worker started.

    Attributes:
        read: Records read, repeats and rejects included.
        stored: Events committed to the lake.
        repeats: Repeats dropped.
        rejects: Records rejected.
        batches: Batches committed.
        commit_s: Time spent on commits, in seconds.
        lag: Records in the log that are not yet read; None until the first look.
    """

    read: int = 0
    stored: int = 0
    repeats: int = 0
    rejects: int = 0
    batches: int = 0
    commit_s: float = 0.0
    lag: int | None = None


@dataclass
class Progress:
    """Shared between the source's thread, the agent and the status line."""

    _changed: threading.Condition = field(default_factory=threading.Condition)
    _committed: int = 0
    _totals: Totals = field(default_factory=Totals)

    @property
    def totals(self) -> Totals:
        """The sums at this moment."""
        with self._changed:
            return self._totals

    @property
    def reached(self) -> int:
        """The last item of the source that is dealt with, and all before it."""
        with self._changed:
            return self._committed

    def reach(self, number: int) -> None:
        """Item `number` of the source, and all before it, are dealt with."""
        with self._changed:
            self._committed = number
            self._changed.notify_all()

    def count(self, tally: Tally, commit_s: float) -> None:
        """Add a committed batch."""
        with self._changed:
            known = self._totals
            self._totals = replace(
                known,
                read=known.read + tally.accepted + tally.repeats + tally.rejected + tally.known_rejects,
                stored=known.stored + tally.accepted,
                repeats=known.repeats + tally.repeats,
                rejects=known.rejects + tally.rejected,
                batches=known.batches + 1,
                commit_s=known.commit_s + commit_s,
            )

    def lag_is(self, lag: int) -> None:
        """Note how many records are not yet read."""
        with self._changed:
            self._totals = replace(self._totals, lag=lag)

    def wait_for(self, number: int, timeout_s: float, given_up: Callable[[], bool]) -> bool:
        """Wait until item `number` is dealt with.

        Returns:
            False when `timeout_s` passed, or `given_up` said so, before.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._committed < number:
                left = deadline - time.monotonic()
                if left <= 0 or given_up():
                    return False
                self._changed.wait(min(left, 0.5))
            return True

    def wake(self) -> None:
        """Let those who wait look again at whether they should give up."""
        with self._changed:
            self._changed.notify_all()
