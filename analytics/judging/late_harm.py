"""Harm of epochs that were over before it was known: against whom it counts.

Where outcomes take longer than an epoch lives, every epoch is over before its evidence says anything. An epoch that
began before the harm of an earlier one was known is no answer to it, and so is rolled back by it; one that began
afterwards starts afresh. The earlier epoch spends its own error level, so nothing is added to it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.signals.state import microseconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from analytics.gates.gate_file import Gate, GateFile
    from analytics.gates.gate_signal import GateSignal
    from analytics.judging.latches import LatchRows
    from analytics.judging.weights import SignalWeights
    from analytics.signals.state import CellState, EpochRows, Flags
    from analytics.verdicts.verdict import Regrade

_SLACK_S: Final = 86_400.0
"""How long after it could be known harm may be found: user-windows have to close, and a judge may have been down."""
_ACTING: Final = frozenset({"guardrail", "trip"})
_BY_CONSEQUENCE: Final = frozenset({"consequence", "evaluation", "everything", "review"})


def counting(
    state: CellState, epoch: int, gate: Gate, regrades: Sequence[Regrade], deadline_s: float
) -> tuple[Regrade, ...]:
    """The regrades of earlier epochs of its cell that count against an epoch, of those that stand.

    They were reached after the epoch had begun, and before it was so old that its own outcomes were known as well;
    where nothing says when those are known, at whatever age.
    """
    began_us = int(state.first_us[epoch])
    return tuple(
        made
        for made in regrades
        if 0 <= microseconds(made.known_at) - began_us <= _known_within_s(gate, made, deadline_s) * 1e6
    )


def against(
    state: CellState,
    epochs: EpochRows,
    gate: Gate,
    signals: Sequence[SignalWeights],
    latches: LatchRows,
    *,
    deadline_s: float,
) -> dict[int, tuple[Regrade, ...]]:
    """What came of earlier epochs and rolls some epochs back, by their place.

    An epoch that is shown safe by its own outcomes in all that showed harm is left alone, unless it was rolled back
    before it was shown. A trip shows nothing safe.
    """
    standing, found = latches.regrades, {}
    concerned = np.flatnonzero(np.isin(state.cell_of[epochs], list(standing))).tolist() if standing else []
    for place in concerned:
        epoch = int(epochs[place])
        made = counting(state, epoch, gate, standing[int(state.cell_of[epoch])], deadline_s)
        if not latches.by_earlier[epoch]:
            made = tuple(one for one in made if not _is_shown_safe(one, signals, place))
        if made:
            found[place] = made
    return found


def _is_shown_safe(made: Regrade, signals: Sequence[SignalWeights], place: int) -> bool:
    acting = [one for one in signals if one.part.role in _ACTING and one.decides]
    named = [one for one in acting if not made.signals or one.part.signal in made.signals]
    return bool(named) and all(one.part.role != "trip" and bool(one.passing[place]) for one in named)


def maturing(state: CellState, gates: GateFile, watermark: datetime) -> Flags:
    """The epochs of which time alone may have shown harm within the last day."""
    age_s = gates.harm_matures_s
    return np.asarray((age_s > 0) & (state.last_us >= microseconds(watermark) - (age_s + _SLACK_S) * 1e6))


def _known_within_s(gate: Gate, made: Regrade, deadline_s: float) -> float:
    """How old an epoch is, in seconds, once its own outcomes tell; infinite where nothing says."""
    named = [part for part in gate.signals if part.role in _ACTING]
    parts = [part for part in named if not made.signals or part.signal in made.signals]
    return max((_takes_s(part, deadline_s) for part in parts), default=math.inf) + _SLACK_S


def _takes_s(part: GateSignal, deadline_s: float) -> float:
    if part.maturity is not None:
        return max(part.maturity, deadline_s)
    return math.inf if part.role == "trip" or part.awaits in _BY_CONSEQUENCE else deadline_s
