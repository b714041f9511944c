"""Attempts: how often an action was tried anew in a cell, as the evidence shows it and not as somebody names it.

Every epoch with a due action is an attempt, whatever began it: a new attempt, another prompt or model, another policy.
Only a higher rung of the same roll-out is none: epochs whose names differ in the rung alone, in ascending order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.signals.cells import ROW

if TYPE_CHECKING:
    from analytics.gates.gate_file import Gate
    from analytics.signals.state import CellState, EpochRows, Integers

_RUNG: Final = r"^([0-9a-f]{12})\.([1-9]|10)$"
"""The name of an epoch at a rung, as `producers.wire.receipt.epoch_of` gives it."""


class Attempts:
    """Counts the attempts of every cell of a state, and keeps each gate as it holds at an attempt."""

    def __init__(self, state: CellState) -> None:
        self._state = state
        self._gates: dict[tuple[str, int], Gate] = {}
        self._numbers = np.empty(0, dtype=np.int64)
        # What the numbers rest on: when each epoch began, and whether anything was due in it.
        self._began, self._due = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.bool_)

    def numbers(self) -> Integers:
        """Of every epoch, which attempt of its cell it is, counted from 1.

        They are counted in the order in which the epochs began. One of which nothing was due yet would be the next.
        """
        state, size = self._state, self._numbers.size
        began = state.first_us.copy()
        due = (state.counter("expected") > 0) | (state.counter("executed") > 0)
        changed = np.ones(state.epochs, dtype=np.bool_)
        changed[:size] = (began[:size] != self._began) | (due[:size] != self._due)
        if changed.any():
            self._numbers = np.append(self._numbers, np.ones(state.epochs - size, dtype=np.int64))
            self._began, self._due = began, due
            cells = np.zeros(len(state.cells), dtype=np.bool_)
            cells[state.cell_of[changed]] = True
            cells &= np.bincount(state.cell_of, minlength=cells.size) > 1
            self._count(np.flatnonzero(cells[state.cell_of]))
        return self._numbers

    def _count(self, rows: EpochRows) -> None:
        """Count the attempts of whole cells anew, given by the rows of all of their epochs."""
        if not rows.size:
            return
        name = pl.col("epoch")
        epochs = pl.DataFrame(
            {
                ROW: rows,
                "cell": self._state.cell_of[rows],
                "began": self._began[rows],
                "due": self._due[rows],
                "epoch": self._state.names(rows)["epoch"],
            }
        ).with_columns(
            name.str.extract(_RUNG, 1).fill_null(name).alias("base"),
            name.str.extract(_RUNG, 2).cast(pl.Int64).fill_null(0).alias("rung"),
        )
        due_rung = pl.when("due").then("rung").otherwise(-1)
        highest = due_rung.cum_max().shift(1).over("cell", "base").fill_null(-1)
        is_new = pl.col("due") & ((pl.col("highest") < 0) | (pl.col("rung") < pl.col("highest")))
        goes_on = pl.col("due") | ((pl.col("highest") >= 0) & (pl.col("rung") > pl.col("highest")))
        counted = (
            epochs.sort("cell", "began", "epoch")
            .with_columns(highest=highest)
            .with_columns(so_far=is_new.cast(pl.Int64).cum_sum().over("cell"))
            .select(ROW, number=pl.col("so_far") + (~goes_on).cast(pl.Int64))
        )
        self._numbers[counted[ROW].to_numpy()] = counted["number"].to_numpy()

    def gate_at(self, gate: Gate, attempt: int) -> Gate:
        """A gate with what is left of its beta at an attempt."""
        key = (gate.name, attempt)
        if key not in self._gates:
            self._gates[key] = gate.model_copy(update={"beta": gate.beta_at(attempt)})
        return self._gates[key]
