"""The promotions and rollbacks that the ledger says last of each cell, followed as it grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import polars as pl

from analytics.enactment.due_changes import Crossing
from analytics.lake.errors import ForgottenError
from analytics.lake.table_schemas import VERDICTS
from analytics.signals.cells import CELL
from analytics.verdicts.ledger import ORDER
from analytics.verdicts.verdict import REASSESSED
from producers.boundary.stage_store import ActionName
from producers.wire.events import VerdictName
from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from analytics.lake.tables import Lake

_CALLS: Final = (VerdictName.PROMOTE.value, VerdictName.ROLL_BACK.value)
_SAID: Final = ("epoch", "verdict", "to_stage", "verdict_id", "judged_at", "risk_class")
_COLUMNS: Final = [*CELL, "epoch", "verdict", "to_stage", *ORDER]


class StandingCall(NamedTuple):
    """A promotion or rollback as the ledger says it, without its evidence."""

    cell: Cell
    epoch: str
    verdict: str
    to_stage: str
    verdict_id: str
    judged_at: datetime
    crossed: str  # the verdict that crossed first
    risk_class: str | None

    @property
    def action(self) -> ActionName:
        """The action that should move."""
        return ActionName(*self.cell[:3])

    @property
    def key(self) -> tuple[str, ...]:
        """Cell, epoch, verdict and destination."""
        return (*self.cell, self.epoch, self.verdict, self.to_stage)


class StandingCalls:
    """What the ledger calls for, by cell. Nobody else may use the handle of the lake meanwhile."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._version = -1
        self.by_cell: dict[Cell, StandingCall] = {}

    def refresh(self) -> set[ActionName]:
        """Take in what the ledger has gained; the actions of which something is new. Raises `LakeError`."""
        version = self._lake.version(VERDICTS)
        if version == self._version:
            return set()
        columns = [*_COLUMNS, "payload"]
        rows, kept = self._lake.scan(VERDICTS).select(columns), {}
        if self._version >= 0:
            try:
                rows = self._lake.increments(VERDICTS, after=self._version, through=version, columns=columns).lazy()
                kept = self.by_cell
            except ForgottenError:
                pass  # the table is read whole
        news = _last(rows)
        self.by_cell, self._version = kept, version  # only now: what was not read is news at the next look, too
        return {self._take(row) for row in news}

    def of(self, action: ActionName) -> list[StandingCall]:
        """What is called for about one action."""
        return [call for cell, call in self.by_cell.items() if cell[:3] == action]

    def _take(self, row: dict[str, Any]) -> ActionName:
        cell = Cell(*(str(row[name]) for name in CELL))
        if row["verdict"] in _CALLS and row["to_stage"] is not None:
            crossed = row["latched_by"] or row["verdict_id"]
            said = {name: row[name] for name in _SAID}
            self.by_cell[cell] = StandingCall(cell=cell, crossed=crossed, **said)
        else:
            self.by_cell.pop(cell, None)
        return ActionName(*cell[:3])


def _last(rows: pl.LazyFrame) -> list[dict[str, Any]]:
    """The last row of each cell, with what its payload says of the crossing and the risk class."""
    payload = pl.col("payload")
    return (
        rows.filter(~pl.col("verdict_id").str.starts_with(REASSESSED))
        .sort(ORDER)
        .unique(subset=CELL, keep="last", maintain_order=True)
        .with_columns(
            latched_by=payload.str.json_path_match("$.latched_by"),
            risk_class=payload.str.json_path_match("$.risk_class"),
        )
        .drop("payload")
        .collect()
        .to_dicts()
    )


def crossings(lake: Lake, verdict_ids: Collection[str]) -> dict[str, Crossing]:
    """When some verdicts were reached, and up to when evidence was known then, by id. Raises `LakeError`."""
    rows = (
        lake.scan(VERDICTS)
        .filter(pl.col("verdict_id").is_in(sorted(verdict_ids)))
        .select("verdict_id", "judged_at", "watermark")
        .unique("verdict_id")
        .collect()
    )
    return {verdict_id: Crossing(judged_at, watermark) for verdict_id, judged_at, watermark in rows.iter_rows()}
