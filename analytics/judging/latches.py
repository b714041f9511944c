"""What earlier looks decided and later ones must not forget: first crossings, and epochs that are graded anew."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.judging.user_windows import closed_through
from analytics.signals.cells import EPOCH, EpochKey, epoch_frame
from analytics.signals.state import CellState, EpochRows, Flags, Integers, microseconds
from analytics.verdicts.document import VerdictDocument
from analytics.verdicts.verdict import Latch, Verdict
from producers.wire.events import VerdictName
from producers.wire.stage import LADDER, Stage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import numpy.typing as npt

    from analytics.gates.gate_file import GateFile
    from analytics.verdicts.evidence_models import Reassessment
    from analytics.verdicts.ledger import LatchKey
    from producers.wire.receipt import Cell

NOT_CROSSED: Final = -1
NO_STAGE: Final = len(LADDER)  # in place of the rank of a stage: the action stays where it is

_CROSSING: Final = (VerdictName.PROMOTE, VerdictName.ROLL_BACK)
# By the clock. Just after a change of model the old epoch's outcomes come in one by one, and each look at its users
# reads its events.
_BETWEEN_LOOKS: Final = timedelta(seconds=5)


@dataclass(frozen=True)
class LatchRows:
    """What earlier looks decided, by the rows of epochs and cells."""

    promoted: npt.NDArray[np.int8]  # where a standing promotion leads, by epoch: a rank, `NO_STAGE` or `NOT_CROSSED`
    rolled_back: npt.NDArray[np.int8]  # where a standing rollback leads, likewise
    reassessed: Integers  # how many earlier epochs were graded anew, for each cell


class Latches:
    """First crossings by epoch and gate file, and verdicts on epochs that were over by cell, as the ledger has them."""

    def __init__(
        self,
        latches: Mapping[LatchKey, Mapping[VerdictName, Latch]] | None = None,
        reassessed: Mapping[Cell, Sequence[Reassessment]] | None = None,
    ) -> None:
        self._latches = {key: dict(crossed) for key, crossed in (latches or {}).items()}
        self._reassessed = {cell: list(made) for cell, made in (reassessed or {}).items()}
        self._gate_sha256: str | None = None
        self._ranks: dict[VerdictName, npt.NDArray[np.int8]] = {}

    def of(self, cell: Cell, epoch: str, gate_sha256: str) -> dict[VerdictName, Latch]:
        """What crossed on an epoch under a gate file."""
        return self._latches.get((cell, epoch, gate_sha256), {})

    def reassessed(self, cell: Cell) -> tuple[Reassessment, ...]:
        """The verdicts on earlier epochs of a cell that were graded anew."""
        return tuple(self._reassessed.get(cell, ()))

    def rows(self, state: CellState, gate_sha256: str) -> LatchRows:
        """What stands under a gate file, by the rows of epochs and cells."""
        if gate_sha256 != self._gate_sha256:
            self._gate_sha256 = gate_sha256
            self._ranks = {verdict: np.full(state.epochs, NOT_CROSSED, dtype=np.int8) for verdict in _CROSSING}
            crossed = [
                ((*cell, epoch), latch)
                for (cell, epoch, sha256), latches in self._latches.items()
                if sha256 == gate_sha256
                for latch in latches.values()
            ]
            self._set(state, crossed)
        self._ranks = {
            verdict: np.append(ranks, np.full(state.epochs - ranks.size, NOT_CROSSED, dtype=np.int8))
            for verdict, ranks in self._ranks.items()
        }
        reassessed = np.zeros(len(state.cells), dtype=np.int64)
        for cell, made in self._reassessed.items():
            row = state.cell_row(cell)
            if row is not None:
                reassessed[row] = len(made)
        return LatchRows(self._ranks[VerdictName.PROMOTE], self._ranks[VerdictName.ROLL_BACK], reassessed)

    def take(self, verdicts: Iterable[Verdict], state: CellState) -> None:
        """Remember what has crossed for the first time, now that it is recorded."""
        new = []
        for verdict in verdicts:
            result, inputs = verdict.result, verdict.inputs
            if result.verdict not in _CROSSING:
                continue
            latch = Latch(result.verdict, result.to_stage, verdict.verdict_id)
            crossed = self._latches.setdefault((inputs.cell, inputs.epoch, verdict.gate_sha256), {})
            if crossed.setdefault(result.verdict, latch) is latch:
                new.append(((*inputs.cell, inputs.epoch), latch))
        self._set(state, new)

    def take_reassessed(self, turned: Iterable[Verdict]) -> None:
        """Remember verdicts on epochs that are over, now that they are recorded."""
        for verdict in turned:
            made = VerdictDocument.from_verdict(verdict).reassessment
            self._reassessed.setdefault(verdict.inputs.cell, []).append(made)

    def _set(self, state: CellState, crossed: Sequence[tuple[EpochKey, Latch]]) -> None:
        if not crossed or not self._ranks:
            return
        rows = state.rows_of(epoch_frame([key for key, _ in crossed]))
        for row, (_, latch) in zip(rows, crossed, strict=True):
            if row >= 0:
                self._ranks[latch.verdict][row] = NO_STAGE if latch.to_stage is None else Stage(latch.to_stage).rank


class Reassessments:
    """Epochs that are over: which are to be graded anew, and when.

    Only what was graded once can be graded anew, and only to its harm. `users_as_of` says up to where user-windows had
    closed when it was last asked what is due; None where they were not counted.
    """

    def __init__(
        self,
        state: CellState,
        judged: Collection[EpochKey] = (),
        rolled_back: Collection[EpochKey] = (),
        users_as_of: datetime | None = None,
    ) -> None:
        self._state = state
        self._unplaced = [list(judged), list(rolled_back)]
        self._judged: Flags = np.empty(0, dtype=np.bool_)
        self._rolled_back: Flags = np.empty(0, dtype=np.bool_)
        self._changed: Flags = np.empty(0, dtype=np.bool_)
        self._looked_at: datetime | None = None
        self._as_of = users_as_of

    def grow(self) -> None:
        """Make room for epochs that are new to the state."""
        first, size = self._judged.size, self._state.epochs
        if first == size:
            return
        more = np.zeros(size - first, dtype=np.bool_)
        self._judged, self._rolled_back, self._changed = (
            np.append(flags, more) for flags in (self._judged, self._rolled_back, self._changed)
        )
        # What the ledger knows of epochs that the state did not; few are ever left.
        for place, flags in enumerate((self._judged, self._rolled_back)):
            if self._unplaced[place]:
                keys = epoch_frame(self._unplaced[place])
                rows = self._state.rows_of(keys)
                flags[rows[rows >= 0]] = True
                self._unplaced[place] = list(keys.select(EPOCH).filter(rows < 0).iter_rows())

    def take(self, verdicts: Iterable[Verdict]) -> None:
        """Remember verdicts that are recorded."""
        verdicts = list(verdicts)
        rows = self._state.rows_of(epoch_frame([(*one.inputs.cell, one.inputs.epoch) for one in verdicts]))
        back = np.array([one.result.verdict is VerdictName.ROLL_BACK for one in verdicts], dtype=np.bool_)
        self._judged[rows[rows >= 0]] = True
        self._rolled_back[rows[(rows >= 0) & back]] = True

    def due(self, touched: Flags, current: EpochRows, gates: GateFile, watermark: datetime, now: datetime) -> EpochRows:
        """The epochs to be graded anew now, of those that were touched since the last look that was recorded.

        Where actions are counted, whatever changed, at once. Where users are, now and then, and as the last windows of
        an epoch close: they were open when the next one took over.
        """
        late = self._judged & ~self._rolled_back
        late[current] = False
        self._changed = (self._changed | touched) & late
        as_of = closed_through(watermark, gates.user_window) if gates.counts_users else None
        if as_of is not None and self._as_of is not None and as_of > self._as_of:
            self._changed |= late & (self._state.last_us >= microseconds(self._as_of))
        self._as_of = as_of
        if gates.counts_users and self._looked_at is not None and now < self._looked_at + _BETWEEN_LOOKS:
            return np.empty(0, dtype=np.intp)
        (waiting,) = np.nonzero(self._changed)
        if waiting.size:
            self._looked_at = now
        return waiting

    def looked(self, epochs: EpochRows) -> None:
        """Remember that epochs were looked at, and what came of it recorded."""
        self._changed[epochs] = False
