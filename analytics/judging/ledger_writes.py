"""When the ledger gets a row for a cell: what is new at once, what is merely renewed now and then.

A row is due at once where the ledger says something else than what follows now (another verdict, destination or reason
code, another epoch, another gate file) or nothing at all. A crossing is such a change, so what is latched always has
its row. Where only numbers moved the row is renewed: a cell at most every ten seconds, and all cells together at most
once a second on average. That what the ledger says still holds is told by the judge's heartbeats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.signals.cells import epoch_frame
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy.typing as npt

    from analytics.judging.engine import ChangeKeys, Evaluation
    from analytics.signals.state import CellRows, CellState, Integers
    from analytics.verdicts.ledger import Outline
    from analytics.verdicts.verdict import Verdict
    from producers.wire.receipt import Cell

MOST_ROWS: Final = 500
"""Rows that one look writes because something is new; the rest follows with the next looks. So a look takes a bounded
time, also the first one, and that after an edit of the gate file. Rollbacks come first."""
RENEWED_EVERY_US: Final = 10_000_000
"""How long a row stays, microseconds, although the numbers of its cell have moved; at the least."""
RENEWED_BY_US: Final = 86_400_000_000
"""How long it stays although nothing has moved: what it names must not leave the lake before it."""
BETWEEN_RENEWALS_US: Final = 1_000_000  # between two renewals of any cells, on average

_NOTHING: Final = -1


@dataclass(frozen=True)
class WritePlan:
    """The rows that one look writes, and those that it leaves to the next."""

    places: npt.NDArray[np.intp]  # places of the evaluation to write, what matters most first
    left: CellRows  # cells whose row is due and has to wait
    is_complete: bool  # whether everything that the ledger says still holds once this is written

    def portions(self, size: int) -> Iterator[npt.NDArray[np.intp]]:
        """The places to write, so many at a time."""
        for first in range(0, self.places.size, size):
            yield self.places[first : first + size]


class WritePolicy:
    """What the ledger last said about every cell, and when; and so what has to be written now.

    With `writes_all` a look writes whatever is new and renews nothing, as a backtest does.
    """

    def __init__(
        self, last: Mapping[Cell, Outline], state: CellState, change_keys: ChangeKeys, *, writes_all: bool = False
    ) -> None:
        self._last = last
        self._state = state
        self._change_keys = change_keys
        self._writes_all = writes_all
        self._ids: list[str | None] = []
        self._change_key: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._epoch, self._at_us = (np.empty(0, dtype=np.int64) for _ in range(2))
        self._gate: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._moved: npt.NDArray[np.bool_] = np.empty(0, dtype=np.bool_)
        self._gates: dict[str, int] = {}
        self._renewed_us: int | None = None

    def grow(self) -> None:
        """Make room for cells that are new to the state."""
        new = self._state.cells[len(self._ids) :]
        if not new:
            return
        seen = [self._last.get(cell) for cell in new]
        keys = [(*cell, "" if last is None else last.epoch) for cell, last in zip(new, seen, strict=True)]
        numbers = [_NOTHING if last is None else self._change_keys.number(last.change_key) for last in seen]
        gates = [_NOTHING if last is None else self._gate_number(last.gate_sha256) for last in seen]
        self._ids += [None if last is None else last.verdict_id for last in seen]
        self._change_key = np.append(self._change_key, np.array(numbers, dtype=np.int32))
        self._epoch = np.append(self._epoch, self._state.rows_of(epoch_frame(keys)))
        self._at_us = np.append(self._at_us, np.array([0 if last is None else last.at_us for last in seen], np.int64))
        self._gate = np.append(self._gate, np.array(gates, dtype=np.int32))
        self._moved = np.append(self._moved, np.zeros(len(new), dtype=np.bool_))

    def move(self, cells: CellRows) -> None:
        """Note that the numbers of cells have moved."""
        self._moved[cells] = True

    def renewals(self, now_us: int) -> CellRows:
        """Cells whose row should be renewed now, oldest first."""
        if self._writes_all:
            return np.empty(0, dtype=np.intp)
        passed_us = 0 if self._renewed_us is None else now_us - self._renewed_us
        most = passed_us // BETWEEN_RENEWALS_US
        if self._renewed_us is None or most:
            self._renewed_us = now_us
        age_us: Integers = now_us - self._at_us
        old = (self._moved & (age_us >= RENEWED_EVERY_US)) | (age_us >= RENEWED_BY_US)
        (cells,) = np.nonzero(old & (self._change_key != _NOTHING))
        return cells[np.argsort(self._at_us[cells], kind="stable")][:most]

    def plan(self, evaluation: Evaluation, renewals: CellRows, gate_sha256: str) -> WritePlan:
        """What a look has to write, of what follows for the cells that are due and for those that are to be renewed."""
        cells, keys = evaluation.cells, evaluation.change_keys
        changed = (self._change_key[cells] != keys) | (self._epoch[cells] != evaluation.epochs)
        other_gate = ~changed & (self._gate[cells] != self._gate_number(gate_sha256))
        back = [self._change_keys.key(number)[0] == VerdictName.ROLL_BACK for number in range(len(self._change_keys))]
        first = np.flatnonzero(changed)
        harmful = np.array(back, dtype=np.bool_)[keys[first]]
        first = first[np.argsort(~harmful, kind="stable")]
        due = np.concatenate([first, np.flatnonzero(other_gate)])
        most = due.size if self._writes_all else MOST_ROWS
        renewed = np.setdiff1d(np.flatnonzero(np.isin(cells, renewals)), due)
        return WritePlan(np.concatenate([due[:most], renewed]), cells[due[most:]], is_complete=first.size <= most)

    def is_new(self, verdict: Verdict, cell: int) -> bool:
        """Whether the ledger does not hold a verdict yet."""
        return self._ids[cell] != verdict.verdict_id

    def is_news(self, cell: int, change_key: int) -> bool:
        """Whether the ledger says something else of a cell."""
        return bool(self._change_key[cell] != change_key)

    def wrote(self, rows: Iterable[tuple[Verdict, int, int, int]], now_us: int) -> None:
        """Note what the ledger says now: verdicts with the rows of their cells and epochs, and their change keys."""
        for verdict, cell, epoch, change_key in rows:
            self._ids[cell] = verdict.verdict_id
            self._change_key[cell] = change_key
            self._epoch[cell], self._at_us[cell] = epoch, now_us
            self._gate[cell], self._moved[cell] = self._gate_number(verdict.gate_sha256), False

    def _gate_number(self, sha256: str) -> int:
        return self._gates.setdefault(sha256, len(self._gates))
