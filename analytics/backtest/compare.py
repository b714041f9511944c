"""Two gate files on the same history: which verdicts would have differed, when, and why."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analytics.backtest.history import History, Turn, run
from analytics.gates import gate_store
from analytics.lake.table_schemas import VERDICTS
from analytics.text import iso
from producers.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.gates.gate_file import GateFile
    from analytics.lake.tables import Lake
    from producers.wire.receipt import Cell


class NothingInForceError(UsageError):
    """The ledger knows no gate file to compare with."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A stretch of time in which the two gate files say different things about one cell."""

    cell: Cell
    since: datetime  # the minute in which they part
    until: datetime | None  # the minute in which they agree again; None where they do not
    old: Turn | None  # what the gate file in force says; None before its first verdict
    new: Turn | None  # what the other one says; likewise

    def to_dict(self) -> dict[str, Any]:
        """The difference as a JSON object."""
        return {
            **self.cell._asdict(),
            "since": iso(self.since),
            "until": None if self.until is None else iso(self.until),
            "old": None if self.old is None else self.old.to_dict(),
            "new": None if self.new is None else self.new.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class Backtest:
    """What came of a backtest."""

    old_sha256: str  # the gate file that was compared with
    new_sha256: str  # the gate file that was tried
    since: datetime  # event time of the first look
    until: datetime  # event time of the last look
    old: dict[Cell, list[Turn]]  # the turns of every cell under the old file
    new: dict[Cell, list[Turn]]  # the turns of every cell under the new file
    differences: list[Difference]  # where they part, by time and cell

    def to_dict(self) -> dict[str, Any]:
        """The backtest as a JSON object."""
        return {
            "old_sha256": self.old_sha256,
            "new_sha256": self.new_sha256,
            "since": iso(self.since),
            "until": iso(self.until),
            "cells": len(self.old.keys() | self.new.keys()),
            "differences": [difference.to_dict() for difference in self.differences],
        }


def in_force(lake: Lake) -> GateFile:
    """The gate file of the newest verdict, as the lake keeps it.

    Raises:
        NothingInForceError: There is no verdict yet.
        GateFileNotKeptError: The lake does not hold it.
        AlteredGateFileError: Its bytes were changed.
    """
    newest = lake.scan(VERDICTS).sort("judged_at").tail(1).select("gate_sha256").collect()["gate_sha256"]
    if newest.is_empty():
        raise NothingInForceError("the ledger holds no verdict yet; name the gate file to compare with: --against FILE")
    return gate_store.load(lake, newest[0])


def backtest(
    history: History, old: GateFile, new: GateFile, *, since: datetime | None = None, until: datetime | None = None
) -> Backtest:
    """Run the same history through two gate files, each looking at every minute, and compare."""
    turned = [_by_cell(list(run(history, gates, since=since, until=until))) for gates in (old, new)]
    differences = [
        difference
        for cell in turned[0].keys() | turned[1].keys()
        for difference in _differences(cell, turned[0].get(cell, []), turned[1].get(cell, []))
    ]
    differences.sort(key=lambda difference: (difference.since, difference.cell))
    first, last = since or history.first, until or history.last
    return Backtest(old.sha256, new.sha256, first, last, turned[0], turned[1], differences)


def _by_cell(turns: list[Turn]) -> dict[Cell, list[Turn]]:
    by_cell: dict[Cell, list[Turn]] = defaultdict(list)
    for turn in turns:
        by_cell[turn.verdict.inputs.cell].append(turn)
    return dict(by_cell)


def _differences(cell: Cell, old: list[Turn], new: list[Turn]) -> list[Difference]:
    """The stretches in which two timelines differ in word or destination, with their reasons at its beginning."""
    differences: list[Difference] = []
    one: Turn | None = None
    two: Turn | None = None
    moments = sorted({turn.at for turn in (*old, *new)})
    by_moment = [{turn.at: turn for turn in turns} for turns in (old, new)]
    for at in moments:
        before = _word(one), _word(two)
        one, two = by_moment[0].get(at, one), by_moment[1].get(at, two)
        if (_word(one), _word(two)) == before:
            continue
        if differences and differences[-1].until is None:
            last = differences[-1]
            differences[-1] = Difference(cell, last.since, at, last.old, last.new)
        if _word(one) != _word(two):
            differences.append(Difference(cell, at, None, one, two))
    return differences


def _word(turn: Turn | None) -> tuple[object, ...] | None:
    return None if turn is None else (turn.verdict.result.verdict, turn.verdict.result.to_stage)
