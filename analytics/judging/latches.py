"""What earlier looks decided and later ones must not forget: first crossings, and epochs that are graded anew."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.judging.user_windows import closed_through
from analytics.signals.cells import EPOCH, EpochKey, epoch_frame
from analytics.signals.definitions import RAN_BADLY
from analytics.signals.state import CellState, EpochRows, Flags, Integers, microseconds
from analytics.verdicts.document import VerdictDocument
from analytics.verdicts.signoffs import rollback_binding
from analytics.verdicts.verdict import OVERDUE_SIGNALS, Latch, Regrade, Verdict, is_of_earlier, overdue_of
from producers.wire.events import VerdictName
from producers.wire.stage import LADDER, Stage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import numpy.typing as npt

    from analytics.evidence.sequential import FloatArray
    from analytics.gates.gate_file import GateFile
    from analytics.signals.missing_outcomes import MissingOutcomes
    from analytics.verdicts.ledger import LatchKey
    from producers.wire.receipt import Cell

NOT_CROSSED: Final = -1
NO_REFUTATION: Final = -1.0  # fewer than any number of outcomes
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
    set_aside: Flags  # epochs whose rollback an override sets aside
    # By signal, for each epoch: how many overdue outcomes may be left of those that its rollback rested on alone, or
    # `NO_REFUTATION`
    allowed: Mapping[str, FloatArray]
    refuted: Flags  # epochs whose rollback late outcomes have refuted
    reassessed: Integers  # how many earlier epochs were graded anew, for each cell
    by_earlier: Flags  # epochs that were rolled back for what came of earlier ones
    regrades: Mapping[int, Sequence[Regrade]]  # those of them whose rollbacks stand, by the row of the cell

    def refuted_now(self, state: CellState, missing: MissingOutcomes) -> Flags:
        """The epochs whose rollback rested on overdue outcomes alone, of which no more are left than its limit allows.

        All that is not reported counts, however young: no other deadline can make an execution less overdue.
        """
        unreported, bad = missing.unreported, state.counter("bad_outcomes")
        ran_badly = np.sum([state.counter(name) for name in RAN_BADLY], axis=0)
        left = {"missing_outcome": unreported, "bad_outcome": np.maximum(bad, ran_badly + unreported)}
        return np.asarray(np.all([left[signal] <= allowed for signal, allowed in self.allowed.items()], axis=0))


class Latches:
    """First crossings by epoch, and verdicts on epochs that were over by cell, as the ledger has them.

    A promotion stands under the gate content that set it, a rollback under any. `overrides` are the bindings of those
    that are in force.
    """

    def __init__(
        self,
        latches: Mapping[LatchKey, Mapping[VerdictName, Latch]] | None = None,
        regrades: Mapping[Cell, Sequence[Regrade]] | None = None,
        overrides: frozenset[str] = frozenset(),
    ) -> None:
        self._latches = {key: dict(crossed) for key, crossed in (latches or {}).items()}
        self._regrades = {cell: list(made) for cell, made in (regrades or {}).items()}
        self.has_rollbacks = any(content is None for *_, content in self._latches)  # whether any epoch was rolled back
        self._overrides = overrides
        self._contents: tuple[str, ...] | None = None  # of each gate of the file; None where rows have to be made anew
        self._gate_of: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._ranks: dict[VerdictName, npt.NDArray[np.int8]] = {}
        self._set_aside: Flags = np.empty(0, dtype=np.bool_)
        self._refuted: Flags = np.empty(0, dtype=np.bool_)
        self._by_earlier: Flags = np.empty(0, dtype=np.bool_)
        self._allowed: dict[str, FloatArray] = {}

    def of(self, cell: Cell, epoch: str, content_sha256: str | None) -> dict[VerdictName, Latch]:
        """What crossed on an epoch, and counts where its gate has some content."""
        keys = ((cell, epoch, None), (cell, epoch, content_sha256))
        return {verdict: latch for key in keys for verdict, latch in self._latches.get(key, {}).items()}

    def regrades(self, cell: Cell) -> tuple[Regrade, ...]:
        """The verdicts on earlier epochs of a cell that were graded anew."""
        return tuple(self._regrades.get(cell, ()))

    def rows(self, state: CellState, gates: GateFile, gate_of: npt.NDArray[np.int32]) -> LatchRows:
        """What stands, by the rows of epochs and cells; `gate_of` is the place of each epoch's gate, or below 0."""
        contents = tuple(gates.contents[gate.name] for gate in gates.gates)
        anew = contents != self._contents or not np.array_equal(gate_of[: self._gate_of.size], self._gate_of)
        if anew:
            self._ranks = {verdict: np.empty(0, dtype=np.int8) for verdict in _CROSSING}
            self._set_aside = self._refuted = self._by_earlier = np.empty(0, dtype=np.bool_)
            self._allowed = dict.fromkeys(OVERDUE_SIGNALS, np.empty(0))
        self._contents, self._gate_of = contents, gate_of.copy()
        more = state.epochs - self._set_aside.size
        self._set_aside, self._refuted, self._by_earlier = (
            np.append(flags, np.zeros(more, dtype=np.bool_))
            for flags in (self._set_aside, self._refuted, self._by_earlier)
        )
        self._allowed = {
            signal: np.append(allowed, np.full(more, NO_REFUTATION)) for signal, allowed in self._allowed.items()
        }
        self._ranks = {
            verdict: np.append(ranks, np.full(more, NOT_CROSSED, dtype=np.int8))
            for verdict, ranks in self._ranks.items()
        }
        if anew:
            self._set(state, [(key, latch) for key, latches in self._latches.items() for latch in latches.values()])
        reassessed, standing = self._regraded(state)
        ranks = self._ranks
        promoted, rolled_back = ranks[VerdictName.PROMOTE], ranks[VerdictName.ROLL_BACK]
        back = (rolled_back, self._set_aside, self._allowed, self._refuted)
        return LatchRows(promoted, *back, reassessed, self._by_earlier, standing)

    def take(self, verdicts: Iterable[Verdict], state: CellState) -> None:
        """Remember what has crossed for the first time, or was refuted, now that it is recorded."""
        new: list[tuple[LatchKey, Latch]] = []
        for verdict in verdicts:
            result, inputs = verdict.result, verdict.inputs
            content, overdue = inputs.gate_content_sha256, overdue_of(result.reasons, inputs.signals)
            of_earlier = is_of_earlier(result.reasons)
            made = Latch(result.verdict, result.to_stage, verdict.verdict_id, content, overdue, of_earlier=of_earlier)
            for kind, under in ((VerdictName.PROMOTE, content), (VerdictName.ROLL_BACK, None)):
                if kind is VerdictName.PROMOTE and inputs.is_reassessment:
                    continue  # what is graded anew is promoted no more
                latches = self._latches.get((inputs.cell, inputs.epoch, under), {})
                latch = latches[kind].followed_by(made, result.refuted) if kind in latches else made
                if latch.verdict is kind and latch is not latches.get(kind):
                    key = (inputs.cell, inputs.epoch, under)
                    self._latches.setdefault(key, {})[kind] = latch
                    new.append((key, latch))
                    self.has_rollbacks |= kind is VerdictName.ROLL_BACK
        self._set(state, new)

    def take_overrides(self, overrides: frozenset[str]) -> bool:
        """Take the bindings of the overrides that are in force now; whether they are others than before."""
        if overrides == self._overrides:
            return False
        self._overrides, self._contents = overrides, None
        return True

    def take_regraded(self, turned: Iterable[Verdict]) -> None:
        """Remember verdicts on epochs that are over, now that they are recorded."""
        for verdict in turned:
            made = VerdictDocument.from_verdict(verdict).regrade
            self._regrades.setdefault(verdict.inputs.cell, []).append(made)

    def _regraded(self, state: CellState) -> tuple[Integers, dict[int, list[Regrade]]]:
        """How many epochs were graded anew, for each cell, and by the rows of cells those whose rollbacks stand."""
        count, standing = np.zeros(len(state.cells), dtype=np.int64), {}
        for cell, made in self._regrades.items():
            row = state.cell_row(cell)
            if row is None:
                continue
            count[row] = len(made)
            epochs = state.rows_of(epoch_frame([(*cell, one.shown.epoch) for one in made]))
            stand = (epochs >= 0) & (self._ranks[VerdictName.ROLL_BACK][epochs] != NOT_CROSSED)
            if stand.any():
                standing[row] = [one for one, stands in zip(made, stand.tolist(), strict=True) if stands]
        return count, standing

    def _set(self, state: CellState, crossed: Sequence[tuple[LatchKey, Latch]]) -> None:
        if not crossed or self._contents is None:
            return
        rows = state.rows_of(epoch_frame([(*cell, epoch) for (cell, epoch, _), _ in crossed]))
        for row, ((cell, epoch, under), latch) in zip(rows.tolist(), crossed, strict=True):
            content = self._contents[self._gate_of[row]] if row >= 0 and self._gate_of[row] >= 0 else None
            if content is None or under not in {None, content}:
                continue
            rank = NO_STAGE if latch.to_stage is None else Stage(latch.to_stage).rank
            if under is not None:
                self._ranks[latch.verdict][row] = rank
                continue
            self._set_aside[row] = rollback_binding(cell, epoch, content, latch.verdict_id) in self._overrides
            self._refuted[row], self._by_earlier[row] = latch.refuted_by is not None, latch.of_earlier
            stands = not (self._set_aside[row] or self._refuted[row] or latch.of_earlier)
            self._ranks[latch.verdict][row] = rank if stands else NOT_CROSSED
            may_be = bool(latch.overdue) and latch.refuted_by is None
            for allowed in self._allowed.values():
                allowed[row] = np.inf if may_be else NO_REFUTATION
            for part in (latch.overdue or ()) if may_be else ():
                self._allowed[part.signal][row] = min(part.allowed, self._allowed[part.signal][row])


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
        back = np.array(
            [one.result.verdict is VerdictName.ROLL_BACK and not is_of_earlier(one.result.reasons) for one in verdicts],
            dtype=np.bool_,
        )
        refuted = np.array([one.result.refuted is not None for one in verdicts], dtype=np.bool_)
        self._judged[rows[rows >= 0]] = True
        self._rolled_back[rows[(rows >= 0) & refuted]] = False
        self._rolled_back[rows[(rows >= 0) & back]] = True

    def due(self, touched: Flags, alive: EpochRows, gates: GateFile, watermark: datetime, now: datetime) -> EpochRows:
        """The epochs to be graded anew now, of those that were touched since the last look that was recorded.

        Where actions are counted, whatever changed, at once. Where users are, now and then, and as the last windows of
        an epoch close: they were open when the next one took over.
        """
        late = self._judged & ~self._rolled_back
        late[alive] = False
        self._changed = (self._changed | touched) & late
        windows_s = gates.user_windows
        as_of = closed_through(watermark, windows_s[0]) if windows_s else None
        if as_of is not None and self._as_of is not None and as_of > self._as_of:
            longer_s = windows_s[-1] if len(windows_s) > 1 else 0.0
            since_us = microseconds(self._as_of) - round((gates.harm_matures_s + longer_s) * 1e6)
            self._changed |= late & (self._state.last_us >= since_us)
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
