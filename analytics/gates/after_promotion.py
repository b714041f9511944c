"""What a gate file says of the change detector that watches on after a promotion."""

from __future__ import annotations

from typing import Final

from pydantic import model_validator

from analytics.evidence.change_detector import run_length
from analytics.gates.gate_signal import Level, Part, Seconds, refusal

_GONE: Final = {
    "fleet": "the detector promises `alpha` to each cell by itself, however many are watched; take the key out",
    "false_alarm_every": "state instead how often a cell that keeps its limits may alarm, as `alpha` `within: 28d`",
    "window": "the detector looks back over the last 28 days of the epoch and more; take the key out",
}
DETECTOR_MINUTES_S: Final = 6 * 3_600.0
"""Seconds for which the detector steps minute by minute."""


class AfterPromotion(Part):
    """The detector that watches every guardrail rate at the stages above the foot of the ladder, by the gate's unit."""

    alpha: Level | None = None
    """How often, at most, an action that keeps its limits is rolled back by the detector `within` so long, beside the
    gate's own alpha: the two add up. The gate's alpha unless stated, so at most twice that in the first four weeks."""
    within: Seconds = 28 * 86_400.0
    """The time for which `alpha` is promised, to each cell by itself; in twice the time it may be twice as often."""

    @model_validator(mode="before")
    @classmethod
    def _old_keys_are_named(cls, stated: object) -> object:
        for key, instead in _GONE.items():
            if isinstance(stated, dict) and key in stated:
                raise refusal(f"`after_promotion` takes no `{key}` any more: {instead}")
        return stated

    def run_length(self, alpha: float, batch_s: float) -> float:
        """The detector's level for a share of alpha, where a batch is so many seconds (a minute, or a user-window)."""
        return run_length(alpha, batches=max(self.within / batch_s, 1.0))
