"""What chance allows a simulated figure, and the streams that figures are simulated on.

Four standard errors: chance alone leaves them once in 16 000 seeds, and the seeds are fixed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

STANDARD_ERRORS: Final = 4.0
NEVER: Final = 2**60


def margin(chance: float, runs: int) -> float:
    """How far the share of a number of runs may stray from its chance."""
    return STANDARD_ERRORS * float(np.sqrt(chance * (1 - chance) / runs))


def is_share(hits: BoolArray, chance: float, *, rounding: float = 0.005) -> bool:
    """Whether the share of hits can be the chance, which was quoted to within `rounding`."""
    return abs(float(hits.mean()) - chance) <= rounding + margin(chance, hits.size)


def is_median(stops: IntArray, median: int, *, rounding: int = 0) -> bool:
    """Whether half of the runs stop by the median, which was quoted to within `rounding`.

    It compares shares, not times, so it asks nothing of the shape of the delays: as many as half may stop before, and
    at least half must have stopped by then.
    """
    slack = margin(0.5, stops.size)
    before, by = (stops < median - rounding).mean(), (stops <= median + rounding).mean()
    return bool(before <= 0.5 + slack and by >= 0.5 - slack)


def first_look(looks: Iterable[tuple[int, BoolArray]], runs: int) -> IntArray:
    """When each run first crossed: the number that came with the look, `NEVER` where none crossed."""
    stops = np.full(runs, NEVER)
    for at, crossed in looks:
        stops[crossed & (stops == NEVER)] = at
    return stops


def failures_of_users(
    rng: np.random.Generator, runs: int, users: int, *, actions: int, rate: float, alike: float
) -> IntArray:
    """Failures of each user, by users and runs."""
    spread = 1 / alike - 1
    return rng.binomial(actions, rng.beta(rate * spread, (1 - rate) * spread, (users, runs)))
