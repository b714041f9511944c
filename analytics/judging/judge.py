"""The judge: from new increments in the lake to verdicts in the ledger."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.gates import gate_store
from analytics.gates.gate_file import GateFile
from analytics.judging.glance import UNDECLARED
from analytics.judging.judge_state import Memory
from analytics.judging.judging import judge
from analytics.judging.planning import Plan
from analytics.judging.user_windows import closed_through, fold_users
from analytics.judging.watermark import SETTLE_S
from analytics.lake.errors import ForgottenError
from analytics.lake.table_schemas import SIGNALS
from analytics.signals.state import microseconds
from analytics.verdicts import heartbeats, ledger
from analytics.verdicts.document import VerdictDocument
from analytics.verdicts.heartbeats import JudgeHeartbeat
from producers.strict_yaml import ConfigurationFileError
from producers.wire.events import StageRecommended, StageRecommendedData, VerdictName, schema_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from analytics.judging.latches import Crossings
    from analytics.judging.user_evidence import Crowd
    from analytics.judging.user_windows import Users
    from analytics.lake.tables import Fence, Lake
    from analytics.signals.state import Columns, Places
    from analytics.verdicts.verdict import Verdict

SOURCE: Final = "/stagekeeper/judge"
"""The `source` of every recommendation."""

LOOKS_EVERY: Final = timedelta(seconds=5)
"""How often it is recorded that the ledger still holds, by the clock."""
_AT_ONCE: Final = 500

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at the lake: everything that its verdicts are a function of, but what had crossed before."""

    columns: Columns
    crossings: Crossings
    gates: GateFile
    watermark: datetime
    lake_version: int
    judged_at: datetime
    crowd: Crowd | None

    def judge(self, cells: Places) -> list[Verdict]:
        """The verdicts on the current epochs of cells."""
        return judge(
            self.columns.folded(self.columns.beside(cells)),
            self.gates,
            watermark=self.watermark,
            lake_version=self.lake_version,
            judged_at=self.judged_at,
            cells={self.columns.cells[cell] for cell in cells},
            latches=self.crossings.latches,
            users=None if self.crowd is None else self.crowd.users,
            regraded=self.crossings.regraded,
        )

    def judge_over(self, epochs: Places, users: Users | None) -> list[Verdict]:
        """The verdicts on epochs that are over, with their own user-windows."""
        return judge(
            self.columns.folded(self.columns.beside(self.columns.cell_of[epochs])),
            self.gates,
            watermark=self.watermark,
            lake_version=self.lake_version,
            judged_at=self.judged_at,
            latches=self.crossings.latches,
            users=users,
            over=[self.columns.key(epoch) for epoch in epochs],
        )

    def record(self, memory: Memory) -> JudgeHeartbeat:
        """The row that says that every cell was looked at."""
        users = None if self.crowd is None else self.crowd.users
        return JudgeHeartbeat(
            self.judged_at,
            self.watermark,
            self.lake_version,
            self.gates.sha256,
            len(memory.columns.cells),
            None if users is None else users.events_version,
            None if users is None else users.as_of,
        )


class Judge:
    """Judges whatever changed since it last looked, and keeps the ledger.

    Args:
        lake: The lake, for the tables `signals` and `verdicts`; nobody else may use this handle meanwhile.
        gates: The gate file, or its path. Where there is a path the file is read again whenever its bytes change.
        settle_s: Seconds that an event time must have been known before executions are overdue by it.
        fence: The right to judge, where more than one process might. Raise it in `verdicts` and
            `looks` before the first tick.
    """

    def __init__(
        self, lake: Lake, gates: GateFile | Path, *, settle_s: float = SETTLE_S, fence: Fence | None = None
    ) -> None:
        self._lake = lake
        self._fence = fence
        self._path = gates if isinstance(gates, Path) else gates.path
        self._gates = gates if isinstance(gates, GateFile) else None
        self._gate_error: str | None = None
        self._kept: str | None = None
        self._settle_s = settle_s
        self._memory: Memory | None = None
        self._taken: int | None = None  # as of the memory; see `Lake.taken`
        self._crowd: Crowd | None = None
        self._looked_at: datetime | None = None
        self._news: list[StageRecommended] | None = None

    @property
    def gates(self) -> GateFile | None:
        """The gate file in force; None while it cannot be read."""
        return self._gates

    @property
    def gate_error(self) -> str | None:
        """Why the gate file cannot be used at the moment; None while it can."""
        return self._gate_error

    @property
    def has_more(self) -> bool:
        """Whether the last look left something to the next that should not wait for it."""
        return self._memory is not None and bool(self._memory.due.any())

    def tick(self, now: datetime, *, caught_up: bool = True) -> list[StageRecommended]:
        """Judge the cells whose numbers, mature minutes, freshness or gate file changed, and append to the ledger.

        The ledger gets a row for what is new, and now and then for what is not; see `pace` and `looks`. While the gate
        file cannot be read, nothing is judged: the error is logged once and kept in `gate_error`.

        Args:
            now: The present moment.
            caught_up: Whether the data plane has read everything that the broker holds. While it has not, no further
                execution becomes overdue; everything else is judged as ever.

        Returns:
            A recommendation for each verdict whose name, destination or reasons differ from the ledger's last word; at
            the first tick also those that an earlier judge wrote down and did not get published.

        Raises:
            FencedError: Somebody else judges now. Nothing was decided, and nothing may be by this judge.
            LakeError: The lake cannot be read or written. What was not recorded is judged again at the next tick.
        """
        gates = self._read_gates()
        if gates is None:
            return []
        if gates.sha256 != self._kept:
            # Before the first verdict under it: no row of the ledger names a gate file that nobody has.
            gate_store.keep(self._lake, gates, now=now)
            self._kept = gates.sha256
        if self._news is None:
            self._news = [recommendation_of(document) for document in ledger.unpublished(self._lake)]
        if self._remember(gates, now, caught_up=caught_up) and self._memory is not None:
            self._look(self._memory, gates, now)
        news, self._news = self._news, []
        return news

    def _remember(self, gates: GateFile, now: datetime, *, caught_up: bool) -> bool:
        """Take in what is new; whether anything was ever counted."""
        version, taken = self._lake.version(SIGNALS), self._lake.taken(SIGNALS)
        # What retention took out is counted in the memory still; it goes by reading anew what is left.
        if self._memory is not None and self._memory.is_sound and taken == self._taken:
            try:
                return self._memory.read(gates, version, now, caught_up=caught_up)
            except ForgottenError as error:
                logger.warning("the judge was away for longer than the lake keeps, and begins anew: %s", error)
        self._memory, self._taken = Memory(self._lake, self._settle_s), taken
        return self._memory.read(gates, version, now, caught_up=caught_up)

    def _look(self, memory: Memory, gates: GateFile, now: datetime) -> None:
        columns, watermark = memory.columns, memory.tracked.watermark
        crowd = memory.crowds.follow(gates, watermark, now, memory.current)
        if crowd is not self._crowd:
            memory.look_at()
        memory.settle(gates)
        look = _Look(columns, memory.crossings, gates, watermark, memory.version, now, crowd)
        self._regrade(memory, look)
        standing = memory.crossings.of(columns, gates.sha256)
        glimpse = memory.glance.look(
            memory.current[memory.due],
            memory.change_keys,
            tracked=memory.tracked,
            standing=standing,
            crowd=crowd,
        )
        plan = Plan.of(memory, glimpse, gates.sha256, now)
        documents: list[VerdictDocument] = []
        for cells in plan.chunks(_AT_ONCE):
            documents += self._write(memory, look.judge(cells), plan, now)
        if self._news is not None:
            self._news += [recommendation_of(document) for document in sorted(documents, key=lambda each: each.cell)]
        if plan.is_complete and (self._looked_at is None or now >= self._looked_at + LOOKS_EVERY):
            heartbeats.append(self._lake, look.record(memory), fence=self._fence)
            self._looked_at = now
        memory.due[:], memory.touched[:] = False, False
        memory.due[plan.left] = True
        self._crowd = crowd

    def _regrade(self, memory: Memory, look: _Look) -> None:
        """Judge epochs that are over and of which something came late, and record those that it has turned."""
        gates, columns = look.gates, memory.columns
        due = memory.regrading.due(memory.touched, memory.current, gates, look.watermark, look.judged_at)
        if not due.size:
            return
        users = None
        if gates.counts_users:
            users = fold_users(
                self._lake,
                as_of=closed_through(look.watermark, gates.user_window),
                window_s=gates.user_window,
                epochs=columns.names(due),
            )
        found = [each for each in look.judge_over(due, users) if each.result.verdict is VerdictName.ROLL_BACK]
        # A verdict on an epoch that is over is told by the one on the current epoch, which names it.
        ledger.append(self._lake, [VerdictDocument.from_verdict(each) for each in found], changed=(), fence=self._fence)
        memory.regrading.take(found)
        memory.regrading.looked(due)
        memory.crossings.take(found, columns)
        memory.crossings.regrade(found)
        places = [place for each in found if (place := columns.cell_place(each.inputs.cell)) is not None]
        memory.look_at(np.array(places, dtype=np.intp))

    def _write(self, memory: Memory, verdicts: Sequence[Verdict], plan: Plan, now: datetime) -> list[VerdictDocument]:
        """Append to the ledger what it needs, and give back what is news."""
        rows = []
        for verdict in verdicts:
            place = memory.columns.cell_place(verdict.inputs.cell)
            if place is None:
                continue
            number = plan.seen.get(place, UNDECLARED)
            if number != UNDECLARED and memory.change_keys.change_key(number) != verdict.change_key:
                logger.error(
                    "the judge finds %s for %s where the glance saw %s: a fault of Stagekeeper; the judge counts",
                    verdict.change_key,
                    verdict.inputs.cell.key,
                    memory.change_keys.change_key(number),
                )
            epoch = int(memory.current[place])
            wanted = place in plan.wanted or memory.pace.differs(verdict, place, epoch)
            if wanted and memory.pace.is_new(verdict, place):
                rows.append((verdict, place, epoch))
        changed = {verdict.verdict_id for verdict, place, _ in rows if memory.pace.is_news(verdict, place)}
        documents = [VerdictDocument.from_verdict(verdict) for verdict, *_ in rows]
        ledger.append(self._lake, documents, changed=changed, fence=self._fence)
        memory.pace.wrote(rows, microseconds(now))
        memory.crossings.take([verdict for verdict, *_ in rows], memory.columns)
        memory.regrading.take([verdict for verdict, *_ in rows])
        return [document for document in documents if document.verdict_id in changed]

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
