"""Lakes filled decision by decision: events through the real fold, users included."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fakes import FakeClock, FakeEmitter, a_contract, a_decision, a_recorder

from analytics.lake.table_schemas import EVENTS, SIGNALS
from analytics.lake.tables import Lake
from producers.wire.events import ExecutionStatus, Impact, Incident, UndoResult
from producers.wire.stage import Stage
from stagekeeper.local_ingest import LocalIngest

if TYPE_CHECKING:
    from pathlib import Path

    from producers.wire.receipt import Receipt

NOON = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)


@dataclass
class EventLake:
    """A lake, and what happened so far.

    Attributes:
        lake: The lake.
        ingest: What folds events for it.
    """

    lake: Lake
    ingest: LocalIngest
    emitter: FakeEmitter = field(default_factory=FakeEmitter)

    def __post_init__(self) -> None:
        self.recorder = a_recorder(self.emitter, clock=FakeClock(NOON))

    @classmethod
    def at(cls, folder: Path, root: str | None = None) -> EventLake:
        lake = Lake.open(root or str(folder / "lake"))
        return cls(lake, LocalIngest(now=lambda: NOON + timedelta(days=9)))

    def act(
        self,
        minute: float,
        user: str | None,
        *,
        failed: bool = False,
        model: str = "m-1",
        stage: Stage = Stage.DRAFT_WRITE,
        cohort: str = "all",
        latency_ms: float | None = None,
        reported: bool = True,
        status: ExecutionStatus | None = None,
    ) -> Receipt:
        """One allowed action, executed unless it is never `reported`."""
        at = NOON + timedelta(minutes=minute)
        contract = a_contract()
        contract = contract.model_copy(
            update={"actor": contract.actor.model_copy(update={"user": user, "model": model})}
        )
        receipt = self.recorder.decided(contract, a_decision(), stage=stage, cohort=cohort, decided_at=at)
        status = status or (ExecutionStatus.FAILED if failed else ExecutionStatus.SUCCEEDED)
        if reported:
            self.recorder.executed(receipt, status, latency_ms=latency_ms, at=at + timedelta(seconds=1))
        return receipt

    def undo(self, receipt: Receipt, minute: float, result: UndoResult = UndoResult.UNDONE) -> None:
        self.recorder.undone(receipt, result, at=NOON + timedelta(minutes=minute))

    def impact(self, receipt: Receipt, impact: Impact, minute: float) -> None:
        self.recorder.impact(receipt, impact, at=NOON + timedelta(minutes=minute))

    def severe_incident(self, receipt: Receipt, minute: float) -> None:
        self.impact(receipt, Incident(severity=1), minute)

    def store(self) -> None:
        """Everything that was told since the last time reaches the lake."""
        folded = self.ingest.fold(self.emitter.events)
        self.lake.append(EVENTS, folded.events)
        self.lake.append(SIGNALS, folded.signals)
        self.emitter.events.clear()
