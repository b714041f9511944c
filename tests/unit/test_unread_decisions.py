"""Outcomes that are read before their decisions: nobody knows whose they are, so they are not as many users."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from lakes_of_events import NOON, EventLake
from verdict_cases import latest_documents

from analytics.judging.judge import Judge
from producers.wire.events import ActionDecided

if TYPE_CHECKING:
    from pathlib import Path

GATES = """\
version: 1
user_window: 10m
outcome_deadline: 1h
gates:
  - name: g
    ladder: [draft_write, approval_gated]
    signals: [{signal: execution_error, role: guardrail, limit: 0.05}]
"""


@pytest.fixture
def history(tmp_path: Path) -> EventLake:
    return EventLake.at(tmp_path)


@pytest.fixture
def judge(history: EventLake, tmp_path: Path) -> Judge:
    path = tmp_path / "gates.yaml"
    path.write_text(GATES)
    return Judge(history.lake, path, settle_s=0)


def outcomes_first(history: EventLake) -> list[ActionDecided]:
    """Keep the outcomes that were told for the next `store`, and give the decisions for a later one."""
    told = history.emitter.events
    decisions = [event for event in told if isinstance(event, ActionDecided)]
    told[:] = [event for event in told if not isinstance(event, ActionDecided)]
    return decisions


def verdict_at(history: EventLake, judge: Judge, minute: float) -> str:
    history.store()
    judge.tick(NOON + timedelta(minutes=minute))
    (document,) = latest_documents(history.lake)
    return str(document["verdict"])


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.slow
def test_failures_of_one_bot_are_not_those_of_many_users(history: EventLake, judge: Judge, closes: bool) -> None:
    for number in range(150):
        history.act(number / 5, f"user-{number}")
    assert verdict_at(history, judge, 31) == "PROMOTE"
    for number in range(40):
        history.act(32 + number / 100, "bot", failed=True)
    decisions = outcomes_first(history)
    if closes:
        history.act(41, "user-1")
    assert verdict_at(history, judge, 41 if closes else 33) == "PROMOTE"
    history.emitter.events += decisions
    assert verdict_at(history, judge, 41.5 if closes else 33.5) == "PROMOTE"


def test_successes_of_one_bot_are_not_those_of_many_users(history: EventLake, judge: Judge) -> None:
    history.act(0, "user-1")
    for number in range(200):
        history.act(1 + number / 100, "bot")
    decisions = outcomes_first(history)
    history.emitter.events += [decision for decision in decisions if decision.data.contract.actor.user == "user-1"]
    assert verdict_at(history, judge, 11) == "HOLD"
    history.act(25, "user-1")
    assert verdict_at(history, judge, 25.1) == "HOLD"
    history.emitter.events += [decision for decision in decisions if decision.data.contract.actor.user == "bot"]
    assert verdict_at(history, judge, 25.2) == "HOLD"
