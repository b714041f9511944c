"""Error levels: the share of alpha that a guardrail has at a stage, and after a promotion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from analytics.judging.regression import MINUTE_S, Watched
from analytics.judging.user_regression import WatchedUsers
from analytics.judging.user_windows import FIRST_FAILED

if TYPE_CHECKING:
    from analytics.gates.gate_file import Gate, GateFile
    from analytics.gates.gate_signal import GateSignal

EARLY_SHARE: Final = 0.25
"""The part of a guardrail's error level that users' first actions have, and heavy users; closed windows have the rest.

The three are not averaged, since they are filtrations of their own: a union of tests at levels that add up.
"""


def share_of(gate: Gate, part: GateSignal, stage: str) -> float:
    """A guardrail's share of its gate's alpha at a stage."""
    # The shares rest on the gate alone: weights that depended on the data would not bound the error. What is only a dry
    # run takes nothing from what is not.
    here = [other for other in gate.at(stage) if other.role == "guardrail"]
    total = sum(other.weight or 1.0 for other in here if gate.dry_run or not other.dry_run)
    weight = part.weight or 1.0
    return weight / (total if gate.dry_run or not part.dry_run else total + weight)


def watched_as(gate: Gate, part: GateSignal, stage: str, gates: GateFile, limit: float) -> tuple[Watched, WatchedUsers]:
    """How the detector watches a guardrail at a stage, by action and by user.

    As at the stage the guardrails share the level by weight; by user, closed windows have the half of a share, or all
    of it where nothing is known before they close, and first actions and heavy users a quarter each.
    """
    rules, age_s = gates.after_promotion, part.harm_age_s
    level = (gate.alpha if rules.alpha is None else rules.alpha) * share_of(gate, part, stage)
    closed = level * (1.0 - 2 * EARLY_SHARE if part.signal in FIRST_FAILED else 1.0)
    windows, early = (rules.run_length(alpha, gates.window_of(gate)) for alpha in (closed, level * EARLY_SHARE))
    minutes = rules.run_length(level, MINUTE_S)
    return Watched(part.signal, limit, minutes, age_s), WatchedUsers(part.signal, limit, windows, early, age_s)
