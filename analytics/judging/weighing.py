"""The evidence of many cells at once: every signal of every gate, weighed in a few vectorised calls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from analytics.evidence import histogram
from analytics.evidence.sequential import crosses
from analytics.judging.user_windows import Observed
from analytics.judging.weights import weigh_actions, weigh_ratios, weigh_users
from analytics.signals.cells import Histogram, known_count
from analytics.signals.definitions import COUNTS, MICRO_PER, QUANTILES, RATES
from analytics.verdicts.document import SignalEvidence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from analytics.gates.gate_file import Gate
    from analytics.gates.gate_signal import GateSignal
    from analytics.judging.baseline import Compared
    from analytics.judging.weights import Weights
    from analytics.text import Unit
    from analytics.verdicts.document import SignalState

_NO_BINS: Final[Histogram] = (np.empty(0, dtype=np.int16), np.empty(0, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Known:
    """Everything that was counted about one epoch, as its questions need it.

    Attributes:
        counts: Every counter, and the columns of `analytics.signals.cells.MATURE`.
        immature: Per maturity window in seconds, every counter over the minutes that are not that old.
        histograms: By name; None where nothing is known.
        windows: Per signal and maturity in seconds, the closed user-windows; None where no user is known.
        compared: Per signal, what was counted against the baseline's ratio.
    """

    counts: Mapping[str, int]
    immature: Mapping[float, Mapping[str, int]]
    histograms: Mapping[str, Histogram | None]
    windows: Mapping[tuple[str, float], Observed] | None
    compared: Mapping[GateSignal, Compared]


@dataclass(frozen=True, slots=True)
class Question:
    """One signal of one gate, asked of one cell.

    Attributes:
        part: The signal as the gate states it.
        applies: Whether the gate asks it at the cell's stage.
        failures: Failed trials as counted; for a quantile, observations above the limit.
        trials: Trials; for a quantile, known observations.
        mature_failures: Of those that a promotion may count.
        mature_trials: Trials that a promotion may count.
        value: Rate, quantile or count, in `unit`; by user, the failed share of the average closed user-window.
        limit: Limit in force, in `unit`.
        unit: Unit of the value and the limit.
        known: For a quantile, the observations themselves.
        share: A guardrail's share of alpha; None for other roles.
        alpha: Error level of the gate's rollbacks.
        beta: Error level of the gate's promotions.
        windows: Closed user-windows, all and mature ones, where it is counted by user.
        compared: What was counted against a baseline, where the limit is a ratio.
    """

    part: GateSignal
    applies: bool
    failures: int
    trials: int
    mature_failures: int
    mature_trials: int
    value: float | None
    limit: float | None
    unit: Unit
    known: Histogram
    share: float | None
    alpha: float
    beta: float
    windows: tuple[Observed, Observed] | None = None
    compared: Compared | None = None

    @property
    def harm_level(self) -> float:
        """The error level at which this signal alone shows harm."""
        return self.alpha * (1.0 if self.share is None else self.share)

    @property
    def is_weighed(self) -> bool:
        """Whether there is a threshold to weigh it against."""
        threshold = self.part.threshold is not None or self.compared is not None
        return self.applies and threshold and self.part.role != "trip"


def questions(gate: Gate, stage: str, known: Known) -> list[Question]:
    """Ask every signal of a gate about one epoch of a cell at a stage."""
    return [_ask(part, gate, stage, known=known) for part in gate.signals]


def share_of(gate: Gate, part: GateSignal, stage: str) -> float:
    """A guardrail's share of its gate's alpha at a stage."""
    # The shares rest on the gate alone: weights that depended on the data would not bound the error. What is only a dry
    # run takes nothing from what is not.
    here = [each for each in gate.at(stage) if each.role == "guardrail"]
    total = sum(each.weight or 1.0 for each in here if gate.dry_run or not each.dry_run)
    weight = part.weight or 1.0
    return weight / (total if gate.dry_run or not part.dry_run else total + weight)


def weigh(asked: Sequence[Question]) -> list[SignalEvidence]:
    """Weigh questions about any number of cells; the answers are in the order of the questions."""
    answers = [None if question.is_weighed else _plain(question) for question in asked]
    weighed = [at for at, question in enumerate(asked) if question.is_weighed]
    by_user = [at for at in weighed if asked[at].windows is not None]
    compared = [at for at in weighed if asked[at].compared is not None]
    special = {*by_user, *compared}
    by_action = [at for at in weighed if at not in special]
    for places, weights in (
        (by_action, weigh_actions),
        (by_user, weigh_users),
        (compared, weigh_ratios),
    ):
        if not places:
            continue
        some = [asked[at] for at in places]
        found = weights(some)
        is_harm = crosses(found.harm, np.array([question.harm_level for question in some]))
        is_safe = crosses(found.safe, np.array([question.beta for question in some]))
        for row, at in enumerate(places):
            harmful, safe = bool(is_harm[row]), bool(is_safe[row])
            answers[at] = _answer(asked[at], found, row, harmful=harmful, safe=safe)
    return [answer for answer in answers if answer is not None]


def _answer(question: Question, found: Weights, row: int, *, harmful: bool, safe: bool) -> SignalEvidence:
    more, more_harm = float(found.more[row]), float(found.more_harm[row])
    return SignalEvidence(
        **_basis(question),
        state=_state(question.trials, harmful=harmful, safe=safe),
        lower=found.lower[row],
        upper=found.upper[row],
        log_e_harm=float(found.harm[row]),
        log_e_safe=float(found.safe[row]),
        harm_threshold=-math.log(question.harm_level),
        safe_threshold=-math.log(question.beta),
        more_needed=int(more) if np.isfinite(more) else None,
        more_to_harm=int(more_harm) if np.isfinite(more_harm) else None,
        weight=question.share,
        assumes=found.assumes,
    )


def combined(evidence: Sequence[SignalEvidence], *, dry: bool = False) -> float | None:
    """The weighted sum of the guardrails' e-values, as a natural logarithm; None where there are no guardrails.

    A weighted mean of e-values is an e-value whatever their dependence (Vovk & Wang, "E-values: calibration,
    combination and applications", Annals of Statistics 49(3), 2021).

    Args:
        evidence: What the signals of one cell say.
        dry: Whether dry runs count too, because the whole gate is one.
    """
    terms = [
        part.log_e_harm + math.log(part.weight)
        for part in evidence
        if part.role == "guardrail"
        and (dry or not part.dry_run)
        and part.log_e_harm is not None
        and part.weight is not None
    ]
    return float(np.logaddexp.reduce(terms)) if terms else None


def _ask(part: GateSignal, gate: Gate, stage: str, *, known: Known) -> Question:
    limit: float | None
    unit: Unit
    bins, counts = _NO_BINS, known.counts
    if part.signal in QUANTILES:
        quantile = QUANTILES[part.signal]
        unit, bins = quantile.unit, known.histograms[quantile.source] or _NO_BINS
        snapped = None if part.limit_micro is None else histogram.snap(part.limit_micro)
        failures, trials = 0 if snapped is None else histogram.exceeding(*bins, snapped), known_count(bins)
        value = quantile.value(*bins)
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
    mature_failures, mature_trials = _mature(part, known, failures, trials)
    compared = known.compared.get(part)
    if compared is not None:
        value, limit, unit = compared.value, part.ratio, "times"
    applies = stage in part.stages
    counts_alpha = part.role == "guardrail" and applies
    windows = None
    if known.windows is not None and gate.unit_of(part) == "user":
        nothing = Observed((), (), ())
        windows = (
            known.windows.get((part.signal, 0.0), nothing),
            known.windows.get((part.signal, part.maturity or 0.0), nothing),
        )
        # What is shown must be what is weighed: a pooled rate may lie outside its own bounds.
        value = windows[0].value
    return Question(
        part,
        applies,
        failures,
        trials,
        mature_failures,
        mature_trials,
        value,
        limit,
        unit,
        bins,
        share_of(gate, part, stage) if counts_alpha else None,
        gate.alpha,
        gate.beta,
        windows,
        compared,
    )


def _mature(part: GateSignal, known: Known, failures: int, trials: int) -> tuple[int, int]:
    """Failures and trials that a promotion may count."""
    if part.signal == "missing_outcome":
        # What is pending counts as missing here: it may hold a promotion up, and must not help it.
        return failures + known.counts["pending"], trials + known.counts["pending"]
    if part.maturity is None or part.signal not in RATES:
        return failures, trials
    young = known.immature.get(part.maturity, {})
    rate = RATES[part.signal]
    return (
        failures - sum(young.get(name, 0) for name in rate.failures),
        trials - sum(young.get(name, 0) for name in rate.trials),
    )


def _basis(question: Question) -> dict[str, Any]:
    """What is said of a signal whether or not it is weighed."""
    return {
        "signal": question.part.signal,
        "role": question.part.role,
        "value": question.value,
        "failures": question.failures,
        "trials": question.trials,
        "limit": question.limit,
        "unit": question.unit,
        "mature_failures": question.mature_failures,
        "mature_trials": question.mature_trials,
        "by": "action" if question.windows is None else "user",
        "windows": None if question.windows is None else question.windows[0].windows,
        "needs_data": question.applies and question.part.needs_data,
        "dry_run": question.part.dry_run,
    }


def _plain(question: Question) -> SignalEvidence:
    """The answer where nothing is weighed: a trip, a value without a limit, a signal of another stage."""
    state: SignalState = "not_applicable"
    if question.applies and question.part.role == "trip" and question.limit is not None:
        state = "fail" if question.failures > question.limit else "pass"
    return SignalEvidence(**_basis(question), state=state)


def _state(trials: int, *, harmful: bool, safe: bool) -> SignalState:
    if not trials:
        return "missing"
    return "fail" if harmful else "pass" if safe else "undecided"
