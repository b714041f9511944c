"""The rules in use elsewhere, beside ours, on the same seeded streams of actions.

A stream is 20 000 actions that fail independently at one rate. Every rule is asked two questions about it: at which
action would it first have rolled back, and at which would it first have promoted? Sequential rules look after every
action and are asked each question on its own, as their error levels are stated; a controller's run ends with whichever
comes first, and is not repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from dynamic import critical_failures
from scipy import stats
from simulated import NEVER

from analytics.evidence.sequential import crosses, log_e_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from dynamic import Side
    from simulated import BoolArray, FloatArray, IntArray

THRESHOLD: Final = 0.02
ALPHA: Final = 0.05
ACTIONS: Final = 20_000
STREAMS: Final = 4_000
RATES: Final = (0.005, 0.01, 0.02, 0.04, 0.06)

_SEED: Final = 20_240_601
_CHUNK: Final = 200

Decisions: TypeAlias = "tuple[IntArray, IntArray]"
"""The action at which each stream was rolled back, and promoted; `NEVER` where it was not."""


@dataclass(frozen=True)
class Rule:
    """A rule and how it is shown.

    Attributes:
        name: As in the table.
        decide: From the failures so far, by stream and action, and the true rate (which only an oracle uses).
    """

    name: str
    decide: Callable[[IntArray, float], Decisions]


def _first(hits: BoolArray) -> IntArray:
    return np.asarray(np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, NEVER))


def _by_counts(
    many: Callable[[IntArray, IntArray], BoolArray], few: Callable[[IntArray, IntArray], BoolArray]
) -> Callable[[IntArray, float], Decisions]:
    """A rule that looks at failures and trials after every action."""

    @cache
    def limits(side: Side) -> IntArray:
        return critical_failures(many if side == "many" else few, ACTIONS, side=side)

    def decide(failures: IntArray, _rate: float) -> Decisions:
        return _first(failures >= limits("many")), _first(failures <= limits("few"))

    return decide


def evidence_above(failures: IntArray, trials: IntArray) -> BoolArray:
    return crosses(log_e_value(failures, trials, THRESHOLD, direction="above"), ALPHA)


def evidence_below(failures: IntArray, trials: IntArray) -> BoolArray:
    return crosses(log_e_value(failures, trials, THRESHOLD, direction="below"), ALPHA)


def peeked_above(failures: IntArray, trials: IntArray) -> BoolArray:
    """A fixed-sample binomial test at every look; the first is at action 50."""
    return np.asarray((stats.binom.sf(failures - 1, trials, THRESHOLD) <= ALPHA) & (trials >= 50))


def peeked_below(failures: IntArray, trials: IntArray) -> BoolArray:
    return np.asarray((stats.binom.cdf(failures, trials, THRESHOLD) <= ALPHA) & (trials >= 50))


def normal_sequence(
    first_look: int,
) -> tuple[Callable[[IntArray, IntArray], BoolArray], Callable[[IntArray, IntArray], BoolArray]]:
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


def oracle(failures: IntArray, rate: float) -> Decisions:
    """Wald's ratio against the true rate; where the truth favours neither side, against 4 % and 0.5 %."""
    trials = np.arange(1, failures.shape[1] + 1)

    def ratio(truth: float) -> FloatArray:
        failed, fine = np.log(truth / THRESHOLD), np.log((1 - truth) / (1 - THRESHOLD))
        return np.asarray(failures * failed + (trials - failures) * fine)

    bad, good = (rate if rate > THRESHOLD else 0.04), (rate if rate < THRESHOLD else 0.005)
    return _first(crosses(ratio(bad), ALPHA)), _first(crosses(ratio(good), ALPHA))


def windows(
    *, size: int, fatal: int, passes: int | None = None, count: int | None = None
) -> Callable[[IntArray, float], Decisions]:
    """A controller that calls a window failed when its observed rate is above the threshold.

    Args:
        size: Actions in a window.
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
        down, up = (np.where(stop == NEVER, NEVER, stop * size) for stop in (_first(over), _first(done)))
        return np.where(down <= up, down, NEVER), np.where(up < down, up, NEVER)

    return decide


OURS: Final = "Stagekeeper"
ORACLE: Final = "SPRT that is told the true rate"

RULES: Final = (
    Rule("Argo Rollouts: `failureLimit: 3`, `count: 48` windows of 100", windows(size=100, fatal=4, count=48)),
    Rule("Argo Rollouts: `failureLimit: 3`, `count: 5` windows of 20", windows(size=20, fatal=4, count=5)),
    Rule("Flagger: `threshold: 5`, ten steps, windows of 100", windows(size=100, fatal=5, passes=10)),
    Rule("Binomial test at every action from the 50th", _by_counts(peeked_above, peeked_below)),
    Rule("Normal confidence sequence, from action 9", _by_counts(*normal_sequence(9))),
    Rule("Normal confidence sequence, from action 300", _by_counts(*normal_sequence(300))),
    Rule(OURS, _by_counts(evidence_above, evidence_below)),
    Rule(ORACLE, oracle),
)


@dataclass(frozen=True)
class Row:
    """What one rule did, by true rate.

    Attributes:
        name: The rule.
        rolled_back: Action of the rollback of each stream, by rate.
        promoted: Action of the promotion of each stream, by rate.
    """

    name: str
    rolled_back: dict[float, IntArray]
    promoted: dict[float, IntArray]

    def rollbacks(self, rate: float) -> float:
        """Share of the streams that were rolled back."""
        return float((self.rolled_back[rate] < NEVER).mean())

    def promotions(self, rate: float) -> float:
        """Share of the streams that were promoted."""
        return float((self.promoted[rate] < NEVER).mean())

    def median_rollback(self, rate: float) -> int:
        """Actions by which half of the streams were rolled back; `NEVER` if fewer ever were."""
        return int(np.sort(self.rolled_back[rate])[STREAMS // 2 - 1])

    def median_promotion(self, rate: float) -> int:
        """Actions by which half of the streams were promoted; `NEVER` if fewer ever were."""
        return int(np.sort(self.promoted[rate])[STREAMS // 2 - 1])


@cache
def compare() -> tuple[Row, ...]:
    """Run every rule on the same streams. It takes about half a minute."""
    found: dict[str, Row] = {rule.name: Row(rule.name, {}, {}) for rule in RULES}
    for rate in RATES:
        rng = np.random.default_rng([_SEED, round(rate * 1_000)])
        parts: dict[str, list[Decisions]] = {rule.name: [] for rule in RULES}
        for _ in range(STREAMS // _CHUNK):
            failures = (rng.random((_CHUNK, ACTIONS), dtype=np.float32) < rate).cumsum(axis=1, dtype=np.int64)
            for rule in RULES:
                parts[rule.name].append(rule.decide(failures, rate))
        for name, decisions in parts.items():
            down, up = zip(*decisions, strict=True)
            found[name].rolled_back[rate] = np.concatenate(down)
            found[name].promoted[rate] = np.concatenate(up)
    return tuple(found.values())


def table(rows: tuple[Row, ...]) -> str:
    """The comparison as a Markdown table."""
    heads = (
        "Rule",
        "rolls back at 1 %",
        "rolls back at 2 %",
        "promotes at 2 %",
        "promotes at 4 %",
        "median to roll back at 4 %",
        "at 6 %",
        "median to promote at 1 %",
        "at 0.5 %",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" + "|--:" * (len(heads) - 1) + "|"]
    for row in rows:
        shares = [row.rollbacks(0.01), row.rollbacks(0.02), row.promotions(0.02), row.promotions(0.04)]
        # A share at its level may exceed it by chance; a standard error is a third of a percent.
        broken = ["**" if share > ALPHA + 0.01 else "" for share in shares]
        levels = [f"{mark}{100 * share:.1f} %{mark}" for mark, share in zip(broken, shares, strict=True)]
        medians = [
            row.median_rollback(0.04),
            row.median_rollback(0.06),
            row.median_promotion(0.01),
            row.median_promotion(0.005),
        ]
        cells = [*levels, *("never" if median == NEVER else f"{median:,}" for median in medians)]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines)
