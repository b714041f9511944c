"""The three ways in which a signal is weighed: by action, by user, and against a baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from analytics.evidence import histogram
from analytics.evidence.clustered_rate import ASSUMPTIONS, UserWindows
from analytics.evidence.rate_ratio import RatioEvidence, ratio_bounds
from analytics.evidence.sequential import bounds, crosses, log_e_value, trials_to_decision
from analytics.signals.definitions import MICRO_PER, QUANTILES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analytics.evidence.sequential import BoolArray, Direction, FloatArray
    from analytics.judging.user_windows import Observed
    from analytics.judging.weighing import Question


@dataclass(frozen=True, slots=True)
class Weights:
    """What was weighed, one place a question. Evidence is a natural logarithm.

    Attributes:
        harm: Evidence that the limit is broken, by everything that is known.
        safe: Evidence that the limit is kept, by what is mature.
        lower: Lower confidence bounds, in the questions' units.
        upper: Upper confidence bounds; None where there is none.
        more: More trials until safety is shown at the present rate; infinity where never.
        more_harm: More trials until harm is shown at the present rate, likewise.
        assumes: What all of it takes for granted.
    """

    harm: FloatArray
    safe: FloatArray
    lower: list[float | None]
    upper: list[float | None]
    more: FloatArray
    more_harm: FloatArray
    assumes: str


def weigh_actions(some: Sequence[Question]) -> Weights:
    """Weigh questions in which every action is an observation."""
    failures, trials = _counts([(question.failures, question.trials) for question in some])
    old_failures, old_trials = _counts([(question.mature_failures, question.mature_trials) for question in some])
    thresholds = np.array([question.part.threshold for question in some], dtype=np.float64)
    harm_levels = np.array([question.harm_level for question in some], dtype=np.float64)
    betas = np.array([question.beta for question in some], dtype=np.float64)
    lower: list[float | None] = [float(each) for each in bounds(failures, trials, alpha=harm_levels)[0]]
    upper: list[float | None] = [float(each) for each in bounds(old_failures, old_trials, alpha=betas)[1]]
    for row, (low, high) in _quantile_bounds(some).items():
        lower[row], upper[row] = low, high
    return Weights(
        log_e_value(failures, trials, thresholds, direction="above"),
        log_e_value(old_failures, old_trials, thresholds, direction="below"),
        lower,
        upper,
        trials_to_decision(old_failures, old_trials, thresholds, direction="below", alpha=betas),
        trials_to_decision(failures, trials, thresholds, direction="above", alpha=harm_levels),
        ASSUMPTIONS["action"],
    )


def weigh_users(some: Sequence[Question]) -> Weights:
    """Weigh questions in which every closed user-window is an observation; `more` counts such windows."""
    every = _tabled([question.windows[0] for question in some if question.windows is not None])
    mature = _tabled([question.windows[1] for question in some if question.windows is not None])
    thresholds = np.array([question.part.threshold for question in some], dtype=np.float64)
    harm_levels = np.array([question.harm_level for question in some], dtype=np.float64)
    betas = np.array([question.beta for question in some], dtype=np.float64)
    # The average share of a window takes the place of failures over trials; rounding must not push it over one.
    old_failures = np.minimum(np.nan_to_num(mature.value) * mature.windows, mature.windows)
    failures = np.minimum(np.nan_to_num(every.value) * every.windows, every.windows)
    return Weights(
        every.log_e_value(thresholds, direction="above"),
        mature.log_e_value(thresholds, direction="below"),
        [float(each) for each in every.bounds(alpha=harm_levels)[0]],
        [float(each) for each in mature.bounds(alpha=betas)[1]],
        trials_to_decision(old_failures, mature.windows, thresholds, direction="below", alpha=betas),
        trials_to_decision(failures, every.windows, thresholds, direction="above", alpha=harm_levels),
        ASSUMPTIONS["user"],
    )


def weigh_ratios(some: Sequence[Question]) -> Weights:
    """Weigh questions that compare with a baseline, batch by batch."""
    found, mores = [], []
    for question in some:
        if question.compared is None or question.part.ratio is None:
            continue
        about, ratio = question.compared, question.part.ratio
        nothing = RatioEvidence.none(1, ratio=ratio, direction="above", comparison=about.comparison)
        harm = nothing.after(about.batches)
        safe = replace(nothing, direction="below").after(about.mature)
        low = float(ratio_bounds(about.batches, alpha=question.harm_level)[0][0])
        high = float(ratio_bounds(about.mature, alpha=question.beta)[1][0])
        bound = high if np.isfinite(high) else None
        found.append((float(harm.log_e[0]), float(safe.log_e[0]), low, bound, harm.label))
        mores.append((_more(safe, question.beta), _more(harm, question.harm_level)))
    return Weights(
        np.array([each[0] for each in found]),
        np.array([each[1] for each in found]),
        [each[2] for each in found],
        [each[3] for each in found],
        np.array([safe for safe, _ in mores]),
        np.array([harm for _, harm in mores]),
        f"{ASSUMPTIONS['action']}; {found[0][4]}" if found else "",
    )


def _more(evidence: RatioEvidence, alpha: float) -> float:
    """How many more trials of the new arm decide, if both arms go on as they did; infinity where never."""
    growth = float(evidence.growth_to_decision(alpha=alpha)[0])
    return float(np.ceil((growth - 1.0) * int(evidence.trials[0]))) if np.isfinite(growth) else math.inf


def _counts(pairs: Sequence[tuple[int, int]]) -> tuple[FloatArray, FloatArray]:
    """Failures and trials as arrays; an event that comes twice for one trial is one failure."""
    trials = np.array([trials for _, trials in pairs], dtype=np.float64)
    return np.minimum(np.array([failures for failures, _ in pairs], dtype=np.float64), trials), trials


def _tabled(tables: Sequence[Observed]) -> UserWindows:
    sizes = [len(table.count) for table in tables]

    def joined(name: str) -> list[int]:
        return [value for table in tables for value in getattr(table, name)]

    return UserWindows.of(
        len(tables),
        cell=np.repeat(np.arange(len(tables)), sizes),
        actions=np.array(joined("trials"), dtype=np.int64),
        failures=np.array(joined("failures"), dtype=np.int64),
        count=np.array(joined("count"), dtype=np.int64),
    )


def _quantile_bounds(some: Sequence[Question]) -> dict[int, tuple[float | None, float | None]]:
    """Confidence bounds of the quantiles, in their units, by position.

    The lower bound is the largest limit that the evidence would call broken, the upper bound the smallest that it
    would call kept; so `lower >= limit` if and only if the limit is broken, `upper <= limit` if and only if it is kept.
    Only limits beside an occupied bin need to be tried, since the count above changes nowhere else.
    """
    rows = [row for row, question in enumerate(some) if question.part.signal in QUANTILES and question.trials]
    if not rows:
        return {row: (None, None) for row, question in enumerate(some) if question.part.signal in QUANTILES}
    sorted_bins = [np.argsort(some[row].known[0], kind="stable") for row in rows]
    bins = [some[row].known[0][order].astype(np.intp) for row, order in zip(rows, sorted_bins, strict=True)]
    counts = [some[row].known[1][order] for row, order in zip(rows, sorted_bins, strict=True)]
    from_bin = [np.cumsum(count[::-1])[::-1] for count in counts]
    sizes = [len(count) for count in counts]
    above_bin = np.concatenate(from_bin) - np.concatenate(counts)

    def crossed(failures: np.ndarray[tuple[int], np.dtype[np.int64]], direction: Direction) -> list[BoolArray]:
        tails = np.repeat([QUANTILES[some[row].part.signal].tail for row in rows], sizes)
        levels = [some[row].harm_level if direction == "above" else some[row].beta for row in rows]
        trials = np.repeat([some[row].trials for row in rows], sizes)
        evident = crosses(log_e_value(failures, trials, tails, direction=direction), np.repeat(levels, sizes))
        return np.split(evident, np.cumsum(sizes)[:-1])

    broken, kept = crossed(np.concatenate(from_bin), "above"), crossed(above_bin, "below")
    found: dict[int, tuple[float | None, float | None]] = {
        row: (None, None) for row, question in enumerate(some) if question.part.signal in QUANTILES
    }
    for place, row in enumerate(rows):
        per_unit = MICRO_PER[QUANTILES[some[row].part.signal].unit]
        at_least = bins[place][broken[place]]
        at_most = bins[place][kept[place]]
        low = histogram.BOUNDS[at_least[-1] - 1] / per_unit if at_least.size and at_least[-1] > 0 else 0.0
        high = histogram.BOUNDS[at_most[0]] / per_unit if at_most.size and at_most[0] < histogram.OVERFLOW_BIN else None
        found[row] = (float(low), None if high is None else float(high))
    return found
