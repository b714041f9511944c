"""Which epoch a cell's verdict is of, where several are alive: the worst of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.judging.verdict_rules import VERDICTS, Mark
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from analytics.evidence.sequential import FloatArray
    from analytics.judging.verdict_builder import Group
    from analytics.signals.state import CellRows

    Places = npt.NDArray[np.intp]

SHARE_THAT_MATTERS: Final = 0.01
"""An epoch that makes a smaller share of a cell's decisions holds no promotion up; its harm counts all the same."""

_GOOD, _OPEN, _HARM = 0, 1, 2
# What cannot be judged holds a promotion up like what is not shown yet.
_SEVERITY: Final = {VerdictName.PROMOTE: _GOOD, VerdictName.ROLL_BACK: _HARM}
_SEVERITIES: Final = np.array([_SEVERITY.get(verdict, _OPEN) for verdict in VERDICTS])


def speaking(groups: Sequence[Group], cells: CellRows, shares: FloatArray) -> Places:
    """The place of the epoch that speaks for each cell, among all that were decided; it is told by a reason of its own.

    The last ones, as many as there are `shares`, are alive beside the current epochs of their cells, which are the
    others. The current one speaks unless another is worse, and of others that are equally bad the one that began last:
    an older one's harm may have been acted upon. Of two that are alike, because nothing but dry runs is asked
    of them, it is the one that would be worse.
    """
    asked = cells.size - shares.size
    spoken = np.arange(asked)
    if not shares.size:
        return spoken
    severity = np.zeros((2, cells.size), dtype=np.int64)
    for group in groups:
        would = None if group.decision is None else group.decision.would
        for row, decisions in enumerate((group.decisions, would or group.decisions)):
            severity[row, group.places] = _SEVERITIES[decisions.verdicts]
    holds = np.append(np.ones(asked, dtype=np.bool_), shares >= SHARE_THAT_MATTERS)
    severity[~holds & (severity != _HARM)] = _GOOD
    place_of = np.empty(cells.max() + 1, dtype=np.intp)
    place_of[cells[:asked]] = spoken
    for place in range(asked, cells.size):
        cell = place_of[cells[place]]
        severe, most = tuple(severity[:, place]), tuple(severity[:, spoken[cell]])
        if severe > most or (severe == most and spoken[cell] >= asked):
            spoken[cell] = place
    speaks_beside = np.zeros(cells.size, dtype=np.bool_)
    speaks_beside[spoken[spoken >= asked]] = True
    for group in groups:
        group.decisions.add(Mark("epoch_beside"), speaks_beside[group.places])
    return spoken
