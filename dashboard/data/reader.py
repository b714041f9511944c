"""What the page reads: once per version of a table, so that an unchanged lake costs five looks at a log."""

from __future__ import annotations

import logging
import math
import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from analytics.audit.quality import QualityRun, latest_quality
from analytics.backtest.recommendation_outcomes import Followed, recommendations
from analytics.gates.gate_file import GateFile
from analytics.lake.errors import READ_FAILURES, ForgottenError, UnreadableLakeError
from analytics.lake.storage import is_remote, unreadable
from analytics.lake.table_schemas import ENACTMENTS, JUDGE_HEARTBEATS, QUALITY, REJECTS, SIGNALS, SIGNOFFS, VERDICTS
from analytics.lake.tables import Lake
from analytics.report import CellSignals, Counted, RejectSummary, read_rejects
from analytics.verdicts import heartbeats, ledger
from analytics.verdicts.list_marks import CellEvidence, ListMarks
from dashboard.data.cell_history import CellHistory, cell_history
from dashboard.data.people_log import PeopleLog
from dashboard.data.routers import RouterState, routers
from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence
    from datetime import datetime

    from analytics.verdicts.document import VerdictDocument
    from analytics.verdicts.heartbeats import JudgeHeartbeat
    from producers.wire.receipt import Cell

LOG: Final = logging.getLogger(__name__)

FRESHNESS_S: Final = float(GateFile.model_fields["freshness"].default)
"""What a gate file allows that does not state it."""

_Read = TypeVar("_Read")

_WATCHED: Final = (JUDGE_HEARTBEATS, SIGNALS, VERDICTS, REJECTS, QUALITY)  # heartbeats first: see `LakeFollower.follow`
_MOST_HISTORIES: Final = 32
_MOST_ANSWERS: Final = 64
_ROUTERS_EVERY_S: Final = 5.0
_FATES_EVERY_S: Final = 60.0  # a recommendation expires with time alone


@dataclass(frozen=True)
class LakeSnapshot:
    """Everything the overview needs, as of one set of table versions."""

    signals: Mapping[Cell, CellSignals]
    verdicts: Mapping[Cell, VerdictDocument]  # the latest on each cell, as the ledger has it
    marks: ListMarks  # which of them to believe as a list
    heartbeat: JudgeHeartbeat | None  # the newest; None while there was none
    rejects: RejectSummary
    quality: QualityRun | None  # the last run; None when there was none
    versions: Mapping[str, int]  # the newest version of each table that the page watches


class LakeReader:
    """Reads one lake for every open page. Safe to share between threads: one reads, the others wait for the answer."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._lake: Lake | None = None
        self._birth: tuple[int, int] | None = None
        self._snapshot: LakeSnapshot | None = None
        self._follower = LakeFollower()
        self._taken: int | None = None  # as of what was read; what retention took out since then is counted there still
        self._histories: dict[tuple[Cell, str | None], tuple[int, CellHistory]] = {}
        self._answers: dict[tuple[Hashable, ...], Any] = {}
        self._people = PeopleLog()

    def snapshot(self) -> LakeSnapshot | None:
        """The lake as it is now, None where there is none yet; raises a `StagekeeperError` where it cannot be read."""
        return self._read(self._newest)

    def history(self, cell: Cell, epoch: str | None) -> CellHistory | None:
        """One cell over time, with running rates over an epoch; None and errors as `snapshot`."""

        def read(lake: Lake) -> CellHistory:
            version = lake.version(SIGNALS)
            stored = self._histories.get((cell, epoch))
            if stored is None or stored[0] != version:
                stored = (version, cell_history(lake.scan(SIGNALS, version=version), cell, epoch))
                # Pages look at few cells at a time; the oldest of many need not stay.
                recent = list(self._histories.items())[1 - _MOST_HISTORIES :]
                self._histories = {**dict(recent), (cell, epoch): stored}
            return stored[1]

        return self._read(read)

    def people(self) -> PeopleLog:
        """What people did; empty where there is no lake. Errors as `snapshot`."""

        def read(lake: Lake) -> PeopleLog:
            self._people.follow(lake)
            return self._people

        return self._read(read) or PeopleLog()

    def routers(self, now: datetime) -> list[RouterState]:
        """The routers that decide now; looked at anew every few seconds. Errors as `snapshot`."""
        moment = int(now.timestamp() / _ROUTERS_EVERY_S)
        return self.cached(("routers", moment), (), lambda lake: routers(lake, now)) or []

    def followed(self, now: datetime) -> list[Followed]:
        """Every recommendation and its fate, oldest first. Errors as `snapshot`."""
        known = len(self.people().changes), int(now.timestamp() / _FATES_EVERY_S)
        tables = (VERDICTS, SIGNOFFS, ENACTMENTS)
        return self.cached(("followed", *known), tables, lambda lake: recommendations(lake, now=now)) or []

    def look(self, read: Callable[[Lake], _Read]) -> _Read | None:
        """What a function reads of a lake now; None without a lake. Errors as `snapshot`."""
        return self._read(read)

    def cached(self, name: tuple[Hashable, ...], tables: Sequence[str], read: Callable[[Lake], _Read]) -> _Read | None:
        """What a function reads of a lake, once for each version of the tables that it reads; None without a lake."""

        def look(lake: Lake) -> _Read:
            key = (*name, *(lake.version(table) for table in tables))
            if key not in self._answers:
                recent = list(self._answers.items())[1 - _MOST_ANSWERS :]
                self._answers = {**dict(recent), key: read(lake)}
            answer: _Read = self._answers[key]
            return answer

        return self._read(look)

    def _read(self, read: Callable[[Lake], _Read]) -> _Read | None:
        with self._lock:
            lake = self._open()
            if lake is None:
                return None
            try:
                return read(lake)
            except StagekeeperError:
                self._forget()
                raise
            except READ_FAILURES as error:
                self._forget()
                raise unreadable(self.root, error) from error

    def _newest(self, lake: Lake) -> LakeSnapshot:
        versions = {table: lake.version(table) for table in _WATCHED}
        if self._snapshot is None or self._snapshot.versions != versions:
            _check_whole(lake)
            self._snapshot = self._follow(lake, versions)
        return self._snapshot

    def _follow(self, lake: Lake, versions: Mapping[str, int]) -> LakeSnapshot:
        taken = lake.taken(SIGNALS)
        if self._snapshot is not None and taken == self._taken:
            try:
                return self._follower.follow(lake, versions)
            except ForgottenError:
                # The log of a lake that is kept clean does not reach back for ever: a page that slept reads all anew.
                LOG.info("what changed since the last look is not known any more; everything is read anew")
        self._follower, self._taken = LakeFollower(), taken
        return self._follower.follow(lake, versions)

    def _open(self) -> Lake | None:
        birth = _birth(self.root)
        if self._lake is None or birth != self._birth:
            self._forget()
            self._birth = birth
            self._lake = Lake.existing(self.root)
        return self._lake

    def _forget(self) -> None:
        """Open the lake anew at the next look: its folder may have been replaced meanwhile."""
        self._lake, self._snapshot, self._histories, self._answers = None, None, {}, {}
        self._people = PeopleLog()


def _birth(root: str) -> tuple[int, int] | None:
    """What tells a lake from another one that took its place: its first commit, as a file. None on object storage.

    An open table notices neither that its folder is gone nor that a new one stands there.
    """
    if "://" in root:
        return None
    try:
        status = Path(root, SIGNALS, "_delta_log", f"{0:020}.json").stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _check_whole(lake: Lake) -> None:
    """Notice files that are gone or cut short although nothing of them is read again; not on object storage."""
    if is_remote(lake.root):
        return
    for table in _WATCHED:
        if faults := lake.damaged(table):
            more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
            raise UnreadableLakeError(
                f"the table {table} at {lake.root}/{table} is damaged: {faults[0]}{more}. Restore the folder from a "
                "backup, or start the worker on a new folder."
            )


class LakeFollower:
    """Everything that was read of one lake. What broke off in the middle of a look is not to be used any more."""

    def __init__(self) -> None:
        self._counted = Counted()
        self._signals: dict[Cell, CellSignals] = {}
        self._verdicts: dict[Cell, VerdictDocument] = {}
        self._evidence: dict[Cell, CellEvidence] = {}
        self._marks = ListMarks()
        self._heartbeat: JudgeHeartbeat | None = None
        self._rejects = RejectSummary()
        self._quality: QualityRun | None = None
        self._versions: Mapping[str, int] = {}

    def follow(self, lake: Lake, versions: Mapping[str, int]) -> LakeSnapshot:
        """Bring everything to the newest versions.

        That of `judge_heartbeats` must be no newer than that of `verdicts`, or a verdict that was replaced meanwhile
        would be taken for confirmed.

        Raises:
            LakeError: The lake cannot be read, or its log no longer reaches back to what is kept.
            UnknownShapeError: The ledger holds a verdict that this release does not know.
        """
        moved = {table for table, version in versions.items() if self._versions.get(table) != version}
        if SIGNALS in moved:
            self._read_signals(lake, versions[SIGNALS])
        if JUDGE_HEARTBEATS in moved:
            self._heartbeat = heartbeats.newest(lake, version=versions[JUDGE_HEARTBEATS])
        if VERDICTS in moved:
            self._read_verdicts(lake, versions[VERDICTS])
        if REJECTS in moved:
            self._rejects = read_rejects(lake)
        if QUALITY in moved:
            self._quality = latest_quality(lake)
        self._versions = versions
        return LakeSnapshot(
            dict(self._signals),
            dict(self._verdicts),
            self._marks,
            self._heartbeat,
            self._rejects,
            self._quality,
            versions,
        )

    def _read_signals(self, lake: Lake, version: int) -> None:
        for _ in self._counted.read(lake, version):
            pass
        for signals in self._counted.rows(self._counted.take_changed()):
            self._signals[signals.cell] = signals

    def _read_verdicts(self, lake: Lake, version: int) -> None:
        before = self._versions.get(VERDICTS)
        if before is None:
            documents = ledger.unconfirmed_verdicts(lake)
        else:
            documents = ledger.verdicts_between(lake, after=before, through=version)
        for document in documents:
            last = self._verdicts.get(document.cell)
            if last is None or last.order <= document.order:
                self._verdicts[document.cell] = document
                self._evidence[document.cell] = CellEvidence.from_document(document)
        self._marks = ListMarks.of_evidence(
            {document.verdict_id: self._evidence[cell] for cell, document in self._verdicts.items()}
        )


@dataclass(frozen=True)
class GateFileState:
    """What is known about the gate file."""

    sha256: str | None  # None while it cannot be read
    fault: str | None  # what is wrong with it; None where nothing is
    freshness_s: float = FRESHNESS_S  # how old evidence may be that opens a gate, in seconds


def read_gate_file(path: Path, *, freshness_s: float = math.inf) -> GateFileState:
    """Look at the gate file, which is read again only when it has changed; `freshness_s` narrows what it allows."""
    try:
        status = path.stat()
    except OSError as error:
        fault = f"The gate file {path} cannot be read: {error.strerror}. Nothing is judged without it."
        state = GateFileState(None, fault)
    else:
        state = _load(path, status.st_mtime_ns, status.st_size)
    return replace(state, freshness_s=min(state.freshness_s, freshness_s))


@lru_cache(maxsize=8)
def _load(path: Path, _modified_ns: int, _size: int) -> GateFileState:
    try:
        gates = GateFile.load(path)
        return GateFileState(gates.sha256, None, gates.freshness_s)
    except StagekeeperError as error:
        return GateFileState(None, f"{str(error).rstrip('.')}. Until it is mended, verdicts stay as they were.")
