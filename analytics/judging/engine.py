"""The verdict engine: what follows for any number of cells, in columns, and in full for those that are written or read.

Deciding happens once, over arrays of cells, and gives every cell a change key (verdict, destination and reason codes).
Whole verdicts, with values, bounds and sentences, are made from the same arrays and the same reasons.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.gates.gate_file import GateFile, GateTieError
from analytics.judging.attempts import Attempts
from analytics.judging.latches import NO_STAGE, Latches
from analytics.judging.speaking_epochs import speaking
from analytics.judging.verdict_builder import Group, VerdictBuilder
from analytics.judging.verdict_rules import VERDICTS, Decisions, GateDecision, Mark
from analytics.judging.weights import EvaluationInputs
from analytics.judging.window_sums import WindowSums
from analytics.signals.alive_epochs import AliveEpochs
from analytics.signals.cells import EpochKey, epoch_frame
from analytics.signals.state import UNKNOWN_RISK, CellRows, CellState, EpochRows, number_of
from producers.wire.contract import RiskClass
from producers.wire.events import VerdictName
from producers.wire.stage import LADDER

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    import numpy.typing as npt

    from analytics.judging.user_evidence import UserEvidence
    from analytics.verdicts.ledger import ChangeKey
    from analytics.verdicts.verdict import Verdict
    from producers.wire.receipt import Cell

    ChangeKeyNumbers = npt.NDArray[np.int32]

_NO_GATE: Final = -1
_AMBIGUOUS: Final = -2


class ChangeKeys:
    """Numbers for change keys, so that thousands of them are compared at once. Few different ones ever occur."""

    def __init__(self) -> None:
        self._numbers: dict[ChangeKey, int] = {}
        self._keys: list[ChangeKey] = []

    def __len__(self) -> int:
        return len(self._keys)

    def number(self, key: ChangeKey) -> int:
        """The number of a change key."""
        return number_of(key, self._numbers, self._keys)

    def key(self, number: int) -> ChangeKey:
        """The change key of a number."""
        return self._keys[number]

    def numbers(self, decisions: Decisions) -> ChangeKeyNumbers:
        """The number of what was decided, for each cell."""
        columns = [decisions.verdicts.view(np.uint8), decisions.stages.view(np.uint8), decisions.matrix()]
        rows = np.ascontiguousarray(np.column_stack(columns))
        _, first, place = np.unique(
            rows.view(np.dtype((np.void, rows.shape[1]))).ravel(), return_index=True, return_inverse=True
        )
        numbers = [self.number(_change_key(decisions, int(row))) for row in first]
        return np.array(numbers, dtype=np.int32)[place]


@dataclass(frozen=True)
class Evaluation:
    """What follows for some cells, or epochs that are over: their change keys, and their verdicts on demand."""

    epochs: EpochRows  # the epoch that each verdict is of
    cells: CellRows  # the cell of each
    change_keys: ChangeKeyNumbers  # the number of each one's change key, see `ChangeKeys`
    groups: Sequence[Group]  # every epoch that was evaluated
    latches: Latches
    places: npt.NDArray[np.intp]  # the place of each of `epochs` among those that were evaluated
    are_over: bool

    def verdicts(self, places: npt.ArrayLike, *, lake_version: int, judged_at: datetime) -> list[Verdict]:
        """The whole verdicts at some places, each named once, in the order given."""
        wanted = self.places[np.asarray(places, dtype=np.intp)]
        at = np.full(sum(group.places.size for group in self.groups), -1, dtype=np.intp)
        at[wanted] = np.arange(wanted.size)
        built: dict[int, Verdict] = {}
        for group in self.groups:
            positions = np.flatnonzero(at[group.places] >= 0)
            if positions.size:
                builder = VerdictBuilder(group.inputs, self.latches, are_over=self.are_over)
                verdicts = builder.build(group, positions, lake_version=lake_version, judged_at=judged_at)
                built |= zip(at[group.places[positions]].tolist(), verdicts, strict=True)
        return [built[place] for place in range(wanted.size)]


class Engine:
    """Evaluates epochs under one gate file."""

    def __init__(self, state: CellState, gates: GateFile, change_keys: ChangeKeys) -> None:
        self._state = state
        self._gates = gates
        self._change_keys = change_keys
        self._attempts = Attempts(state)
        self._gate_of = np.empty(0, dtype=np.int32)
        self._matched: dict[tuple[Cell, int], int] = {}
        self.match(np.arange(state.epochs))

    def match(self, epochs: EpochRows) -> None:
        """Find the gates of epochs that are new, or whose risk class is another one now."""
        more = self._state.epochs - self._gate_of.size
        self._gate_of = np.append(self._gate_of, np.full(more, _NO_GATE, dtype=np.int32))
        for epoch in epochs:
            cell = self._state.cells[self._state.cell_of[epoch]]
            risk_rank = int(self._state.risk[epoch])
            if (cell, risk_rank) not in self._matched:
                self._matched[cell, risk_rank] = self._match(cell, risk_rank)
            self._gate_of[epoch] = self._matched[cell, risk_rank]

    def evaluate(
        self,
        epochs: EpochRows,
        *,
        sums: WindowSums,
        alive: AliveEpochs,
        latches: Latches,
        users: Mapping[float, UserEvidence],
        are_over: bool = False,
    ) -> Evaluation:
        """Say what follows for some cells, given by their current epochs.

        Where others are alive beside the current one, all are evaluated, and the verdict is of the worst. `are_over`
        stands for epochs that are over instead, each of them graded anew because outcomes of it came late. `users` are
        the closed user-windows of each length that a gate asks for.
        """
        state, shares = self._state, np.empty(0)
        if alive.beside.size and not are_over:
            concerned = np.isin(state.cell_of[alive.beside], state.cell_of[epochs])
            epochs, shares = np.concatenate([epochs, alive.beside[concerned]]), alive.shares[concerned]
        gates = self._gate_of[epochs]
        comparing = np.array([*(gate.compares for gate in self._gates.gates), False, False], dtype=np.bool_)
        rows = latches.rows(state, self._gates, self._gate_of)
        attempts = self._attempts.numbers()
        compared = epochs[comparing[gates]]
        inputs = EvaluationInputs(
            state, sums, self._gates, alive, users.get(self._gates.user_window), rows, compared, attempts
        )
        by_window = {self._gates.user_window: inputs}
        # Only where a gate has a budget does it matter which attempt it is.
        spending = np.array([*(gate.attempts is not None for gate in self._gates.gates), False, False], dtype=np.bool_)
        tries = np.where(spending[gates], attempts[epochs], 1)
        groups = []
        for number, code in ((_NO_GATE, "no_gate"), (_AMBIGUOUS, "ambiguous_gate")):
            groups.append(_invalid(np.flatnonzero(gates == number), epochs, code, inputs))
        stages = state.stage_of[state.cell_of[epochs]]
        for number, stage, attempt in sorted(set(zip(gates.tolist(), stages.tolist(), tries.tolist(), strict=True))):
            if number < 0:
                continue
            gate = self._attempts.gate_at(self._gates.gates[number], attempt)
            places = np.flatnonzero((gates == number) & (stages == stage) & (tries == attempt))
            window_s = self._gates.window_of(gate)
            seen = by_window.setdefault(window_s, replace(inputs, users=users.get(window_s)))
            decision = GateDecision(gate, state.stages[stage], epochs[places], seen, are_over=are_over)
            groups.append(Group(places, epochs[places], decision.decisions, seen, gate, decision))
        spoken = speaking(groups, state.cell_of[epochs], shares)
        change_keys = np.empty(epochs.size, dtype=np.int32)
        for group in groups:
            change_keys[group.places] = self._change_keys.numbers(group.decisions)
        epochs, cells = epochs[spoken], state.cell_of[epochs[spoken]]
        return Evaluation(epochs, cells, change_keys[spoken], groups, latches, spoken, are_over=are_over)

    def refuted(self, sums: WindowSums, latches: Latches) -> EpochRows:
        """The epochs whose rollback late outcomes refute, where no verdict says so yet."""
        rows = latches.rows(self._state, self._gates, self._gate_of)
        if not any((allowed >= 0).any() for allowed in rows.allowed.values()):
            return np.empty(0, dtype=np.intp)
        return np.flatnonzero(rows.refuted_now(self._state, sums.missing()) & ~rows.refuted)

    def _match(self, cell: Cell, risk_rank: int) -> int:
        risk_class = None if risk_rank == UNKNOWN_RISK else list(RiskClass)[risk_rank].value
        try:
            gate = self._gates.gate_of(cell, risk_class)
        except GateTieError:
            return _AMBIGUOUS
        return _NO_GATE if gate is None else self._gates.gates.index(gate)


def judge(
    state: CellState,
    gates: GateFile,
    *,
    watermark: datetime,
    lake_version: int,
    judged_at: datetime,
    cells: Collection[Cell] | None = None,
    latches: Latches | None = None,
    users: Mapping[float, UserEvidence] | None = None,
    over: Collection[EpochKey] = (),
) -> list[Verdict]:
    """Reach verdicts on a state once: what a verdict is a function of, and nothing else.

    Judges some cells (None is all) by the epochs that are alive, or in their place epochs that are `over`; the state
    must hold all minutes that matter. What is old or mature is so by the watermark, not by a clock. The lake's version
    and `judged_at` are only recorded. Gives one verdict a cell (or epoch), in the order of their names.
    """
    alive = AliveEpochs.from_state(state, np.ones(len(state.cells), dtype=np.bool_), watermark, gates.horizon_s)
    if over:
        epochs = state.rows_of(epoch_frame(sorted(over)))
        epochs = epochs[epochs >= 0].astype(np.intp)
    else:
        rows = (state.cell_row(cell) for cell in sorted(state.cells if cells is None else cells))
        epochs = alive.current[np.array([row for row in rows if row is not None], dtype=np.intp)]
    evaluation = Engine(state, gates, ChangeKeys()).evaluate(
        epochs,
        sums=WindowSums(state, gates, watermark),
        alive=alive,
        latches=Latches() if latches is None else latches,
        users=users or {},
        are_over=bool(over),
    )
    return evaluation.verdicts(np.arange(epochs.size), lake_version=lake_version, judged_at=judged_at)


def _invalid(places: npt.NDArray[np.intp], epochs: EpochRows, code: str, inputs: EvaluationInputs) -> Group:
    decisions = Decisions.all_alike(places.size, VerdictName.INVALID)
    decisions.add(Mark(code), np.ones(places.size, dtype=np.bool_))
    return Group(places, epochs[places], decisions, inputs)


def _change_key(decisions: Decisions, row: int) -> ChangeKey:
    rank = int(decisions.stages[row])
    codes = (
        f"{mark.code}:{mark.signal}"
        for mark, counts in zip(decisions.marks, decisions.counts, strict=True)
        for _ in range(counts[row])
    )
    return (
        VERDICTS[decisions.verdicts[row]].value,
        None if rank == NO_STAGE else LADDER[rank].value,
        tuple(sorted(codes)),
    )
