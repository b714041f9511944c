"""What has crossed, and what was graded anew: what earlier looks decided and later ones must not forget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from analytics.judging.groups import NOT_CROSSED, NOWHERE, Standing
from analytics.signals.cells import EPOCH
from analytics.verdicts.document import VerdictDocument
from analytics.verdicts.verdict import Latch
from producers.wire.events import VerdictName
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from analytics.signals.state import Columns
    from analytics.verdicts.document import Reassessment
    from analytics.verdicts.ledger import LatchKey
    from analytics.verdicts.verdict import Verdict
    from producers.wire.receipt import Cell

_CROSSING = (VerdictName.PROMOTE, VerdictName.ROLL_BACK)


class Crossings:
    """First crossings by epoch and gate file, and verdicts on epochs that were over by cell.

    Args:
        latches: What the ledger knows.
        regraded: Likewise.
    """

    def __init__(
        self, latches: dict[LatchKey, dict[VerdictName, Latch]], regraded: dict[Cell, list[Reassessment]]
    ) -> None:
        self.latches = latches
        self.regraded = regraded
        self._gate_sha256: str | None = None
        self._rungs: dict[VerdictName, npt.NDArray[np.int8]] = {}

    def of(self, columns: Columns, gate_sha256: str) -> Standing:
        """What stands under a gate file, by the places of epochs and cells."""
        if gate_sha256 != self._gate_sha256:
            self._gate_sha256 = gate_sha256
            self._rungs = {word: np.full(columns.epochs, NOT_CROSSED, dtype=np.int8) for word in _CROSSING}
            self._place(
                columns,
                [
                    ((*cell, epoch), latch)
                    for (cell, epoch, sha256), latches in self.latches.items()
                    if sha256 == gate_sha256
                    for latch in latches.values()
                ],
            )
        self._rungs = {
            word: np.concatenate([rungs, np.full(columns.epochs - rungs.size, NOT_CROSSED, dtype=np.int8)])
            for word, rungs in self._rungs.items()
        }
        regraded = np.zeros(len(columns.cells), dtype=np.int64)
        for cell, made in self.regraded.items():
            place = columns.cell_place(cell)
            if place is not None:
                regraded[place] = len(made)
        return Standing(self._rungs[VerdictName.PROMOTE], self._rungs[VerdictName.ROLL_BACK], regraded)

    def take(self, verdicts: Iterable[Verdict], columns: Columns) -> None:
        """Remember what has crossed for the first time, now that the ledger has it."""
        new = []
        for verdict in verdicts:
            finding = verdict.result
            if finding.verdict not in _CROSSING:
                continue
            key = (verdict.inputs.cell, verdict.inputs.epoch, verdict.gate_sha256)
            latch = Latch(finding.verdict, finding.to_stage, verdict.verdict_id)
            if self.latches.setdefault(key, {}).setdefault(finding.verdict, latch) is latch:
                new.append(((*verdict.inputs.cell, verdict.inputs.epoch), latch))
        self._place(columns, new)

    def regrade(self, turned: Sequence[Verdict]) -> None:
        """Remember verdicts on epochs that are over, now that the ledger has them."""
        for verdict in turned:
            self.regraded.setdefault(verdict.inputs.cell, []).append(VerdictDocument.from_verdict(verdict).reassessment)

    def _place(self, columns: Columns, latches: Sequence[tuple[tuple[str, ...], Latch]]) -> None:
        if not latches or not self._rungs:
            return
        keys = pl.DataFrame([key for key, _ in latches], schema=dict.fromkeys(EPOCH, pl.String), orient="row")
        for place, (_, latch) in zip(columns.places_of(keys), latches, strict=True):
            if place >= 0:
                rung = NOWHERE if latch.to_stage is None else Stage(latch.to_stage).rank
                self._rungs[latch.verdict][place] = rung
