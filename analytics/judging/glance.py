"""What thousands of cells come to, in columns: the word, where it leads and the reason codes, and nothing else.

A verdict holds every number and a sentence for each reason. Most looks find what the look before found, so building all
of that for every cell at every look is wasted. A glance answers the only question that all cells have to be asked: is
what follows still the same? It takes the steps of `deciding.decide` in their order, over arrays of cells. Whatever is
written down is reached by `judging.judge`, from the same counts; the two must agree, and the judge says so where they
do not. tests/property/test_glance_laws.py holds them equal on cells and gates of all kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.gates.gate_file import GateTieError
from analytics.judging.groups import NOWHERE, WORDS, Group, Told
from analytics.signals.definitions import COUNTERS, impossible
from producers.wire.contract import RiskClass
from producers.wire.events import VerdictName
from producers.wire.stage import LADDER

if TYPE_CHECKING:
    import numpy.typing as npt

    from analytics.gates.gate_file import GateFile
    from analytics.judging.groups import Decided, Standing
    from analytics.judging.user_evidence import Crowd
    from analytics.judging.window_sums import Tracked
    from analytics.signals.state import Columns, Integers, Places
    from analytics.verdicts.ledger import ChangeKey

_NO_GATE: Final = -1
_AMBIGUOUS: Final = -2
UNDECLARED: Final = -1
"""In place of an change_key: only the judge itself can say."""


@dataclass(frozen=True)
class Glimpse:
    """What a glance found, one place a cell.

    Attributes:
        cells: The cells, by place.
        epochs: The current epoch of each.
        change_keys: The number of each one's change_key; `UNDECLARED` where only `judging.judge` can say.
    """

    cells: Places
    epochs: Places
    change_keys: npt.NDArray[np.int32]


class Glance:
    """Glances at cells under one gate file.

    Args:
        columns: Everything counted.
        gates: The gate file.
    """

    def __init__(self, columns: Columns, gates: GateFile) -> None:
        self._columns = columns
        self._gates = gates
        self._gate_of = np.empty(0, dtype=np.int32)
        self._known: dict[tuple[str, str, str, int], int] = {}
        self.match(np.arange(columns.epochs))

    def match(self, epochs: Places) -> None:
        """Find the gates of epochs that are new, or whose risk class is another one now."""
        more = self._columns.epochs - self._gate_of.size
        if more:
            self._gate_of = np.concatenate([self._gate_of, np.full(more, _NO_GATE, dtype=np.int32)])
        for epoch in epochs:
            cell = self._columns.cells[self._columns.cell_of[epoch]]
            asked = (cell.environment, cell.workflow, cell.tool, int(self._columns.risk[epoch]))
            if asked not in self._known:
                self._known[asked] = self._gate(*asked)
            self._gate_of[epoch] = self._known[asked]

    def look(
        self,
        epochs: Places,
        change_keys: ChangeKeys,
        *,
        tracked: Tracked,
        standing: Standing,
        crowd: Crowd | None,
    ) -> Glimpse:
        """Say what follows for some cells.

        Args:
            epochs: The current epochs of the cells.
            change_keys: Where change_keys get their numbers.
            tracked: The sums over minutes and bins, at the watermark of the look.
            standing: What had crossed before.
            crowd: Closed user-windows; None where nothing is counted by user.
        """
        found = np.full(epochs.size, UNDECLARED, dtype=np.int32)
        missing = tracked.missing()
        told = Told(self._columns, tracked, missing, standing, crowd, self._gates)
        gates = self._gate_of[epochs]
        for number, code in ((_NO_GATE, "no_gate"), (_AMBIGUOUS, "ambiguous_gate")):
            found[gates == number] = change_keys.number((VerdictName.INVALID.value, None, (f"{code}:",)))
        counts = {name: self._columns.counts[row, epochs] for row, name in enumerate(COUNTERS)}
        wrong = (gates >= 0) & impossible(counts)
        found[wrong] = change_keys.number((VerdictName.INVALID.value, None, ("contradictory_counts:",)))
        stages = self._stages(epochs)
        for gate, stage in sorted(set(zip(gates.tolist(), stages.tolist(), strict=True))):
            if gate < 0 or stage == NOWHERE:
                continue  # a stage that this version does not know is left to the reading in full
            (members,) = np.nonzero((gates == gate) & (stages == stage) & ~wrong)
            group = Group(self._gates.gates[gate], LADDER[stage].value, epochs[members], told)
            if members.size and group.is_plain:
                found[members] = change_keys.numbers(group.decide())
        return Glimpse(self._columns.cell_of[epochs], epochs, found)

    def _stages(self, epochs: Places) -> Integers:
        cells = self._columns.cells
        rank = {stage.value: place for place, stage in enumerate(LADDER)}
        known = self._columns.cell_of[epochs]
        return np.array([rank.get(cells[cell].stage, NOWHERE) for cell in known], dtype=np.int64)

    def _gate(self, environment: str, workflow: str, tool: str, risk_rank: int) -> int:
        risk_class = None if risk_rank < 0 else list(RiskClass)[risk_rank].value
        try:
            gate = self._gates.gate_for(environment, workflow, tool, risk_class)
        except GateTieError:
            return _AMBIGUOUS
        return _NO_GATE if gate is None else self._gates.gates.index(gate)


class ChangeKeys:
    """Numbers for change_keys, so that thousands of them are compared at once. Few different ones ever occur."""

    def __init__(self) -> None:
        self._numbers: dict[ChangeKey, int] = {}
        self._told: list[ChangeKey] = []

    def __len__(self) -> int:
        return len(self._told)

    def number(self, change_key: ChangeKey) -> int:
        """The number of an change_key."""
        number = self._numbers.setdefault(change_key, len(self._told))
        if number == len(self._told):
            self._told.append(change_key)
        return number

    def change_key(self, number: int) -> ChangeKey:
        """The change_key of a number."""
        return self._told[number]

    def numbers(self, decided: Decided) -> npt.NDArray[np.int32]:
        """The number of what was decided, for each cell."""
        rows = np.ascontiguousarray(
            np.column_stack([decided.words.view(np.uint8), decided.stages.view(np.uint8), decided.marks])
        )
        _, first, place = np.unique(
            rows.view(np.dtype((np.void, rows.shape[1]))).ravel(), return_index=True, return_inverse=True
        )
        numbers = [self.number(_outline(decided, row)) for row in first]
        return np.array(numbers, dtype=np.int32)[place]


def _outline(decided: Decided, row: int) -> ChangeKey:
    stage = int(decided.stages[row])
    codes = (label for label, times in zip(decided.labels, decided.marks[row], strict=True) for _ in range(times))
    return (
        WORDS[decided.words[row]].value,
        None if stage == NOWHERE else LADDER[stage].value,
        tuple(sorted(codes)),
    )
