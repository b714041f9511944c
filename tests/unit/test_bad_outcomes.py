"""Any bad outcome: a decision that failed, timed out, was undone, had an incident or is overdue counts once."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl
import pytest
from lakes_of_events import EventLake
from verdict_cases import NOON, a_row, codes, gate_file, latest_documents, verdict_on

from analytics.audit.replay import replay
from analytics.evidence.sequential import log_e_value
from analytics.gates.lint import lint_gates
from analytics.judging.judge import Judge
from analytics.lake.rollup import roll
from analytics.lake.table_schemas import COLUMNS, EVENTS, REJECTS, SIGNALS
from analytics.lake.tables import Advance
from analytics.signals.state import CellState
from stagekeeper.local_ingest import LocalIngest
from streams.ingest.recovery import resume

if TYPE_CHECKING:
    from pathlib import Path


GUARDRAIL = "signal: bad_outcome, role: guardrail, limit: 0.05, maturity: 30m"


@pytest.fixture
def history(tmp_path: Path) -> EventLake:
    return EventLake.at(tmp_path)


def counted(history: EventLake) -> int:
    return int(history.lake.scan(SIGNALS).select(pl.col("bad_outcomes").sum()).collect().item())


@pytest.mark.parametrize("batches", ["one", "each"])
def test_a_decision_counts_once_whatever_comes_of_it_and_when(history: EventLake, batches: str) -> None:
    def maybe_store() -> None:
        if batches == "each":
            history.store()

    receipts = [history.act(n, "ada", failed=n < 2) for n in range(6)]
    maybe_store()
    for receipt in receipts[1:4]:
        history.undo(receipt, 600)  # one failed before
    maybe_store()
    history.severe_incident(receipts[3], 900)  # was undone before
    history.undo(receipts[3], 901)
    history.severe_incident(receipts[4], 902)
    history.store()
    # Failed: 0, 1. Undone: 1, 2, 3. Incidents: 3, 4.
    assert counted(history) == 5
    state = CellState.from_increments(history.lake.scan(SIGNALS).collect())
    assert state.counter("bad_outcomes").tolist() == [5]
    assert [int(state.counter(name)[0]) for name in ("failed", "undone", "incidents")] == [2, 3, 2]


def test_the_order_does_not_matter(history: EventLake) -> None:
    receipt = history.act(0, "ada", failed=True)
    history.undo(receipt, 30)
    history.emitter.events.reverse()
    history.store()
    assert counted(history) == 1


def test_minutes_that_are_rolled_up_have_the_same_bad_outcomes(history: EventLake) -> None:
    receipts = [history.act(n, "ada", failed=n % 3 == 0) for n in range(30)]
    for receipt in receipts[:10]:
        history.undo(receipt, 100)
    history.store()
    rows = history.lake.scan(SIGNALS).collect()
    assert roll(rows)["bad_outcomes"].sum() == rows["bad_outcomes"].sum() == 16


@pytest.mark.parametrize("caught_up", [False, True])
def test_after_a_restart_it_is_known_what_was_bad_before(history: EventLake, caught_up: bool) -> None:
    receipts = [history.act(n, "ada", failed=True) for n in range(3)]
    folded = history.ingest.fold(history.emitter.events)
    history.emitter.events.clear()
    advances = {partition: Advance(None, reached) for partition, reached in folded.reached.items()}
    history.lake.append(REJECTS, pl.DataFrame(schema=COLUMNS[REJECTS]), advances=advances)
    history.lake.append(EVENTS, folded.events, advances=advances)
    if caught_up:
        history.lake.append(SIGNALS, folded.signals, advances=advances)
    resumed = resume(history.lake, {partition: (0, reached + 1) for partition, reached in folded.reached.items()})
    again = LocalIngest(now=lambda: NOON + timedelta(days=9))
    again._states = {partition: start.state for partition, start in resumed.items()}  # noqa: SLF001
    history.ingest = again
    for receipt in receipts:
        history.undo(receipt, 60)
    history.store()
    assert counted(history) == 3


def executions(count: int, **more: int) -> dict[str, int]:
    return {"decisions": count, "allowed": count, "expected": count, "executed": count, **more}


def test_signals_within_their_limits_add_up_to_harm() -> None:
    rows = [
        a_row(minute=n, **executions(100, failed=3, timed_out=3, undone=3, incidents=2, bad_outcomes=11))
        for n in range(10)
    ]
    each = [f"signal: {name}, role: guardrail, limit: 0.05" for name in ("execution_error", "timeout")]
    each += [f"signal: {name}, role: guardrail, limit: 0.05, maturity: 30m" for name in ("undo", "incident")]
    assert verdict_on(gate_file(*each), *rows).result.verdict != "ROLL_BACK"
    found = verdict_on(gate_file(GUARDRAIL), *rows)
    (part,) = found.inputs.signals
    assert (found.result.verdict, codes(found)[0]) == ("ROLL_BACK", "harm")
    assert (part.failures, part.trials, part.value) == (110, 1_000, 0.11)


def test_what_is_overdue_is_bad_once_and_what_is_in_flight_counts_against_a_promotion_alone() -> None:
    overdue = a_row(minute=0, **{**executions(100), "executed": 90})
    young = a_row(minute=58, **{**executions(100), "executed": 95})
    found = verdict_on(gate_file(GUARDRAIL), overdue, young, watermark=NOON + timedelta(minutes=59, seconds=30))
    (part,) = found.inputs.signals
    assert (part.failures, part.trials, part.unreported) == (10, 195, 5)
    assert part.log_e_harm == pytest.approx(float(log_e_value(10, 200, 0.05, direction="above")))
    # Older than the maturity: the first minute.
    assert (part.mature_failures, part.mature_trials) == (10, 100)


def test_an_undo_without_an_execution_is_not_counted_beside_its_being_overdue_for_a_rollback() -> None:
    row = a_row(minute=0, **{**executions(100, undone=10, bad_outcomes=10), "executed": 90})
    (part,) = verdict_on(gate_file(GUARDRAIL), row, watermark=NOON + timedelta(hours=2)).inputs.signals
    assert (part.failures, part.trials) == (10, 100)
    assert part.mature_failures == 20, "nobody knows, so a promotion takes both"


def test_it_promotes_when_it_is_shown_safe_after_the_maturity() -> None:
    row = a_row(minute=0, **executions(400, bad_outcomes=2, failed=1, undone=2))
    for role in ("guardrail", "promote"):
        gates = gate_file(GUARDRAIL.replace("30m", "10m").replace("guardrail", role))
        young, old = (verdict_on(gates, row, watermark=NOON + timedelta(minutes=minute)) for minute in (8, 12))
        assert (young.result.verdict, old.result.verdict) == ("HOLD", "PROMOTE")


def test_without_a_maturity_it_holds_every_promotion_and_lint_says_so() -> None:
    gates = gate_file("signal: bad_outcome, role: guardrail, limit: 0.05")
    found = verdict_on(gates, a_row(**executions(900)), watermark=NOON + timedelta(minutes=10))
    assert (found.result.verdict, codes(found)[0]) == ("HOLD", "no_maturity")
    assert any(issue.code == "no_maturity" and issue.level == "error" for issue in lint_gates(gates))


BY_USER = f"""\
version: 1
user_window: 10m
freshness: 2h
gates:
  - name: g
    owner: risk
    ladder: [draft_write, approval_gated]
    signals: [{{{GUARDRAIL.replace("0.05", "0.1")}}}]
"""


@pytest.mark.slow
def test_by_user_each_decision_counts_once_too_and_replays_alike(history: EventLake, tmp_path: Path) -> None:
    (tmp_path / "gates.yaml").write_text(BY_USER)
    receipts = [history.act(n / 20, f"user-{n}", failed=n % 10 == 0) for n in range(200)]
    for receipt in receipts[:40]:
        history.undo(receipt, 20)
        history.severe_incident(receipt, 21)
    history.act(40, "the next")
    history.store()
    Judge(history.lake, tmp_path / "gates.yaml", settle_s=0).tick(NOON + timedelta(minutes=41))
    (found,) = latest_documents(history.lake)
    (part,) = found["signals"]
    assert part["by"] == "user"
    # Forty undone, four of them failed before; sixteen more failed.
    assert (part["windows"], part["value"]) == (200, pytest.approx(56 / 200))
    assert found["verdict"] == "ROLL_BACK"
    assert replay(history.lake, found["verdict_id"]).document.to_dict()["verdict"] == "ROLL_BACK"
