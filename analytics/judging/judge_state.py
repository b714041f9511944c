"""What a judge knows between two looks, and the look itself: from counts and a watermark to the verdicts to record.

Whoever drives it brings the increments, the events by user and the clock: the worker's judge those of the lake, a
backtest those of history. So both keep latches, grade epochs anew and write alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.judging import late_harm
from analytics.judging.engine import ChangeKeys, Engine
from analytics.judging.latches import Latches, Reassessments
from analytics.judging.ledger_writes import WritePolicy
from analytics.judging.user_evidence import UserEvidence, UserTracker
from analytics.judging.window_sums import WindowSums
from analytics.signals.alive_epochs import AliveEpochs
from analytics.signals.past_spans import may_settle
from analytics.signals.state import CellRows, CellState, EpochRows, Flags, Increment, microseconds
from analytics.verdicts import ledger
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import polars as pl

    from analytics.gates.gate_file import GateFile
    from analytics.judging.event_source import EventSource
    from analytics.lake.tables import Lake
    from analytics.signals.cells import EpochKey
    from analytics.verdicts.ledger import LatchKey, Outline
    from analytics.verdicts.verdict import Latch, Regrade, Verdict
    from producers.wire.receipt import Cell

    Record = Callable[[Sequence[Verdict], Collection[str]], None]
    """Records verdicts, those with some ids being news."""

# How often within the freshness limit every cell is looked at, whether or not anything is known to have changed it.
_FULL_ROUNDS: Final = 3
_AT_ONCE: Final = 500


@dataclass(frozen=True)
class PastVerdicts:
    """What was recorded before a judge begins."""

    last: Mapping[Cell, Outline] = field(default_factory=dict)  # the last verdict on each cell
    latches: Mapping[LatchKey, Mapping[VerdictName, Latch]] = field(default_factory=dict)  # what crossed
    regrades: Mapping[Cell, Sequence[Regrade]] = field(default_factory=dict)  # verdicts on epochs that were over
    judged: Collection[EpochKey] = ()  # every epoch that there is a verdict on
    rolled_back: Collection[EpochKey] = ()  # those of them that were rolled back
    users: tuple[int, datetime] | None = None  # version of the events, and end of the windows, last counted by user

    @classmethod
    def from_ledger(cls, lake: Lake) -> PastVerdicts:
        """What the ledger says. Raises `LakeError` where it cannot be read."""
        latches = ledger.latches(lake)
        rolled_back = [
            (*cell, epoch)
            for (cell, epoch, _), crossed in latches.items()
            if VerdictName.ROLL_BACK in crossed
            and crossed[VerdictName.ROLL_BACK].refuted_by is None
            and not crossed[VerdictName.ROLL_BACK].of_earlier
        ]
        return cls(
            ledger.latest_outlines(lake),
            latches,
            ledger.regrades(lake),
            ledger.judged_epochs(lake),
            rolled_back,
            ledger.newest_users(lake),
        )


@dataclass(frozen=True)
class LookOutcome:
    """What came of one look."""

    news: list[Verdict]  # verdicts that say something else than the last ones on their cells, by cell
    is_complete: bool  # whether everything that is recorded still holds
    users: UserEvidence | None  # the closed user-windows of the file's own length that it went by; None without any


class JudgeState:
    """Everything that a judge knows under gate files that watch no other `counters`.

    With `writes_all` a look writes whatever is new, and renews nothing.
    """

    def __init__(
        self, past: PastVerdicts, events: EventSource, counters: Collection[str], *, writes_all: bool = False
    ) -> None:
        self.counts = CellState(past=counters)
        self._change_keys = ChangeKeys()
        self._policy = WritePolicy(past.last, self.counts, self._change_keys, writes_all=writes_all)
        self._latches = Latches(past.latches, past.regrades)
        self._events, self._left_users = events, past.users
        self._trackers: dict[float, UserTracker] = {}  # by the length of their windows
        self._reassessments = Reassessments(
            self.counts, past.judged, past.rolled_back, None if past.users is None else past.users[1]
        )
        self._evidence: dict[float, UserEvidence] = {}
        self._gate_sha256: str | None = None
        self._all_due_at: datetime | None = None
        self._settled_at: datetime | None = None
        self._sums: WindowSums | None = None
        self._engine: Engine | None = None
        self.due: Flags = np.empty(0, dtype=np.bool_)  # the cells that have to be looked at
        self.touched: Flags = np.empty(0, dtype=np.bool_)  # epochs of which anything came since the last recorded look
        self.alive = AliveEpochs.nothing()  # the epochs of each cell that decide now
        self._horizon_s = 0.0

    @property
    def watermark(self) -> datetime | None:
        """Event time up to which everything has been read; None before the first `advance`."""
        return None if self._sums is None else self._sums.watermark

    def add(self, increments: pl.DataFrame) -> Increment:
        """Take in rows of the table `signals`; their epochs are touched, and new cells are due."""
        increment = self.counts.add(increments)
        self.grow()
        self.touched[increment.epochs] = True
        return increment

    def grow(self) -> None:
        """Make room for cells and epochs that are new."""
        cells, epochs = len(self.counts.cells), self.counts.epochs
        self.due = np.append(self.due, np.ones(cells - self.due.size, dtype=np.bool_))
        self.touched = np.append(self.touched, np.zeros(epochs - self.touched.size, dtype=np.bool_))
        self._policy.grow()
        self._reassessments.grow()

    def settle(self, gates: GateFile, watermark: datetime) -> None:
        """Let go of minutes that no later look depends on."""
        self.counts.settle(watermark, gates.horizon_s, whole=self._compared(gates))

    def advance(self, gates: GateFile, increment: Increment | None, watermark: datetime, *, anew: bool = False) -> None:
        """Move on to a watermark with what was added since the last time, and see which cells have to be looked at.

        With `anew` minutes were taken once more, so that sums over them have to be made anew.
        """
        if increment is not None:
            self._mark(increment.epochs)
        other_gates = gates.sha256 != self._gate_sha256
        if other_gates or anew or self._sums is None or watermark < self._sums.watermark:
            self._sums = WindowSums(self.counts, gates, watermark)
            self.due[:] = True
            self.touched |= late_harm.maturing(self.counts, gates, watermark)
        else:
            passing = self._sums.advance(increment, watermark)
            self._mark(np.flatnonzero(passing))
            if gates.harm_matures_s:
                self.touched |= passing
        if other_gates or self._engine is None:
            self._engine = Engine(self.counts, gates, self._change_keys)
        elif increment is not None:
            self._engine.match(increment.risen)
        self._gate_sha256, self._horizon_s = gates.sha256, gates.horizon_s
        every = timedelta(seconds=gates.freshness_s / _FULL_ROUNDS)
        if self._all_due_at is None or watermark >= self._all_due_at + every:
            self.due[:], self._all_due_at = True, watermark
        self._find_current()

    @property
    def has_rollbacks(self) -> bool:
        """Whether any epoch was ever rolled back."""
        return self._latches.has_rollbacks

    def look(
        self,
        gates: GateFile,
        now: datetime,
        lake_version: int,
        record: Record,
        *,
        overrides: frozenset[str] = frozenset(),
    ) -> LookOutcome:
        """Judge the cells that are due under the gate file of `advance`, and record what the ledger needs.

        `overrides` are the bindings of those in force. As one comes or goes, every cell is due.
        Raises `LakeError` where the events cannot be read, and what `record` raises; the cells stay due then.
        """
        sums, engine = self._sums, self._engine
        if sums is None or engine is None:
            raise RuntimeError("nothing was read yet")
        if self._latches.take_overrides(overrides):
            self._let_due()
        trackers = self._tracking(gates)
        users = {s: one.follow(gates, sums.watermark, now, self.alive.epochs) for s, one in trackers.items()}
        if users.keys() != self._evidence.keys() or any(one is not self._evidence[s] for s, one in users.items()):
            self._let_due()
        for window_s, tracker in trackers.items():
            if (changed := tracker.follow_open(users[window_s], now)).size:
                self._let_due(self.counts.cell_of[changed])
        if may_settle(self._settled_at, sums.watermark):
            self.settle(gates, sums.watermark)
            self._settled_at = sums.watermark
        self._reassess(engine, sums, gates, now, lake_version=lake_version, record=record)
        renewals = self._policy.renewals(microseconds(now))
        wanted = self.due.copy()
        wanted[renewals] = True
        evaluation = engine.evaluate(
            self.alive.current[wanted], sums=sums, alive=self.alive, latches=self._latches, users=users
        )
        plan = self._policy.plan(evaluation, renewals, gates.sha256)
        news: list[Verdict] = []
        for places in plan.portions(_AT_ONCE):
            verdicts = evaluation.verdicts(places, lake_version=lake_version, judged_at=now)
            columns = (evaluation.cells, evaluation.epochs, evaluation.change_keys)
            rows = zip(verdicts, *(column[places].tolist() for column in columns), strict=True)
            news += self._write([row for row in rows if self._policy.is_new(row[0], row[1])], now, record)
        self.due[:], self.touched[:] = False, False
        self.due[plan.left] = True
        self._evidence = users
        by_user = users.get(gates.user_window)
        return LookOutcome(sorted(news, key=lambda verdict: verdict.inputs.cell), plan.is_complete, by_user)

    def _reassess(
        self, engine: Engine, sums: WindowSums, gates: GateFile, now: datetime, *, lake_version: int, record: Record
    ) -> None:
        """Judge epochs of which something came late, and record those that it has turned.

        Those that are over are turned to their harm; those whose rollback it refutes are, whether or not they are over:
        another may speak for their cell.
        """
        late = self._reassessments.due(self.touched, self.alive.epochs, gates, sums.watermark, now)
        refuted = engine.refuted(sums, self._latches)
        refuted = refuted[self.touched[refuted]]
        due = np.union1d(late, refuted)
        if not due.size:
            return
        trackers = self._tracking(gates).items()
        users = {s: one.once(gates, sums.watermark, due, self.alive.current) for s, one in trackers}
        evaluation = engine.evaluate(
            due, sums=sums, alive=self.alive, latches=self._latches, users=users, are_over=True
        )
        back = np.array(
            [self._change_keys.key(number)[0] == VerdictName.ROLL_BACK for number in evaluation.change_keys]
        )
        back &= np.isin(due, late)
        turned = evaluation.verdicts(np.flatnonzero(back), lake_version=lake_version, judged_at=now)
        places = np.flatnonzero(np.isin(due, refuted))
        refuting = evaluation.verdicts(places, lake_version=lake_version, judged_at=now)
        refuting = [verdict for verdict in refuting if verdict.result.refuted is not None]
        # A verdict on an epoch that is over is told by the one on the current epoch, which names it.
        record([*turned, *refuting], ())
        self._reassessments.take([*turned, *refuting])
        self._reassessments.looked(late)
        self._latches.take([*turned, *refuting], self.counts)
        self._latches.take_regraded(turned)
        self._let_due(self.counts.cell_of[due[back]])

    def _tracking(self, gates: GateFile) -> dict[float, UserTracker]:
        """What keeps the user-windows of every length that is asked for."""
        known = self._trackers
        for window_s in gates.user_windows:
            if window_s not in known:
                # Where the last judge stood is known of the file's own length.
                left = self._left_users if window_s == gates.user_window else None
                known[window_s] = UserTracker(self._events, self.counts, window_s, left)
        self._left_users = None
        self._trackers = {window_s: known[window_s] for window_s in gates.user_windows}
        return self._trackers

    def _write(self, rows: Sequence[tuple[Verdict, int, int, int]], now: datetime, record: Record) -> list[Verdict]:
        """Record verdicts with the rows of their cells and epochs and their change keys; those that are news."""
        verdicts = [verdict for verdict, *_ in rows]
        news = [verdict for verdict, cell, _, change_key in rows if self._policy.is_news(cell, change_key)]
        record(verdicts, {verdict.verdict_id for verdict in news})
        self._policy.wrote(rows, microseconds(now))
        self._latches.take(verdicts, self.counts)
        self._reassessments.take(verdicts)
        return news

    def _let_due(self, cells: CellRows | None = None) -> None:
        self.due[slice(None) if cells is None else cells] = True
        self._find_current()

    def _mark(self, epochs: EpochRows) -> None:
        cells = self.counts.cell_of[epochs]
        self.due[cells] = True
        self._policy.move(cells)

    def _find_current(self) -> None:
        if self._sums is not None:
            now = AliveEpochs.from_state(self.counts, self.due, self._sums.watermark, self._horizon_s)
            self.alive = self.alive.updated(self.counts, self.due, now)

    def _compared(self, gates: GateFile) -> Flags:
        """The epochs of actions that may be compared with a baseline or a declared split: all their minutes matter."""
        matches = [gate.match for gate in gates.gates if gate.compares]
        if not matches:
            return np.zeros(self.counts.epochs, dtype=np.bool_)
        compared = np.array([any(match.may_cover(*action) for match in matches) for action in self.counts.actions])
        return np.asarray(compared[self.counts.action_of][self.counts.cell_of])
