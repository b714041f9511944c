"""Proofs that an event or a verdict is in a sealed log, as files that are checked without the lake.

The format is `c2sp.org/tlog-proof@v1`; the entry itself stands in the line `extra`, so that the file says what it
proves.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.audit.merkle import (
    ProofError,
    TreeHashes,
    check_inclusion,
    leaf_hash,
    prove_inclusion,
)
from analytics.audit.sealed_logs import entries
from analytics.audit.sealing import hashes
from analytics.audit.signed_note import Checkpoint
from analytics.lake.table_schemas import EVENTS, SEALS, VERDICTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analytics.audit.signed_note import Verifier
    from analytics.lake.tables import Lake

_FORMAT: Final = "c2sp.org/tlog-proof@v1"
_IDS: Final = {EVENTS: "id", VERDICTS: "verdict_id"}


@dataclass(frozen=True, slots=True)
class Proven:
    """What a proof shows: this entry is number `index` of the log that the checkpoint speaks of."""

    checkpoint: Checkpoint
    index: int
    entry: bytes


class SealedTree:
    """The tree of one log, with what proofs need of it; raises `LakeError` where the lake cannot be read."""

    def __init__(self, lake: Lake, log: str) -> None:
        self._seals = lake.scan(SEALS).filter(pl.col("log") == log)
        rows = self._seals.select("size", "tiles", "checkpoint").sort("size").collect()
        self.size = int(rows["size"][-1]) if rows.height else 0
        self.checkpoint = str(rows["checkpoint"][-1]) if rows.height else ""
        self.hashes = TreeHashes(self.leaves, [tile for row in rows["tiles"] for tile in hashes(row)])

    def leaves(self, first: int, end: int) -> list[bytes]:
        """The hashes of the entries from `first` (inclusive) to `end` (exclusive)."""
        rows = self._seals.filter(pl.col("first") < end, pl.col("size") > first).sort("first")
        found = rows.select("first", "leaves").collect()
        leaves = [leaf for row in found["leaves"] for leaf in hashes(row)]
        start = first - int(found["first"][0])
        return leaves[start : start + end - first]

    def index_of(self, position: int) -> int | None:
        """The index of the entry at a position of the source; None where none is sealed."""
        may_hold = pl.col("last_position") >= position
        rows = self._seals.filter(may_hold).sort("first").select("first", "positions").head(1).collect()
        for first, positions in rows.iter_rows():
            if position in positions:
                return int(first) + int(positions.index(position))
        return None


def prove(lake: Lake, identity: str) -> str:
    """The proof that the event or verdict of this id is in its log, under the log's newest checkpoint.

    Raises `ProofError` where there is no such row, it is not sealed yet, or it is not what was sealed, and `LakeError`.
    """
    for table, name in _IDS.items():
        rows = lake.scan(table).filter(pl.col(name) == identity).collect()
        for log, (position, *_), (data, *_) in entries(table, rows):
            return _prove(lake, identity, log, position, data)
    raise ProofError(
        f"no accepted event and no verdict that was news has the id {identity}. A rejected record is in no log: "
        "`stagekeeper signals` names its reason."
    )


def _prove(lake: Lake, identity: str, log: str, position: int, data: bytes) -> str:
    tree = SealedTree(lake, log)
    index = tree.index_of(position)
    if index is None:
        raise ProofError(f"{identity} is not sealed yet: `stagekeeper audit seal` seals what is in the lake.")
    proof = prove_inclusion(index, 0, tree.size, tree.hashes.root)
    checkpoint = Checkpoint.parse(tree.checkpoint)
    try:
        check_inclusion(leaf_hash(data), index, tree.size, checkpoint.root, proof)
    except ProofError as error:
        raise ProofError(f"{identity} is not what was sealed: `stagekeeper audit verify` says more.") from error
    lines = [_FORMAT, f"extra {base64.b64encode(data).decode()}", f"index {index}"]
    lines += [base64.b64encode(part).decode() for part in proof]
    return "\n".join([*lines, "", tree.checkpoint])


def check_proof(text: str, verifiers: Sequence[Verifier] = ()) -> Proven:
    """Check a proof that `prove` wrote; with verifiers, one of them must have signed its checkpoint.

    Raises `ProofError` where it proves nothing.
    """
    head, blank, note = text.partition("\n\n")
    try:
        what, extra, index, *proof = head.split("\n")
        entry = base64.b64decode(extra.removeprefix("extra "), validate=True)
        number = int(index.removeprefix("index "))
        path = [base64.b64decode(part, validate=True) for part in proof]
    except (ValueError, binascii.Error):
        what, entry, number, path = "", b"", 0, []
    if what != _FORMAT or not blank:
        raise ProofError(f"this is no proof: its first line is not {_FORMAT}, or a line is missing.")
    checkpoint = Checkpoint.parse(note, verifiers)
    check_inclusion(leaf_hash(entry), number, checkpoint.size, checkpoint.root, path)
    return Proven(checkpoint, number, entry)
