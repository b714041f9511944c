"""The demonstration's loop without its processes: an action goes wrong while one watches, and is constrained."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import polars as pl
import pytest
from fakes import FakeClock, FakeEmitter

from analytics.backtest.recommendation_outcomes import recommendations
from analytics.enactment.effect import time_to_safe_s
from analytics.enactment.enactments import enactments
from analytics.judging.judge import Judge
from analytics.lake.leases import ENACTOR
from analytics.lake.table_schemas import EVENTS, SIGNALS
from analytics.lake.tables import Fence, Lake
from producers.boundary.flagd_stages import FlagdStages
from producers.boundary.flags import FlagEvaluator
from producers.boundary.stage_store import ActionName
from producers.simulation.flagged_stages import FlaggedStages, write_flags
from producers.simulation.scenarios import scenario
from producers.simulation.simulator import Simulator, TrafficPlan
from producers.wire.stage import Mode
from stagekeeper.embedded.programs import DEMO_GATE_FILE
from stagekeeper.local_ingest import LocalIngest
from streams.control.enactor import Enactor

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

ACTION: Final = ActionName("production", "accounts", "update_address")
PLAN: Final = TrafficPlan(rate=40, history=timedelta(minutes=20), history_events=400, events=2_200)


class Loop:
    """Simulated traffic through ingest, judge and enactor, every five seconds of its clock."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.emitter = FakeClock(), FakeEmitter()
        self.path = folder / "flags.json"
        write_flags(self.path, scenario("demo"))
        self.evaluator = FlagEvaluator.from_file(self.path)
        self.lake = Lake.open(str(folder / "lake"))
        self.stages = FlagdStages(self.path)
        self._ingest = LocalIngest(now=self.clock)
        self._judge = Judge(self.lake, DEMO_GATE_FILE)
        self._enactor = Enactor(
            Lake.open(self.lake.root),
            DEMO_GATE_FILE,
            self.stages,
            lambda _events: None,
            now=self.clock,
            clock=self.seconds,
        )
        self._looked = self.clock()
        self.simulator = Simulator(
            scenario("demo"),
            self.emitter,
            plan=PLAN,
            seed=1,
            now=self.clock,
            wait=self.clock.wait,
            observe=self.observe,
            flags=FlaggedStages(self.evaluator),
        )

    def seconds(self) -> float:
        return self.clock().timestamp()

    def observe(self, _simulator: Simulator | None) -> None:
        if self.clock() - self._looked < timedelta(seconds=5):
            return
        self._looked = self.clock()
        folded = self._ingest.fold(self.emitter.events)
        self.emitter.events.clear()
        self.lake.append(EVENTS, folded.events)
        self.lake.append(SIGNALS, folded.signals)
        self._judge.tick(self.clock())
        self._enactor.look(Fence(ENACTOR, 1))
        in_force = self.stages.read(ACTION).version
        deadline = time.monotonic() + 30
        while self.evaluator.sha256 != in_force:  # it is read by the clock on the wall, within a second
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_an_action_goes_wrong_while_one_watches_and_is_constrained_from_then_on(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    truth = loop.simulator.run()
    loop.clock.advance(3)
    loop.observe(None)
    assert loop.stages.read(ACTION).mode is Mode.SEARCH_ONLY
    decided = loop.lake.scan(EVENTS).filter(pl.col("tool") == ACTION.tool).collect()
    applied = next(one.applied for one in enactments(loop.lake).values() if one.last.action == ACTION)
    assert applied is not None
    after = decided.filter(pl.col("decided_at") > applied.at)
    before = decided.filter(pl.col("decided_at") < applied.at)
    assert set(after["stage"]) == {"search_only"}
    assert set(before["stage"]) == {"progressive_expansion"}
    assert set(after["type"]) == {"stagekeeper.action.decided.v1"}, "nothing ran"
    to_safe_s = time_to_safe_s(loop.lake, applied)
    assert to_safe_s is not None
    assert 0 < to_safe_s < 10
    lives = {(one.recommendation.cell[2], one.life) for one in recommendations(loop.lake, now=loop.clock())}
    assert (ACTION.tool, "in force") in lives
    # What the simulator knows is what the lake counts.
    counted = loop.lake.scan(SIGNALS).group_by("tool", "stage").agg(pl.col("decisions").sum()).collect()
    found = {(tool, stage): decisions for tool, stage, decisions in counted.iter_rows()}
    known: dict[tuple[str, str], int] = {}
    for cell, cell_truth in truth.cells.items():
        known[cell.tool, cell.stage] = known.get((cell.tool, cell.stage), 0) + cell_truth.counts["decisions"]
    assert found == {key: count for key, count in known.items() if count}
    loop.evaluator.close()
