"""The rules in use elsewhere, beside ours, on the same seeded streams of actions.

A stream is 20 000 actions that fail independently at one rate. Every rule is asked two questions about it: at which
action would it first have rolled back, and at which would it first have promoted? Sequential rules look after every
action and are asked each question on its own, as their error levels are stated; a controller's run ends with whichever
comes first, and is not repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
from promotion_rules import (
    ALPHA,
    ARGO_LONG,
    ARGO_SHORT,
    FLAGGER,
    MOST_OUTCOMES,
    NORMAL_9,
    NORMAL_300,
    PEEKED,
    THRESHOLD,
    TOLD,
    Rule,
    by_counts,
)
from simulated import NEVER

from analytics.evidence.sequential import crosses, log_e_value

if TYPE_CHECKING:
    from promotion_rules import Decisions
    from simulated import BoolArray, IntArray

ACTIONS: Final = MOST_OUTCOMES
STREAMS: Final = 4_000
RATES: Final = (0.005, 0.01, 0.02, 0.04, 0.06)

_SEED: Final = 20_240_601
_CHUNK: Final = 200


def evidence_above(failures: IntArray, trials: IntArray) -> BoolArray:
    return crosses(log_e_value(failures, trials, THRESHOLD, direction="above"), ALPHA)


def evidence_below(failures: IntArray, trials: IntArray) -> BoolArray:
    return crosses(log_e_value(failures, trials, THRESHOLD, direction="below"), ALPHA)


OURS: Final = "Stagekeeper"
RULES: Final = (
    ARGO_LONG,
    ARGO_SHORT,
    FLAGGER,
    PEEKED,
    NORMAL_9,
    NORMAL_300,
    Rule(OURS, by_counts(evidence_above, evidence_below)),
    TOLD,
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
