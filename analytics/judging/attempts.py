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
    from analytics.signals.state import CellState, Integers

_RUNG: Final = r"^([0-9a-f]{12})\.([1-9]|10)$"
"""The name of an epoch at a rung, as `producers.wire.receipt.epoch_of` gives it."""


class Attempts:
    """Counts the attempts of every cell of a state, and keeps each gate as it holds at an attempt."""

    def __init__(self, state: CellState) -> None:
        self._state = state
        self._gates: dict[tuple[str, int], Gate] = {}

    def numbers(self) -> Integers:
        """Of every epoch, which attempt of its cell it is, counted from 1.

        They are counted in the order in which the epochs began. One of which nothing was due yet would be the next.
        """
        state = self._state
        numbers = np.ones(state.epochs, dtype=np.int64)
        rows = np.flatnonzero(np.bincount(state.cell_of, minlength=len(state.cells))[state.cell_of] > 1)
        if not rows.size:
            return numbers
        name = pl.col("epoch")
        epochs = pl.DataFrame(
            {
                ROW: rows,
                "cell": state.cell_of[rows],
                "began": state.first_us[rows],
                "due": (state.counter("expected")[rows] > 0) | (state.counter("executed")[rows] > 0),
                "epoch": state.names(rows)["epoch"],
            }
        ).with_columns(
            name.str.extract(_RUNG, 1).fill_null(name).alias("base"),
            name.str.extract(_RUNG, 2).cast(pl.Int64).fill_null(0).alias("rung"),
        )
        same = ["cell", "base"]
        due_rung = pl.when("due").then("rung").otherwise(-1)
        highest = due_rung.cum_max().shift(1).over(same).fill_null(-1)
        ordered = (
            epochs.sort("cell", "began", "epoch")
            .with_columns(highest.alias("highest"))
            .with_columns(
                (pl.col("due") & ((pl.col("highest") < 0) | (pl.col("rung") < pl.col("highest")))).alias("new")
            )
            .with_columns(pl.col("new").cum_sum().over("cell").alias("so_far"))
        )
        goes_on = pl.col("due") | ((pl.col("highest") >= 0) & (pl.col("rung") > pl.col("highest")))
        counted = ordered.select(ROW, number=pl.col("so_far") + (~goes_on).cast(pl.UInt32))
        numbers[counted[ROW].to_numpy()] = counted["number"].to_numpy()
        return numbers

    def gate_at(self, gate: Gate, attempt: int) -> Gate:
        """A gate with what is left of its beta at an attempt."""
        key = (gate.name, attempt)
        if key not in self._gates:
            self._gates[key] = gate.model_copy(update={"beta": gate.beta_at(attempt)})
        return self._gates[key]
