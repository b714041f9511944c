"""When the ledger gets a row for a cell: what is new at once, what is merely renewed now and then.

A row is due at once where the ledger says something else than what follows now (another verdict, destination or reason
code, another epoch, another gate file) or nothing at all. A crossing is such a change, so what is latched always has
its row. Where only numbers moved the row is renewed, so that a reader sees recent ones: a cell at most every ten
seconds, and all cells together at most once a second on average. That what the ledger says still holds is told by
`looks`, at the price of one row for all cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.signals.cells import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

    from analytics.judging.glance import ChangeKeys, Glimpse
    from analytics.signals.state import Columns, Flags, Integers, Places
    from analytics.verdicts.ledger import Seen
    from analytics.verdicts.verdict import Verdict
    from producers.wire.receipt import Cell

RENEWED_EVERY_US: Final = 10_000_000
"""How long a row stays, microseconds, although the numbers of its cell have moved; at the least."""
RENEWED_BY_US: Final = 86_400_000_000
"""How long it stays although nothing has moved: what it names must not leave the lake before it."""
BETWEEN_RENEWALS_US: Final = 1_000_000
"""Between two renewals of any cells, on average."""

_NOTHING: Final = -1


class Pace:
    """What the ledger last said about every cell, and when.

    Args:
        said: What it said before this judge began.
        columns: Everything counted.
        change_keys: Where change_keys get their numbers.
    """

    def __init__(self, said: Mapping[Cell, Seen], columns: Columns, change_keys: ChangeKeys) -> None:
        self._said = said
        self._columns = columns
        self._outlines = change_keys
        self._ids: list[str | None] = []
        self._outline: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._epoch, self._at_us = (np.empty(0, dtype=np.int64) for _ in range(2))
        self._gate: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._moved: npt.NDArray[np.bool_] = np.empty(0, dtype=np.bool_)
        self._gates: dict[str, int] = {}
        self._renewed_us: int | None = None

    def grow(self) -> None:
        """Make room for cells that are new to the columns."""
        new = self._columns.cells[len(self._ids) :]
        if not new:
            return
        seen = [self._said.get(cell) for cell in new]
        keys = [(*cell, "" if each is None else each.epoch) for cell, each in zip(new, seen, strict=True)]
        epochs = self._columns.places_of(pl.DataFrame(keys, schema=dict.fromkeys(EPOCH, pl.String), orient="row"))
        self._ids += [None if each is None else each.verdict_id for each in seen]
        self._outline = np.append(
            self._outline,
            np.array(
                [_NOTHING if each is None else self._outlines.number(each.change_key) for each in seen], dtype=np.int32
            ),
        )
        self._epoch = np.append(self._epoch, epochs)
        self._at_us = np.append(self._at_us, np.array([0 if each is None else each.at_us for each in seen], np.int64))
        gates = [_NOTHING if each is None else self._gate_number(each.gate_sha256) for each in seen]
        self._gate = np.append(self._gate, np.array(gates, dtype=np.int32))
        self._moved = np.append(self._moved, np.zeros(len(new), dtype=np.bool_))

    def move(self, cells: Places) -> None:
        """Note that the numbers of cells have moved."""
        self._moved[cells] = True

    def due(self, glimpse: Glimpse, gate_sha256: str) -> tuple[Flags, Flags]:
        """Which cells of a glimpse need a row at once.

        Returns:
            Where the ledger says something that no longer holds; and where it says it under another gate file only.
        """
        cells = glimpse.cells
        other = (self._outline[cells] != glimpse.change_keys) | (self._epoch[cells] != glimpse.epochs)
        return other, ~other & (self._gate[cells] != self._gate_number(gate_sha256))

    def renewals(self, now_us: int) -> Places:
        """Cells whose row should be renewed now, oldest first."""
        passed_us = 0 if self._renewed_us is None else now_us - self._renewed_us
        most = passed_us // BETWEEN_RENEWALS_US
        if self._renewed_us is None or most:
            self._renewed_us = now_us
        age_us: Integers = now_us - self._at_us
        wanted = (self._moved & (age_us >= RENEWED_EVERY_US)) | (age_us >= RENEWED_BY_US)
        (cells,) = np.nonzero(wanted & (self._outline != _NOTHING))
        return cells[np.argsort(self._at_us[cells], kind="stable")][:most]

    def is_new(self, verdict: Verdict, place: int) -> bool:
        """Whether the ledger does not hold a verdict yet."""
        return self._ids[place] != verdict.verdict_id

    def is_news(self, verdict: Verdict, place: int) -> bool:
        """Whether a verdict says something else than the ledger."""
        return bool(self._outline[place] != self._outlines.number(verdict.change_key))

    def differs(self, verdict: Verdict, place: int, epoch: int) -> bool:
        """Whether a row is due for a verdict at once."""
        gate = self._gate[place] != self._gate_number(verdict.gate_sha256)
        return self.is_news(verdict, place) or bool(gate or self._epoch[place] != epoch)

    def wrote(self, verdicts: Iterable[tuple[Verdict, int, int]], now_us: int) -> None:
        """Note what the ledger says now: verdicts with the places of their cells and epochs."""
        for verdict, place, epoch in verdicts:
            self._ids[place] = verdict.verdict_id
            self._outline[place] = self._outlines.number(verdict.change_key)
            self._epoch[place], self._at_us[place] = epoch, now_us
            self._gate[place], self._moved[place] = self._gate_number(verdict.gate_sha256), False

    def _gate_number(self, sha256: str) -> int:
        return self._gates.setdefault(sha256, len(self._gates))
