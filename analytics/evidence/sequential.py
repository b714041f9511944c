"""A failure rate against a threshold, judged after every look: e-values, bounds, and how many more are needed.

The evidence is Robbins' mixture of sequential probability ratios over eight fixed bets. A bet omega multiplies the
evidence, at each trial with outcome X in {0, 1}, by omega^X / (1 + (omega - 1) * threshold). That equals 1 + lambda *
(X - threshold) with lambda = (omega - 1) / (1 + (omega - 1) * threshold), a constant bet in the sense of Waudby-Smith &
Ramdas, "Estimating means of bounded random variables by betting" (JRSS-B 86, 2024), so it asks only that the rate given
the past is on the other side of the threshold, not that trials are independent. By Ville's inequality the chance that
it ever reaches 1 / alpha is then at most alpha, however often and for whatever reason one looks. Only two counts are
needed, so shuffled, split or merged input gives the same evidence.

Three conventions make the evidence, the bounds and the forecast agree to the last comparison:

* `crosses` is the only comparison, and it forgives 1e-9 of log evidence (alpha grows by the factor exp(1e-9)).
* A threshold is read on a grid of 2^-40 (about 9e-13) and rounded *against* the claim: up for "above", down for
  "below". Neighbours on the grid differ by far more evidence than floating-point noise, so the crossings along it are
  one unbroken stretch whose end can be found exactly.
* The sum over bets is taken element by element in a fixed order: a cell's evidence does not depend on its batch.

A rate within a factor of about 0.90 to 1.12 of a small threshold never crosses in either direction: a deliberate zone
of indifference, inside which `trials_to_decision` answers infinity. Bets nearer to one would narrow it at a price: with
1.05 and 1.1 (0.95 and 0.9) added, every other decision takes 4 to 10 % more trials.

Everything broadcasts; scalars give zero-dimensional arrays. The exact error rates and run lengths are held by
tests/calibration/test_exact_crossings.py.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from analytics.evidence.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Callable

FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
CellArray: TypeAlias = npt.NDArray[np.intp]
Direction: TypeAlias = Literal["above", "below"]

# Each bet costs at most log(8) of evidence for the other seven, and is near-optimal for one size of departure.
BETS: Final[dict[Direction, tuple[float, ...]]] = {
    "above": (1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0),
    "below": (0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.03, 0.005),
}
CROSSING_SLACK: Final = 1e-9

BET_COUNT: Final = 8
GRID: Final = 2.0**40
# Newton converges quadratically from a start at most log(8) of evidence away; what is left, bisection finishes.
_NEWTON_STEPS: Final = 6
# Beyond 2^53 a float no longer counts one by one, and no experiment gets there.
_NEVER: Final = 2.0**53


def log_e_value(
    failures: npt.ArrayLike, trials: npt.ArrayLike, threshold: npt.ArrayLike, *, direction: Direction
) -> FloatArray:
    """Weigh the counts as evidence that the failure rate is "above", or "below", a threshold in (0, 1).

    Equation: log E = logsumexp_k[-log 8 + x log(omega_k) - n log1p((omega_k - 1) * threshold)], with the eight bets of
    `BETS[direction]`; exactly 0 where there are no trials. E has expectation at most one, at any stopping time, while
    the claim is false. Fractions of failures are allowed.

    Raises:
        EvidenceError: A count is negative or not a number, failures exceed trials, a threshold is not in (0, 1), or the
            direction is unknown.
    """
    x, n = _counts(failures, trials)
    theta = grid_units(_open_ratio(threshold, "threshold"), direction) / GRID
    return np.asarray(_log_e(x, n, theta, direction))


def crosses(log_e: npt.ArrayLike, alpha: npt.ArrayLike) -> BoolArray:
    """Compare evidence with a one-sided error level: log E >= log(1 / alpha), forgiving `CROSSING_SLACK`.

    Every decision in the product goes through this line, so that two computations of the same sum in different orders
    never disagree about a boundary case. False where the evidence is not a number. Raises `EvidenceError` where an
    alpha is not in (0, 1).
    """
    return np.asarray(np.asarray(log_e, dtype=np.float64) >= _bar(alpha))


def bounds(failures: npt.ArrayLike, trials: npt.ArrayLike, *, alpha: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Bound the failure rate from below and from above, each one-sided at alpha and valid at every look.

    The bounds are the e-value turned inside out, exactly: for every threshold in (0, 1), `lower > threshold` if and
    only if `crosses(log_e_value(..., threshold, direction="above"), alpha)`, and `upper < threshold` if and only if
    `crosses(log_e_value(..., threshold, direction="below"), alpha)`. Without trials they are 0 and 1.

    Start: the best single bet solved in closed form, ((alpha/8)^(1/n) omega^(x/n) - 1) / (omega - 1), which is
    conservative. Log E is convex in the threshold, so Newton's steps approach the root without passing it; the last
    grid point is settled by the comparison itself.

    Raises:
        EvidenceError: A count is negative or not a number, failures exceed trials, or an alpha is not in (0, 1).
    """
    return lower_bound(failures, trials, alpha=alpha), upper_bound(failures, trials, alpha=alpha)


def lower_bound(failures: npt.ArrayLike, trials: npt.ArrayLike, *, alpha: npt.ArrayLike) -> FloatArray:
    """The first of `bounds`, alone."""
    x, n, bar = np.broadcast_arrays(*_counts(failures, trials), _bar(alpha))
    return _lower(x.ravel(), n.ravel(), bar.ravel()).reshape(x.shape)


def upper_bound(failures: npt.ArrayLike, trials: npt.ArrayLike, *, alpha: npt.ArrayLike) -> FloatArray:
    """The second of `bounds`, alone."""
    x, n, bar = np.broadcast_arrays(*_counts(failures, trials), _bar(alpha))
    return _upper(x.ravel(), n.ravel(), bar.ravel()).reshape(x.shape)


def trials_to_decision(
    failures: npt.ArrayLike,
    trials: npt.ArrayLike,
    threshold: npt.ArrayLike,
    *,
    direction: Direction,
    alpha: npt.ArrayLike,
) -> FloatArray:
    """Forecast how many more trials decide, if failures keep coming at the rate seen so far.

    The answer is the smallest whole m >= 0 at which `crosses(log_e_value(failures + rate * m, trials + m, threshold,
    direction), alpha)`, where rate is failures / trials, or 0 without trials; infinity where this rate never decides
    (or not within 2^53 trials). Infinity for one direction alone says that the rate is on the other side; for both,
    that it is too close to the limit to tell.

    At a fixed rate log E is convex in the number of trials and 0 at none, so once crossed it stays crossed and the
    smallest m is well defined. It is exact up to about 10^7 more trials; farther out, rounding in the evidence itself
    moves it, by a relative 10^-16 times the answer.

    Raises:
        EvidenceError: As in `log_e_value`, or an alpha is not in (0, 1).
    """
    x, n = _counts(failures, trials)
    units = grid_units(_open_ratio(threshold, "threshold"), direction)
    x, n, theta, bar = np.broadcast_arrays(x, n, units / GRID, _bar(alpha))
    shape = x.shape
    x, n, theta, bar = x.ravel(), n.ravel(), theta.ravel(), bar.ravel()
    rate = np.divide(x, n, out=np.zeros_like(x), where=n > 0)
    # log E after N trials at this rate is logsumexp_k(N * gain_k) - log 8.
    gains = [rate * np.log(bet) - np.log1p((bet - 1.0) * theta) for bet in BETS[direction]]
    enough = np.full_like(x, np.inf)
    for gain in gains:
        alone = np.divide(bar + np.log(BET_COUNT), gain, out=np.full_like(x, np.inf), where=gain > 0)
        enough = np.minimum(enough, alone)

    more = np.where(_log_e(x, n, theta, direction) >= bar, 0.0, np.inf)
    (cells,) = np.nonzero((more > 0) & (enough < _NEVER))
    start = enough[cells]
    total = _newton_total(start, [gain[cells] for gain in gains], bar[cells])

    def decided(among: CellArray, m: FloatArray) -> BoolArray:
        at = cells[among]
        return np.asarray(_log_e(x[at] + rate[at] * m, n[at] + m, theta[at], direction) >= bar[at])

    # One past the single bet's own crossing certainly decides, whatever rounding did to it.
    high = np.maximum(np.ceil(start - n[cells]), 0.0) + 1.0
    more[cells] = smallest_whole(decided, np.zeros(cells.size), high, np.ceil(total - n[cells]))
    return more.reshape(shape)


def _log_e(x: FloatArray, n: FloatArray, theta: FloatArray, direction: Direction) -> FloatArray:
    """Evaluate the equation of `log_e_value` on checked input whose threshold is already on the grid."""
    terms = [x * np.log(bet) - n * np.log1p((bet - 1.0) * theta) for bet in BETS[direction]]
    peak = reduce(np.maximum, terms)
    return np.asarray(peak + np.log(reduce(np.add, [np.exp(term - peak) for term in terms]) / BET_COUNT))


def _lower(x: FloatArray, n: FloatArray, bar: FloatArray) -> FloatArray:
    """Find the end of the thresholds the rate is evidently above; flat arrays in, ratios out."""
    lower = np.zeros_like(x)
    (cells,) = np.nonzero((n > 0) & (_log_e(x, n, np.zeros_like(x), "above") >= bar))
    x, n, bar = x[cells], n[cells], bar[cells]
    start = reduce(np.maximum, _single_bet_roots(x, n, bar, "above"), np.zeros_like(x))
    root = _newton_threshold(start, x, n, bar, "above")

    def undecided(among: CellArray, units: FloatArray) -> BoolArray:
        return np.asarray(_log_e(x[among], n[among], units / GRID, "above") < bar[among])

    last = smallest_whole(undecided, np.zeros_like(x), np.full_like(x, GRID), np.floor(root * GRID) + 1.0) - 1.0
    # The next float up, so that a threshold exactly on the last crossing grid point is still strictly below it.
    lower[cells] = np.where(last > 0, np.nextafter(last / GRID, 1.0), 0.0)
    return lower


def _upper(x: FloatArray, n: FloatArray, bar: FloatArray) -> FloatArray:
    """Find the start of the thresholds the rate is evidently below; flat arrays in, ratios out."""
    upper = np.ones_like(x)
    (cells,) = np.nonzero((n > 0) & (_log_e(x, n, np.ones_like(x), "below") >= bar))
    x, n, bar = x[cells], n[cells], bar[cells]
    start = reduce(np.minimum, _single_bet_roots(x, n, bar, "below"), np.ones_like(x))
    root = _newton_threshold(start, x, n, bar, "below")

    def decided(among: CellArray, units: FloatArray) -> BoolArray:
        return np.asarray(_log_e(x[among], n[among], units / GRID, "below") >= bar[among])

    first = smallest_whole(decided, np.zeros_like(x), np.full_like(x, GRID), np.ceil(root * GRID))
    upper[cells] = np.nextafter(first / GRID, 0.0)
    return upper


def _single_bet_roots(x: FloatArray, n: FloatArray, bar: FloatArray, direction: Direction) -> list[FloatArray]:
    """Solve, for each bet alone, weight * E_k(threshold) = exp(bar); n must be positive."""
    return [
        np.asarray(np.expm1((x * np.log(bet) - bar - np.log(BET_COUNT)) / n) / (bet - 1.0)) for bet in BETS[direction]
    ]


def _newton_threshold(
    theta: FloatArray, x: FloatArray, n: FloatArray, bar: FloatArray, direction: Direction
) -> FloatArray:
    """Move thresholds from the conservative side towards the root of log E(threshold) = bar."""
    for _ in range(_NEWTON_STEPS):
        terms = [x * np.log(bet) - n * np.log1p((bet - 1.0) * theta) for bet in BETS[direction]]
        slopes = [-n * (bet - 1.0) / (1.0 + (bet - 1.0) * theta) for bet in BETS[direction]]
        level, slope = _mixture(terms, slopes)
        theta = np.clip(theta - (level - bar) / slope, 0.0, 1.0)
    return theta


def _newton_total(total: FloatArray, gains: list[FloatArray], bar: FloatArray) -> FloatArray:
    """Move numbers of trials down towards the root of log E(trials) = bar at a fixed rate."""
    for _ in range(_NEWTON_STEPS):
        level, slope = _mixture([total * gain for gain in gains], gains)
        total = total - (level - bar) / slope
    return total


def _mixture(terms: list[FloatArray], slopes: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Give logsumexp(terms) - log 8 and its derivative, where each term has the given derivative."""
    peak = reduce(np.maximum, terms)
    shares = [np.exp(term - peak) for term in terms]
    mass = reduce(np.add, shares)
    slope = reduce(np.add, [share * slope for share, slope in zip(shares, slopes, strict=True)]) / mass
    return np.asarray(peak + np.log(mass / BET_COUNT)), np.asarray(slope)


def smallest_whole(
    holds: Callable[[CellArray, FloatArray], BoolArray],
    low: FloatArray,
    high: FloatArray,
    guess: FloatArray | None = None,
) -> FloatArray:
    """Find, per cell, the smallest whole number in (low, high] at which a monotone condition holds.

    `holds` evaluates it for cells given by position, at one number each; it is never asked about `high`, where it must
    hold. The answer is probably within one of `guess`, where there is one. Shape (cells,) throughout.
    """
    low, high = low.copy(), high.copy()
    cells = np.arange(low.size)

    def narrow(cells: CellArray, probe: FloatArray) -> None:
        held = holds(cells, probe)
        high[cells[held]] = probe[held]
        low[cells[~held]] = probe[~held]

    for probe in () if guess is None else (guess, guess - 1.0, guess + 1.0):
        inside = cells[(probe > low) & (probe < high)]
        narrow(inside, probe[inside])
    while (wide := cells[high - low > 1.0]).size:
        narrow(wide, np.floor((low[wide] + high[wide]) / 2.0))
    return high


def _bar(alpha: npt.ArrayLike) -> FloatArray:
    return np.asarray(-np.log(_open_ratio(alpha, "alpha")) - CROSSING_SLACK)


def grid_units(theta: FloatArray, direction: Direction) -> FloatArray:
    """Read thresholds as whole grid units, rounded to the side that makes the claim harder."""
    if direction not in BETS:
        raise EvidenceError(f"direction is {direction!r}; it must be 'above' or 'below'")
    # Scaling by a power of two is exact, so only the rounding itself loses anything.
    return np.asarray(np.ceil(theta * GRID) if direction == "above" else np.floor(theta * GRID))


def _counts(failures: npt.ArrayLike, trials: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    x, n = np.asarray(failures, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    if not np.all(np.isfinite(n)):
        raise EvidenceError(f"trials must be finite, but {_example(n, ~np.isfinite(n))} was given")
    # Negated, so that a NaN, which compares false with everything, is refused too.
    possible = (x >= 0) & (x <= n)
    if not np.all(possible):
        x_seen, n_seen = np.broadcast_arrays(x, n)
        raise EvidenceError(
            f"failures must lie between 0 and trials, but {_example(x_seen, ~possible)} failures"
            f" of {_example(n_seen, ~possible)} trials were given"
        )
    return x, n


def _open_ratio(ratio: npt.ArrayLike, name: str) -> FloatArray:
    values = np.asarray(ratio, dtype=np.float64)
    # The slack must not turn an error level of practically one into a crossing without any evidence.
    inside = (values > 0) & (values < 1.0 - (2 * CROSSING_SLACK if name == "alpha" else 0.0))
    if not np.all(inside):
        raise EvidenceError(f"{name} must lie strictly between 0 and 1, but {_example(values, ~inside)} was given")
    return values


def _example(values: FloatArray, wrong: BoolArray) -> str:
    return f"{values[wrong].flat[0]:g}"
