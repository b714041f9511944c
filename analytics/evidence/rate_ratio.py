"""A new arm against a baseline: is its failure rate more, or less, than a given multiple of the other's?

In a batch b (a minute of decisions) the new arm has n1 actions and x1 failures, the baseline n0 and x0. With q = r n1 /
(r n1 + n0), a bet omega multiplies the evidence by omega^x1 / (1 + (omega - 1) q)^(x1 + x0).

Why that is a fair bet: let p0 be the batch's base rate and p1 = r p0, and write D = 1 + (omega - 1) q. The expected
factor is (1 + p1 (omega / D - 1))^n1 (1 + p0 (1 / D - 1))^n0 <= exp(p0 (omega - 1) (r n1 (1 - q) - n0 q) / D) = 1 by
the choice of q, whatever p0 is. It only falls as p1 moves to the side that makes the claim false. So the base rate may
drift from batch to batch and the split may be anything that does not look at outcomes; what is assumed is that both
arms share one base rate *within* a batch. It is the conditional binomial test of two Poisson rates (Przyborowski &
Wilenski, Biometrika 31, 1940), taken one batch at a time; with the same split in every batch it is exactly
`sequential.log_e_value(x1, x1 + x0, q)`. An estimated base rate in place of q is not valid: its error becomes evidence.

A batch in which only one arm acted says nothing and costs nothing, so batches should hold a few actions of each arm:
batches of two actions double the delay that batches of ten need.

What a bet costs is summed in whole units of 2^-32, each batch rounded up, with room for 10^8 failures a cell. So the
state is integers and gives the same evidence to the last bit in whatever order it is folded. Only a batch's own counts
must be complete: fold closed batches, those the watermark has passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from analytics.evidence.errors import EvidenceError
from analytics.evidence.mixture import IntArray, average, bets, failures_among
from analytics.evidence.sequential import BET_COUNT, BoolArray, Direction, FloatArray, crosses

if TYPE_CHECKING:
    import numpy.typing as npt


Comparison: TypeAlias = Literal["hold_back", "history"]

LABELS: Final[dict[Comparison, str]] = {
    "hold_back": "concurrent hold-back",
    "history": "non-concurrent: anything else that changed since counts as the new arm's doing",
}
"""What a comparison must be called wherever its result is shown."""

_UNIT: Final = 2.0**32
_WIDEST: Final = 2.0**20
_HALVINGS: Final = 52


@dataclass(frozen=True, eq=False)
class Batches:
    """Counts of both arms, one row a batch and one column a cell. Shape (batches, cells)."""

    failures: IntArray  # failed actions of the new arm, x1
    trials: IntArray  # actions of the new arm, n1
    base_failures: IntArray  # failed actions of the baseline, x0
    base_trials: IntArray  # actions of the baseline, n0

    @classmethod
    def of(
        cls, failures: npt.ArrayLike, trials: npt.ArrayLike, base_failures: npt.ArrayLike, base_trials: npt.ArrayLike
    ) -> Batches:
        """Check counts; a single row of cells is one batch. Raises `EvidenceError` where they are impossible."""
        x1, n1 = failures_among(failures, trials)
        x0, n0 = failures_among(base_failures, base_trials, "base failures")
        return cls(*np.broadcast_arrays(*np.atleast_2d(x1, n1, x0, n0)))


@dataclass(frozen=True, eq=False)
class RatioEvidence:
    """Evidence that the new arm fails more, or less, than `ratio` times as often as the baseline, cell by cell."""

    direction: Direction  # "above" is the claim of harm, "below" that of non-inferiority
    comparison: Comparison  # what the baseline is; see `LABELS`
    ratio: FloatArray  # The multiple r of the base rate that is compared with. Shape (cells,).
    failures: IntArray  # Failed actions of the new arm. Shape (cells,).
    trials: IntArray  # Actions of the new arm. Shape (cells,).
    base_failures: IntArray  # Failed actions of the baseline. Shape (cells,).
    base_trials: IntArray  # Actions of the baseline. Shape (cells,).
    costs: IntArray  # What each bet has cost, in units of 2^-32 of log evidence. Shape (8, cells).

    @classmethod
    def none(
        cls, cells: int, *, ratio: npt.ArrayLike, direction: Direction, comparison: Comparison = "hold_back"
    ) -> RatioEvidence:
        """No evidence yet, about a number of cells. Raises `EvidenceError` where a ratio is not a positive number."""
        bets(direction)
        counts = np.zeros(cells, dtype=np.int64)
        multiple = np.broadcast_to(_positive(ratio), (cells,))
        costs = np.zeros((BET_COUNT, cells), dtype=np.int64)
        return cls(direction, comparison, multiple, counts, counts, counts, counts, costs)

    def after(self, batches: Batches) -> RatioEvidence:
        """Add batches, in any order. Raises `EvidenceError` where they are about another number of cells."""
        if batches.trials.shape[1] != self.ratio.size:
            raise EvidenceError(
                f"the batches are about {batches.trials.shape[1]} cells, the evidence about {self.ratio.size}"
            )
        return RatioEvidence(
            self.direction,
            self.comparison,
            self.ratio,
            self.failures + batches.failures.sum(axis=0),
            self.trials + batches.trials.sum(axis=0),
            self.base_failures + batches.base_failures.sum(axis=0),
            self.base_trials + batches.base_trials.sum(axis=0),
            self.costs + _costs(batches, self.ratio, self.direction).sum(axis=1),
        )

    @property
    def log_e(self) -> FloatArray:
        """Natural logarithm of the e-value; 0 before any batch. Shape (cells,)."""
        return average(self._log_wealth)

    def tempered_log_e(self, effect: float) -> float:
        """The same of one cell where so many actions (at least 1) say as much as one independent one.

        Every bet's wealth is taken to the power of 1 / effect; the mean of those, to the power of the effect, is at
        most the mean itself (Jensen), so what crosses here crosses untempered as well.
        """
        return float(average(self._log_wealth / effect)[0])

    @property
    def _log_wealth(self) -> FloatArray:
        return np.asarray(self.failures * np.log(bets(self.direction)) - self.costs / _UNIT)

    def growth_to_decision(self, *, alpha: npt.ArrayLike) -> FloatArray:
        """Forecast by which factor all counts must grow, at the rates and the split seen so far, to decide.

        1 where the evidence suffices already, infinity where these rates never decide. Each bet's wealth grows by the
        same factor in its logarithm; so the average is convex in it, 0 at none, and crosses once at the most. Shape
        (cells,). Raises `EvidenceError` where an alpha is not in (0, 1).
        """
        wealth, done = self._log_wealth, crosses(self.log_e, alpha)
        best = wealth.max(axis=0)
        # Alone, the best bet must make up for its share of one in eight.
        enough = (-np.log(np.asarray(alpha, dtype=np.float64)) + np.log(BET_COUNT)) / np.where(best > 0, best, np.nan)
        low, high = np.ones_like(best), np.maximum(np.nan_to_num(enough, nan=1.0), 1.0)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            hit = crosses(average(wealth * middle), alpha)
            low, high = np.where(hit, low, middle), np.where(hit, middle, high)
        return np.where(done, 1.0, np.where(best > 0, high, np.inf))

    @property
    def label(self) -> str:
        """What the comparison must be called wherever its result is shown."""
        return LABELS[self.comparison]


def ratio_bounds(batches: Batches, *, alpha: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Bound the new arm's rate as a multiple of the baseline's, each side at alpha, valid after every closed batch.

    A ratio below the lower bound is one that the evidence "above" excludes, and likewise above the upper one: the
    evidence is monotone in the ratio, and 52 halvings of its logarithm find where it crosses. 0 and infinity where
    nothing within a factor of a million is excluded. Shape (cells,). Raises `EvidenceError` where an alpha is not in
    (0, 1).
    """

    def excluded(ratio: FloatArray, direction: Direction) -> BoolArray:
        nothing = RatioEvidence.none(ratio.size, ratio=ratio, direction=direction)
        return crosses(nothing.after(batches).log_e, alpha)

    def last_excluded(direction: Direction, excluded_end: float) -> FloatArray:
        inside = np.full(batches.trials.shape[1], np.log2(excluded_end))
        outside = -inside
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            hit = excluded(np.exp2(middle), direction)
            inside, outside = np.where(hit, middle, inside), np.where(hit, outside, middle)
        # The end itself was never tried: where nothing was excluded, it still stands there.
        return np.where(np.abs(inside) == np.log2(_WIDEST), np.nan, np.exp2(inside))

    lower, upper = last_excluded("above", 1 / _WIDEST), last_excluded("below", _WIDEST)
    return np.where(np.isnan(lower), 0.0, lower), np.where(np.isnan(upper), np.inf, upper)


def match_history(
    failures: npt.ArrayLike,
    trials: npt.ArrayLike,
    base_failures: npt.ArrayLike,
    base_trials: npt.ArrayLike,
    *,
    share: float,
) -> Batches:
    """Match a cell's actions with its own history, block by block, in time order and at a fixed ratio.

    Blocks are made of whole minutes; counts have one value a minute, in time order. History is taken in order, each
    minute once, just enough to have `share` historic actions for every new one so far; which minutes meet follows from
    the numbers of actions alone, never from failures, and `share` is fixed before the new arm starts. The last block
    may still grow, so it is left out; so is what comes when the history is used up. Raises `EvidenceError` where counts
    are impossible, or the share is not a positive number.
    """
    x1, n1 = failures_among(failures, trials)
    x0, n0 = failures_among(base_failures, base_trials, "base failures")
    new, old = history_blocks(n1, n0, share=share)

    def blocks(counts: IntArray, ends: npt.NDArray[np.intp]) -> IntArray:
        totals = np.concatenate(([0], counts.cumsum()))[ends]
        return np.diff(totals, prepend=0)[:, np.newaxis]

    return Batches(blocks(x1, new), blocks(n1, new), blocks(x0, old), blocks(n0, old))


def history_blocks(
    trials: IntArray, base_trials: IntArray, *, share: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Where the blocks of `match_history` end: after how many minutes of the cell, and of its history."""
    wanted = trials.cumsum() * _positive(share)
    used = np.searchsorted(base_trials.cumsum(), wanted) + 1
    # Minutes that need the same amount of history share its last minute, hence the block.
    lasts = np.flatnonzero(np.diff(used)) if used.size else np.zeros(0, dtype=np.intp)
    lasts = lasts[used[lasts] <= base_trials.size]
    return lasts + 1, used[lasts]


def _costs(batches: Batches, ratio: FloatArray, direction: Direction) -> IntArray:
    """What each batch costs each bet, rounded up to whole units. Shape (8, batches, cells)."""
    weighted = ratio * batches.trials
    total = weighted + batches.base_trials
    q = np.divide(weighted, total, out=np.zeros_like(total), where=total > 0)
    per_failure = np.log1p((bets(direction)[:, np.newaxis] - 1.0) * q)
    return np.asarray(np.ceil((batches.failures + batches.base_failures) * per_failure * _UNIT)).astype(np.int64)


def _positive(ratio: npt.ArrayLike) -> FloatArray:
    values = np.asarray(ratio, dtype=np.float64)
    wrong = ~(np.isfinite(values) & (values > 0))
    if np.any(wrong):
        raise EvidenceError(f"a ratio must be a positive number, but {values[wrong].flat[0]:g} was given")
    return values
