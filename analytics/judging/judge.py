"""The judge: from new increments in the lake to verdicts in the ledger."""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from analytics.gates import gate_store
from analytics.gates.gate_file import GateFile
from analytics.judging.event_source import LakeEvents
from analytics.judging.judge_state import JudgeState, PastVerdicts
from analytics.judging.regression import watched_counters
from analytics.judging.watermark import SETTLE_S, Watermark
from analytics.lake.errors import ForgottenError, LakeError
from analytics.lake.table_schemas import SIGNALS
from analytics.signals.cells import EPOCH
from analytics.verdicts import heartbeats, ledger, signoffs
from analytics.verdicts.document import VerdictDocument
from analytics.verdicts.heartbeats import JudgeHeartbeat
from analytics.verdicts.ledger_writer import LedgerWriter
from producers.strict_yaml import ConfigurationFileError, read_file
from producers.wire.events import StageRecommended, StageRecommendedData, VerdictName, schema_id

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import polars as pl

    from analytics.lake.tables import Fence, Lake
    from analytics.signals.state import Increment
    from analytics.verdicts.verdict import Verdict

SOURCE: Final = "/stagekeeper/judge"  # the `source` of every recommendation

LOOKS_EVERY: Final = timedelta(seconds=5)  # how often it is recorded that the ledger still holds, by the clock

logger = logging.getLogger(__name__)


class Judge:
    """Judges whatever changed since it last looked, and keeps the ledger.

    Nobody else may use the handle of the lake meanwhile. A gate file that has a path is read again whenever its bytes
    change. `fence` is the right to judge, where more than one process might; raise it in `verdicts` and `looks` before
    the first tick.
    """

    def __init__(
        self, lake: Lake, gates: GateFile | Path, *, settle_s: float = SETTLE_S, fence: Fence | None = None
    ) -> None:
        self._lake = lake
        self._fence = fence
        self._ledger = LedgerWriter(lake, fence=fence)
        self._path = gates if isinstance(gates, Path) else gates.path
        self.gates = gates if isinstance(gates, GateFile) else None  # the one in force; None while it cannot be read
        self._read_sha256 = None if self.gates is None else self.gates.sha256  # of what was read last, also if refused
        self.gate_error: str | None = None  # why the gate file cannot be used; None while it can
        self._saved_sha256: str | None = None
        self._settle_s = settle_s
        self._state: JudgeState | None = None
        self._watermark = Watermark(settle_s=settle_s)
        self._version = -1
        self._horizon_s = 0.0
        self._taken: int | None = None  # as of the state; see `Lake.taken`
        self._looked_at: datetime | None = None
        self._news: list[StageRecommended] | None = None

    @property
    def has_more(self) -> bool:
        """Whether the last look left something to the next that should not wait for it."""
        return self._state is not None and bool(self._state.due.any())

    def tick(self, now: datetime, *, caught_up: bool = True) -> list[StageRecommended]:
        """Judge the cells whose numbers, mature minutes, freshness or gate file changed, and append to the ledger.

        The ledger gets a row for what is new, and now and then for what is not; see `ledger_writes` and `heartbeats`.
        While the gate file cannot be read, nothing is judged: the error is logged once and kept in `gate_error`. While
        the data plane has not read everything that the broker holds (`caught_up`), no further execution becomes
        overdue.

        Gives a recommendation for each verdict whose name, destination or reasons differ from the ledger's last word;
        at the first tick also those that an earlier judge wrote down and did not get published.

        Raises:
            FencedError: Somebody else judges now. Nothing was decided, and nothing may be by this judge.
            LakeError: The lake cannot be read or written. What was not recorded is judged again at the next tick.
        """
        gates = self._read_gates()
        if gates is None:
            return []
        if gates.sha256 != self._saved_sha256:
            # Before the first verdict under it: no row of the ledger names a gate file that nobody has.
            gate_store.save(self._lake, gates, now=now)
            self._saved_sha256 = gates.sha256
        self._ledger.begin()
        if self._news is None:
            self._news = [recommendation_of(document) for document in ledger.unpublished(self._lake)]
        if self._read(gates, now, caught_up=caught_up) and self._state is not None:
            self._news += [
                recommendation_of(VerdictDocument.from_verdict(verdict))
                for verdict in self._look(self._state, gates, now)
            ]
        news, self._news = self._news, []
        # No promotion rests on a history that is not the one that was written.
        return [one for one in news if self.history_fault is None or one.data.verdict is not VerdictName.PROMOTE]

    @property
    def history_fault(self) -> str | None:
        """Why the ledger cannot be the one that was written; None where all is well."""
        return self._ledger.fault

    def _read(self, gates: GateFile, now: datetime, *, caught_up: bool) -> bool:
        """Take in what is new; whether anything was ever counted."""
        version, taken = self._lake.version(SIGNALS), self._lake.taken(SIGNALS)
        # What retention took out is counted in the state still; it goes by reading anew what is left.
        if self._state is not None and taken == self._taken:
            try:
                rows = self._lake.increments(SIGNALS, after=self._version, through=version)
            except ForgottenError as error:
                logger.warning("the judge was away for longer than the lake keeps, and begins anew: %s", error)
            else:
                return self._read_on(self._state, rows, gates, version, now, caught_up=caught_up)
        return self._begin(gates, version, taken, now, caught_up=caught_up)

    def _begin(self, gates: GateFile, version: int, taken: int | None, now: datetime, *, caught_up: bool) -> bool:
        """Read everything, and let go at once of what does not matter any more."""
        self._state = None
        watched = watched_counters(gates)
        state = JudgeState(PastVerdicts.from_ledger(self._lake), LakeEvents(self._lake), watched)
        self._watermark = Watermark(settle_s=self._settle_s, at=ledger.newest_watermark(self._lake))
        late = self._since_last_judge(version)
        for rows in self._lake.batches(SIGNALS, version=version):
            state.add(rows)
            self._settle(state, gates)
        if late is not None:
            state.touched[:] = False
            rows_of_late = state.counts.rows_of(late)
            state.touched[rows_of_late[rows_of_late >= 0]] = True
        is_anything = self._move_on(state, gates, None, now, caught_up=caught_up)
        self._state, self._version, self._taken, self._horizon_s = state, version, taken, gates.horizon_s
        return is_anything

    def _read_on(
        self, state: JudgeState, rows: pl.DataFrame, gates: GateFile, version: int, now: datetime, *, caught_up: bool
    ) -> bool:
        """Take in what was appended. What breaks off in between is not to be used: everything is read anew then."""
        self._state = None
        increment = state.add(rows) if rows.height else None
        # A longer memory than before, or one of more counters, has to be filled again.
        watched = watched_counters(gates)
        anew = gates.horizon_s > self._horizon_s or not state.counts.past.counters >= watched
        if anew:
            state.counts.forget(past=watched)
            for batch in self._lake.batches(SIGNALS, version=version):
                state.counts.remember(batch)
                self._settle(state, gates)
        is_anything = self._move_on(state, gates, increment, now, caught_up=caught_up, anew=anew)
        self._state, self._version, self._horizon_s = state, version, gates.horizon_s
        return is_anything

    def _move_on(
        self,
        state: JudgeState,
        gates: GateFile,
        increment: Increment | None,
        now: datetime,
        *,
        caught_up: bool,
        anew: bool = False,
    ) -> bool:
        newest = state.counts.latest_event_at
        if newest is None:
            return False
        settled = self._watermark.follow(newest, now, caught_up=caught_up)
        watermark = state.counts.earliest_bucket if settled is None else settled
        state.advance(gates, increment, watermark, anew=anew)
        return True

    def _settle(self, state: JudgeState, gates: GateFile) -> None:
        if self._watermark.at is not None:
            state.settle(gates, self._watermark.at)

    def _since_last_judge(self, version: int) -> pl.DataFrame | None:
        """The epochs that changed after the last look of the judge before this one; None where nobody knows."""
        looked = ledger.newest_lake_version(self._lake)
        if looked is None or looked > version:
            return None
        try:
            rows = self._lake.increments(SIGNALS, after=looked, through=version)
        except LakeError:
            # The log of a lake that is kept clean does not reach back for ever.
            logger.info("what changed since version %s of the signals is not known any more", looked)
            return None
        return rows.select(EPOCH).unique()

    def _look(self, state: JudgeState, gates: GateFile, now: datetime) -> list[Verdict]:
        overrides = signoffs.overrides(self._lake, now=now) if state.has_rollbacks else frozenset()
        outcome = state.look(gates, now, self._version, self._record, overrides=overrides)
        due = self._looked_at is None or now >= self._looked_at + LOOKS_EVERY
        if outcome.is_complete and due and state.watermark is not None:
            users = None if outcome.users is None else outcome.users.windows
            heartbeat = JudgeHeartbeat(
                now,
                state.watermark,
                self._version,
                gates.sha256,
                len(state.counts.cells),
                None if users is None else users.events_version,
                None if users is None else users.as_of,
            )
            heartbeats.append(self._lake, heartbeat, fence=self._fence)
            self._ledger.note_versions()
            self._looked_at = now
        return outcome.news

    def _record(self, verdicts: Sequence[Verdict], changed: Collection[str]) -> None:
        self._ledger.append(verdicts, changed=changed)

    def _read_gates(self) -> GateFile | None:
        if self._path is None:
            return self.gates
        sha256 = None
        try:
            text = read_file(self._path, name="the gate file")
            sha256 = hashlib.sha256(text).hexdigest()
            if sha256 == self._read_sha256:
                return self.gates  # what was refused once is not gone through at every tick
            self.gates, self.gate_error = GateFile.parse(text, path=self._path), None
            logger.info("gate file %s in force, sha256 %s", self._path, sha256)
        except ConfigurationFileError as error:
            self._refuse_gates(str(error))
        self._read_sha256 = sha256
        return self.gates

    def _refuse_gates(self, fault: str) -> None:
        if fault != self.gate_error:
            logger.error("%s; nothing is judged until it is mended", fault)
        self.gates, self.gate_error = None, fault


def recommendation_of(document: VerdictDocument) -> StageRecommended:
    """The event that publishes a verdict; its id is the verdict's, so that a repetition is counted once."""
    return StageRecommended(
        id=document.verdict_id,
        source=SOURCE,
        time=document.judged_at,
        subject=document.cell.key,
        dataschema=schema_id(StageRecommended),
        data=StageRecommendedData(**{name: getattr(document, name) for name in StageRecommendedData.model_fields}),
    )
