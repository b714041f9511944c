"""What a cell's signal says beside its baseline: a ratio or a difference of rates, or a ratio of quantiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from analytics.evidence.clustered_rate import ASSUMPTIONS, design_effect
from analytics.evidence.forecast import least_growth
from analytics.evidence.quantile_ratio import Observed, quantile_ratio_bounds, quantile_ratio_log_e
from analytics.evidence.rate_difference import (
    CountedRate,
    WindowedRate,
    difference_bounds,
    difference_log_e,
    growth_to_decision,
)
from analytics.evidence.rate_ratio import LABELS, Batches, Comparison, RatioEvidence, ratio_bounds
from analytics.evidence.sequential import crosses
from analytics.judging.heavy_users import LEAST_ACTIONS, LEAST_SHARE
from analytics.judging.user_windows import BLOCK
from analytics.verdicts.evidence_models import PooledRate

if TYPE_CHECKING:
    from analytics.evidence.sequential import Direction
    from analytics.evidence.window_ratio import ArmWindows
    from analytics.gates.gate_signal import CountBy

_LONGEST = 1e6


class ComparedArms(Protocol):
    """Counts of both arms, as a rollback or a promotion counts them."""

    def log_e(self, direction: Direction) -> float:
        """Evidence, a natural logarithm, that the gate's bound is broken ("above") or kept ("below")."""
        ...

    def bounds(self, alpha: float, beta: float) -> tuple[float | None, float | None]:
        """Lower and upper bound, in the unit of the gate's bound; None where there is none."""
        ...

    def more_trials(self, direction: Direction, alpha: float) -> float:
        """How many more trials of the new arm decide, if both arms go on as they did; infinity where never."""
        ...


@dataclass(frozen=True, slots=True)
class Compared:
    """A cell beside its baseline in one signal."""

    comparison: Comparison  # what the baseline is
    by: CountBy  # what one observation is
    harm: ComparedArms  # what a rollback counts
    safe: ComparedArms  # what a promotion counts
    value: float | None  # ratio or difference as seen; None where it is not defined
    windows: int = 0  # user-windows of the cell that are compared
    pooled: PooledArms | None = None  # all actions together, as a promotion counts them; None where it is not by user
    remark: str = ""  # what else the comparison takes for granted

    @property
    def assumes(self) -> str:
        """What it takes for granted."""
        return "; ".join(filter(None, [ASSUMPTIONS[self.by], LABELS[self.comparison], self.remark]))


@dataclass(frozen=True, slots=True)
class CountedRatio:
    """Actions of both arms in batches."""

    batches: Batches
    ratio: float

    def log_e(self, direction: Direction) -> float:
        """Evidence about the ratio of the rates."""
        return float(self._evidence(direction).log_e[0])

    def bounds(self, alpha: float, beta: float) -> tuple[float | None, float | None]:
        """Bounds of the ratio."""
        low, high = (
            float(ratio_bounds(self.batches, alpha=level)[side][0]) for side, level in enumerate((alpha, beta))
        )
        return low, high if math.isfinite(high) else None

    def more_trials(self, direction: Direction, alpha: float) -> float:
        """More actions of the new arm."""
        evidence = self._evidence(direction)
        return _more(float(evidence.growth_to_decision(alpha=alpha)[0]), int(evidence.trials[0]))

    def _evidence(self, direction: Direction) -> RatioEvidence:
        return RatioEvidence.none(1, ratio=self.ratio, direction=direction).after(self.batches)


@dataclass(frozen=True, slots=True)
class WindowedRatio:
    """User-windows of both arms in batches."""

    arms: ArmWindows
    ratio: float

    def log_e(self, direction: Direction) -> float:
        """Evidence about the ratio of the rates."""
        return self.arms.log_e(self.ratio, direction)

    def bounds(self, alpha: float, beta: float) -> tuple[float | None, float | None]:
        """Bounds of the ratio."""
        low, high = self.arms.bounds(alpha=alpha, beta=beta)
        return low, high if math.isfinite(high) else None

    def more_trials(self, direction: Direction, alpha: float) -> float:
        """More user-windows of the new arm."""
        growth = self.arms.growth_to_decision(self.ratio, direction, alpha=alpha)
        return _more(growth, int(self.arms.arm(new=True).windows[0]))


@dataclass(frozen=True, slots=True)
class PooledArms:
    """The actions of all users of both arms together, each worth less than one where users are alike."""

    batches: Batches
    effect: float  # how many actions say as much as one independent action, in the arm where that is more
    heaviest: float | None  # the share of the cell's actions that the heaviest single user-window made
    ratio: float | None  # the gate's bound: one of both
    delta: float | None

    @classmethod
    def from_windows(
        cls, arms: ArmWindows, correlation: float, *, ratio: float | None, delta: float | None
    ) -> PooledArms:
        """Pool user-windows; those of heavy users count in blocks, as where a rate is held to a limit."""
        batches = arms.pooled()
        of_batch = np.where(arms.is_new, batches.trials[arms.batch, 0], batches.base_trials[arms.batch, 0])
        heavy = (arms.actions >= LEAST_ACTIONS) & (arms.actions >= LEAST_SHARE * of_batch)
        squares = arms.actions * np.where(heavy, BLOCK, arms.actions) * arms.count
        effects = [
            design_effect(trials.sum(), squares[arms.is_new == new].sum(), correlation)
            for new, trials in ((True, batches.trials), (False, batches.base_trials))
        ]
        heaviest = arms.actions[arms.is_new].max() / batches.trials.sum() if arms.batch.size else None
        return cls(batches, float(max(effects)), None if heaviest is None else float(heaviest), ratio, delta)

    def rate(self, log_e_safe: float) -> PooledRate:
        """How it is shown: the failures of the cell, beside its baseline."""
        x, n = int(self.batches.failures.sum()), int(self.batches.trials.sum())
        return PooledRate(
            failures=x,
            trials=n,
            value=x / n if n else None,
            design_effect=self.effect,
            heaviest=self.heaviest,
            log_e_safe=log_e_safe,
        )

    def log_e_safe(self) -> float:
        """Evidence, a natural logarithm, that all actions together keep the gate's bound."""
        if self.delta is None:
            nothing = RatioEvidence.none(1, ratio=self.ratio or 1.0, direction="below")
            return nothing.after(self.batches).tempered_log_e(self.effect)
        of, counts = self.effect, self.batches
        new = CountedRate(float(counts.failures.sum()) / of, float(counts.trials.sum()) / of)
        base = CountedRate(float(counts.base_failures.sum()) / of, float(counts.base_trials.sum()) / of)
        return difference_log_e(new, base, self.delta, "below")


@dataclass(frozen=True, slots=True)
class RateDifference:
    """The rates of both arms over the same stretch of time."""

    new: CountedRate | WindowedRate
    base: CountedRate | WindowedRate
    margin: float

    def log_e(self, direction: Direction) -> float:
        """Evidence about the difference of the rates."""
        return difference_log_e(self.new, self.base, self.margin, direction)

    def bounds(self, alpha: float, beta: float) -> tuple[float | None, float | None]:
        """Bounds of the difference."""
        return difference_bounds(self.new, self.base, alpha=alpha, beta=beta)

    def more_trials(self, direction: Direction, alpha: float) -> float:
        """More actions, or user-windows, of the new arm."""
        new, base = (rate.counted if isinstance(rate, WindowedRate) else rate for rate in (self.new, self.base))
        return _more(growth_to_decision(new, base, self.margin, direction, alpha=alpha), new.trials)


@dataclass(frozen=True, slots=True)
class QuantileRatio:
    """Histograms of latency or cost of both arms."""

    new: Observed
    base: Observed
    ratio: float
    tail: float

    def log_e(self, direction: Direction) -> float:
        """Evidence about the ratio of the quantiles."""
        return quantile_ratio_log_e(self.new, self.base, self.ratio, self.tail, direction)

    def bounds(self, alpha: float, beta: float) -> tuple[float | None, float | None]:
        """Bounds of the ratio."""
        return quantile_ratio_bounds(self.new, self.base, self.tail, alpha=alpha, beta=beta)

    def more_trials(self, direction: Direction, alpha: float) -> float:
        """More known values of the new arm."""

        def decides(factor: float) -> bool:
            new, base = self.new.grown(factor), self.base.grown(factor)
            return bool(crosses(quantile_ratio_log_e(new, base, self.ratio, self.tail, direction), alpha))

        return _more(least_growth(decides, longest=_LONGEST, precision=1e-3), int(self.new.counts.sum()))


def _more(growth: float, trials: float) -> float:
    return math.ceil((growth - 1.0) * trials) if math.isfinite(growth) else math.inf
