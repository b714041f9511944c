"""How the recommender itself does against a known truth, with exact bounds."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from scipy.special import betaincinv  # `scipy.stats` takes four times as long to import

from analytics.evidence.errors import EvidenceError
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from analytics.backtest.history import Turn
    from producers.wire.receipt import Cell

CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class CellOutcome:
    """What became of one cell with a known truth."""

    scenario: str  # the scenario it is from
    cell: Cell  # the cell
    deserved: VerdictName  # the verdict that the scenario's author expects
    false_promote: bool  # whether it was promoted although it deserves something else
    false_rollback: bool  # whether it was rolled back although it deserves something else
    reached: bool  # whether the deserved verdict was reached
    delay_s: float | None  # from when it went wrong to its rollback, seconds of event time; None where there was none


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many, with exact bounds."""

    count: int  # how many
    among: int  # of how many

    def to_dict(self) -> dict[str, Any]:
        """The share as a JSON object; null where there is nothing to share."""
        lower, upper = clopper_pearson(self.count, self.among)
        value = self.count / self.among if self.among else None
        return {"count": self.count, "among": self.among, "value": value, "lower": lower, "upper": upper}


def clopper_pearson(count: int, among: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact bounds of a binomial share (Clopper & Pearson, Biometrika 26, 1934): each side holds half of the error.

    No trials give the bounds 0 and 1. Raises `EvidenceError` for a count that is not one of so many.
    """
    if not 0 <= count <= among:
        raise EvidenceError(f"{count} of {among} is no share")
    tail = (1.0 - confidence) / 2.0
    lower = float(betaincinv(count, among - count + 1, tail)) if count else 0.0
    return lower, float(betaincinv(count + 1, among - count, 1.0 - tail)) if count < among else 1.0


def score(
    scenario: str, cell: Cell, deserved: VerdictName, turns: Sequence[Turn], *, wrong_at: datetime
) -> CellOutcome:
    """Score the turns of one cell, in their order; what was said before it deserved the verdict is no mistake."""
    standing = [turn.verdict.result.verdict for turn in turns if turn.at <= wrong_at][-1:]
    later = [(turn.at, turn.verdict.result.verdict) for turn in turns if turn.at > wrong_at]
    verdicts = [verdict for _, verdict in later]
    rolled_back_at = next((at for at, verdict in later if verdict is VerdictName.ROLL_BACK), None)
    is_harmful = deserved is VerdictName.ROLL_BACK
    return CellOutcome(
        scenario,
        cell,
        deserved,
        false_promote=deserved is not VerdictName.PROMOTE and VerdictName.PROMOTE in verdicts,
        false_rollback=not is_harmful and VerdictName.ROLL_BACK in verdicts,
        reached=deserved in [*standing, *verdicts],
        delay_s=(rolled_back_at - wrong_at).total_seconds() if rolled_back_at is not None and is_harmful else None,
    )


def scored(outcomes: Sequence[CellOutcome]) -> dict[str, Any]:
    """Sum up outcomes as a JSON object, in all and by scenario."""
    names = list(dict.fromkeys(outcome.scenario for outcome in outcomes))
    return {
        **_summed(outcomes),
        "by_scenario": {name: _summed([one for one in outcomes if one.scenario == name]) for name in names},
    }


def _summed(outcomes: Sequence[CellOutcome]) -> dict[str, Any]:
    not_promotable = [one for one in outcomes if one.deserved is not VerdictName.PROMOTE]
    harmless = [one for one in outcomes if one.deserved is not VerdictName.ROLL_BACK]
    harmful = [one for one in outcomes if one.deserved is VerdictName.ROLL_BACK]
    safe = [one for one in outcomes if one.deserved is VerdictName.PROMOTE]
    delays = [one.delay_s for one in outcomes if one.delay_s is not None]
    return {
        "cells": len(outcomes),
        "false_promotes": Share(sum(one.false_promote for one in not_promotable), len(not_promotable)).to_dict(),
        "false_rollbacks": Share(sum(one.false_rollback for one in harmless), len(harmless)).to_dict(),
        "rolled_back": Share(sum(one.reached for one in harmful), len(harmful)).to_dict(),
        "promoted": Share(sum(one.reached for one in safe), len(safe)).to_dict(),
        "delay_to_rollback_s": {"median": median(delays), "longest": max(delays)} if delays else None,
    }
