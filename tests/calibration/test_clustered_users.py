"""Actions of one user are alike: what counting them one by one does, and what counting users does instead.

Seeded simulations: a user's failure rate is beta distributed around the limit with the given intra-class correlation,
and one user makes all actions of a window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from simulated import NEVER, failures_of_users, first_look, is_share

from analytics.evidence.clustered_rate import UserWindows
from analytics.evidence.sequential import crosses, log_e_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulated import BoolArray, IntArray

THRESHOLD = 0.02
ALPHA = 0.05


def users_until_rollback(failures: IntArray, actions: int, every: int = 1) -> IntArray:
    """Users seen until the evidence by user crosses, looking after every few users."""
    users, runs = failures.shape

    def looks() -> Iterator[tuple[int, BoolArray]]:
        table = UserWindows.of(runs, cell=[], actions=[], failures=[])
        for seen in range(every, users + 1, every):
            rows = failures[seen - every : seen]
            table = UserWindows.of(
                runs,
                cell=np.concatenate([table.cell, np.broadcast_to(np.arange(runs), rows.shape).ravel()]),
                actions=np.concatenate([table.actions, np.full(rows.size, actions)]),
                failures=np.concatenate([table.failures, rows.ravel()]),
                count=np.concatenate([table.count, np.ones(rows.size, dtype=np.int64)]),
            )
            yield seen, crosses(table.log_e_value(THRESHOLD, direction="above"), ALPHA)

    return first_look(looks(), runs)


def by_action(failures: IntArray, actions: int) -> BoolArray:
    trials = actions * np.arange(1, failures.shape[0] + 1)[:, np.newaxis]
    log_e = log_e_value(failures.cumsum(axis=0), trials, THRESHOLD, direction="above")
    return np.asarray(crosses(log_e, ALPHA).any(axis=0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alike", "actions", "share"), [(0.02, 10, 0.06), (0.1, 10, 0.18), (0.3, 10, 0.41), (0.1, 50, 0.52)]
)
def test_counted_by_action_a_harmless_action_is_rolled_back_and_counted_by_user_it_is_not(
    alike: float, actions: int, share: float
) -> None:
    runs, users = 600, 2_000
    rng = np.random.default_rng([31, actions, round(100 * alike)])
    failures = failures_of_users(rng, runs, users, actions=actions, rate=THRESHOLD, alike=alike)
    assert is_share(by_action(failures, actions), share, rounding=0.02)
    by_user = users_until_rollback(failures, actions, every=20) < NEVER
    assert float(by_user.mean()) <= ALPHA


@pytest.mark.slow
@pytest.mark.parametrize(("alike", "actions", "users"), [(0.02, 10, 20), (0.1, 10, 24), (0.3, 10, 41), (0.1, 50, 19)])
def test_three_times_the_limit_is_found_within_some_dozens_of_users(alike: float, actions: int, users: int) -> None:
    runs = 1_000
    rng = np.random.default_rng([32, actions, round(100 * alike)])
    found = users_until_rollback(
        failures_of_users(rng, runs, 200, actions=actions, rate=3 * THRESHOLD, alike=alike), actions
    )
    assert abs(float(np.median(found)) - users) <= 3


@pytest.mark.slow
def test_the_same_few_users_again_and_again_are_not_many_users() -> None:
    # The level holds for independent windows. Fifty users, each with its own rate, seen on forty days, are not 2 000.
    runs, users, days, actions = 400, 50, 40, 10
    rng = np.random.default_rng(33)
    spread = 1 / 0.3 - 1
    rates = rng.beta(THRESHOLD * spread, (1 - THRESHOLD) * spread, (users, runs))
    failures = rng.binomial(actions, np.tile(rates, (days, 1)))
    assert float((users_until_rollback(failures, actions, every=50) < NEVER).mean()) > 2 * ALPHA
    # One window over all forty days counts each of them once.
    whole = failures.reshape(days, users, runs).sum(axis=0)
    assert float((users_until_rollback(whole, days * actions) < NEVER).mean()) <= ALPHA
