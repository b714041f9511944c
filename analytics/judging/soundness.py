"""Whether what was counted about epochs can be: invariants between counts, always on.

Of an epoch, decisions are at least the executions expected of them, these the executions, and these the undos. A count
that is too large against another shows no harm and nothing safe; what stands on other counts still shows harm, so that
one bad event cannot stop a rollback. An execution that nobody permitted is counted by no rollback: whatever it says,
it is taken out as one that failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from analytics.signals.definitions import SIGNALS, RateSignal, wrong_counts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from analytics.gates.gate_signal import GateSignal
    from analytics.signals.state import EpochRows, Flags, Integers


@dataclass
class Soundness:
    """The invariants, over the counts of every epoch, those of mature minutes among them."""

    counts: Mapping[str, Integers]

    @cached_property
    def contradictory(self) -> Flags:
        """The epochs of which some counts do not add up, or something ran that nobody had permitted."""
        contradictory = self.counts["unpermitted"] > 0
        for _, where in self._wrong:
            contradictory = contradictory | where
        return contradictory

    @cached_property
    def _wrong(self) -> list[tuple[tuple[str, ...], Flags]]:
        return [(names, where) for names, where in wrong_counts(self.counts) if where.any()]

    def tainted(self, part: GateSignal, epochs: EpochRows) -> Flags | None:
        """Where a signal counts what cannot be; None nowhere."""
        tainted = None
        for names, where in self._wrong:
            if _counted(part).intersection(names):
                tainted = where[epochs] if tainted is None else tainted | where[epochs]
        return tainted

    def unpermitted_of(self, part: GateSignal, epochs: EpochRows) -> Integers:
        """Executions among a signal's trials that nobody had permitted."""
        is_of_executions = part.awaits == "execution" or "executed" in _counted(part)
        return np.asarray(self.counts["unpermitted"][epochs] * is_of_executions)


def _counted(part: GateSignal) -> set[str]:
    signal = SIGNALS[part.signal]
    return {*signal.failures, *signal.trials} if isinstance(signal, RateSignal) else set()
