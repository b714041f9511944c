"""Check a lake against what was sealed: every row, byte for byte, every checkpoint, and where it differs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analytics.audit.merkle import Frontier, ProofError, leaf_hash
from analytics.audit.sealed_logs import NUMBERLESS, SEALED, entries, own_log, partition_log, rows_of, table_of
from analytics.audit.sealing import hashes, missing_entries
from analytics.audit.signed_note import Checkpoint
from analytics.lake.table_schemas import EVENTS, SEALS, VERDICTS
from analytics.text import iso

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime, timedelta

    from analytics.audit.signed_note import Verifier
    from analytics.lake.tables import Lake

_FAULTS: Final = 100  # so many are named of one log; the others are counted
_SEALS: Final = 256  # so many rows of `seals` are read at a time
_ENTRIES: Final = 65_536  # so many rows are compared at a time, about
_NUMBERS: Final = {EVENTS: "offset", VERDICTS: "news"}
_IDS: Final = {EVENTS: "id", VERDICTS: "verdict_id"}


@dataclass(frozen=True, slots=True)
class SealFault:
    """Something that is not as it was sealed."""

    log: str
    what: str  # `changed`, `missing`, `added`, `seal` or `checkpoint`
    detail: str
    position: int | None = None  # in its source: the offset, or the number of the row
    id: str | None = None  # of the event or the verdict, where a row is there


@dataclass
class LogCheck:
    """What was found of one log."""

    log: str
    size: int = 0
    root: str = ""
    checked: int = 0  # rows that are what was sealed
    no_longer_kept: int = 0  # rows that retention has taken out; their hashes are there
    not_sealed: int = 0  # rows that came after the last seal
    signed: bool = False
    faults: list[SealFault] = field(default_factory=list)
    more_faults: int = 0  # beyond those that are named

    def add(self, what: str, detail: str, position: int | None = None, identity: str | None = None) -> None:
        """Note a fault, or count it where there are many."""
        if len(self.faults) < _FAULTS:
            self.faults.append(SealFault(self.log, what, detail, position, identity))
        else:
            self.more_faults += 1


@dataclass(frozen=True)
class SealCheck:
    """Checks one lake. `kept` is how long rows of `events` stay at least; None: for ever."""

    lake: Lake
    now: datetime
    kept: timedelta | None
    verifiers: Sequence[Verifier] = ()
    progress: Callable[[str, int, int], None] = lambda _log, _done, _of: None

    def run(self, checkpoints: Iterable[str] = ()) -> list[LogCheck]:
        """Check all logs, also against checkpoints that were kept elsewhere (signed notes); raises `LakeError`.

        Raises `ProofError` where one of those is no checkpoint, or is signed by none of the known keys.
        """
        kept: dict[str, list[Checkpoint]] = {}
        for note in checkpoints:
            checkpoint = Checkpoint.parse(note, self.verifiers)
            kept.setdefault(checkpoint.origin, []).append(checkpoint)
        seals = self.lake.scan(SEALS)
        logs = set(seals.select("log").unique().collect()["log"])
        found = [
            self._check(log, seals.filter(pl.col("log") == log), kept.get(log, ()))
            for log in sorted(logs | kept.keys())
        ]
        if (why := missing_entries(self.lake)) is not None:
            found.append(LogCheck(SEALS))
            found[-1].add("seal", why)
        return [*found, *self._not_sealed(logs)]

    def _check(self, log: str, seals: pl.LazyFrame, kept: Sequence[Checkpoint]) -> LogCheck:
        check = LogCheck(log)
        table = table_of(log)
        if table is None:
            check.add("seal", "this version of stagekeeper knows no such log; check it with a newer one")
            return check
        present = _Rows(self.lake, table, log)
        frontier, roots = Frontier(), {0: Frontier().root}
        ends = seals.select("first", "size", "sealed_at").sort("first", "size").collect()
        of = int(ends["size"].max() or 0)  # type: ignore[arg-type]
        before: datetime | None = None
        for start in range(0, ends.height, _SEALS):
            part = ends.slice(start, _SEALS)
            rows = seals.filter(pl.col("first").is_between(part["first"][0], part["first"][-1])).sort("first", "size")
            for row in rows.collect().iter_rows(named=True):
                leaves = hashes(row["leaves"])
                if row["first"] != frontier.size or row["first"] + len(leaves) != row["size"] or not leaves:
                    check.add("seal", f"a seal begins at entry {row['first']:,}, where {frontier.size:,} is the next")
                    return check
                frontier = self._seal(check, row, leaves, frontier, before)
                roots[frontier.size], before = frontier.root, row["sealed_at"]
                if len(row["positions"]) != len(leaves):
                    check.add("seal", f"the seal of {iso(row['sealed_at'])} does not say where its entries stand")
                    return check
                may_be_gone = self._may_be_gone(table, row["sealed_at"])
                present.sealed(check, row["positions"], leaves, may_be_gone=may_be_gone)
                self.progress(log, frontier.size, of)
        check.size, check.root = frontier.size, frontier.root.hex()
        present.rest(check)
        for checkpoint in kept:
            if checkpoint.size > frontier.size:
                check.add(
                    "checkpoint", f"it ends before the {checkpoint.size:,} entries of a checkpoint: it was put back"
                )
            elif roots.get(checkpoint.size) != checkpoint.root:
                check.add("checkpoint", f"its first {checkpoint.size:,} entries are not those of a checkpoint")
        return check

    def _seal(
        self, check: LogCheck, row: dict[str, Any], leaves: list[bytes], before: Frontier, last: datetime | None
    ) -> Frontier:
        """The frontier after a seal, and whether the seal says the same."""
        frontier, tiles = before.extended(leaves)
        stored = (row["size"], b"".join(tiles), b"".join(frontier.peaks), row["positions"][-1:])
        if stored != (frontier.size, row["tiles"], row["peaks"], [row["last_position"]]):
            check.add("seal", f"the seal of {iso(row['sealed_at'])} does not follow from its hashes")
        try:
            signed = Checkpoint.parse(row["checkpoint"], self.verifiers)
        except ProofError as error:
            check.add("seal", f"the seal of {iso(row['sealed_at'])}: {error}")
            return frontier
        check.signed = bool(self.verifiers)
        said = (check.log, frontier.size, frontier.root, (f"sealed {iso(row['sealed_at'])}",))
        if (signed.origin, signed.size, signed.root, signed.extensions) != said:
            check.add("seal", f"the seal of {iso(row['sealed_at'])} is not what its checkpoint says")
        if last is not None and row["sealed_at"] < last:
            check.add("seal", f"the seal of {iso(row['sealed_at'])} is older than the one before it")
        return frontier

    def _may_be_gone(self, table: str, sealed_at: datetime) -> bool:
        return table == EVENTS and self.kept is not None and sealed_at < self.now - self.kept

    def _not_sealed(self, logs: set[str]) -> list[LogCheck]:
        """The logs of rows of which no seal tells."""
        names = set(self.lake.scan(EVENTS).select(partition_log().alias("log")).unique().collect()["log"])
        names |= {own_log(table) for table in SEALED if table != EVENTS}
        checks = []
        for log in sorted(names - logs):
            check = LogCheck(log)
            _Rows(self.lake, table_of(log) or EVENTS, log).rest(check)
            if check.not_sealed:
                checks.append(check)
        return checks


class _Rows:
    """The rows of a log that the lake has, compared with what was sealed part by part."""

    def __init__(self, lake: Lake, table: str, log: str) -> None:
        self._table = table
        self._rows = lake.scan(table).filter(rows_of(log))
        self._reached: int | None = None  # the last position that was compared; none lies before the first comparison
        self._positions: list[int] = []
        self._leaves: list[bytes] = []
        self._may_be_gone: list[bool] = []

    def sealed(self, check: LogCheck, positions: Sequence[int], leaves: Sequence[bytes], *, may_be_gone: bool) -> None:
        """Take over what the next seal holds."""
        self._positions += positions
        self._leaves += leaves
        self._may_be_gone += [may_be_gone] * len(leaves)
        if self._table not in NUMBERLESS and len(self._leaves) >= _ENTRIES:
            self._compare(check)

    def rest(self, check: LogCheck) -> None:
        """Compare what is left, and count the rows that no seal tells of."""
        if self._table in NUMBERLESS:
            self._compare_numberless(check)
            return
        self._compare(check)
        after = (
            self._rows if self._reached is None else self._rows.filter(pl.col(_NUMBERS[self._table]) > self._reached)
        )
        check.not_sealed = after.select(pl.len()).collect().item()

    def _compare(self, check: LogCheck) -> None:
        if not self._positions:
            return
        number, last = pl.col(_NUMBERS[self._table]), self._positions[-1]
        new = number <= last if self._reached is None else number.is_between(self._reached, last, closed="right")
        rows = self._rows.filter(new).collect()
        ids = dict(rows.select(number, _IDS[self._table]).iter_rows())
        sealed = dict(zip(self._positions, zip(self._leaves, self._may_be_gone, strict=True), strict=True))
        for _, positions, found in entries(self._table, rows):
            for position, data in zip(positions, found, strict=True):
                leaf, _ = sealed.pop(position, (None, False))
                if leaf == leaf_hash(data):
                    check.checked += 1
                elif leaf is None:
                    check.add("added", "this row was not sealed", position, ids[position])
                else:
                    check.add("changed", "this row is not what was sealed", position, ids[position])
        for position, (_, may_be_gone) in sealed.items():
            if may_be_gone:
                check.no_longer_kept += 1
            else:
                check.add("missing", "the row that was sealed is not there", position)
        self._reached, self._positions, self._leaves, self._may_be_gone = last, [], [], []

    def _compare_numberless(self, check: LogCheck) -> None:
        sealed = dict(zip(self._leaves, self._positions, strict=True))
        for _, _, found in entries(self._table, self._rows.collect()):
            known = sum(sealed.pop(leaf, None) is not None for leaf in map(leaf_hash, found))
            check.checked, check.not_sealed = known, len(found) - known
        for position in sealed.values():
            check.add("missing", "the row that was sealed is not there, or was changed", position)
