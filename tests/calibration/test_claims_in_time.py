"""What verdicts claim, kept: users who come back, latency by user, and arms compared by user.

Every row goes through the engine that production runs, with windows of users and looks while they go on. Shares are
compared with their level by the exact (Clopper-Pearson) interval of what was counted: a row fails where its level lies
below all of it.
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from scipy import stats
from timed_streams import Actions, Crossings, crossings

from analytics.gates.gate_file import GateFile

pytestmark = pytest.mark.slow

LIMIT = 0.02
LEVEL = 0.05
DAY = 24 * 60


def gates(stage: str, signal: str, more: str = "", window: str = "1h") -> GateFile:
    above = {"draft_write": "approval_gated", "narrow_autonomy": "progressive_expansion"}[stage]
    return GateFile.parse(
        f"""\
version: 1
freshness: 60d
user_window: {window}
outcome_deadline: 1m
gates:
  - name: g
    ladder: [{stage}, {above}]
    {more}
    signals: [{{role: guardrail, {signal}}}]
""".encode()
    )


ERRORS = f"signal: execution_error, limit: {LIMIT}"


def least_share(found: float, runs: int) -> float:
    """The lower end of the exact 95 % interval of a share that was found in so many runs."""
    count = round(found * runs)
    return float(stats.beta.ppf(0.025, count, runs - count + 1)) if count else 0.0


def keeps(share: float, runs: int, level: float = LEVEL) -> bool:
    return least_share(share, runs) <= level


def returning(seed: int, streams: int, users: int, days: int, *, alike: float, a_day: int = 3) -> Actions:
    """Users who come every day with a few actions, each with a rate of their own; their mean is at the limit."""
    rng = np.random.default_rng(seed)
    spread = 1 / alike - 1
    rate = rng.beta(LIMIT * spread, (1 - LIMIT) * spread, streams * users)
    visits = streams * users * days
    start = np.tile(np.arange(days) * DAY, streams * users) + rng.random(visits) * (DAY - 10)
    user = np.repeat(np.repeat(np.arange(streams * users), days), a_day)
    minute = np.repeat(start, a_day) + rng.random(visits * a_day) * 5
    failed = rng.random(user.size) < rate[user]
    return Actions(user // users, minute, failed, np.full(user.size, 0.03), days * DAY, user)


def looked(actions: Actions, gate_file: GateFile, streams: int, stage: str, every: timedelta) -> Crossings:
    return crossings(actions.history(stage=stage), gate_file, streams, every=every)


@pytest.mark.parametrize(
    ("users", "days", "alike", "streams"),
    [
        pytest.param(50, 14, 0.1, 15, marks=pytest.mark.exhaustive),
        (50, 14, 0.3, 15),
        pytest.param(50, 14, 0.3, 400, marks=pytest.mark.exhaustive),
        pytest.param(300, 3, 0.1, 40, marks=pytest.mark.exhaustive),
        (300, 3, 0.3, 40),
        pytest.param(300, 7, 0.3, 400, marks=pytest.mark.exhaustive),
    ],
)
def test_users_who_come_back_promote_nobody_else(users: int, days: int, alike: float, streams: int) -> None:
    """At the limit, of users to come: fifty never suffice, and three hundred keep beta."""
    found = looked(
        returning(users + days, streams, users, days, alike=alike),
        gates("narrow_autonomy", ERRORS),
        streams,
        "narrow_autonomy",
        timedelta(hours=12),
    )
    if users < 189:
        assert found.promotions == 0.0
    assert keeps(found.promotions, streams)


def visits(
    seed: int, streams: int, hours: int, *, an_hour: int, actions: int, rate: float, alike: float, base: bool = False
) -> tuple[np.ndarray, ...]:
    """New users, each with some alike actions within ten minutes: the stream, minute, failure and user of each."""
    rng = np.random.default_rng([seed, base])
    users = streams * an_hour * hours
    spread = 1 / alike - 1
    stream = np.repeat(np.repeat(np.arange(streams), an_hour * hours), actions)
    minute = np.repeat(rng.random(users) * hours * 60, actions) + rng.random(users * actions) * 10
    bad = rng.random(users * actions) < np.repeat(rng.beta(rate * spread, (1 - rate) * spread, users), actions)
    seen = minute < hours * 60
    return stream[seen], minute[seen], bad[seen], (np.repeat(np.arange(users), actions) + base * users)[seen]


@pytest.mark.parametrize("actions", [pytest.param(10, marks=pytest.mark.exhaustive), 50])
def test_slow_visits_at_four_fifths_of_the_limit_roll_nothing_back(actions: int) -> None:
    """Of 10 or 50 alike actions a visit 4 % are slow where 5 % may be; by action many of them were rolled back."""
    streams = 30 if actions == 10 else 15
    stream, minute, slow, user = visits(actions, streams, 24, an_hour=8, actions=actions, rate=0.04, alike=0.3)
    latency = np.where(slow, 2_000.0, 100.0)
    acts = Actions(stream, minute, np.zeros_like(slow), np.full(slow.size, 0.03), 24 * 60, user, latency)
    gate_file = gates("draft_write", "signal: latency_p95, limit_ms: 1000")
    found = looked(acts, gate_file, streams, "draft_write", timedelta(hours=1))
    assert keeps(found.rollbacks, streams, 0.01)
    if actions == 50:
        by_action = gates("draft_write", "signal: latency_p95, limit_ms: 1000, unit: action")
        assert looked(acts, by_action, streams, "draft_write", timedelta(hours=1)).rollbacks >= 0.2


@pytest.mark.parametrize("alike", [pytest.param(0.1, marks=pytest.mark.exhaustive), 0.3])
def test_a_ratio_at_its_limit_keeps_both_levels_by_user(alike: float) -> None:
    """The same rate in both arms, and at most the same asked for; by action a fifth was rolled back."""
    streams, hours = 16, 36
    arms = [
        visits(int(10 * alike), streams, hours, an_hour=6, actions=10, rate=0.05, alike=alike, base=base)
        for base in (False, True)
    ]
    stream, minute, failed, user = (np.concatenate(column) for column in zip(*arms, strict=True))
    base = np.repeat([False, True], [arm[0].size for arm in arms])
    acts = Actions(stream, minute, failed, np.full(failed.size, 0.03), hours * 60, user, is_base=base)
    more = "baseline: {kind: concurrent, cohort: held-back}"
    gate_file = gates("draft_write", "signal: execution_error, ratio: 1.0", more)
    found = looked(acts, gate_file, streams, "draft_write", timedelta(hours=6))
    assert keeps(found.rollbacks, streams)
    assert keeps(found.promotions, streams)
