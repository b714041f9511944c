"""After a promotion: how long between false alarms, and how soon after a change. Seeded simulations, one cell a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from simulated import NEVER, failures_of_users, is_median

from analytics.evidence.change_detector import Watch, run_length
from analytics.evidence.clustered_rate import UserWindows
from analytics.evidence.sequential import crosses, log_e_value

if TYPE_CHECKING:
    from simulated import IntArray

THRESHOLD = 0.02
BATCH = 50
ACTIONS = 10


def stepped(watch: Watch, rng: np.random.Generator, rate: float, batches: int, size: int = BATCH) -> Watch:
    runs = watch.threshold.size
    return watch.after(rng.binomial(size, rate, (batches, runs)), np.full((batches, runs), size))


@pytest.mark.slow
@pytest.mark.parametrize(("length", "size"), [(50, 50), (200, 50), (1_000, 50), (200, 5), (200, 400)])
def test_false_alarms_are_at_least_the_run_length_apart(length: int, size: int) -> None:
    runs, batches = 400, 6 * length
    watch = Watch.start(runs, threshold=THRESHOLD, run_length=length)
    watch = stepped(watch, np.random.default_rng([3, length, size]), THRESHOLD, batches, size)
    # A run without an alarm counts with the length it was watched, so the mean is understated.
    lasted = np.where(watch.alarmed, watch.alarmed_at, batches)
    assert lasted.mean() - 4 * lasted.std() / np.sqrt(runs) > length


def test_a_healthy_action_is_hardly_ever_alarmed_about() -> None:
    watch = Watch.start(1_000, threshold=THRESHOLD, run_length=1_000)
    assert not stepped(watch, np.random.default_rng(4), 0.01, 200).alarmed.any()


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "actions"), [(0.03, 2_150), (0.04, 750), (0.06, 300), (0.10, 100)])
def test_the_median_delay_after_a_change(rate: float, actions: int) -> None:
    healthy, runs = 200, 4_000
    rng = np.random.default_rng(12)
    watch = stepped(Watch.start(runs, threshold=THRESHOLD, run_length=1_000), rng, 0.01, healthy)
    watch = stepped(watch, rng, rate, 250)
    delay = np.where(watch.alarmed, watch.alarmed_at - healthy, NEVER)
    assert not (delay <= 0).any()
    assert is_median(delay, actions // BATCH)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "actions", "at_alpha"),
    [(0.03, 20_975, 19_000), (0.04, 9_325, 8_300), (0.06, 4_400, 3_950), (0.10, 2_150, 1_900)],
)
def test_the_evidence_of_the_stage_itself_would_take_ten_times_as_long(
    rate: float, actions: int, at_alpha: int
) -> None:
    # Its 10 000 healthy actions must be made up for first. The level of the detector is 1 in 1 000; at 0.05 it is
    # hardly faster.
    runs, looks = 1_000, np.arange(BATCH, 40_001, BATCH)
    rng = np.random.default_rng(13)
    failures = rng.binomial(10_000, 0.01, runs) + rng.binomial(BATCH, rate, (looks.size, runs)).cumsum(axis=0)
    log_e = log_e_value(failures, 10_000 + looks[:, np.newaxis], THRESHOLD, direction="above")
    for alpha, expected in ((0.001, actions), (0.05, at_alpha)):
        crossed = crosses(log_e, alpha)
        found = np.where(crossed.any(axis=0), looks[crossed.argmax(axis=0)], NEVER)
        assert is_median(found, expected, rounding=expected // 20)


@pytest.mark.slow
def test_cells_at_their_limits_alarm_falsely_no_more_often_than_promised() -> None:
    cells, alpha, batches = 2_000, 0.05, 400
    start = Watch.start(cells, threshold=THRESHOLD, run_length=run_length(alpha, batches=batches))
    watch = stepped(start, np.random.default_rng(14), 0.02, batches)
    assert 0 < watch.alarmed.mean() <= alpha


def users_of(rng: np.random.Generator, batches: int, runs: int, users: int, **made: float) -> IntArray:
    """Failures of each user of each batch: batches, runs, users."""
    return failures_of_users(rng, batches * runs, users, actions=ACTIONS, **made).T.reshape(batches, runs, users)


def by_user(watch: Watch, failures: IntArray) -> Watch:
    """Step with every user of a batch as one closed window."""
    batches, runs, users = failures.shape
    cell = np.repeat(np.arange(batches * runs), users)
    return watch.after_windows(
        UserWindows.of(batches * runs, cell=cell, actions=ACTIONS, failures=failures.reshape(-1))
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("length", "alike", "users", "counted_by_action"),
    [
        (200, 0.1, 5, 0.37),
        pytest.param(200, 0.3, 5, 0.14, marks=pytest.mark.exhaustive),
        pytest.param(200, 0.3, 20, 0.12, marks=pytest.mark.exhaustive),
        pytest.param(1_000, 0.1, 5, 0.14, marks=pytest.mark.exhaustive),
        (1_000, 0.3, 5, 0.04),
    ],
)
def test_counted_by_user_false_alarms_keep_their_distance_and_counted_by_action_they_do_not(
    length: int, alike: float, users: int, counted_by_action: float
) -> None:
    runs, batches = 150_000 // length, 6 * length
    rng = np.random.default_rng([15, length, users, round(100 * alike)])
    failures = users_of(rng, batches, runs, users, rate=THRESHOLD, alike=alike)
    start = Watch.start(runs, threshold=THRESHOLD, run_length=length)
    watched = by_user(start, failures)
    lasted = np.where(watched.alarmed, watched.alarmed_at, batches)
    assert lasted.mean() - 4 * lasted.std() / np.sqrt(runs) > length
    one_by_one = start.after(failures.sum(axis=2), np.full((batches, runs), users * ACTIONS))
    falsely = np.where(one_by_one.alarmed, one_by_one.alarmed_at, batches)
    slack = 4 * falsely.std() / np.sqrt(runs) / length
    assert abs(falsely.mean() / length - counted_by_action) <= 0.02 + slack


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "windows"), [(0.04, 38), (0.06, 14), (0.10, 6)])
def test_the_median_delay_by_user_as_configured_by_default(rate: float, windows: int) -> None:
    # Hourly user-windows and half of 5 % in four weeks; five users of ten actions an hour.
    healthy, runs = 100, 500
    rng = np.random.default_rng(16)
    watch = Watch.start(runs, threshold=THRESHOLD, run_length=run_length(0.05 / 2, batches=28 * 24))
    watch = by_user(watch, users_of(rng, healthy, runs, 5, rate=0.01, alike=0.1))
    watch = by_user(watch, users_of(rng, 200, runs, 5, rate=rate, alike=0.1))
    delay = np.where(watch.alarmed, watch.alarmed_at - healthy, NEVER)
    assert not (delay <= 0).any()
    assert is_median(delay, windows, rounding=windows // 10)
