"""Evidence from closed user-windows, by the rows of epochs, and when the windows are folded again."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import polars as pl

from analytics.evidence.clustered_rate import UserWindows, design_effect
from analytics.judging.rate_course import RateCourse
from analytics.judging.user_regression import OpenCounts, WatchedUsers, regressions
from analytics.judging.user_window_fold import UserWindowFold
from analytics.judging.user_windows import (
    BLOCK,
    BLOCK_FAILED,
    FIRST_ACTIONS,
    FIRST_FAILED,
    amounts_of,
    closed_through,
    kept_s,
)
from analytics.signals.cells import ACTION, EPOCH, NEVER, EpochKey, epoch_frame

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from analytics.evidence.sequential import Direction, FloatArray
    from analytics.gates.gate_file import GateFile
    from analytics.judging.event_source import EventSource
    from analytics.judging.user_windows import ClosedWindows, OpenWindows, WindowCount
    from analytics.signals.state import CellState, EpochRows, Flags, Integers
    from analytics.verdicts.evidence_models import Regression

_Scalar = TypeVar("_Scalar", bound=np.generic)

# By the clock: reading events costs more than reading increments.
_BETWEEN_FOLDS: Final = timedelta(seconds=5)
_SHARE_OF_TIME: Final = 0.05  # of a judge's time for reading the events of open windows


_EARLY: Final = (*FIRST_ACTIONS, "due")
_Block = tuple[int, ...]  # the row of its epoch, the failures of `BLOCK_FAILED`, and how many are alike


class UserEvidence:
    """One fold of user-windows beside the state; the evidence of a signal is computed once for each fold."""

    def __init__(self, windows: ClosedWindows, state: CellState, last: UserEvidence | None = None) -> None:
        self.windows = windows
        self._state = state
        # Of epochs that are newer than the fold no window has closed.
        self._size = state.epochs
        self._named = np.zeros(self._size, dtype=np.bool_)
        named = state.rows_of(epoch_frame(windows.named))
        self._named[named[named >= 0]] = True
        self._closed_early = self._placed(windows.first_actions(), _EARLY)
        self._open_early = np.zeros_like(self._closed_early)
        self._closed_blocks = _counted_blocks(windows.blocks, state)
        self._open_blocks: set[_Block] = set()
        self._heavy: dict[str, UserWindows] = {}
        self.open_version: int | None = None  # of the table `events`; None where open windows were not read
        self._people, self._unnamed = self._counts(windows.people), self._counts(windows.unnamed)
        self._tables: dict[tuple[str, WindowCount], UserWindows] = {}
        self._periods: dict[tuple[str, WindowCount], dict[int, pl.DataFrame]] = {}
        self._log_e: dict[tuple[str, WindowCount, float, Direction], FloatArray] = {}
        self._effects: dict[tuple[str, WindowCount, float], FloatArray] = {}
        self._pooled: dict[tuple[str, WindowCount, float, float], FloatArray] = {}
        self._course: RateCourse | None = None
        self._last_course: RateCourse | None = None if last is None else last._course or last._last_course  # noqa: SLF001 - of its like
        self._regressions: dict[WatchedUsers, dict[int, Regression]] = {}
        self._open = OpenCounts(windows.rows.clear(), windows.blocks.clear())

    @property
    def named_epochs(self) -> EpochRows:
        """The epochs that have decisions that name a user."""
        return np.flatnonzero(self._named)

    def named(self, epochs: EpochRows) -> Flags:
        """Which of some epochs have decisions that name a user."""
        return self._at(self._named, epochs)

    def people(self, epochs: EpochRows) -> Integers:
        """Different users in closed windows."""
        return self._at(self._people, epochs)

    def unnamed(self, epochs: EpochRows) -> Integers:
        """Decisions in closed windows that name no user."""
        return self._at(self._unnamed, epochs)

    def take_open(self, windows: OpenWindows) -> EpochRows:
        """Take in what is known of open windows, in place of before; the epochs of which it is something else now."""
        counts, blocks = self._placed(windows.counts, _EARLY), _counted_blocks(windows.blocks, self._state)
        changed = (counts != self._open_early).any(axis=0)
        changed[[row for row, *_ in blocks ^ self._open_blocks if row < self._size]] = True
        self._open_early, self._open_blocks, self.open_version = counts, blocks, windows.events_version
        self._heavy.clear()
        self._open = OpenCounts(windows.counts, windows.blocks)
        for known in self._regressions.values():
            for row in np.flatnonzero(changed).tolist():
                known.pop(row, None)
        return np.flatnonzero(changed)

    def first_actions(self, signal: str, epochs: EpochRows) -> tuple[Integers, Integers]:
        """Users' first due actions, one a window, open windows among them: those known to have failed, and all."""
        counts = self.early_counts(epochs)
        return counts[_EARLY.index(FIRST_FAILED[signal])], counts[_EARLY.index("first_due")]

    def early_counts(self, epochs: EpochRows) -> Integers:
        """What counts before its window closes: `FIRST_ACTIONS`, and all due actions. Shape (counts, epochs)."""
        return self._at(self._closed_early + self._open_early, epochs)

    def blocks(self, signal: str, epochs: EpochRows) -> UserWindows:
        """The blocks of heavy users' actions in some epochs."""
        return self._blocks(signal).take(np.minimum(epochs, self._size))

    def heavy_log_e(self, signal: str, threshold: float, epochs: EpochRows) -> FloatArray:
        """Evidence by heavy users alone that all actions together are over a limit; 0 where they could not show it."""
        blocks = self._blocks(signal)
        due = np.append(self._closed_early[-1] + self._open_early[-1], 0)
        share = np.minimum(BLOCK * blocks.windows / np.maximum(due, 1), 1.0)
        within = threshold / np.where(share > threshold, share, 1.0)
        log_e = np.where(share > threshold, blocks.log_e_value(within, direction="above"), 0.0)
        return np.asarray(log_e[np.minimum(epochs, self._size)])

    def _blocks(self, signal: str) -> UserWindows:
        if signal not in self._heavy:
            side = list(BLOCK_FAILED).index(signal)
            rows = [block for block in (*self._closed_blocks, *self._open_blocks) if block[0] < self._size]
            self._heavy[signal] = UserWindows.of(
                self._size + 1,
                cell=[block[0] for block in rows],
                actions=np.full(len(rows), BLOCK),
                failures=[block[1 + side] for block in rows],
                count=[block[-1] for block in rows],
            )
        return self._heavy[signal]

    def table(self, signal: str, counting: WindowCount, epochs: EpochRows) -> UserWindows:
        """The windows of a signal in some epochs."""
        return self._table(signal, counting).take(np.minimum(epochs, self._size))

    def log_e(
        self, signal: str, threshold: float, counting: WindowCount, direction: Direction, epochs: EpochRows
    ) -> FloatArray:
        """The evidence of a signal in some epochs, a natural logarithm."""
        key = (signal, counting, threshold, direction)
        if key not in self._log_e:
            self._log_e[key] = self._table(signal, counting).log_e_value(threshold, direction=direction)
        return self._at(self._log_e[key], epochs)

    def arm(self, signal: str, counting: WindowCount, epochs: list[int]) -> pl.DataFrame:
        """The windows of a signal in some epochs together: `closed_at`, m, y and how many are alike (`count`)."""
        key = (signal, counting)
        if key not in self._periods:
            table = self.windows.periods(signal, counting)
            placed = table.with_columns(row=pl.Series(self._state.rows_of(table), dtype=pl.Int64))
            parts = placed.partition_by("row", as_dict=True, include_key=False)
            self._periods[key] = {int(str(row)): part for (row,), part in parts.items()}
        of_epochs, columns = self._periods[key], ["closed_at", "m", "y", "count"]
        none = pl.DataFrame(schema=dict(zip(columns, [pl.Datetime("us", "UTC"), *[pl.Int64] * 3], strict=True)))
        return pl.concat([none, *(of_epochs[row].select(columns) for row in epochs if row in of_epochs)])

    def pooled_log_e(
        self, signal: str, threshold: float, counting: WindowCount, correlation: float, epochs: EpochRows
    ) -> FloatArray:
        """The evidence that the actions of all users together keep a limit, a natural logarithm."""
        key = (signal, counting, threshold, correlation)
        if key not in self._pooled:
            effect = self._design_effect(signal, counting, correlation)
            pooled = self._table(signal, counting).pooled_log_e_value(threshold, effect, direction="below")
            self._pooled[key] = pooled
        return self._pooled[key][np.minimum(epochs, self._size)]

    def design_effect(self, signal: str, counting: WindowCount, correlation: float, epochs: EpochRows) -> FloatArray:
        """How many actions say as much as one, with heavy users' windows taken in blocks."""
        return self._design_effect(signal, counting, correlation)[np.minimum(epochs, self._size)]

    def _design_effect(self, signal: str, counting: WindowCount, correlation: float) -> FloatArray:
        key = (signal, counting, correlation)
        if key not in self._effects:
            squares = np.append(self._placed(self.windows.squares(signal, counting), ("squares",))[0], 0)
            self._effects[key] = design_effect(self._table(signal, counting).pooled()[1], squares, correlation)
        return self._effects[key]

    @property
    def course(self) -> RateCourse:
        """How the failures of every epoch lie in time, up to the newest day that is over; one epoch more is empty."""
        if self._course is None:
            self._course = RateCourse.from_windows(self.windows, self._state, self._size + 1, self._last_course)
        return self._course

    def regressions(self, watched: WatchedUsers, epochs: EpochRows) -> list[Regression]:
        """What the detectors of a guardrail say of some epochs."""
        known = self._regressions.setdefault(watched, {})
        new = [row for row in epochs.tolist() if row not in known]
        names = self._state.names(np.array(new, dtype=np.intp)).rows()
        known |= zip(new, regressions(self.windows, names, watched, self._open), strict=True)
        return [known[row] for row in epochs.tolist()]

    def _table(self, signal: str, counting: WindowCount) -> UserWindows:
        key = (signal, counting)
        if key not in self._tables:
            table = self.windows.tabled(signal, counting)
            rows = self._state.rows_of(table)
            folded = (rows >= 0) & (rows < self._size)
            m, y, count = (table[name].to_numpy()[folded] for name in ("m", "y", "count"))
            # One cell more, which is empty, for epochs that are newer than the fold.
            self._tables[key] = UserWindows.of(self._size + 1, cell=rows[folded], actions=m, failures=y, count=count)
        return self._tables[key]

    def _placed(self, counts: pl.DataFrame, names: tuple[str, ...]) -> Integers:
        """Counts by epoch at the rows of the epochs. Shape (names, epochs)."""
        table = np.zeros((len(names), self._size), dtype=np.int64)
        rows = self._state.rows_of(counts)
        folded = (rows >= 0) & (rows < self._size)
        table[:, rows[folded]] = counts.select(names).to_numpy().T[:, folded]
        return table

    def _counts(self, by_epoch: Mapping[EpochKey, int]) -> Integers:
        counts = np.zeros(self._size, dtype=np.int64)
        rows = self._state.rows_of(epoch_frame(by_epoch.keys()))
        counts[rows[rows >= 0]] = np.array(list(by_epoch.values()), dtype=np.int64)[rows >= 0]
        return counts

    def _at(self, values: npt.NDArray[_Scalar], epochs: EpochRows) -> npt.NDArray[_Scalar]:
        """The values of some epochs, along the last axis; zero for those that are newer than the fold."""
        nothing = np.zeros((*values.shape[:-1], 1), dtype=values.dtype)
        return np.concatenate([values, nothing], axis=-1)[..., np.minimum(epochs, self._size)]


def _counted_blocks(blocks: pl.DataFrame, state: CellState) -> set[_Block]:
    alike = blocks.group_by(*EPOCH, *BLOCK_FAILED.values()).agg(pl.col("count").sum())
    counts = alike.select(*BLOCK_FAILED.values(), "count").iter_rows()
    return {(row, *block) for row, block in zip(state.rows_of(alike).tolist(), counts, strict=True) if row >= 0}


class UserTracker:
    """Keeps the fold of user-windows of one length; it is folded again once a window has closed, or an epoch is new.

    `left` is where the judge before this one stood: the version of the events, and the end of the newest closed window.
    """

    def __init__(
        self, source: EventSource, state: CellState, window_s: float, left: tuple[int, datetime] | None
    ) -> None:
        self._source = source
        self._window_s = window_s
        self._fold = UserWindowFold(source)
        self._state = state
        self._left = left
        self._evidence: UserEvidence | None = None
        self._covered = np.empty(0, dtype=np.bool_)
        self._folded_at: datetime | None = None
        self._open_due_at: datetime | None = None

    def follow_open(self, users: UserEvidence, now: datetime) -> EpochRows:
        """Read what open windows show already, now and then; the epochs whose counts are others for it.

        Raises:
            LakeError: The events cannot be read.
        """
        if users.open_version is not None and self._open_due_at is not None and now < self._open_due_at:
            return np.empty(0, dtype=np.intp)
        named = users.named_epochs
        if not named.size:
            return named
        began = time.monotonic()
        opened = self._fold.open_windows(users.windows, self._state.names(named))
        took = timedelta(seconds=(time.monotonic() - began) / _SHARE_OF_TIME)
        self._open_due_at = now + max(_BETWEEN_FOLDS, took)
        return users.take_open(opened)

    def follow(self, gates: GateFile, watermark: datetime, now: datetime, alive: EpochRows) -> UserEvidence:
        """The closed user-windows at a watermark. Raises `LakeError`."""
        as_of = closed_through(watermark, self._window_s)
        epochs = self._asked(gates, followed(self._state, gates, alive))
        if self._left is not None:
            # Where the last judge stood: a restart alone makes no verdict a new one.
            version, left_at = self._left
            self._left = None
            if as_of <= left_at:
                return self._again(gates, left_at, epochs, version)
        last = self._evidence
        if last is not None and self._covers(epochs):
            if as_of <= last.windows.as_of:
                return last
            if self._folded_at is not None and now < self._folded_at + _BETWEEN_FOLDS:
                return last
        self._folded_at = now
        return self._again(gates, as_of, epochs, None)

    def once(self, gates: GateFile, watermark: datetime, epochs: EpochRows, current: EpochRows) -> UserEvidence:
        """The closed user-windows of some epochs, and of current ones that they may be compared with, folded anew."""
        epochs = self._asked(gates, epochs)
        single = compared_actions(self._state, gates)
        beside = self._state.names(current).join(single, on=ACTION, how="semi")
        as_of = closed_through(watermark, self._window_s)
        windows = UserWindowFold(self._source).fold(
            as_of=as_of,
            window_s=self._window_s,
            kept_s=kept_s(gates, self._window_s),
            epochs=pl.concat([self._state.names(epochs), beside]).unique(),
            amounts=amounts_of(gates),
            deadline_s=gates.outcome_deadline_s,
            single=single,
        )
        return UserEvidence(windows, self._state)

    def _again(self, gates: GateFile, as_of: datetime, epochs: EpochRows, version: int | None) -> UserEvidence:
        windows = self._fold.fold(
            as_of=as_of,
            window_s=self._window_s,
            kept_s=kept_s(gates, self._window_s),
            epochs=self._state.names(epochs),
            split=split_actions(self._state, gates),
            amounts=amounts_of(gates),
            deadline_s=gates.outcome_deadline_s,
            single=compared_actions(self._state, gates),
            version=version,
        )
        self._covered = np.zeros(self._state.epochs, dtype=np.bool_)
        self._covered[epochs] = True
        self._evidence = UserEvidence(windows, self._state, self._evidence)
        return self._evidence

    def _asked(self, gates: GateFile, epochs: EpochRows) -> EpochRows:
        """Those of some epochs whose gate may ask for windows of this length."""
        if gates.user_windows == (self._window_s,):
            return epochs
        matches = [gate.match for gate in gates.gates if gates.window_of(gate) == self._window_s]
        actions = [any(match.may_cover(*action) for match in matches) for action in self._state.actions]
        return epochs[np.array(actions, dtype=np.bool_)[self._state.action_of[self._state.cell_of[epochs]]]]

    def _covers(self, epochs: EpochRows) -> bool:
        return bool((epochs < self._covered.size).all() and self._covered[epochs].all())


def split_actions(state: CellState, gates: GateFile) -> pl.DataFrame:
    """The actions, as a frame with the columns of `ACTION`, of which a gate declares a split of users."""
    rows = [state.actions[row] for row in np.flatnonzero(_split(state, gates))]
    return pl.DataFrame(rows, schema=dict.fromkeys(ACTION, pl.String), orient="row")


def compared_actions(state: CellState, gates: GateFile) -> pl.DataFrame:
    """The actions, likewise, of which windows are held against those of a baseline."""
    matches = [gate.match for gate in gates.gates if gate.compares_users]
    rows = [action for action in state.actions if any(match.may_cover(*action) for match in matches)]
    return pl.DataFrame(rows, schema=dict.fromkeys(ACTION, pl.String), orient="row")


def followed(state: CellState, gates: GateFile, alive: EpochRows) -> EpochRows:
    """The epochs whose user-windows matter: those that are alive, and where users are split all that ran meanwhile."""
    split = _split(state, gates)
    if not split.any():
        return alive
    action_of = state.action_of[state.cell_of]
    began = np.full(split.size, -NEVER, dtype=np.int64)
    np.minimum.at(began, action_of[alive], state.first_us[alive])
    beside = split[action_of] & (state.last_us >= began[action_of])
    beside[alive] = True
    return np.flatnonzero(beside)


def _split(state: CellState, gates: GateFile) -> Flags:
    matches = [gate.match for gate in gates.gates if gate.split_unit == "user"]
    if not matches:
        return np.zeros(len(state.actions), dtype=np.bool_)
    return np.array([any(match.may_cover(*action) for match in matches) for action in state.actions], dtype=np.bool_)
