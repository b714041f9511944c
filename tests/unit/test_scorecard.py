from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from lakes_of_events import NOON, EventLake
from scipy.stats import beta
from verdict_cases import CELL, a_row, executions, gate_file, verdict_on

from analytics.backtest.history import Turn
from analytics.backtest.recommendation_outcomes import of_history
from analytics.backtest.scorecard import CellOutcome, clopper_pearson, score, scored
from analytics.evidence.errors import EvidenceError
from analytics.gates.gate_file import GateFile
from analytics.judging.judge import Judge
from producers.simulation.scenarios import scenario
from producers.wire.events import PolicyChangedData, VerdictName
from producers.wire.stage import Stage
from stagekeeper.commands import cli
from stagekeeper.scorecard_runner import history_of, outcomes

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.verdicts.verdict import Verdict

GATES = gate_file("signal: execution_error, role: guardrail, limit: 0.1")
SAID: dict[str, Verdict] = {
    "PROMOTE": verdict_on(GATES, a_row(**executions(200))),
    "ROLL_BACK": verdict_on(GATES, a_row(**executions(104, 42))),
    "HOLD": verdict_on(GATES, a_row(**executions(2))),
}


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def scored_as(deserved: str, *said: tuple[float, str], wrong_at: float = 0.0) -> CellOutcome:
    turns = [Turn(at(minute), SAID[word]) for minute, word in said]
    return score("s", CELL, VerdictName(deserved), turns, wrong_at=at(wrong_at))


@pytest.mark.parametrize(("count", "among"), [(0, 7), (7, 7), (1, 10), (3, 250), (49, 50), (0, 1)])
def test_the_bounds_are_the_exact_ones(count: int, among: int) -> None:
    lower, upper = clopper_pearson(count, among)
    assert lower == pytest.approx(beta.ppf(0.025, count, among - count + 1) if count else 0.0, abs=1e-9)
    assert upper == pytest.approx(beta.ppf(0.975, count + 1, among - count) if count < among else 1.0, abs=1e-9)


def test_nothing_bounds_nothing() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("count", "among"), [(-1, 3), (4, 3)])
def test_what_is_no_share_has_no_bounds(count: int, among: int) -> None:
    with pytest.raises(EvidenceError, match=f"{count} of {among}"):
        clopper_pearson(count, among)


def test_what_a_mistake_is() -> None:
    assert scored_as("ROLL_BACK", (5, "PROMOTE"), (9, "ROLL_BACK")).false_promote
    assert scored_as("HOLD", (5, "PROMOTE")).false_promote
    assert scored_as("HOLD", (5, "ROLL_BACK")).false_rollback
    assert scored_as("PROMOTE", (5, "ROLL_BACK")).false_rollback
    right = scored_as("ROLL_BACK", (5, "HOLD"), (9, "ROLL_BACK"))
    assert (right.false_promote, right.false_rollback, right.reached, right.delay_s) == (False, False, True, 540.0)


def test_what_was_said_while_it_was_true_is_no_mistake() -> None:
    drifted = scored_as("ROLL_BACK", (5, "PROMOTE"), (40, "ROLL_BACK"), wrong_at=30)
    assert (drifted.false_promote, drifted.delay_s) == (False, 600.0)
    assert scored_as("PROMOTE", (5, "PROMOTE"), wrong_at=30).reached, "what stands need not be said again"


def test_shares_are_of_those_that_could_be_wrong() -> None:
    found = scored([scored_as("ROLL_BACK", (5, "PROMOTE")), scored_as("PROMOTE", (5, "PROMOTE"))])
    assert (found["false_promotes"]["count"], found["false_promotes"]["among"]) == (1, 1)
    assert (found["false_rollbacks"]["count"], found["false_rollbacks"]["among"]) == (0, 1)
    assert (found["rolled_back"]["count"], found["promoted"]["count"]) == (0, 1)
    assert found["delay_to_rollback_s"] is None
    json.dumps(found, allow_nan=False)


def demo_gates() -> GateFile:
    return GateFile.load(Path(__file__).parents[2] / "stagekeeper/embedded/demo_gates.yaml")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_an_action_that_drifts_after_its_promotion_is_rolled_back() -> None:
    found = {
        one.cell.stage: one
        for one in outcomes(scenario("drifting-after-promotion"), demo_gates(), seed=1, events=6_000)
    }
    assert found["approval_gated"].reached
    drifted = found["narrow_autonomy"]
    assert (drifted.deserved, drifted.false_promote, drifted.reached) == ("ROLL_BACK", False, True)
    assert drifted.delay_s is not None
    assert drifted.delay_s <= 1_800


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_same_seed_gives_the_same_outcomes() -> None:
    one, two = (outcomes(scenario("incident"), demo_gates(), seed=7, events=800) for _ in range(2))
    assert one == two


def test_a_simulated_history_is_known_minute_by_minute(tmp_path: Path) -> None:
    event_lake = EventLake.at(tmp_path)
    receipt = event_lake.act(0, "ann")
    event_lake.undo(receipt, 31)
    history = history_of(event_lake.emitter.events)
    assert history.increments["undone"].to_list() == [0, 1]
    assert history.increments["last_event_at"][1] == at(31)
    assert history.events.height == 3


class TestOwnHistory:
    def lake(self, tmp_path: Path) -> EventLake:
        event_lake = EventLake.at(tmp_path)
        (tmp_path / "gates.yaml").write_text(
            "version: 1\ngates: [{name: g, unit: action, ladder: [draft_write, approval_gated], "
            "signals: [{signal: execution_error, role: guardrail, limit: 0.1}]}]"
        )
        self.judge = Judge(event_lake.lake, tmp_path / "gates.yaml", settle_s=0)
        for number in range(60):
            event_lake.act(number / 10, f"u{number}")
        event_lake.store()
        self.judge.tick(at(10))
        return event_lake

    def test_a_promotion_that_held(self, tmp_path: Path) -> None:
        event_lake = self.lake(tmp_path)
        change = PolicyChangedData(
            flag_key="agent-action-mode",
            changed_by="maria",
            reason="it held its limits",
            after="approved_external",
            workflow="refunds",
            tool="issue_refund",
        )
        event_lake.recorder.policy_changed(change, at=at(20))
        event_lake.act(30, "ann", stage=Stage.APPROVAL_GATED)
        event_lake.store()
        self.judge.tick(at(40))
        found = of_history(event_lake.lake)
        assert found["promotions"] == 1
        assert found["accepted"]["count"] == 1
        assert (found["later_rolled_back"]["count"], found["followed_by_incident"]["count"]) == (0, 0)

    def test_a_promotion_that_did_not(self, tmp_path: Path) -> None:
        event_lake = self.lake(tmp_path)
        for number in range(60):
            receipt = event_lake.act(30 + number / 10, f"u{number}", stage=Stage.APPROVAL_GATED, failed=number % 2 == 0)
        event_lake.severe_incident(receipt, 50)
        event_lake.store()
        self.judge.tick(at(60))
        found = of_history(event_lake.lake)
        assert (found["promotions"], found["rollbacks"]) == (1, 1)
        assert (found["later_rolled_back"]["count"], found["followed_by_incident"]["count"]) == (1, 1)
        assert found["accepted"]["count"] == 0


def test_the_command_scores_history_alone(tmp_path: Path) -> None:
    TestOwnHistory().lake(tmp_path)
    event_lake = CliRunner().invoke(cli, ["scorecard", "--runs", "0", "--lake", str(tmp_path / "lake"), "--json"])
    assert event_lake.exit_code == 0, event_lake.output
    document: dict[str, Any] = json.loads(event_lake.stdout)
    assert document["simulated"] is None
    assert document["history"]["promotions"] == 1


@pytest.mark.slow
def test_the_command_scores_simulations_alone(tmp_path: Path) -> None:
    asked = ["scorecard", "--runs", "1", "--scenario", "incident", "--events", "300", "--lake", str(tmp_path / "none")]
    event_lake = CliRunner().invoke(cli, asked)
    assert event_lake.exit_code == 0, event_lake.output
    assert "1 simulated cells with a known truth" in event_lake.output
    assert "1 of 1 (100 %" in event_lake.output
    assert "There is no lake yet" in event_lake.output
