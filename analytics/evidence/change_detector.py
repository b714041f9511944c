"""Change detector after a promotion: has the failure rate risen above its limit?

Shiryaev-Roberts with the eight bets of `sequential`: after each batch of n actions and x failures

    M_k <- (1 + M_k) omega_k^x / (1 + (omega_k - 1) threshold)^n,     alarm when the mean of the M_k reaches A.

Each bet re-starts at every batch (the "1 +"), so a long healthy past does not delay the alarm. While the rate is at
most the threshold, the mean of the M_k less the number of batches is a supermartingale that begins at 0 (Pollak,
Annals of Statistics 13, 1985; as an e-detector: Shin, Ramdas & Rinaldo, NEJSDS 2024). Stopped at the alarm or after K
batches, it says that A times the chance of an alarm within K batches is at most K: `run_length` is that A.

What a batch begins with need not be 1: with any numbers fixed in advance, whose sum within the time is at most K, the
same holds. And several batches may be taken as one that begins with what the first of them does: whatever the M_k were,
that is at most what they are after single steps. So old batches can be added up, and the promise holds.

Where actions of one user are alike, a batch's observations are its closed user-windows: one with y failures among m
actions is Z = y / m and multiplies by 1 + lambda_k (Z - threshold), as in `clustered_rate`. Counting the actions of
such users one by one raises false alarms several times as often as A says (tests/calibration/test_regressions.py).

A batch is a canonical stretch of event time, such as a minute: the order of events in it does not matter, the order of
batches does. An empty batch does not step. An alarm is latched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.evidence.errors import EvidenceError
from analytics.evidence.mixture import IntArray, average, bets, failures_among
from analytics.evidence.sequential import BET_COUNT, CROSSING_SLACK, BoolArray, FloatArray

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from analytics.evidence.clustered_rate import UserWindows

NO_ALARM: Final = 0


@dataclass(frozen=True, eq=False)
class Watch:
    """What the detector remembers about cells (or guardrails of cells), each on its own."""

    threshold: FloatArray  # The limit on the failure rate, a ratio in (0, 1). Shape (cells,).
    run_length: FloatArray  # A, the level that alarms, in batches. Shape (cells,).
    log_wealth: FloatArray  # Natural logarithm of each M_k; minus infinity before the first batch. Shape (8, cells).
    batches: IntArray  # Batches that stepped. Shape (cells,).
    alarmed_at: IntArray  # The batch that first raised the alarm, counted from 1, or `NO_ALARM`. Shape (cells,).

    @classmethod
    def start(cls, cells: int, *, threshold: npt.ArrayLike, run_length: npt.ArrayLike) -> Watch:
        """Begin to watch, at a promotion or a new epoch. Raises `EvidenceError` where a limit is no limit."""
        limit, length = np.asarray(threshold, dtype=np.float64), np.asarray(run_length, dtype=np.float64)
        if not np.all((limit > 0) & (limit < 1)):
            raise EvidenceError("a threshold must lie strictly between 0 and 1")
        if not np.all(np.isfinite(length) & (length >= 1)):
            raise EvidenceError("a run length must be at least one batch")
        counts = np.zeros(cells, dtype=np.int64)
        return cls(
            np.broadcast_to(limit, (cells,)),
            np.broadcast_to(length, (cells,)),
            np.full((BET_COUNT, cells), -np.inf),
            counts,
            np.full(cells, NO_ALARM, dtype=np.int64),
        )

    def after(self, failures: npt.ArrayLike, trials: npt.ArrayLike, *, restarts: FloatArray | None = None) -> Watch:
        """Step through batches in their order of event time; counts have the shape (batches, cells), or (cells,).

        `restarts`, of the shape (batches, cells), are what stands for the 1 in the recursion where it is not 1.

        Raises `EvidenceError` where counts are impossible, or about another number of cells.
        """
        x, n = np.broadcast_arrays(*np.atleast_2d(*failures_among(failures, trials)))
        if x.shape[1] != self.threshold.size:
            raise EvidenceError(f"the batches are about {x.shape[1]} cells, the watch about {self.threshold.size}")
        odds = np.log(bets("above"))
        return self._stepped((failed * odds for failed in x), n, restarts=restarts)

    def after_windows(self, windows: UserWindows, *, thresholds: FloatArray | None = None) -> Watch:
        """Step through batches of closed user-windows in their order of event time.

        The windows of a cell in a batch, both counted from 0, are those of cell `batch * cells + cell` of the table.
        `thresholds`, of the shape (batches, cells), stand for the threshold in single batches. Raises `EvidenceError`
        where that is not about whole batches of as many cells.
        """
        cells = self.threshold.size
        if windows.cells % cells:
            raise EvidenceError(
                f"the windows are about {windows.cells} cells and batches, the watch about {cells} cells"
            )
        batches = windows.cells // cells
        won = windows.log_won("above").reshape(BET_COUNT, batches, cells)
        return self._stepped(iter(won.swapaxes(0, 1)), windows.windows.reshape(batches, cells), thresholds)

    def _stepped(
        self,
        won: Iterator[FloatArray],
        observed: IntArray,
        thresholds: FloatArray | None = None,
        restarts: FloatArray | None = None,
    ) -> Watch:
        """Step through batches: what each won each bet, and the observations that it paid the threshold for."""
        costs = np.log1p((bets("above") - 1.0) * (self.threshold if thresholds is None else thresholds[:, np.newaxis]))
        bar = np.log(self.run_length) - CROSSING_SLACK
        log_restarts = np.zeros(observed.shape) if restarts is None else np.log(restarts)
        wealth, batches, alarmed_at = self.log_wealth, self.batches, self.alarmed_at
        for step, (gain, seen) in enumerate(zip(won, observed, strict=True)):
            some, cost = seen > 0, costs if thresholds is None else costs[step]
            wealth = np.where(some, np.logaddexp(log_restarts[step], wealth) + gain - seen * cost, wealth)
            batches = batches + some
            # The average is at most the largest, which costs less.
            if np.any(some & (wealth.max(axis=0) >= bar - CROSSING_SLACK)):
                alarm = some & (average(wealth) >= bar) & (alarmed_at == NO_ALARM)
                alarmed_at = np.where(alarm, batches, alarmed_at)
        return Watch(self.threshold, self.run_length, wealth, batches, alarmed_at)

    @property
    def log_level(self) -> FloatArray:
        """Natural logarithm of the mean of the M_k, to compare with log A; minus infinity before the first batch."""
        return average(self.log_wealth)

    @property
    def alarmed(self) -> BoolArray:
        """Whether an alarm was raised, now or earlier. Shape (cells,)."""
        return np.asarray(self.alarmed_at != NO_ALARM)


def ceiling(
    failures: IntArray, trials: IntArray, restarts: FloatArray, *, threshold: float
) -> tuple[FloatArray, FloatArray]:
    """At most how high the log level can stand after batches, and how high it ever stood. Shapes as in `Watch.after`.

    With w_k the log of what a batch multiplies M_k by, M_k is a sum of restarts, each times exp(sum of w_k since). So
    it is at most the sum of the restarts times exp(C_k), with C_k <- max(0, C_k + w_k) (Page, Biometrika 41, 1954).
    """
    odds, costs = np.log(bets("above")), np.log1p((bets("above") - 1.0) * threshold)
    won, most = np.zeros((BET_COUNT, failures.shape[1])), np.zeros(failures.shape)
    for step, (failed, tried) in enumerate(zip(failures, trials, strict=True)):
        won = np.maximum(won + (failed * odds - tried * costs), 0.0)
        most[step] = won.max(axis=0)
    begun = np.cumsum(restarts * (trials > 0), axis=0)
    most += np.log(begun, out=np.full_like(begun, -np.inf), where=begun > 0)
    never = np.full(failures.shape[1], -np.inf)
    return (most[-1] if len(most) else never), most.max(axis=0, initial=-np.inf)


def run_length(alpha: float, *, batches: float) -> float:
    """The A at which at most a share alpha of cells that keep their limit alarms within so many batches: K / alpha.

    Counts the steps that a cell makes, so empty batches cost nothing. Raises `EvidenceError` where alpha is not in
    (0, 1), or there is less than one batch.
    """
    if not 0 < alpha < 1 or not (np.isfinite(batches) and batches >= 1):
        raise EvidenceError("a run length needs an alpha strictly between 0 and 1, and at least one batch")
    return float(batches) / alpha
