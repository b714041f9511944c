"""The evidence of many cells at once: every signal of every gate, weighed in a few vectorised calls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.cells import Histogram, known_count
from analytics.evidence import histogram
from analytics.evidence.sequential import bounds, crosses, log_e_value, trials_to_decision
from analytics.evidence.signals import COUNTS, MICRO_PER, QUANTILES, RATES
from analytics.verdicts.verdict import SignalEvidence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from analytics.evidence.sequential import BoolArray, Direction
    from analytics.verdicts.gates import Gate
    from analytics.verdicts.gatesignals import GateSignal
    from analytics.verdicts.verdict import State, Unit

_NO_BINS: Final[Histogram] = (np.empty(0, dtype=np.int16), np.empty(0, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Question:
    """One signal of one gate, asked of one cell.

    Attributes:
        part: The signal as the gate states it.
        applies: Whether the gate asks it at the cell's stage.
        failures: Failed trials as counted; for a quantile, observations above the limit.
        trials: Trials; for a quantile, known observations.
        value: Rate, quantile or count, in `unit`.
        limit: Limit in force, in `unit`.
        unit: Unit of the value and the limit.
        known: For a quantile, the observations themselves.
        share: A guardrail's share of alpha; None for other roles.
        alpha: Error level of the gate's rollbacks.
        beta: Error level of the gate's promotions.
    """

    part: GateSignal
    applies: bool
    failures: int
    trials: int
    value: float | None
    limit: float | None
    unit: Unit
    known: Histogram
    share: float | None
    alpha: float
    beta: float

    @property
    def harm_level(self) -> float:
        """The error level at which this signal alone shows harm."""
        return self.alpha * (1.0 if self.share is None else self.share)


def questions(
    gate: Gate, stage: str, counts: Mapping[str, int], histograms: Mapping[str, Histogram | None]
) -> list[Question]:
    """Ask every signal of a gate about one cell.

    Args:
        gate: The gate.
        stage: The cell's stage.
        counts: Every counter, and the columns of `analytics.cells.MATURE`.
        histograms: By name; None where nothing is known.
    """
    # The shares rest on the gate alone: weights that depended on the data would not bound the error.
    total = sum(part.weight or 1.0 for part in gate.at(stage) if part.role == "guardrail")
    return [_ask(part, gate, stage, total_weight=total, counts=counts, histograms=histograms) for part in gate.signals]


def weigh(asked: Sequence[Question]) -> list[SignalEvidence]:
    """Weigh questions about any number of cells; the answers are in the order of the questions."""
    answers = [_plain(question) for question in asked]
    weighed = [at for at, question in enumerate(asked) if question.applies and question.part.threshold is not None]
    weighed = [at for at in weighed if asked[at].part.role != "trip"]
    if not weighed:
        return answers
    some = [asked[at] for at in weighed]
    trials = np.array([question.trials for question in some], dtype=np.float64)
    failures = np.minimum(np.array([question.failures for question in some], dtype=np.float64), trials)
    thresholds = np.array([question.part.threshold for question in some], dtype=np.float64)
    harm_levels = np.array([question.harm_level for question in some], dtype=np.float64)
    betas = np.array([question.beta for question in some], dtype=np.float64)
    harm = log_e_value(failures, trials, thresholds, direction="above")
    safe = log_e_value(failures, trials, thresholds, direction="below")
    is_harm, is_safe = crosses(harm, harm_levels), crosses(safe, betas)
    lower, upper = bounds(failures, trials, alpha=harm_levels)[0], bounds(failures, trials, alpha=betas)[1]
    more = trials_to_decision(failures, trials, thresholds, direction="below", alpha=betas)
    quantile_bounds = _quantile_bounds(some)
    for row, at in enumerate(weighed):
        question = asked[at]
        low, high = quantile_bounds.get(row, (float(lower[row]), float(upper[row])))
        answers[at] = SignalEvidence(
            signal=question.part.signal,
            role=question.part.role,
            state=_state(question.trials, harmful=bool(is_harm[row]), safe=bool(is_safe[row])),
            value=question.value,
            failures=question.failures,
            trials=question.trials,
            limit=question.limit,
            unit=question.unit,
            lower=low,
            upper=high,
            log_e_harm=float(harm[row]),
            log_e_safe=float(safe[row]),
            harm_threshold=-math.log(question.harm_level),
            safe_threshold=-math.log(question.beta),
            more_needed=int(more[row]) if np.isfinite(more[row]) else None,
            weight=question.share,
        )
    return answers


def combined(evidence: Sequence[SignalEvidence]) -> float | None:
    """The weighted sum of the guardrails' e-values, as a natural logarithm; None where there are no guardrails.

    A weighted mean of e-values is an e-value whatever their dependence (Vovk & Wang, "E-values: calibration,
    combination and applications", Annals of Statistics 49(3), 2021).
    """
    terms = [
        part.log_e_harm + math.log(part.weight)
        for part in evidence
        if part.role == "guardrail" and part.log_e_harm is not None and part.weight is not None
    ]
    return float(np.logaddexp.reduce(terms)) if terms else None


def _ask(
    part: GateSignal,
    gate: Gate,
    stage: str,
    *,
    total_weight: float,
    counts: Mapping[str, int],
    histograms: Mapping[str, Histogram | None],
) -> Question:
    limit: float | None
    unit: Unit
    known = _NO_BINS
    if part.signal in QUANTILES:
        quantile = QUANTILES[part.signal]
        unit, known = quantile.unit, histograms[quantile.source] or _NO_BINS
        snapped = None if part.limit_micro is None else histogram.snap(part.limit_micro)
        failures, trials = 0 if snapped is None else histogram.exceeding(*known, snapped), known_count(known)
        value = quantile.value(*known)
        limit = None if snapped is None else snapped / MICRO_PER[quantile.unit]
    elif part.signal in COUNTS:
        count = COUNTS[part.signal]
        failures, trials, unit = counts[count.counted], counts[count.trials], "count"
        value, limit = float(failures), None
    else:
        rate = RATES[part.signal]
        failures, trials = rate.counts(counts)
        value, limit, unit = rate.value(counts), part.limit, "ratio"
    if part.role == "trip":
        value, limit, unit = float(failures), float(part.max_count or 0), "count"
    applies = stage in part.stages
    share = (part.weight or 1.0) / total_weight if part.role == "guardrail" and applies else None
    return Question(part, applies, failures, trials, value, limit, unit, known, share, gate.alpha, gate.beta)


def _plain(question: Question) -> SignalEvidence:
    """The answer where nothing is weighed: a trip, a value without a limit, a signal of another stage."""
    state: State = "not_applicable"
    if question.applies and question.part.role == "trip" and question.limit is not None:
        state = "fail" if question.failures > question.limit else "pass"
    return SignalEvidence(
        signal=question.part.signal,
        role=question.part.role,
        state=state,
        value=question.value,
        failures=question.failures,
        trials=question.trials,
        limit=question.limit,
        unit=question.unit,
    )


def _state(trials: int, *, harmful: bool, safe: bool) -> State:
    if not trials:
        return "missing"
    return "fail" if harmful else "pass" if safe else "undecided"


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
