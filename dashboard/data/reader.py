"""What the page reads, once per lake version: an unchanged lake costs five looks at a log, and no reading."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from analytics.audit.quality import latest_quality
from analytics.gates.gate_file import GateFile
from analytics.lake.errors import READ_FAILURES, ForgottenError, LakeError, UnreadableLakeError
from analytics.lake.storage import is_remote, unreadable
from analytics.lake.table_schemas import JUDGE_HEARTBEATS, QUALITY, REJECTS, SIGNALS, VERDICTS
from analytics.lake.tables import Lake
from analytics.report import Counted, rejected
from analytics.verdicts import heartbeats, ledger
from dashboard.data.cell_history import History, history
from dashboard.data.models import CellSignals, QualityRun, Rejects, Report
from dashboard.data.trends import Trend, Trends
from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from analytics.verdicts.document import VerdictDocument
    from analytics.verdicts.heartbeats import JudgeHeartbeat
    from producers.wire.receipt import Cell

LOG: Final = logging.getLogger(__name__)

_WATCHED: Final = (JUDGE_HEARTBEATS, SIGNALS, VERDICTS, REJECTS, QUALITY)  # looks first: see `Kept.look`


class PageError(StagekeeperError):
    """The page cannot show what the lake holds; the message says what to do."""


class LakeReader:
    """Reads one lake for every open page. Safe to share between threads: one reads, the others wait for the answer."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._lake: Lake | None = None
        self._birth: tuple[int, int] | None = None
        self._snapshot: Snapshot | None = None
        self._kept = Kept()
        self._taken: int | None = None  # as of what is kept; what retention took out since then is counted there still
        self._histories: dict[tuple[Cell, str | None], tuple[int, History]] = {}

    def snapshot(self) -> Snapshot | None:
        """The state of the lake now; None when there is no lake yet.

        Raises:
            StagekeeperError: The lake cannot be read; the message says how to mend it.
        """
        with self._lock:
            lake = self._open()
            if lake is None:
                return None
            try:
                versions = {table: lake.version(table) for table in _WATCHED}
                if self._snapshot is None or self._snapshot.versions != versions:
                    _check_whole(lake)
                    self._snapshot = self._look(lake, versions)
            except (LakeError, PageError):
                self._forget()
                raise
            except READ_FAILURES as error:
                self._forget()
                raise unreadable(self.root, error) from error
            return self._snapshot

    def history(self, cell: Cell, epoch: str | None) -> History | None:
        """One cell over time, with running rates over an epoch; None when there is no lake.

        Raises:
            StagekeeperError: The lake cannot be read; the message says how to mend it.
        """
        with self._lock:
            lake = self._open()
            if lake is None:
                return None
            try:
                version = lake.version("signals")
                known = self._histories.get((cell, epoch))
                if known is None or known[0] != version:
                    known = (version, history(lake.scan("signals", version=version), cell, epoch))
                    # Pages look at few cells at a time; the oldest of many need not stay.
                    self._histories = {**dict(list(self._histories.items())[-31:]), (cell, epoch): known}
            except LakeError:
                self._forget()
                raise
            except READ_FAILURES as error:
                self._forget()
                raise unreadable(self.root, error) from error
            return known[1]

    def _look(self, lake: Lake, versions: Mapping[str, int]) -> Snapshot:
        taken = lake.taken(SIGNALS)
        if self._snapshot is not None and taken == self._taken:
            try:
                return _look(self._kept, lake, versions)
            except ForgottenError:
                # The log of a lake that is kept clean does not reach back for ever: a page that slept reads all anew.
                LOG.info("what changed since the last look is not known any more; everything is read anew")
        self._kept, self._taken = Kept(), taken
        return _look(self._kept, lake, versions)

    def _open(self) -> Lake | None:
        birth = _birth(self.root)
        if self._lake is None or birth != self._birth:
            self._forget()
            self._birth = birth
            self._lake = Lake.existing(self.root)
        return self._lake

    def _forget(self) -> None:
        """Open the lake anew at the next look: its folder may have been replaced meanwhile."""
        self._lake, self._snapshot, self._histories = None, None, {}


def _birth(root: str) -> tuple[int, int] | None:
    """What tells a lake from another one that took its place: its first commit, as a file. None on object storage.

    An open table notices neither that its folder is gone nor that a new one stands there.
    """
    if "://" in root:
        return None
    first = Path(root, SIGNALS, "_delta_log", f"{0:020}.json")
    try:
        found = first.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _check_whole(lake: Lake) -> None:
    """Notice files that are gone or cut short although nothing of them is read again: a listing of each table.

    Not on object storage, where files do not get lost.
    """
    if is_remote(lake.root):
        return
    for table in _WATCHED:
        if found := lake.damaged(table):
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise UnreadableLakeError(
                f"the table {table} at {lake.root}/{table} is damaged: {found[0]}{more}. Restore the folder from a "
                "backup, or start the worker on a new folder."
            )


def _look(kept: Kept, lake: Lake, versions: Mapping[str, int]) -> Snapshot:
    try:
        return kept.look(lake, versions)
    except ValidationError as error:
        fault = error.errors()[0]
        raise PageError(
            "what the lake holds has a shape that this page does not know, at "
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}. "
            "Run the page and the worker from the same release of Stagekeeper."
        ) from error


@dataclass(frozen=True)
class Snapshot:
    """Everything the overview needs, as of one set of table versions.

    Attributes:
        report: Signals, verdicts and rejects.
        trends: Recent behaviour of each cell in shared bins.
        quality: The last quality run; None when there was none.
        versions: The newest version of each table that the page watches.
    """

    report: Report
    trends: Mapping[Cell, Trend]
    quality: QualityRun | None
    versions: Mapping[str, int]


class Kept:
    """Everything that was read of one lake. What broke off in the middle of a look is not to be used any more."""

    def __init__(self) -> None:
        self._counted = Counted()
        self._trends = Trends(self._counted.columns)
        self._signals: dict[Cell, CellSignals] = {}
        self._shown_trends: dict[Cell, Trend] = {}
        self._verdicts: dict[Cell, VerdictDocument] = {}
        self._heartbeat: JudgeHeartbeat | None = None
        self._rejects = Rejects()
        self._quality: QualityRun | None = None
        self._versions: Mapping[str, int] = {}

    def look(self, lake: Lake, versions: Mapping[str, int]) -> Snapshot:
        """Bring everything to the newest versions.

        Args:
            lake: The lake.
            versions: The newest version of each table; that of `looks` no newer than that of `verdicts`, or a verdict
                that was replaced meanwhile would be taken for confirmed.

        Raises:
            LakeError: The lake cannot be read, or its log no longer reaches back to what is kept.
            ValidationError: A record has a shape that this release does not know.
        """
        moved = {table for table, version in versions.items() if self._versions.get(table) != version}
        if SIGNALS in moved:
            self._read_signals(lake, versions[SIGNALS])
        if JUDGE_HEARTBEATS in moved:
            self._heartbeat = heartbeats.newest(lake, version=versions[JUDGE_HEARTBEATS])
        if VERDICTS in moved:
            self._read_verdicts(lake, versions[VERDICTS])
        if REJECTS in moved:
            self._rejects = Rejects.model_validate(rejected(lake))
        if QUALITY in moved:
            run = latest_quality(lake)
            self._quality = None if run is None else QualityRun.model_validate(run)
        self._versions = versions
        report = Report.model_construct(
            signals=tuple(self._signals[cell] for cell in sorted(self._signals)),
            verdicts=tuple(
                heartbeats.confirmed(self._verdicts[cell], self._heartbeat) for cell in sorted(self._verdicts)
            ),
            rejects=self._rejects,
        )
        return Snapshot(report, self._shown_trends, self._quality, versions)

    def _read_signals(self, lake: Lake, version: int) -> None:
        for increment in self._counted.read(lake, version):
            self._trends.add(increment)
        for row in self._counted.rows(self._counted.take_changed()):
            signals = CellSignals.model_validate(row)
            self._signals[signals.cell] = signals
        self._shown_trends = self._trends.of_cells()

    def _read_verdicts(self, lake: Lake, version: int) -> None:
        known = self._versions.get(VERDICTS)
        if known is None:
            documents = ledger.unconfirmed_verdicts(lake)
        else:
            documents = ledger.following(lake, after=known, through=version)
        for document in documents:
            shown = self._verdicts.get(document.cell)
            if shown is None or shown.order <= document.order:
                self._verdicts[document.cell] = document


@dataclass(frozen=True)
class GateFileState:
    """What is known about the gate file.

    Attributes:
        sha256: Digest of the file; None while it cannot be read.
        fault: What is wrong with it; None where nothing is.
    """

    sha256: str | None
    fault: str | None


def gate_file(path: Path) -> GateFileState:
    """Look at the gate file; it is read again only when it has changed."""
    try:
        found = path.stat()
    except OSError as error:
        fault = f"The gate file {path} cannot be read: {error.strerror}. Nothing is judged without it."
        return GateFileState(None, fault)
    return _load(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=8)
def _load(path: Path, _modified_ns: int, _size: int) -> GateFileState:
    try:
        return GateFileState(GateFile.load(path).sha256, None)
    except StagekeeperError as error:
        return GateFileState(None, f"{str(error).rstrip('.')}. Until it is mended, verdicts stay as they were.")
