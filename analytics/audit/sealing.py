"""Seal the transparency logs: hash what was appended to the lake into their trees, and sign what they are now.

One commit to `seals` holds what all logs grew by and how far each table was read, so that no row is sealed twice or
never. The newest checkpoints are copied to a folder outside the lake; a lake that does not go on from them is another.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, unquote

import polars as pl

from analytics.audit.merkle import Frontier, ProofError, leaf_hash
from analytics.audit.sealed_logs import NUMBERLESS, SEALED, entries, partition_log, rows_of
from analytics.audit.signed_note import Checkpoint
from analytics.lake.chain import AlteredHistoryError
from analytics.lake.commits import Advance
from analytics.lake.errors import ForgottenError, LakeError
from analytics.lake.storage import StorageSettings, is_remote
from analytics.lake.table_schemas import COLUMNS, EVENTS, SEALS
from analytics.text import iso

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from analytics.audit.signed_note import Signer
    from analytics.lake.commits import StoredNumber
    from analytics.lake.tables import Fence, Lake

HASH: Final = 32  # bytes
_COMMITS: Final = 256  # so many commits of a table are sealed at a time
_ROWS: Final = 65_536  # likewise rows, where a table is read whole


class SealedVersion(NamedTuple):
    """How far a table is sealed, as a number in the log of `seals`."""

    table: str

    @property
    def app_id(self) -> str:
        """The name under which the version is stored."""
        return f"sealed/{self.table}"


class _SealedEntries(NamedTuple):
    """How many entries all logs have together, as a number in the log of `seals`: so that no seal goes unmissed."""

    app_id: str = "sealed entries"


@dataclass(frozen=True, slots=True)
class Head:
    """Where a log ends."""

    frontier: Frontier
    last_position: int
    checkpoint: str

    @property
    def size(self) -> int:
        """How many entries it has."""
        return self.frontier.size


NOTHING: Final = Head(Frontier(), -1, "")


@dataclass
class KnownHeads:
    """Where all logs ended when so many entries were sealed: what a sealer need not read again at every seal."""

    ends: dict[str, Head] = field(default_factory=dict)
    entries: int | None = None  # None: nothing is known


def hashes(data: bytes) -> list[bytes]:
    """Hashes that were stored one behind the other."""
    return [data[start : start + HASH] for start in range(0, len(data), HASH)]


def heads(lake: Lake) -> dict[str, Head]:
    """Where each log ends. Raises `AlteredHistoryError` where a row does not fit its checkpoint, and `LakeError`."""
    newest = pl.all().sort_by("size").last()
    columns = ("log", "size", "last_position", "peaks", "checkpoint")
    ends: dict[str, Head] = {}
    for log, size, last, peaks, note in (
        lake.scan(SEALS).select(columns).group_by("log").agg(newest).collect().iter_rows()
    ):
        try:
            head = Head(Frontier(size, tuple(hashes(peaks))), last, note)
            checkpoint = Checkpoint.parse(note)
        except ProofError as error:
            raise altered(lake, f"the last seal of {log} cannot be read: {error}") from error
        if (checkpoint.origin, checkpoint.size, checkpoint.root) != (log, size, head.frontier.root):
            raise altered(lake, f"the last seal of {log} is not what its checkpoint says")
        ends[log] = head
    return ends


def _sealed_entries(lake: Lake) -> int:
    return lake.stored_offsets(SEALS, [_SealedEntries()]).get(_SealedEntries(), 0)


def missing_entries(lake: Lake) -> str | None:
    """What is to be said where `seals` does not hold as many entries as were sealed; None where it does."""
    sealed = _sealed_entries(lake)
    there = lake.scan(SEALS).select((pl.col("size") - pl.col("first")).sum()).collect().item()
    return None if there == sealed else f"{sealed:,} entries were sealed, and the seals of {there:,} are there"


def altered(lake: Lake, what: str) -> AlteredHistoryError:
    """The error that says what of the lake's history is not as it was sealed."""
    return AlteredHistoryError(
        f"{what}: the lake at {lake.root} was changed or put back. `stagekeeper audit verify` says where; find out who "
        "may write there, and restore it from a backup of one moment."
    )


@dataclass(frozen=True)
class Anchor:
    """A folder outside the lake with the newest checkpoint of each log, a file each."""

    folder: Path

    @classmethod
    def of_lake(cls, root: str) -> Anchor | None:
        """The configured one, or the one beside the lake's folder; None for a bucket where none is configured."""
        folder = StorageSettings.load().checkpoints
        if folder is not None:
            return cls(folder)
        if is_remote(root):
            return None
        lake = Path(os.path.realpath(root))
        return cls(lake.with_name(f"{lake.name}.checkpoints"))

    def read(self) -> dict[str, str]:
        """The checkpoints by log. Raises `LakeError` where something else lies among them."""
        if not self.folder.is_dir():
            return {}
        notes = {}
        for path in self.folder.iterdir():
            if path.name.startswith("."):
                continue
            try:
                notes[unquote(path.name)] = path.read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise LakeError(
                    f"{path} is no checkpoint: {error}. Move it out of the folder of checkpoints."
                ) from error
        return notes

    def write(self, notes: dict[str, str]) -> None:
        """Replace checkpoints, each in one step. Raises `LakeError` where they cannot be kept."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for log, note in notes.items():
                path = self.folder / quote(log, safe="")
                draft = self.folder / f".{path.name}.draft"
                with draft.open("w") as opened:
                    opened.write(note)
                    opened.flush()
                    os.fsync(opened.fileno())
                draft.replace(path)
        except OSError as error:
            raise LakeError(
                f"the checkpoints cannot be kept in {self.folder}: {error.strerror}. Make the folder writable, or set "
                "STAGEKEEPER_LAKE_CHECKPOINTS to one outside the lake."
            ) from error

    def check(self, lake: Lake, ends: dict[str, Head]) -> None:
        """Raise `AlteredHistoryError` where a log does not go on from the checkpoint that is kept here."""
        for log, note in self.read().items():
            if note == ends.get(log, NOTHING).checkpoint:
                continue
            try:
                kept = Checkpoint.parse(note)
            except ProofError as error:
                raise altered(lake, f"the checkpoint of {log} in {self.folder} cannot be read: {error}") from error
            if kept.size > ends.get(log, NOTHING).size:
                raise altered(lake, f"{log} ends before the {kept.size:,} entries of its checkpoint in {self.folder}")
            then = lake.scan(SEALS).filter(pl.col("log") == log, pl.col("size") == kept.size)
            rows = then.select("checkpoint").collect()["checkpoint"].to_list()
            if rows and Checkpoint.parse(rows[0]).root != kept.root:
                raise altered(lake, f"{log} is not the log of its checkpoint in {self.folder}")
            if not rows:
                raise altered(
                    lake, f"{log} has no seal at the {kept.size:,} entries of its checkpoint in {self.folder}"
                )


class Sealer:
    """Seals a lake. One thread at a time may use it; of several processes, the first to commit wins."""

    def __init__(
        self,
        lake: Lake,
        signers: Sequence[Signer],
        anchor: Anchor | None,
        *,
        now: Callable[[], datetime],
        fence: Fence | None = None,
        known: KnownHeads | None = None,
    ) -> None:
        self._lake, self._signers, self._anchor, self._now, self._fence = lake, signers, anchor, now, fence
        self._known = KnownHeads() if known is None else known

    def run(self) -> int:
        """Seal everything that is in the lake; gives the number of entries that the logs grew by.

        Raises:
            AlteredHistoryError: The lake is not the one that was sealed; nothing was signed.
            FencedError: Somebody else seals; nothing more was written.
            LakeError: The lake cannot be read or written.
        """
        known = self._known
        if known.entries is None or known.entries != _sealed_entries(self._lake):
            if (why := missing_entries(self._lake)) is not None:
                raise altered(self._lake, why)
            known.ends = heads(self._lake)
        ends, known.entries = known.ends, None  # until all of it is committed
        if self._anchor is not None:
            self._anchor.check(self._lake, ends)
        sealed = sum(self._seal(table, ends) for table in SEALED)
        if self._anchor is not None and (sealed or not self._anchor.read()):
            self._anchor.write({log: head.checkpoint for log, head in ends.items()})
        known.entries = sum(head.size for head in ends.values())
        return sealed

    def _seal(self, table: str, ends: dict[str, Head]) -> int:
        mark, newest = SealedVersion(table), self._lake.version(table)
        reached = self._lake.stored_offsets(SEALS, [mark]).get(mark)
        sealed = 0
        while (after := -1 if reached is None else reached) < newest:
            through = min(after + _COMMITS, newest)
            try:
                rows = self._lake.increments(table, after=after, through=through)
            except ForgottenError:
                through, rows = newest, pl.DataFrame(schema=COLUMNS[table])
                for part in self._whole(table, ends, newest):
                    sealed += self._commit(table, part, ends, {})
            sealed += self._commit(table, rows, ends, {mark: Advance(reached, through)})
            reached = through
        return sealed

    def _whole(self, table: str, ends: dict[str, Head], version: int) -> Iterator[pl.DataFrame]:
        """The rows of a table that are not sealed, where the lake does not know any more when each was appended."""
        frame = self._lake.scan(table, version=version)
        if table != EVENTS:
            yield frame.collect()
            return
        logs = frame.select(partition_log().alias("log")).unique().collect()["log"]
        for log in sorted(logs):
            own = frame.filter(rows_of(log), pl.col("offset") > ends.get(log, NOTHING).last_position)
            offsets = own.select(pl.col("offset").sort()).collect()["offset"]
            for start in range(0, offsets.len(), _ROWS):
                part = offsets.slice(start, _ROWS)
                yield own.filter(pl.col("offset").is_between(part[0], part[-1])).collect()

    def _commit(
        self, table: str, rows: pl.DataFrame, ends: dict[str, Head], advances: Mapping[StoredNumber, Advance]
    ) -> int:
        """Seal rows, and keep how far the table is read; gives the number of new entries."""
        now, sealed = self._now(), 0
        grown: list[dict[str, object]] = []
        for log, positions, data in entries(table, rows):
            before = ends.get(log, NOTHING)
            if table in NUMBERLESS:
                known = self._leaves(log)
                leaves = [leaf for leaf in map(leaf_hash, data) if leaf not in known]
                new = list(range(before.size + 1, before.size + 1 + len(leaves)))
            else:  # a sealer may have been killed before it kept how far it was
                first = bisect_right(positions, before.last_position)
                new, leaves = positions[first:], list(map(leaf_hash, data[first:]))
            if not leaves:
                continue
            frontier, tiles = before.frontier.extended(leaves)
            note = Checkpoint(log, frontier.size, frontier.root, (f"sealed {iso(now)}",)).note(self._signers)
            ends[log] = Head(frontier, new[-1], note)
            row = {
                "log": log, "sealed_at": now, "first": before.size, "size": frontier.size,
                "last_position": new[-1], "positions": new,
                "leaves": b"".join(leaves), "tiles": b"".join(tiles), "peaks": b"".join(frontier.peaks),
                "checkpoint": note,
            }  # fmt: skip
            grown.append(row)
            sealed += len(leaves)
        if sealed:
            total = sum(head.size for head in ends.values())
            advances = {**advances, _SealedEntries(): Advance(total - sealed or None, total)}
        if grown or advances:
            self._lake.append(SEALS, pl.DataFrame(grown, COLUMNS[SEALS]), advances=advances, fence=self._fence)
        return sealed

    def _leaves(self, log: str) -> set[bytes]:
        rows = self._lake.scan(SEALS).filter(pl.col("log") == log).select("leaves").collect()["leaves"]
        return {leaf for row in rows for leaf in hashes(row)}
