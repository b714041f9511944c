"""The regression detector: its recursion, its latch, and the level that keeps a promise."""

from __future__ import annotations

import numpy as np
import pytest

from analytics.evidence.change_detector import NO_ALARM, Watch, ceiling, run_length
from analytics.evidence.clustered_rate import UserWindows
from analytics.evidence.errors import EvidenceError
from analytics.evidence.sequential import BETS, log_e_value


def test_the_level_is_the_recursion_in_plain_numbers() -> None:
    rng = np.random.default_rng(5)
    trials = rng.integers(0, 80, 40)
    failures = rng.binomial(trials, 0.03)
    bets, threshold, wealth = np.array(BETS["above"]), 0.02, np.zeros(8)
    for failed, tried in zip(failures, trials, strict=True):
        if tried:
            wealth = (1 + wealth) * bets**failed / (1 + (bets - 1) * threshold) ** tried
    watch = Watch.start(1, threshold=threshold, run_length=1e6).after(failures[:, None], trials[:, None])
    assert watch.log_level[0] == pytest.approx(np.log(wealth.mean()), abs=1e-9)
    assert watch.batches[0] == np.count_nonzero(trials)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.2])
def test_no_level_is_above_its_ceiling_and_none_far_below(rate: float) -> None:
    rng = np.random.default_rng(8)
    trials = rng.integers(0, 40, (60, 20))
    trials[:, 0] = 0
    failures, restarts = rng.binomial(trials, rate), rng.uniform(0.1, 12.0, trials.shape)
    watch, levels = Watch.start(20, threshold=0.05, run_length=1e6), []
    for step in range(60):
        watch = watch.after(failures[step], trials[step], restarts=restarts[step : step + 1])
        levels.append(watch.log_level)
    last, highest = ceiling(failures, trials, restarts, threshold=0.05)
    assert last[0] == highest[0] == -np.inf, "nothing was tried"
    above = np.array([last[1:] - levels[-1][1:], highest[1:] - np.max(levels, axis=0)[1:]])
    begun = np.log(np.sum(restarts * (trials > 0), axis=0)[1:])
    assert np.all(above >= 0)
    # It is the largest of eight bets for their average, and the best restart for all of them.
    assert np.all(above[1] <= begun + np.log(8) - np.log(0.1))


def test_after_one_batch_it_is_the_evidence_of_that_batch() -> None:
    watch = Watch.start(3, threshold=[0.01, 0.02, 0.05], run_length=100.0).after([0, 4, 50], [10, 50, 50])
    # The rate test reads thresholds on a grid of 2^-40.
    expected = log_e_value([0, 4, 50], [10, 50, 50], [0.01, 0.02, 0.05], direction="above")
    assert watch.log_level == pytest.approx(expected.tolist(), abs=1e-8)


def test_windows_of_one_action_are_actions() -> None:
    rng = np.random.default_rng(6)
    trials = rng.integers(0, 30, (40, 3))
    failures = rng.binomial(trials, 0.04)
    start = Watch.start(3, threshold=[0.01, 0.02, 0.05], run_length=50.0)
    one_by_one = start.after(failures, trials)
    cell = np.arange(120)
    windows = UserWindows.of(
        120,
        cell=np.concatenate([cell, cell]),
        actions=1,
        failures=np.repeat([1, 0], 120),
        count=np.concatenate([failures.ravel(), (trials - failures).ravel()]),
    )
    by_user = start.after_windows(windows)
    assert by_user.log_level == pytest.approx(one_by_one.log_level.tolist(), abs=1e-9)
    assert by_user.alarmed_at.tolist() == one_by_one.alarmed_at.tolist()
    assert by_user.batches.tolist() == one_by_one.batches.tolist()


def test_the_level_by_user_is_the_recursion_in_plain_numbers() -> None:
    bets, threshold, wealth = np.array(BETS["above"]), 0.02, np.zeros(8)
    batches = [[(10, 1), (3, 3)], [], [(5, 0)], [(50, 9), (1, 0), (1, 0)]]
    rows = []
    for at, batch in enumerate(batches):
        if batch:
            wealth = 1 + wealth
        for m, y in batch:
            rows.append((at, m, y))
            bet = (bets - 1) / (1 + (bets - 1) * threshold)
            wealth = wealth * (1 + bet * (y / m - threshold))
    cell, actions, failures = zip(*rows, strict=True)
    windows = UserWindows.of(4, cell=cell, actions=actions, failures=failures)
    watch = Watch.start(1, threshold=threshold, run_length=1e6).after_windows(windows)
    assert watch.log_level[0] == pytest.approx(np.log(wealth.mean()), abs=1e-9)
    assert watch.batches[0] == 3


def test_an_empty_batch_does_not_step() -> None:
    before = Watch.start(1, threshold=0.02, run_length=100.0).after([3], [20])
    after = before.after([[0], [0]], [[0], [0]])
    assert after.log_level[0] == before.log_level[0]
    assert after.batches[0] == 1


def test_an_alarm_names_its_batch_and_stays() -> None:
    failures = np.array([[0, 0], [0, 9], [0, 20], [0, 0], [0, 0]])
    watch = Watch.start(2, threshold=0.02, run_length=1_000.0).after(failures, np.full_like(failures, 20))
    assert watch.alarmed_at.tolist() == [NO_ALARM, 2]
    assert watch.alarmed.tolist() == [False, True]
    quiet = watch.after(np.zeros((400, 2), int), np.full((400, 2), 20))
    assert quiet.log_level[1] < np.log(1_000)
    assert quiet.alarmed_at.tolist() == [NO_ALARM, 2]


def test_nothing_seen_is_no_alarm_even_at_the_shortest_run_length() -> None:
    watch = Watch.start(1, threshold=0.02, run_length=1.0)
    assert watch.log_level[0] == -np.inf
    assert not watch.alarmed[0]


def test_the_level_is_the_batches_over_alpha() -> None:
    assert run_length(0.05, batches=40_320) == pytest.approx(806_400)
    assert run_length(0.05 / 2, batches=672) == pytest.approx(26_880)
    for alpha in (0.0, 1.0, float("nan")):
        with pytest.raises(EvidenceError, match="an alpha strictly between 0 and 1"):
            run_length(alpha, batches=10)
    with pytest.raises(EvidenceError, match="at least one batch"):
        run_length(0.05, batches=0.5)


def test_the_levels_that_the_design_computed_by_itself() -> None:
    watch = Watch.start(1, threshold=0.02, run_length=1e9)
    levels = []
    for failed in (0, 1, 3, 5):
        watch = watch.after([failed], [10])
        levels.append(float(watch.log_level[0]))
    assert levels == pytest.approx([-0.569277902, 0.968986728, 5.440370389, 16.212728682], abs=1e-9)


def test_batches_that_are_added_up_never_raise_the_level() -> None:
    rng = np.random.default_rng(7)
    trials = rng.integers(0, 20, (60, 200))
    failures = rng.binomial(trials, rng.choice([0.01, 0.05, 0.3], (60, 1)))
    start = Watch.start(200, threshold=0.02, run_length=1e9)
    whole = start.after(failures, trials)
    coarse = start.after(failures.reshape(6, 10, 200).sum(axis=1), trials.reshape(6, 10, 200).sum(axis=1))
    assert (coarse.log_level <= whole.log_level + 1e-9).all()


def test_a_batch_may_have_a_threshold_of_its_own() -> None:
    rows = [(0, 20, 3), (1, 20, 6), (2, 20, 0)]
    cell, actions, failures = zip(*rows, strict=True)
    windows = UserWindows.of(3, cell=cell, actions=actions, failures=failures)
    bets, wealth = np.array(BETS["above"]), np.zeros(8)
    thresholds = np.array([[0.02], [0.04], [0.2]])
    for (_, m, y), (limit,) in zip(rows, thresholds, strict=True):
        wealth = (1 + wealth) * (1 + (bets - 1) * y / m) / (1 + (bets - 1) * limit)
    watch = Watch.start(1, threshold=0.02, run_length=1e6).after_windows(windows, thresholds=thresholds)
    assert watch.log_level[0] == pytest.approx(np.log(wealth.mean()), abs=1e-9)


def test_misuse_is_refused() -> None:
    with pytest.raises(EvidenceError, match="between 0 and 1"):
        Watch.start(1, threshold=1.0, run_length=10)
    with pytest.raises(EvidenceError, match="one batch"):
        Watch.start(1, threshold=0.1, run_length=float("nan"))
    with pytest.raises(EvidenceError, match="about 3 cells, the watch about 2"):
        Watch.start(2, threshold=0.1, run_length=10).after([0, 0, 0], [1, 1, 1])
    with pytest.raises(EvidenceError, match="2 of 1"):
        Watch.start(1, threshold=0.1, run_length=10).after([2], [1])
    with pytest.raises(EvidenceError, match="about 3 cells and batches, the watch about 2"):
        Watch.start(2, threshold=0.1, run_length=10).after_windows(
            UserWindows.of(3, cell=[0], actions=[1], failures=[0])
        )
