"""Closed user-windows by the places of epochs: what a look at many cells at once needs of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from analytics.evidence.clustered_rate import UserWindows
from analytics.judging.regression import watch_users
from analytics.signals.cells import EPOCH

if TYPE_CHECKING:
    from analytics.evidence.sequential import Direction, FloatArray
    from analytics.gates.gate_file import AfterPromotion
    from analytics.gates.gate_signal import GateSignal
    from analytics.judging.user_windows import Users
    from analytics.signals.cells import EpochKey
    from analytics.signals.state import Columns, Flags, Integers, Places


class Crowd:
    """One fold of user-windows beside the columns.

    The evidence of a signal changes only when windows are folded again, so it is computed once for each fold.

    Args:
        users: The closed user-windows.
        columns: Everything counted.
    """

    def __init__(self, users: Users, columns: Columns) -> None:
        self.users = users
        self._columns = columns
        self._size = columns.epochs
        self._named = np.zeros(self._size, dtype=np.bool_)
        self._people = np.zeros(self._size, dtype=np.int64)
        self._evidence: dict[tuple[str, float, float, Direction], FloatArray] = {}
        self._alarms: dict[tuple[str, float | None], Flags] = {}
        named, people = list(users.named), list(users.people)
        at = self._places(named)
        self._named[at[at >= 0]] = True
        at = self._places(people)
        self._people[at[at >= 0]] = np.array(list(users.people.values()), dtype=np.int64)[at >= 0]

    def named(self, places: Places) -> Flags:
        """Which of some epochs have decisions that name a user."""
        found = np.zeros(places.size, dtype=np.bool_)
        found[self._old(places)] = self._named[places[self._old(places)]]
        return found

    def people(self, places: Places) -> Integers:
        """Different users in closed windows."""
        found = np.zeros(places.size, dtype=np.int64)
        found[self._old(places)] = self._people[places[self._old(places)]]
        return found

    def log_e(
        self, signal: str, threshold: float, *, maturity_s: float, direction: Direction, places: Places
    ) -> FloatArray:
        """The evidence of a signal, as `weights.weigh_users` finds it; a natural logarithm."""
        asked = (signal, maturity_s, threshold, direction)
        if asked not in self._evidence:
            table = self.users.tabled(signal, maturity_s=maturity_s)
            at = self._columns.places_of(table)
            known = (at >= 0) & (at < self._size)
            windows = UserWindows.of(
                self._size,
                cell=at[known],
                actions=table["m"].to_numpy()[known],
                failures=table["y"].to_numpy()[known],
                count=table["count"].to_numpy()[known],
            )
            self._evidence[asked] = windows.log_e_value(threshold, direction=direction)
        found = np.zeros(places.size)
        found[self._old(places)] = self._evidence[asked][places[self._old(places)]]
        return found

    def raised(self, part: GateSignal, rules: AfterPromotion, *, places: Places) -> Flags:
        """Whether the detector of a guardrail that is counted by user alarms, as `watching.watch_users`."""
        asked = (part.signal, part.limit)
        if asked not in self._alarms:
            keys = list(self.users.named)
            found = watch_users(self.users, [(key, part) for key in keys], rules=rules)
            alarms = np.zeros(self._size, dtype=np.bool_)
            alarms[self._places([key for key, each in zip(keys, found, strict=True) if each.since is not None])] = True
            self._alarms[asked] = alarms
        found_at = np.zeros(places.size, dtype=np.bool_)
        found_at[self._old(places)] = self._alarms[asked][places[self._old(places)]]
        return found_at

    def _old(self, places: Places) -> Flags:
        """Which of some epochs were there when the windows were folded; of others no window has closed."""
        return np.asarray(places < self._size)

    def _places(self, keys: list[EpochKey]) -> Places:
        frame = pl.DataFrame(keys, schema=dict.fromkeys(EPOCH, pl.String), orient="row")
        return self._columns.places_of(frame).astype(np.intp)
