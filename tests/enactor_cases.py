"""A lake with an action, a judge, a store of stages, and enactors that come and go."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from fakes import FakeIds, a_contract, a_decision
from lakes_of_events import NOON, EventLake
from stage_stores import FileStages, MemoryStages

from analytics.enactment.enactments import EnactmentPhase, EnactmentStep, enactments
from analytics.gates.gate_file import GateFile
from analytics.judging.judge import Judge
from analytics.lake.leases import ENACTOR
from analytics.lake.tables import Fence
from analytics.verdicts.gate_check import sign_off
from analytics.verdicts.signoffs import SignOffKind
from producers.boundary.stage_store import ActionName
from producers.delivery.recorder import Recorder
from producers.errors import StagekeeperError
from producers.wire.decision import FlagEvaluation, FlagReason
from producers.wire.stage import Mode, Stage
from streams.control.enactor import Enactor

if TYPE_CHECKING:
    from pathlib import Path

    from producers.wire.events import PolicyChanged
    from streams.control.enactor_report import EnactorReport

ACTION: Final = ActionName("production", "refunds", "issue_refund")
GATES: Final = (
    "version: 1\nfreshness: 30m\ngates: [{name: g, unit: action, ladder: [draft_write, approval_gated], "
    "on_roll_back: apply, on_promote: ask, signals: [{signal: execution_error, role: guardrail, limit: 0.1}]}]"
)
MOVE: Final = {"environment": "production", "workflow": "refunds", "tool": "issue_refund", "to_stage": "approval_gated"}
SAYS: Final = {"actor": "maria", "reason": "because"}
ROLL_BACK, PROMOTE = "ROLL_BACK", "PROMOTE"
STORES: Final = ("flagd", pytest.param("memory", marks=pytest.mark.exhaustive))
"""Stores of stages. The enactor asks none of them what it is: every day the real one, and where it is killed both."""


def at(minute: float) -> datetime:
    return NOON + timedelta(minutes=minute)


class Place:
    """A lake with an action at draft_write, a judge, a store, and enactors that come and go."""

    def __init__(self, folder: Path, gates: str = GATES, store: str = "memory", root: str | None = None) -> None:
        self.history = EventLake.at(folder, root)
        self.lake = self.history.lake
        self.gate_file = folder / "gates.yaml"
        self.gate_file.write_text(gates)
        self.judge = Judge(self.lake, self.gate_file, settle_s=0)
        modes = {ACTION: Mode.DRAFT_WRITE}
        self.store: Any = MemoryStages(modes) if store == "memory" else FileStages(folder / "flags", modes)
        self.told: list[PolicyChanged] = []
        self.broker_is_away = False
        self.now = at(10)
        self.seconds = 0.0
        self.tenure = 0
        self.enactor = self.restarted()
        self._ids = FakeIds("other")

    def restarted(self, **more: Any) -> Enactor:
        """An enactor of a new tenure."""
        self.tenure += 1
        self.enactor = Enactor(
            type(self.lake).open(self.lake.root),
            self.gate_file,
            self.store,
            self._publish,
            now=lambda: self.now,
            clock=lambda: self.seconds,
            **more,
        )
        return self.enactor

    def _publish(self, events: list[PolicyChanged]) -> None:
        if self.broker_is_away:
            raise StagekeeperError("the broker is away")
        self.told += events

    def look(self, *, after_s: float = 60.0) -> EnactorReport:
        """Look once more, by default when every pause is over."""
        self.seconds += after_s
        return self.enactor.look(Fence(ENACTOR, self.tenure))

    def judged(self, minute: float = 10.0, *, failed: bool = True, count: int = 60, **more: Any) -> None:
        """Actions of the last six minutes, judged at one."""
        for number in range(count):
            self.history.act(minute - 6 + number / 10, f"u{number}", failed=failed, **more)
        self.history.store()
        self.now = at(minute)
        self.judge.tick(self.now)

    def acts_of(self, action: ActionName, *, failed: bool) -> None:
        """Actions of another tool in the six minutes before ten past, not stored yet."""
        contract, status = a_contract(tool=action.tool), "failed" if failed else "succeeded"
        for number in range(60):
            receipt = self.history.recorder.decided(
                contract, a_decision(), stage=Stage.DRAFT_WRITE, decided_at=at(4 + number / 10)
            )
            self.history.recorder.executed(receipt, status, latency_ms=1.0, at=at(4.1 + number / 10))

    def decided(self, source: str, stage: Stage, seconds: float, *, attempt: int = 1) -> None:
        """One decision so many seconds after ten past twelve, by the source's own clock."""
        recorder = Recorder(self.history.emitter, source=source, new_id=self._ids)
        decision = a_decision()
        if attempt > 1:
            flag = FlagEvaluation(key="agent-action-attempt", value=str(attempt), reason=FlagReason.TARGETING_MATCH)
            decision = decision.model_copy(update={"flags": (*decision.flags, flag)})
        recorder.decided(a_contract(), decision, stage=stage, decided_at=at(10) + timedelta(seconds=seconds))
        self.history.store()

    def approved(self, minutes: float = 60.0) -> None:
        gates, expires_at = GateFile.load(self.gate_file), self.now + timedelta(minutes=minutes)
        sign_off(self.lake, gates, SignOffKind.APPROVAL, **MOVE, **SAYS, now=self.now, expires_at=expires_at)

    @property
    def steps(self) -> list[EnactmentStep]:
        return [step for one in enactments(self.lake).values() for step in one.steps]

    @property
    def phases(self) -> list[EnactmentPhase]:
        return [step.phase for step in self.steps]

    @property
    def mode(self) -> Mode | None:
        return self.store.modes[ACTION]
