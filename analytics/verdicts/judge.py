"""The judge: from new increments in the lake to verdicts in the ledger."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from analytics.cells import ACTION, CELL, EPOCH, Folded
from analytics.lake.errors import LakeError
from analytics.verdicts import gatestore, ledger
from analytics.verdicts.gates import GateFile
from analytics.verdicts.judging import epochs_of, judge, passing
from analytics.verdicts.regrading import Regrading, over
from analytics.verdicts.splits import counted_by_user, followed
from analytics.verdicts.users import closed_through, fold_users
from analytics.verdicts.verdict import Latch
from analytics.verdicts.watermark import SETTLE_S, Watermark
from producers.strict_yaml import ConfigurationFileError
from producers.wire.events import StageRecommended, StageRecommendedData, VerdictName, schema_id
from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime
    from typing import Any

    from analytics.cells import EpochKey
    from analytics.lake.tables import Fence, Lake
    from analytics.verdicts.ledger import LatchKey, Seen
    from analytics.verdicts.users import Users
    from analytics.verdicts.verdict import Regrade, Verdict

SOURCE: Final = "/stagekeeper/judge"
"""The `source` of every recommendation."""

# How often within the freshness limit a quiet cell is judged: its verdict must not seem old while its evidence is not.
_FULL_ROUNDS: Final = 3
# In event time: how often the minutes that no longer matter are let go.
_SETTLE_EVERY: Final = timedelta(seconds=60)
# By the clock: reading the events again costs more than reading new increments.
_BETWEEN_USERS: Final = timedelta(seconds=5)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at the lake: everything that its verdicts are a function of, but what had crossed before."""

    folded: Folded
    gates: GateFile
    watermark: datetime
    lake_version: int
    judged_at: datetime
    users: Users | None

    def judge(
        self,
        cells: Collection[Cell],
        latches: Mapping[LatchKey, Mapping[VerdictName, Latch]],
        regraded: Mapping[Cell, Sequence[Regrade]],
    ) -> list[Verdict]:
        """The verdicts on the current epochs of cells."""
        return judge(
            self.folded,
            self.gates,
            watermark=self.watermark,
            lake_version=self.lake_version,
            judged_at=self.judged_at,
            cells=cells,
            latches=latches,
            users=self.users,
            regraded=regraded,
        )

    def judge_over(
        self,
        epochs: Collection[EpochKey],
        latches: Mapping[LatchKey, Mapping[VerdictName, Latch]],
        users: Users | None,
    ) -> list[Verdict]:
        """The verdicts on epochs that are over, with their own user-windows."""
        return judge(
            self.folded,
            self.gates,
            watermark=self.watermark,
            lake_version=self.lake_version,
            judged_at=self.judged_at,
            latches=latches,
            users=users,
            over=epochs,
        )


class Judge:
    """Judges whatever changed since it last looked, and keeps the ledger.

    Args:
        lake: The lake, for the tables `signals` and `verdicts`; nobody else may use this handle meanwhile.
        gates: The gate file, or its path. Where there is a path the file is read again whenever its bytes change.
        settle_s: Seconds that an event time must have been known before executions are overdue by it.
        fence: The right to judge, where more than one process might. Raise it in `verdicts` before the first tick.
    """

    def __init__(
        self, lake: Lake, gates: GateFile | Path, *, settle_s: float = SETTLE_S, fence: Fence | None = None
    ) -> None:
        self._lake = lake
        self._fence = fence
        self._path = gates if isinstance(gates, Path) else gates.path
        self._gates = gates if isinstance(gates, GateFile) else None
        self._gate_error: str | None = None
        self._judged_under: str | None = None
        self._kept: str | None = None
        self._folded: Folded | None = None
        self._version = 0
        self._horizon_s = 0.0
        self._settle_s = settle_s
        self._follower: Watermark | None = None
        self._watermark: datetime | None = None
        self._settled_at: datetime | None = None
        self._all_judged_at: datetime | None = None
        self._seen: dict[Cell, Seen] = {}
        self._latches: dict[LatchKey, dict[VerdictName, Latch]] = {}
        self._regraded: dict[Cell, list[Regrade]] = {}
        self._regrading = Regrading()
        self._users: Users | None = None
        self._users_at: datetime | None = None
        self._left_users: tuple[int, datetime] | None = None

    @property
    def gates(self) -> GateFile | None:
        """The gate file in force; None while it cannot be read."""
        return self._gates

    @property
    def gate_error(self) -> str | None:
        """Why the gate file cannot be used at the moment; None while it can."""
        return self._gate_error

    def tick(self, now: datetime, *, caught_up: bool = True) -> list[StageRecommended]:
        """Judge the cells whose numbers, mature minutes, freshness or gate file changed, and append to the ledger.

        While the gate file cannot be read, nothing is judged: the error is logged once and kept in `gate_error`.

        Args:
            now: The present moment.
            caught_up: Whether the data plane has read everything that the broker holds. While it has not, no further
                execution becomes overdue; everything else is judged as ever.

        Returns:
            A recommendation for each verdict whose name, destination or reasons differ from the ledger's last word; at
            the first tick also those that an earlier judge wrote down and did not get published.

        Raises:
            FencedError: Somebody else judges now. Nothing was decided, and nothing may be by this judge.
            LakeError: The lake cannot be read or written. Nothing was decided; the next tick begins where this one did.
        """
        gates = self._read_gates()
        if gates is None:
            return []
        if gates.sha256 != self._kept:
            # Before the first verdict under it: no row of the ledger names a gate file that nobody has.
            gatestore.keep(self._lake, gates, now=now)
            self._kept = gates.sha256
        version = self._lake.version("signals")
        left_behind: list[StageRecommended] = []
        if self._folded is None or self._follower is None:
            left_behind = [_recommendation_of(document) for document in ledger.unpublished(self._lake)]
            self._follower = Watermark(settle_s=self._settle_s, at=ledger.newest_watermark(self._lake))
            self._seen, self._latches = ledger.last_words(self._lake), ledger.latches(self._lake)
            self._regraded, self._regrading = ledger.regrades(self._lake), Regrading.of(self._lake)
            self._left_users = ledger.newest_users(self._lake)
        if self._folded is None or gates.horizon_s > self._horizon_s:
            # A longer memory than before has to be filled again.
            folded = Folded.of(self._lake.scan("signals", version=version).collect())
            known = ledger.newest_lake_version(self._lake) if self._folded is None else self._version
            since = self._changed_since(known, version)
            changed = folded.epochs() if since is None else since
        else:
            increments = Folded.of(self._lake.increments("signals", after=self._version, through=version))
            folded = self._folded.plus(increments) if version > self._version else self._folded
            changed = increments.epochs()
        if folded.latest_event_at is None:
            self._folded, self._version, self._horizon_s = folded, version, gates.horizon_s
            return []
        settled = self._follower.follow(folded.latest_event_at, now, caught_up=caught_up)
        watermark = folded.earliest_bucket if settled is None else settled
        settled_at, all_judged_at = self._settled_at, self._all_judged_at
        due = {Cell(*key[:-1]) for key in changed}
        users = self._count_users(folded, gates, watermark, now)
        if (
            gates.sha256 != self._judged_under
            or self._watermark is None
            or users is not self._users
            or all_judged_at is None
            or watermark >= all_judged_at + timedelta(seconds=gates.freshness_s / _FULL_ROUNDS)
        ):
            due, all_judged_at = folded.cells(), watermark
        else:
            due |= passing(folded, gates, self._watermark, watermark)
        if settled_at is None or watermark >= settled_at + _SETTLE_EVERY:
            folded = folded.settled(watermark, gates.horizon_s, whole=_compared(folded, gates))
            settled_at = watermark
        look = _Look(folded, gates, watermark, version, now, users)
        turned, regrading = self._regrade(look, changed)
        regraded = {cell: list(made) for cell, made in self._regraded.items()}
        for verdict in turned:
            regraded.setdefault(verdict.case.cell, []).append(ledger.regrade_of(verdict.document()))
        due |= {verdict.case.cell for verdict in turned}
        verdicts = look.judge(due, self._latches, regraded)
        news = self._record(turned, verdicts)
        self._regraded, self._regrading = regraded, regrading.after([*turned, *verdicts])
        self._folded, self._version, self._horizon_s = folded, version, gates.horizon_s
        self._users, self._watermark = users, watermark
        self._settled_at, self._all_judged_at, self._judged_under = settled_at, all_judged_at, gates.sha256
        return left_behind + [recommendation(verdict) for verdict in news]

    def _count_users(self, folded: Folded, gates: GateFile, watermark: datetime, now: datetime) -> Users | None:
        """The closed user-windows: folded anew when another window has closed, or an epoch is new."""
        if not gates.counts_users:
            return None
        split = counted_by_user(folded, gates)
        epochs = followed(folded, folded.current(watermark), split)
        if self._left_users is not None:
            # Where the last judge stood: a restart alone makes no verdict a new one.
            version, left_at = self._left_users
            self._left_users = None
            if closed_through(watermark, gates.user_window) <= left_at:
                return fold_users(
                    self._lake,
                    as_of=left_at,
                    window_s=gates.user_window,
                    version=version,
                    epochs=epochs,
                    split=split,
                )
        as_of = closed_through(watermark, gates.user_window)
        known = self._users
        if (
            known is not None
            and known.window_s == gates.user_window
            and known.covered.issuperset(epochs.select(EPOCH).iter_rows())
        ):
            if as_of <= known.as_of:
                return known
            if self._users_at is not None and now < self._users_at + _BETWEEN_USERS:
                return known
        self._users_at = now
        return fold_users(self._lake, as_of=as_of, window_s=gates.user_window, epochs=epochs, split=split)

    def _regrade(self, look: _Look, changed: Collection[EpochKey]) -> tuple[list[Verdict], Regrading]:
        """Verdicts on epochs that are over, where what came late has turned them; and what still waits."""
        late = over(look.folded, look.watermark)
        due, regrading = self._regrading.due(changed, late, look.gates, look.watermark, look.judged_at)
        if not due:
            return [], regrading
        users = None
        if look.gates.counts_users:
            users = fold_users(
                self._lake,
                as_of=closed_through(look.watermark, look.gates.user_window),
                window_s=look.gates.user_window,
                epochs=epochs_of(due),
            )
        verdicts = look.judge_over(due, self._latches, users)
        return [verdict for verdict in verdicts if verdict.finding.verdict is VerdictName.ROLL_BACK], regrading

    def _changed_since(self, known: int | None, version: int) -> set[EpochKey] | None:
        """The epochs that changed after a version of the signals; None where nobody knows."""
        if known is None or known > version:
            return None
        try:
            return Folded.of(self._lake.increments("signals", after=known, through=version)).epochs()
        except LakeError:
            # The log of a lake that is kept clean does not reach back for ever.
            logger.info("what changed since version %s of the signals is not known any more", known)
            return None

    def _record(self, regraded: Sequence[Verdict], verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Append to the ledger what it does not hold yet, and give back what is news."""
        fresh = [
            verdict
            for verdict in verdicts
            if (seen := self._seen.get(verdict.case.cell)) is None or seen.verdict_id != verdict.verdict_id
        ]
        news = [
            verdict
            for verdict in fresh
            if (seen := self._seen.get(verdict.case.cell)) is None or seen.outline != verdict.outline
        ]
        # A verdict on an epoch that is over is told by the one on the current epoch, which names it.
        changed = {verdict.verdict_id for verdict in news}
        ledger.append(self._lake, [*regraded, *fresh], changed=changed, fence=self._fence)
        for verdict in fresh:
            self._seen[verdict.case.cell] = ledger.Seen(verdict.verdict_id, verdict.outline)
        for verdict in (*regraded, *fresh):
            finding = verdict.finding
            if finding.verdict in {VerdictName.PROMOTE, VerdictName.ROLL_BACK}:
                key = (verdict.case.cell, verdict.case.epoch, verdict.gate_sha256)
                latch = Latch(finding.verdict, finding.to_stage, verdict.verdict_id)
                self._latches.setdefault(key, {}).setdefault(finding.verdict, latch)
        return news

    def _read_gates(self) -> GateFile | None:
        if self._path is None:
            return self._gates
        try:
            text = self._path.read_bytes()
            if self._gates is None or hashlib.sha256(text).hexdigest() != self._gates.sha256:
                self._gates = GateFile.parse(text, path=self._path)
                logger.info("gate file %s in force, sha256 %s", self._path, self._gates.sha256)
        except OSError as error:
            self._refuse_gates(f"the gate file {self._path} cannot be read: {error.strerror or error}")
        except ConfigurationFileError as error:
            self._refuse_gates(str(error))
        else:
            self._gate_error = None
        return self._gates

    def _refuse_gates(self, fault: str) -> None:
        if fault != self._gate_error:
            logger.error("%s; nothing is judged until it is mended", fault)
        self._gates, self._gate_error = None, fault


def recommendation(verdict: Verdict) -> StageRecommended:
    """The event that publishes a verdict; its id is the verdict's, so that a repetition is counted once."""
    return _recommendation_of(verdict.document())


def _recommendation_of(document: Mapping[str, Any]) -> StageRecommended:
    cell = Cell(*(document[name] for name in CELL))
    published = StageRecommendedData.model_fields
    return StageRecommended(
        id=document["verdict_id"],
        source=SOURCE,
        time=document["judged_at"],
        subject=cell.key,
        dataschema=schema_id(StageRecommended),
        data=StageRecommendedData.model_validate({name: document[name] for name in published}),
    )


def _compared(folded: Folded, gates: GateFile) -> set[tuple[str, ...]]:
    """The actions that may be compared with a baseline or a declared split, so that all their minutes matter."""
    compared = [gate.match for gate in gates.gates if gate.compares]
    if not compared:
        return set()
    actions = folded.totals.select(ACTION).unique().iter_rows()
    return {action for action in actions if any(match.may_cover(*action) for match in compared)}
