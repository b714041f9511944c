"""Rules that decide whether an action is promoted or goes back, each a function of the outcomes seen so far.

A rule is given the failures so far, by stream and outcome in the order in which outcomes are reported, and the true
rate, which only an oracle may use. It answers at which outcome each stream is rolled back, and at which promoted.
`RULES` is what `benchmarks/rules.py` compares; docs/promotion-rules.md shows how to add one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from scipy import stats

# What computes exact limits, and calls a crossing one, is held by the tests of calibration, which are no package.
sys.path.append(str(Path(__file__).parents[1] / "tests" / "calibration"))

from dynamic import critical_failures
from simulated import NEVER

from analytics.evidence.sequential import crosses

if TYPE_CHECKING:
    from collections.abc import Callable

    from dynamic import Side
    from simulated import BoolArray, FloatArray, IntArray

    Counted: TypeAlias = Callable[[IntArray, IntArray], BoolArray]

THRESHOLD: Final = 0.02
ALPHA: Final = 0.05
MOST_OUTCOMES: Final = 20_000

Decisions: TypeAlias = "tuple[IntArray, IntArray]"
"""The outcome at which each stream was rolled back, and promoted; `NEVER` where it was not."""

Decide: TypeAlias = "Callable[[IntArray, float], Decisions]"


@dataclass(frozen=True)
class Rule:
    """A rule and how it is shown.

    Attributes:
        name: As in the tables.
        decide: From the failures so far, by stream and outcome, and the true rate (which only an oracle uses).
        own_limit: The failure rate that the rule itself allows; None where it has none.
    """

    name: str
    decide: Decide
    own_limit: float | None = THRESHOLD


def first(hits: BoolArray) -> IntArray:
    """The outcome, counted from 1, of each stream's first hit."""
    return np.asarray(np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, NEVER))


def by_counts(many: Counted, few: Counted) -> Decide:
    """A rule that looks at failures and trials after every outcome, monotone in the failures."""

    @cache
    def limits(side: Side) -> IntArray:
        return critical_failures(many if side == "many" else few, MOST_OUTCOMES, side=side)

    def decide(failures: IntArray, _rate: float) -> Decisions:
        size = failures.shape[1]
        return first(failures >= limits("many")[:size]), first(failures <= limits("few")[:size])

    return decide


def _never(failures: IntArray) -> IntArray:
    return np.full(len(failures), NEVER)


def _of_last(failures: IntArray, window: int) -> IntArray:
    """Failures among the last so many outcomes; where there are fewer yet, among all."""
    before = np.zeros_like(failures)
    before[:, window:] = failures[:, :-window]
    return failures - before


def share_of_at_least(share: float, least: int) -> Decide:
    """Promote as soon as so large a share of at least so many outcomes was fine; it rolls nothing back."""

    def decide(failures: IntArray, _rate: float) -> Decisions:
        seen = np.arange(1, failures.shape[1] + 1)
        return _never(failures), first((seen >= least) & (failures <= (1 - share) * seen + 1e-9))

    return decide


def in_a_row(clean: int) -> Decide:
    """Promote after so many clean outcomes in a row; it rolls nothing back."""

    def decide(failures: IntArray, _rate: float) -> Decisions:
        seen = np.arange(1, failures.shape[1] + 1)
        return _never(failures), first((seen >= clean) & (_of_last(failures, clean) == 0))

    return decide


def recent_share(share: float, window: int, clean: int) -> Decide:
    """Promote when more than a share of the last outcomes was fine, and each of the very last; no rollback."""

    def decide(failures: IntArray, _rate: float) -> Decisions:
        seen = np.arange(1, failures.shape[1] + 1)
        enough = (seen >= window) & (_of_last(failures, window) < (1 - share) * window - 1e-9)
        return _never(failures), first(enough & (_of_last(failures, clean) == 0))

    return decide


def windows(*, size: int, fatal: int, passes: int | None = None, count: int | None = None) -> Decide:
    """A controller that calls a window failed when its observed rate is above the threshold.

    Args:
        size: Outcomes in a window.
        fatal: Failed windows at which it rolls back.
        passes: Passed windows at which it promotes.
        count: Windows after which it promotes.
    """

    def decide(failures: IntArray, _rate: float) -> Decisions:
        at_ends = failures[:, size - 1 :: size]
        failed = (np.diff(at_ends, axis=1, prepend=0) > THRESHOLD * size).cumsum(axis=1)
        number = np.arange(1, failed.shape[1] + 1)
        over = failed >= fatal
        done = number - failed >= passes if passes is not None else np.broadcast_to(number >= count, failed.shape)
        down, up = (np.where(stop == NEVER, NEVER, stop * size) for stop in (first(over), first(done)))
        return np.where(down <= up, down, NEVER), np.where(up < down, up, NEVER)

    return decide


def peeked_above(failures: IntArray, trials: IntArray) -> BoolArray:
    """A fixed-sample binomial test at every look; the first is at outcome 50."""
    return np.asarray((stats.binom.sf(failures - 1, trials, THRESHOLD) <= ALPHA) & (trials >= 50))


def peeked_below(failures: IntArray, trials: IntArray) -> BoolArray:
    """The same, to promote."""
    return np.asarray((stats.binom.cdf(failures, trials, THRESHOLD) <= ALPHA) & (trials >= 50))


def bayes(first_look: int) -> tuple[Counted, Counted]:
    """Decide once 95 % of a posterior lies on one side of the threshold, looking at every outcome from one on.

    The prior is flat. It lies above a threshold of 2 % to 98 %, so the rule must not look before it has seen a few.
    """

    def above(failures: IntArray, trials: IntArray) -> BoolArray:
        inside = stats.beta.cdf(THRESHOLD, failures + 1, trials - failures + 1)
        return np.asarray((inside <= ALPHA) & (trials >= first_look))

    def below(failures: IntArray, trials: IntArray) -> BoolArray:
        inside = stats.beta.cdf(THRESHOLD, failures + 1, trials - failures + 1)
        return np.asarray((inside >= 1 - ALPHA) & (trials >= first_look))

    return above, below


def normal_mixture(first_look: int, spread: float = THRESHOLD) -> Decide:
    """The mixture SPRT of A/B platforms, with the variance that was observed in the place of the unknown one.

    Johari, Koomen, Pekelis & Walsh, "Always valid inference" (Operations Research 70, 2022): two-sided, a normal
    mixture of the given spread over the true difference.
    """

    def decide(failures: IntArray, _rate: float) -> Decisions:
        seen = np.arange(1, failures.shape[1] + 1)
        rate = failures / seen
        variance = np.maximum(rate * (1 - rate), 1e-12)
        mixed = variance + seen * spread**2
        log_ratio = np.log(variance / mixed) / 2 + (seen * spread * (rate - THRESHOLD)) ** 2 / (2 * variance * mixed)
        decided = crosses(log_ratio, ALPHA) & (seen >= first_look)
        return first(decided & (rate > THRESHOLD)), first(decided & (rate < THRESHOLD))

    return decide


def normal_sequence(first_look: int) -> tuple[Counted, Counted]:
    """A one-sided asymptotic confidence sequence, tuned to be tightest at 1 000 actions.

    Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and asymptotic confidence
    sequences" (Annals of Statistics 52, 2024), with the variance estimated as the observed rate's.
    """
    tuning = (-2 * np.log(ALPHA) + np.log(1 - 2 * np.log(ALPHA))) / 1_000

    def half_width(failures: IntArray, trials: IntArray) -> FloatArray:
        rate, scaled = failures / trials, trials * tuning + 1
        spread = 2 * scaled / (trials**2 * tuning) * np.log1p(np.sqrt(scaled) / (2 * ALPHA))
        return np.asarray(np.sqrt(rate * (1 - rate) * spread))

    def above(failures: IntArray, trials: IntArray) -> BoolArray:
        lower = failures / trials - half_width(failures, trials)
        return np.asarray((lower > THRESHOLD) & (trials >= first_look))

    def below(failures: IntArray, trials: IntArray) -> BoolArray:
        upper = failures / trials + half_width(failures, trials)
        return np.asarray((upper < THRESHOLD) & (trials >= first_look))

    return above, below


def told(failures: IntArray, rate: float) -> Decisions:
    """Wald's ratio against the true rate; where the truth favours neither side, against 4 % and 0.5 %."""
    trials = np.arange(1, failures.shape[1] + 1)

    def ratio(truth: float) -> FloatArray:
        failed, fine = np.log(truth / THRESHOLD), np.log((1 - truth) / (1 - THRESHOLD))
        return np.asarray(failures * failed + (trials - failures) * fine)

    bad, good = (rate if rate > THRESHOLD else 0.04), (rate if rate < THRESHOLD else 0.005)
    return first(crosses(ratio(bad), ALPHA)), first(crosses(ratio(good), ALPHA))


ARGO_LONG: Final = Rule(
    "Argo Rollouts: `failureLimit: 3`, `count: 48` windows of 100", windows(size=100, fatal=4, count=48)
)
ARGO_SHORT: Final = Rule(
    "Argo Rollouts: `failureLimit: 3`, `count: 5` windows of 20", windows(size=20, fatal=4, count=5)
)
FLAGGER: Final = Rule("Flagger: `threshold: 5`, ten steps, windows of 100", windows(size=100, fatal=5, passes=10))
PEEKED: Final = Rule("Binomial test at every action from the 50th", by_counts(peeked_above, peeked_below))
NORMAL_9: Final = Rule("Normal confidence sequence, from action 9", by_counts(*normal_sequence(9)))
NORMAL_300: Final = Rule("Normal confidence sequence, from action 300", by_counts(*normal_sequence(300)))
TOLD: Final = Rule("SPRT that is told the true rate", told)

ROW_OF_20: Final = Rule("20 fine in a row", in_a_row(20), None)
SHARE_95: Final = Rule("At least 95 % of at least 20 fine", share_of_at_least(0.95, 20), 0.05)

RULES: Final = (
    SHARE_95,
    ROW_OF_20,
    Rule("5 fine in a row", in_a_row(5), None),
    Rule("Over 90 % of the last 50, none of the last 20 failed", recent_share(0.9, 50, 20), 0.1),
    Rule("At least 80 % of at least 10 fine", share_of_at_least(0.8, 10), 0.2),
    ARGO_LONG,
    ARGO_SHORT,
    FLAGGER,
    PEEKED,
    Rule("95 % of a Bayesian posterior, at every action from the 50th", by_counts(*bayes(50))),
    Rule("mSPRT with the observed variance, from action 30", normal_mixture(30)),
    NORMAL_300,
    TOLD,
)
