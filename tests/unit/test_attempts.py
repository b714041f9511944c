"""Attempts: an epoch with a due action is one, and a budget spends beta over them."""

from __future__ import annotations

import numpy as np
import pytest
from verdict_cases import CELL, a_row, document_of, executions, gate_file, increments, verdict_on

from analytics.evidence.sequential import trials_to_decision
from analytics.gates.gate_file import AttemptBudget
from analytics.judging.attempts import Attempts
from analytics.signals.state import CellState
from producers.strict_yaml import ConfigurationFileError

ERRORS = "signal: execution_error, role: guardrail, limit: 0.02"
BASE = "1cf173b67b97"


def numbers(*rows: dict[str, object]) -> dict[str, int]:
    state = CellState.from_increments(increments(*rows))
    found = Attempts(state).numbers()
    return {state.names(np.array([row]))["epoch"][0]: int(found[row]) for row in range(state.epochs)}


def tried(count: int, clean: int, **gate: str) -> dict[str, object]:
    """The verdict on the last of so many attempts, each on another prompt version or whatever makes an epoch."""
    before = [a_row(epoch=f"e{number}", minute=number, **executions(20, 2)) for number in range(count - 1)]
    last = a_row(epoch="last", minute=30, **executions(clean))
    return document_of(verdict_on(gate_file(ERRORS, unit="action", **gate), *before, last))


@pytest.mark.parametrize(
    ("attempt", "beta", "at_two", "at_one"),
    [(1, 0.05, 189, 379), (2, 0.016666667, 250, 502), (3, 0.008333333, 288, 578), (7, 0.001785714, 370, 743)],
)
def test_a_budget_is_spent_over_attempts(attempt: int, beta: float, at_two: int, at_one: int) -> None:
    spent = AttemptBudget(budget=0.1).beta_at(attempt, 0.05)
    assert spent == pytest.approx(beta, abs=1e-9)
    for limit, least in ((0.02, at_two), (0.01, at_one)):
        assert float(trials_to_decision(0, 0, limit, direction="below", alpha=spent)) == least


def test_what_all_attempts_may_spend_is_the_budget() -> None:
    budget = AttemptBudget(budget=0.1)
    assert sum(budget.beta_at(attempt, 0.5) for attempt in range(1, 100_000)) == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize(("attempt", "least"), [(1, 189), (2, 250), (3, 288), (7, 370)])
def test_the_engine_asks_for_as_many_clean_actions_as_the_attempt_costs(attempt: int, least: int) -> None:
    budget = {"attempts": "{budget: 0.1}"}
    assert tried(attempt, least, **budget)["verdict"] == "PROMOTE"
    short = tried(attempt, least - 1, **budget)
    assert short["verdict"] == "HOLD"
    assert short["attempt"] == attempt
    assert "1 more executions needed" in str(short["summary"])
    assert (f"Attempt {attempt} of this cell." in str(short["summary"])) is (attempt > 1)


def test_without_a_budget_every_attempt_has_the_whole_beta() -> None:
    found = tried(7, 189)
    assert (found["verdict"], found["attempt"]) == ("PROMOTE", 7)


def test_an_epoch_of_which_nothing_was_due_is_no_attempt() -> None:
    denied = {"decisions": 50, "denied": 50}
    rows = [
        a_row(epoch="e1", **denied),
        a_row(epoch="e2", minute=1, **executions(5)),
        a_row(epoch="e3", minute=2, **denied),
    ]
    assert numbers(*rows) == {"e1": 1, "e2": 1, "e3": 2}


def test_attempts_are_those_of_one_cell() -> None:
    other = CELL._replace(tool="search")
    rows = [a_row(epoch="e1", **executions(5)), a_row(other, epoch="e2", minute=1, **executions(5))]
    assert numbers(*rows) == {"e1": 1, "e2": 1}


def test_a_higher_rung_is_no_attempt_and_a_lower_one_is() -> None:
    rows = [
        a_row(epoch=name, minute=minute, **executions(5))
        for minute, name in enumerate([f"{BASE}.1", f"{BASE}.2", "other", f"{BASE}.10", f"{BASE}.3"])
    ]
    assert numbers(*rows) == {f"{BASE}.1": 1, f"{BASE}.2": 1, "other": 2, f"{BASE}.10": 2, f"{BASE}.3": 3}


@pytest.mark.parametrize("names", [("v1.1", "v1.2"), (f"{BASE}.11", f"{BASE}.12"), (f"{BASE}.0", f"{BASE}.a")])
def test_names_that_only_look_like_rungs_are_attempts(names: tuple[str, str]) -> None:
    first, second = names
    assert numbers(a_row(epoch=first, **executions(5)), a_row(epoch=second, minute=1, **executions(5))) == {
        first: 1,
        second: 2,
    }


def test_the_order_in_which_increments_come_does_not_matter() -> None:
    rows = [a_row(epoch=f"e{number}", minute=number, **executions(5)) for number in range(5)]
    assert numbers(*rows) == numbers(*rows[::-1]) == {f"e{number}": number + 1 for number in range(5)}


def test_a_budget_is_a_share() -> None:
    for budget in ("0", "-0.1", "1.5", ".inf", "much"):
        with pytest.raises(ConfigurationFileError, match="budget"):
            gate_file(ERRORS, attempts=f"{{budget: {budget}}}")


def test_numbers_that_are_kept_up_are_those_counted_afresh() -> None:
    other = CELL._replace(tool="search")
    parts = [
        [a_row(epoch="b", minute=5, **executions(5)), a_row(other, epoch="x", minute=9, **executions(5))],
        [a_row(epoch="c", minute=7, decisions=3, denied=3)],
        [a_row(epoch="a", minute=1, **executions(5)), a_row(other, epoch="y", minute=9, **executions(5))],
        [a_row(epoch="c", minute=8, **executions(5)), a_row(other, epoch="x", minute=2, **executions(5))],
    ]
    state = CellState()
    kept = Attempts(state)
    for part in parts:
        state.add(increments(*part))
        assert kept.numbers().tolist() == Attempts(state).numbers().tolist()
    assert sorted(kept.numbers().tolist()) == [1, 1, 2, 2, 3]
