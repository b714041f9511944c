"""Counted by user: an outage is found before a window closes, and one heavy user hides behind nobody.

Every row goes through the engine that production runs, with hourly windows and a limit of 2 %.
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from simulated import margin
from timed_streams import Actions, crossings

from analytics.gates.gate_file import GateFile

pytestmark = pytest.mark.slow

LIMIT = 0.02
ALPHA = 0.05
GATES = GateFile.parse(
    f"""\
version: 1
freshness: 30d
user_window: 1h
gates:
  - name: g
    ladder: [draft_write, approval_gated]
    signals: [{{signal: execution_error, role: guardrail, limit: {LIMIT}}}]
""".encode()
)
HOUR = 60


def new_users(
    seed: int, streams: int, hours: int, *, rate: float, alike: float, an_hour: int = 40, actions: int = 5
) -> Actions:
    """Users who come once, with a few actions within ten minutes, and whose actions are alike by a correlation."""
    rng = np.random.default_rng(seed)
    users = streams * an_hour * hours
    spread = 1 / alike - 1
    stream = np.repeat(np.repeat(np.arange(streams), an_hour * hours), actions)
    minute = np.repeat(rng.random(users) * hours * HOUR, actions) + rng.random(users * actions) * 10
    failed = rng.random(users * actions) < np.repeat(rng.beta(rate * spread, (1 - rate) * spread, users), actions)
    user = np.repeat(np.arange(users), actions)
    seen = minute < hours * HOUR
    return Actions(stream[seen], minute[seen], failed[seen], np.full(seen.sum(), 0.03), hours * HOUR, user[seen])


def a_bot(seed: int, streams: int, hours: int, *, bot_rate: float, rate: float = 0.002) -> Actions:
    """One bot makes five actions a minute, a hundred people three an hour each."""
    rng = np.random.default_rng(seed)
    minutes = hours * HOUR
    by_bot, by_people = minutes * 5, 300 * hours
    stream = np.concatenate([np.repeat(np.arange(streams), by_bot), np.repeat(np.arange(streams), by_people)])
    size = stream.size
    is_bot = np.arange(size) < streams * by_bot
    user = np.where(is_bot, 0, rng.integers(1, 101, size))
    failed = rng.random(size) < np.where(is_bot, bot_rate, rate)
    return Actions(stream, rng.random(size) * minutes, failed, np.full(size, 0.03), minutes, user)


@pytest.mark.parametrize(
    ("rate", "median", "slowest"), [pytest.param(0.98, 10, 20, marks=pytest.mark.exhaustive), (0.3, 25, 60)]
)
def test_an_outage_is_found_before_the_first_window_closes(rate: float, median: int, slowest: int) -> None:
    found = crossings(new_users(5, 40, 2, rate=rate, alike=1e-9).history(), GATES, 40, every=timedelta(minutes=1))
    assert found.rollbacks == 1.0
    assert np.quantile(found.rolled_back, 0.5, method="lower") <= median
    assert np.quantile(found.rolled_back, 0.9, method="lower") <= slowest


def test_at_the_limit_both_levels_hold_with_users_whose_actions_are_alike() -> None:
    at_limit = crossings(new_users(6, 120, 8, rate=LIMIT, alike=0.1).history(), GATES, 120)
    assert at_limit.rollbacks <= ALPHA + margin(ALPHA, 120)
    assert at_limit.promotions <= ALPHA + margin(ALPHA, 120)


def test_a_bot_that_fails_rolls_back_although_the_average_user_is_well_served() -> None:
    found = crossings(a_bot(3, 20, 4, bot_rate=0.30).history(), GATES, 20, every=timedelta(minutes=5))
    assert (found.promotions, found.rollbacks) == (0.0, 1.0)
    assert np.quantile(found.rolled_back, 0.9, method="lower") <= 2 * HOUR


@pytest.mark.exhaustive
def test_a_bot_that_is_well_served_holds_no_promotion_up() -> None:
    found = crossings(a_bot(3, 20, 12, bot_rate=0.002).history(), GATES, 20, every=timedelta(minutes=10))
    assert (found.promotions, found.rollbacks) == (1.0, 0.0)
