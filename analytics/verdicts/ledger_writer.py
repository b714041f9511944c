"""Write the ledger: rows in chains, and the head outside the lake that says with which row history ends."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analytics.lake.chain import AlteredHistoryError, ChainEnd, end_of, link
from analytics.lake.table_schemas import COLUMNS, VERDICTS
from analytics.verdicts.document import VerdictDocument
from analytics.verdicts.ledger_head import LedgerHead, pinned_versions

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from analytics.lake.tables import Fence, Lake
    from analytics.verdicts.verdict import Verdict

LOG: Final = logging.getLogger(__name__)


class LedgerWriter:
    """The one writer of a ledger, for as long as nobody else has raised the fence.

    Where history is not the one that the head names, rows are written on, so that harm is recorded; the head stays, and
    with it the gate stays shut until a person has settled what happened. `fault` says what is wrong.
    """

    def __init__(self, lake: Lake, *, fence: Fence | None = None) -> None:
        self._lake = lake
        self._fence = fence
        self._head = LedgerHead.of_lake(lake.root)
        self._end: ChainEnd | None = None
        self.fault: str | None = None  # why history cannot be the one that was written; None where all is well

    def begin(self) -> ChainEnd:
        """Find the end of the ledger, and hold it against the head. Raises `LakeError`."""
        if self._end is not None:
            return self._end
        end = end_of(self._lake)
        if self._head is not None:
            try:
                kept = self._head.read()
                if kept is not None:
                    self._head.check(kept, self._lake, end)
                elif end.sequence:
                    LOG.warning("no head of the ledger is kept yet; it begins with row %d as it is", end.sequence)
            except AlteredHistoryError as error:
                self.fault = str(error)
                LOG.error("%s", error)  # noqa: TRY400 - the sentence says it all
        self._end = end
        self.note_versions()
        return end

    def append(self, verdicts: Sequence[Verdict], *, changed: Collection[str]) -> None:
        """Append verdicts in one commit; none makes no commit. `changed` holds the ids of those that are news.

        Raises:
            FencedError: Somebody else judges now; nothing was written.
            LakeError: The commit failed, or the head cannot be kept; nothing was written.
        """
        if not verdicts:
            return
        end = self.begin()
        rows = [_row(verdict, changed=verdict.verdict_id in changed) for verdict in verdicts]
        reached = link(rows, end)
        frame = pl.DataFrame(rows, schema=COLUMNS[VERDICTS], orient="row")
        self._note(end, pending=reached)
        self._end = None  # of a commit that fails nobody knows whether it was made
        self._lake.append(VERDICTS, frame, fence=self._fence)
        self._end = reached
        self._note(reached)

    def note_versions(self) -> None:
        """Note up to where the tables go by now. Raises `LakeError`."""
        self._note(self.begin())

    def _note(self, end: ChainEnd, *, pending: ChainEnd | None = None) -> None:
        if self._head is not None and self.fault is None:
            self._head.write(end, versions=pinned_versions(self._lake), pending=pending)


def _row(verdict: Verdict, *, changed: bool) -> dict[str, Any]:
    document = VerdictDocument.from_verdict(verdict)
    return {
        **{name: getattr(document, name) for name in COLUMNS[VERDICTS] if name in VerdictDocument.model_fields},
        "verdict": document.verdict.value,
        "gate": document.gate or "",
        "changed": changed,
        "payload": document.model_dump_json(),
        "counts_sha256": verdict.inputs.counts_sha256,
    }
