"""Evidence by user: actions of one user are alike, so users are counted and not actions.

One user's actions in one closed window are a single observation Z = y / m, the share of the m actions that failed. A
bet multiplies the evidence by 1 + lambda (Z - threshold), with the same lambda as in `sequential`; that equals
(1 + (omega - 1) Z) / (1 + (omega - 1) threshold), so only the number of windows meets the threshold:

    S_k = sum over (m, y) of count log1p((omega_k - 1) y / m) - windows log1p((omega_k - 1) threshold).

It is a bet on a bounded mean (Waudby-Smith & Ramdas, JRSS-B 86, 2024) and asks only that a window's expected share,
given the windows before it, is on the other side of the threshold; inside a window the actions may depend on each other
in any way. With one action a window it is `sequential.log_e_value` itself.

The rate is that of the *average user-window*, whether it made one action or a thousand; so a promotion asks
`pooled_log_e_value` too, which is about all the traffic. And the windows must be independent: a few users who come back
daily are the same few users, so a window should be as long as the stage allows, and a gate should ask for a minimum of
distinct users.

The state is a sorted integer table (m, y) -> count, so merged and shuffled input gives the same evidence to the last
bit.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.evidence.errors import EvidenceError
from analytics.evidence.mixture import IntArray, average, bets, failures_among, whole
from analytics.evidence.sequential import GRID, Direction, FloatArray, crosses, grid_units, log_e_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


ASSUMPTIONS: Final = {"user": "assumes independent users", "action": "assumes independent actions"}
"""What evidence by this unit takes for granted; it stands beside every result."""

_HALVINGS: Final = 40  # of the grid of 2^40 thresholds


@dataclass(frozen=True, eq=False)
class UserWindows:
    """How many closed user-windows had m actions and y failures, for a number of cells."""

    cells: int  # number of cells
    cell: IntArray  # The cell of each row of the table, counted from 0. Shape (rows,); rows are sorted and distinct.
    actions: IntArray  # m, at least 1. Shape (rows,).
    failures: IntArray  # y. Shape (rows,).
    count: IntArray  # User-windows with that m and y, at least 1. Shape (rows,).

    @classmethod
    def of(
        cls,
        cells: int,
        *,
        cell: npt.ArrayLike,
        actions: npt.ArrayLike,
        failures: npt.ArrayLike,
        count: npt.ArrayLike = 1,
    ) -> UserWindows:
        """Tabulate user-windows, in any order, counted or not. Raises `EvidenceError` where a count is impossible."""
        y, m = failures_among(failures, actions)
        rows = np.broadcast_arrays(*np.atleast_1d(whole(cell, "cells"), m, y, whole(count, "counts")))
        where, m, y, times = (row.astype(np.int64) for row in rows)
        if np.any(m == 0):
            raise EvidenceError("a user-window holds at least one action")
        if np.any(where >= cells):
            raise EvidenceError(f"cell {where.max()} is not among the {cells} cells, which are counted from 0")
        order = np.lexsort((y, m, where))
        keys, times = np.stack([where, m, y])[:, order], times[order]
        if not times.size:
            return cls(cells, keys[0], keys[1], keys[2], times)
        first = np.flatnonzero(np.concatenate(([True], np.any(np.diff(keys), axis=0))))
        keys, times = keys[:, first], np.add.reduceat(times, first)
        keys, times = keys[:, times > 0], times[times > 0]
        return cls(cells, keys[0], keys[1], keys[2], times)

    def take(self, cells: npt.ArrayLike) -> UserWindows:
        """The windows of some cells, in the order given."""
        chosen = np.asarray(cells, dtype=np.int64)
        first, last = np.searchsorted(self.cell, chosen, "left"), np.searchsorted(self.cell, chosen, "right")
        sizes = last - first
        rows = np.repeat(first - np.concatenate(([0], sizes.cumsum()[:-1])), sizes) + np.arange(sizes.sum())
        return UserWindows(
            chosen.size,
            np.repeat(np.arange(chosen.size), sizes),
            self.actions[rows],
            self.failures[rows],
            self.count[rows],
        )

    @classmethod
    def chosen(cls, tables: Sequence[UserWindows], best: IntArray) -> UserWindows:
        """Of tables about the same cells, for each cell the windows of the one chosen. Shape of `best`: (cells,)."""
        taken = [table.take(np.flatnonzero(best == place)) for place, table in enumerate(tables)]
        cells = [np.flatnonzero(best == place) for place in range(len(tables))]
        cell = np.concatenate([where[table.cell] for where, table in zip(cells, taken, strict=True)])
        actions, failures, count = (
            np.concatenate([getattr(table, name) for table in taken]) for name in ("actions", "failures", "count")
        )
        return cls.of(best.size, cell=cell, actions=actions, failures=failures, count=count)

    def rows_by_cell(self) -> list[tuple[list[int], list[int], list[int]]]:
        """Of each cell: m, y and count of its rows."""
        edges = np.searchsorted(self.cell, np.arange(self.cells + 1))
        m, y, count = self.actions.tolist(), self.failures.tolist(), self.count.tolist()
        return [(m[a:b], y[a:b], count[a:b]) for a, b in itertools.pairwise(edges)]

    @property
    def windows(self) -> IntArray:
        """User-windows in each cell. Shape (cells,)."""
        return self._sum(self.count)

    @property
    def value(self) -> FloatArray:
        """The failed share of the average user-window in each cell; NaN where there is none. Shape (cells,)."""
        shares = np.bincount(self.cell, weights=self.count * (self.failures / self.actions), minlength=self.cells)
        return np.asarray(np.divide(shares, self.windows, out=np.full(self.cells, np.nan), where=self.windows > 0))

    def log_e_value(self, threshold: npt.ArrayLike, *, direction: Direction) -> FloatArray:
        """Weigh the windows as evidence that the rate is above, or below, a threshold in (0, 1); see `sequential`.

        Gives the natural logarithm of the e-value, 0 where there are no windows. Shape (cells,). Raises `EvidenceError`
        where a threshold is not in (0, 1), or the direction is unknown.
        """
        theta = np.asarray(threshold, dtype=np.float64)
        if not np.all((theta > 0) & (theta < 1)):
            raise EvidenceError("a threshold must lie strictly between 0 and 1")
        return self._log_e(grid_units(theta, direction) / GRID, self.log_won(direction), direction)

    def pooled_log_e_value(self, threshold: float, effect: FloatArray, *, direction: Direction) -> FloatArray:
        """Weigh all actions together, as fewer by a design effect of at least 1. Shape (cells,), as that of the effect.

        About the traffic seen it is valid whatever the design effect d is: a bet's factor to the power of 1/d is on
        average at most its average to the power of 1/d. About users to come it rests on the correlation behind it.
        """
        failures, trials = self.pooled()
        return log_e_value(failures / effect, trials / effect, threshold, direction=direction)

    def pooled(self) -> tuple[IntArray, IntArray]:
        """Failures and actions of all windows together. Shape (cells,) each."""
        return self._sum(self.count * self.failures), self._sum(self.count * self.actions)

    def lower_bound(self, *, alpha: npt.ArrayLike) -> FloatArray:
        """Bound the rate from below, one-sided at alpha and valid after every closed window. Shape (cells,).

        As in `sequential.bounds`, a bound excludes a threshold if and only if the evidence crosses there. Raises
        `EvidenceError` where an alpha is not in (0, 1).
        """
        last = self._last_excluded("above", np.zeros(self.cells), alpha)
        # One float past the last excluded threshold, so that the threshold itself is strictly outside.
        return np.where(last > 0, np.nextafter(last / GRID, 1.0), 0.0)

    def upper_bound(self, *, alpha: npt.ArrayLike) -> FloatArray:
        """Bound the rate from above; as `lower_bound`."""
        first = self._last_excluded("below", np.full(self.cells, GRID), alpha)
        return np.where(first < GRID, np.nextafter(first / GRID, 0.0), 1.0)

    def _last_excluded(self, direction: Direction, end: FloatArray, alpha: npt.ArrayLike) -> FloatArray:
        """The excluded threshold nearest to the data, in grid units; the end itself where none is."""
        won = self.log_won(direction)
        inside, outside = end, GRID - end
        for _ in range(_HALVINGS):
            middle = np.floor((inside + outside) / 2)
            hit = crosses(self._log_e(middle / GRID, won, direction), alpha)
            inside, outside = np.where(hit, middle, inside), np.where(hit, outside, middle)
        return inside

    def log_won(self, direction: Direction) -> FloatArray:
        """What the windows won each bet: the part of the evidence that no threshold changes. Shape (8, cells)."""
        shares = np.log1p((bets(direction) - 1.0) * (self.failures / self.actions)) * self.count
        # Row by row in the table's order, which is what makes the sum reproducible.
        summed = [np.bincount(self.cell, weights=row, minlength=self.cells) for row in shares]
        return np.asarray(summed, dtype=np.float64)

    def _log_e(self, theta: FloatArray, won: FloatArray, direction: Direction) -> FloatArray:
        return average(won - self.windows * np.log1p((bets(direction) - 1.0) * theta))

    def _sum(self, numbers: IntArray) -> IntArray:
        totals = np.zeros(self.cells, dtype=np.int64)
        np.add.at(totals, self.cell, numbers)
        return totals


def design_effect(actions: IntArray, squares: IntArray, correlation: float) -> FloatArray:
    """How many actions say as much as one independent action: 1 + rho (sum of m^2 / sum of m - 1).

    Kish, "Survey Sampling" (1965), section 8.2, for clusters of m actions and an intra-cluster correlation rho.
    """
    return np.asarray(1.0 + correlation * (squares / np.maximum(actions, 1) - 1.0).clip(min=0.0))
