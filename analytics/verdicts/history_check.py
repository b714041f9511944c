"""Whether the lake behind some verdicts is whole, and the one that was judged: what the gate asks before it opens."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from analytics.lake.chain import AlteredHistoryError, verify
from analytics.lake.errors import UnreadableLakeError
from analytics.lake.storage import is_remote
from analytics.lake.table_schemas import EVENTS, JUDGE_HEARTBEATS, SIGNALS, VERDICTS
from analytics.signals.cells import EPOCH, rows_of
from analytics.signals.counted import digest_of_increments
from analytics.verdicts.ledger_head import LedgerHead

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from analytics.lake.tables import Lake
    from analytics.verdicts.document import VerdictDocument

_FILES: Final = (VERDICTS, SIGNALS, EVENTS, JUDGE_HEARTBEATS)
_LOOKS: Final = 5  # how often the ledger is read again, where it moves meanwhile


def check_history(lake: Lake, documents: Sequence[VerdictDocument]) -> None:
    """Check the history that verdicts rest on: their rows, the chain, the head outside the lake, counts and files.

    Raises:
        AlteredHistoryError: It is not the history that was written.
        LakeError: The lake is damaged, or cannot be read.
    """
    ids = {document.verdict_id for document in documents}
    rows = _check_head(lake, ids)
    if not is_remote(lake.root):
        faults = [fault for table in _FILES for fault in lake.damaged(table)]
        if faults:
            more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
            raise UnreadableLakeError(
                f"the lake at {lake.root} is damaged: {faults[0]}{more}. Stop the workers and restore it from a backup "
                "of one moment."
            )
    newest = max(document.lake_version for document in documents)
    if newest > lake.version(SIGNALS):
        raise AlteredHistoryError(
            f"verdicts of the lake at {lake.root} rest on version {newest} of signals, which ends with version "
            f"{lake.version(SIGNALS)}: it was put back or cut off. Restore a copy of all tables of one moment."
        )
    digests = dict(rows.select("verdict_id", "counts_sha256").iter_rows())
    by_version = defaultdict[int, list["VerdictDocument"]](list)
    for document in documents:
        if digests[document.verdict_id] is not None:  # rows of earlier layouts have none
            by_version[document.lake_version].append(document)
    for version, judged in by_version.items():
        _check_counts(lake, version, judged, digests)


def _check_head(lake: Lake, ids: set[str]) -> pl.DataFrame:
    """The rows of some verdicts, in a ledger that ends as the head says."""
    head = LedgerHead.of_lake(lake.root)
    if head is None:
        return verify(lake, ids)[1]
    look = 0
    while True:
        look += 1
        kept = head.read()
        if kept is None:
            raise AlteredHistoryError(
                f"no head of the ledger is kept at {head.path}, so nobody can tell whether the lake at {lake.root} was "
                "put back or cut off. Name the file with STAGEKEEPER_LAKE_HEAD, or start the worker, which begins it."
            )
        end, rows = verify(lake, ids)
        try:
            head.check(kept, lake, end)
        except AlteredHistoryError:
            # A judge that writes at this moment moves both.
            if look == _LOOKS or (head.read() == kept and verify(lake, ids)[0] == end):
                raise
        else:
            return rows


def _check_counts(
    lake: Lake, version: int, documents: Sequence[VerdictDocument], digests: Mapping[str, str | None]
) -> None:
    """Count epochs anew, at the version of `signals` at which they were judged."""
    keys = [(*document.cell, document.epoch) for document in documents]
    rows = rows_of(lake.scan(SIGNALS, version=version), EPOCH, keys).collect().partition_by(EPOCH, as_dict=True)
    for key, document in zip(keys, documents, strict=True):
        counted = digest_of_increments(rows[key]) if key in rows else None
        if counted != digests[document.verdict_id]:
            raise AlteredHistoryError(
                f"the counts of {'/'.join(document.cell)} at version {version} of signals are not those that "
                f"verdict {document.verdict_id} was reached on: files of the lake at {lake.root} were exchanged. "
                "Restore it from a backup of one moment; `stagekeeper verdicts replay` tells which verdicts still hold."
            )
