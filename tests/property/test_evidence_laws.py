"""Laws of the evidence against a baseline, by user and after a promotion: merging, replaying, shuffling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples
from scipy import special, stats

from analytics.evidence.change_detector import Watch
from analytics.evidence.clustered_rate import UserWindows
from analytics.evidence.false_discovery import discoveries
from analytics.evidence.rate_ratio import Batches, RatioEvidence, ratio_bounds
from analytics.evidence.sequential import crosses

if TYPE_CHECKING:
    from random import Random

    from analytics.evidence.sequential import Direction

laws = settings(deadline=None, max_examples=examples(60))
directions = st.sampled_from(["above", "below"])
arm = st.integers(0, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
minutes = st.lists(st.tuples(arm, arm), max_size=12)
ratios = st.floats(0.05, 20.0)
thresholds = st.floats(0.001, 0.999)
windows = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 60)).flatmap(
        lambda row: st.tuples(st.just(row[0]), st.just(row[1]), st.integers(0, row[1]))
    ),
    max_size=40,
)
randoms = st.randoms(use_true_random=False)
Minutes = list[tuple[tuple[int, int], tuple[int, int]]]
Windows = list[tuple[int, int, int]]


def _batches(rows: Minutes) -> Batches:
    columns = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return Batches.of(*(columns[:, [i]] for i in range(4)))


def _table(rows: Windows) -> UserWindows:
    cell, actions, failures = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return UserWindows.of(3, cell=cell, actions=actions, failures=failures)


def _merged(one: UserWindows, other: UserWindows) -> UserWindows:
    cell, actions, failures, count = (
        np.concatenate([getattr(one, name), getattr(other, name)]) for name in ("cell", "actions", "failures", "count")
    )
    return UserWindows.of(one.cells, cell=cell, actions=actions, failures=failures, count=count)


def _same(one: UserWindows, other: UserWindows) -> bool:
    names = ("cell", "actions", "failures", "count")
    return all(getattr(one, name).tolist() == getattr(other, name).tolist() for name in names)


@laws
@given(minutes, ratios, directions, randoms)
def test_batches_shuffled_and_split_give_the_same_evidence_to_the_last_bit(
    rows: Minutes, ratio: float, direction: Direction, random: Random
) -> None:
    nothing = RatioEvidence.none(1, ratio=ratio, direction=direction)
    whole = nothing.after(_batches(rows))
    shuffled = list(rows)
    random.shuffle(shuffled)
    cut = random.randint(0, len(rows))
    split = nothing.after(_batches(shuffled[cut:])).after(_batches(shuffled[:cut]))
    one_by_one = nothing
    for row in shuffled:
        one_by_one = one_by_one.after(_batches([row]))
    for other in (split, one_by_one):
        assert other.costs.tolist() == whole.costs.tolist()
        assert other.log_e.tolist() == whole.log_e.tolist()


@laws
@given(minutes, ratios, st.floats(1.01, 5.0), directions)
def test_a_harder_comparison_has_no_more_evidence(
    rows: Minutes, ratio: float, factor: float, direction: Direction
) -> None:
    easy, hard = (ratio, ratio * factor) if direction == "above" else (ratio * factor, ratio)
    easily, hardly = (
        RatioEvidence.none(1, ratio=r, direction=direction).after(_batches(rows)).log_e[0] for r in (easy, hard)
    )
    assert hardly <= easily + 1e-9


@laws
@given(minutes, st.floats(1e-4, 0.5))
def test_a_ratio_inside_the_bounds_is_not_excluded(rows: Minutes, alpha: float) -> None:
    batches = _batches(rows)
    lower, upper = (float(side[0]) for side in ratio_bounds(batches, alpha=alpha))
    assert lower <= upper
    sides: tuple[tuple[Direction, float, float], ...] = (("above", lower, 1 / 1.0001), ("below", upper, 1.0001))
    for direction, bound, outwards in sides:
        if 0 < bound < np.inf:
            found = [
                bool(crosses(RatioEvidence.none(1, ratio=r, direction=direction).after(batches).log_e, alpha)[0])
                for r in (bound * outwards, bound / outwards)
            ]
            assert found == [True, False]


@laws
@given(st.integers(0, 25), st.integers(0, 25), ratios, st.floats(0.01, 1.0), directions)
def test_evidence_for_a_false_comparison_averages_at_most_one(
    trials: int, base_trials: int, ratio: float, share: float, direction: Direction
) -> None:
    # The largest pair of rates with p1 = ratio * p0, shrunk: the edge of the claim that the evidence speaks against.
    rate, base_rate = share * min(1.0, ratio), share * min(1.0, 1 / ratio)
    x1, x0 = (axis.ravel()[np.newaxis] for axis in np.mgrid[: trials + 1, : base_trials + 1])
    batches = Batches.of(x1, np.full_like(x1, trials), x0, np.full_like(x0, base_trials))
    e_values = np.exp(RatioEvidence.none(x1.size, ratio=ratio, direction=direction).after(batches).log_e)
    chances = stats.binom.pmf(x1[0], trials, min(rate, 1.0)) * stats.binom.pmf(x0[0], base_trials, min(base_rate, 1.0))
    assert float(chances @ e_values) <= 1 + 1e-9


@laws
@given(windows, windows, thresholds, directions, randoms)
def test_user_windows_shuffled_split_and_merged_are_the_same_table(
    rows: Windows, more: Windows, threshold: float, direction: Direction, random: Random
) -> None:
    whole = _table(rows + more)
    shuffled = rows + more
    random.shuffle(shuffled)
    for other in (_merged(_table(rows), _table(more)), _merged(_table(more), _table(rows)), _table(shuffled)):
        assert _same(other, whole)
        ours, theirs = (table.log_e_value(threshold, direction=direction).tolist() for table in (other, whole))
        assert ours == theirs


@laws
@given(windows, thresholds, st.floats(1e-4, 0.5))
def test_user_bounds_exclude_a_threshold_iff_the_evidence_crosses(
    rows: Windows, threshold: float, alpha: float
) -> None:
    table = _table(rows)
    lower, upper = table.lower_bound(alpha=alpha), table.upper_bound(alpha=alpha)
    probes = [np.full(3, threshold)]
    probes += [np.clip(side + step, 1e-12, 1 - 1e-12) for side in (lower, upper) for step in (-(2.0**-39), 0, 2.0**-39)]
    for probe in probes:
        above = crosses(table.log_e_value(probe, direction="above"), alpha)
        below = crosses(table.log_e_value(probe, direction="below"), alpha)
        assert above.tolist() == (lower > probe).tolist()
        assert below.tolist() == (upper < probe).tolist()


@laws
@given(st.integers(1, 30), thresholds, st.integers(0, 1000).map(lambda k: k / 1000), directions)
def test_evidence_for_a_false_claim_about_users_averages_at_most_one(
    actions: int, threshold: float, share: float, direction: Direction
) -> None:
    # All the dependence there can be: a user fails always or never.
    rate = threshold * share if direction == "above" else 1 - (1 - threshold) * share
    all_or_none = UserWindows.of(2, cell=[0, 1], actions=actions, failures=[0, actions])
    never, always = np.exp(all_or_none.log_e_value(threshold, direction=direction))
    assert (1 - rate) * never + rate * always <= 1 + 1e-9


@laws
@given(st.lists(arm, max_size=15), st.integers(0, 15), thresholds)
def test_the_detector_replays(rows: list[tuple[int, int]], cut: int, threshold: float) -> None:
    failures, trials = np.array(rows, dtype=np.int64).reshape(-1, 2, 1).transpose(1, 0, 2)
    start = Watch.start(1, threshold=threshold, run_length=50.0)
    whole, resumed = start.after(failures, trials), start.after(failures[:cut], trials[:cut])
    resumed = resumed.after(failures[cut:], trials[cut:])
    assert resumed.log_wealth.tolist() == whole.log_wealth.tolist()
    assert (resumed.batches.tolist(), resumed.alarmed_at.tolist()) == (
        whole.batches.tolist(),
        whole.alarmed_at.tolist(),
    )


@laws
@given(st.lists(arm, min_size=1, max_size=10), thresholds)
def test_a_batch_raises_the_detector_by_at_most_one_on_average(rows: list[tuple[int, int]], threshold: float) -> None:
    # The law that bounds the run length, checked exactly for the next batch of 20 at the limit itself.
    outcomes = np.arange(21)
    past = Watch.start(21, threshold=threshold, run_length=10.0)
    for failed, tried in rows:
        past = past.after(np.full(21, failed), np.full(21, tried))
    log_chances = stats.binom.logpmf(outcomes, 20, threshold)
    log_mean = special.logsumexp(log_chances + past.after(outcomes, np.full(21, 20)).log_level)
    assert float(log_mean) <= float(np.logaddexp(0, past.log_level[0])) + 1e-9


@laws
@given(st.lists(st.floats(-5, 10), min_size=1, max_size=30), st.floats(0.01, 0.5), randoms)
def test_marking_a_list_does_not_depend_on_its_order(log_e: list[float], alpha: float, random: Random) -> None:
    order = list(range(len(log_e)))
    random.shuffle(order)
    marks = discoveries(log_e, alpha=alpha)
    assert discoveries([log_e[i] for i in order], alpha=alpha).tolist() == [bool(marks[i]) for i in order]
    if marks.any():
        # Every marked row alone carries the level that the number of marked rows asks for.
        assert min(np.array(log_e)[marks]) >= np.log(len(log_e) / (alpha * marks.sum())) - 1e-8
