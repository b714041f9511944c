"""Weighing: every signal of a gate over the cells at one stage, as arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from analytics.evidence import histogram
from analytics.evidence.rate_ratio import RatioEvidence
from analytics.evidence.sequential import crosses, log_e_value
from analytics.judging.baseline import Arms, compare
from analytics.judging.regression import detector_minutes, watch_actions
from analytics.signals.cells import MATURE
from analytics.signals.definitions import COUNTS, QUANTILES, RATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analytics.evidence.sequential import Direction, FloatArray
    from analytics.gates.gate_file import Gate, GateFile
    from analytics.gates.gate_signal import GateSignal
    from analytics.judging.baseline import Compared
    from analytics.judging.latches import LatchRows
    from analytics.judging.user_evidence import UserEvidence
    from analytics.judging.window_sums import WindowSums
    from analytics.signals.state import CellState, EpochRows, Flags, Integers, MissingOutcomes


@dataclass
class EvaluationInputs:
    """Everything that the verdicts of one look follow from."""

    state: CellState  # everything counted
    sums: WindowSums  # the sums over minutes and bins, at the watermark of the look
    gates: GateFile  # the gate file
    current: EpochRows  # the current epoch of every cell
    users: UserEvidence | None  # closed user-windows; None where nothing is counted by user
    latches: LatchRows  # what earlier looks decided
    compared: EpochRows  # the epochs that are evaluated and whose gate holds arms against each other

    @cached_property
    def missing(self) -> MissingOutcomes:
        """Expected, missing and pending executions of every epoch."""
        return self.sums.missing()

    @cached_property
    def arms(self) -> Arms:
        """The cells of the actions that are compared."""
        return Arms(self.state, self.current, self.compared, self.sums.watermark_us)

    def counter(self, name: str) -> Integers:
        """One counter of every epoch, those of `MATURE` among them."""
        missing = self.missing
        mature = dict(zip(MATURE, (missing.expected, missing.missing, missing.pending), strict=True))
        return mature[name] if name in mature else self.state.counter(name)


@dataclass
class SignalWeights:
    """One signal of a gate over cells at one stage. Evidence is a natural logarithm; arrays have one value a cell."""

    part: GateSignal  # the signal as the gate states it
    place: int  # its place among the gate's signals
    applies: bool  # whether the gate asks it at the stage
    is_weighed: bool  # whether there is a threshold, or a baseline, to weigh it against
    failures: Integers  # failed trials as counted; for a quantile, observations above the limit
    trials: Integers  # Trials; for a quantile, known observations
    mature_failures: Integers  # of those that a promotion may count
    mature_trials: Integers  # trials that a promotion may count
    by_user: Flags  # whether closed user-windows are the observations
    failing: Flags  # where harm is evident, or a trip is over its maximum
    passing: Flags  # where safety is evident, or a trip is not
    harm: FloatArray | None = None  # evidence that the limit is broken, by all that is known; None if not weighed
    safe: FloatArray | None = None  # evidence that the limit is kept, by what is mature; likewise
    share: float | None = None  # a guardrail's share of alpha; None for other roles
    harm_level: float = 1.0  # the error level at which this signal alone shows harm
    alarmed: Flags | None = None  # where the change detector has raised an alarm; None where it does not watch
    compared: list[Compared] | None = None  # what was counted against a baseline, where the limit is a ratio

    @property
    def decides(self) -> bool:
        """Whether something can follow from it at this stage."""
        return self.is_asked and self.part.role != "watch"

    @property
    def is_asked(self) -> bool:
        """Whether it has a state at this stage."""
        return self.is_weighed or (self.applies and self.part.role == "trip")

    @property
    def missing(self) -> Flags:
        """Where there are no trials."""
        return np.asarray(self.trials == 0)


def share_of(gate: Gate, part: GateSignal, stage: str) -> float:
    """A guardrail's share of its gate's alpha at a stage."""
    # The shares rest on the gate alone: weights that depended on the data would not bound the error. What is only a dry
    # run takes nothing from what is not.
    here = [other for other in gate.at(stage) if other.role == "guardrail"]
    total = sum(other.weight or 1.0 for other in here if gate.dry_run or not other.dry_run)
    weight = part.weight or 1.0
    return weight / (total if gate.dry_run or not part.dry_run else total + weight)


def combined(signals: Sequence[SignalWeights], *, dry: bool) -> FloatArray | None:
    """The weighted sum of the guardrails' e-values, as a natural logarithm; None where there are no guardrails.

    A weighted mean of e-values is an e-value whatever their dependence (Vovk & Wang, "E-values: calibration,
    combination and applications", Annals of Statistics 49(3), 2021). With `dry`, dry runs count too.
    """
    total: FloatArray | None = None
    for signal in signals:
        counts = signal.part.role == "guardrail" and (dry or not signal.part.dry_run)
        if counts and signal.harm is not None and signal.share is not None:
            term = signal.harm + math.log(signal.share)
            total = term if total is None else np.logaddexp(total, term)
    return total


class Weigher:
    """Weighs the signals of one gate over cells at one stage."""

    def __init__(self, gate: Gate, stage: str, epochs: EpochRows, inputs: EvaluationInputs) -> None:
        self._gate = gate
        self._stage = stage
        self._epochs = epochs
        self._inputs = inputs
        self._counts: dict[str, Integers] = {}
        self._nobody = np.zeros(epochs.size, dtype=np.bool_)
        users = inputs.users
        self._named = self._nobody if users is None else users.named(epochs)

    def weigh(self, part: GateSignal, place: int) -> SignalWeights:
        """Weigh one signal over all cells."""
        gate, nobody, applies = self._gate, self._nobody, self._stage in part.stages
        failures, trials = self._counted(part)
        counts = (failures, trials, *self._mature(part, failures, trials))
        by_user = self._named if gate.unit_of(part) == "user" else nobody
        is_weighed = applies and part.role != "trip" and (part.threshold is not None or part.ratio is not None)
        weights = SignalWeights(part, place, applies, is_weighed, *counts, by_user, nobody, nobody)
        if applies and part.role == "trip":
            weights.failing = failures > float(part.max_count or 0)
            weights.passing = ~weights.failing
        if not is_weighed:
            return weights
        if part.role == "guardrail":
            weights.share = share_of(gate, part, self._stage)
        weights.harm_level = gate.alpha * (1.0 if weights.share is None else weights.share)
        if part.ratio is not None:
            self._weigh_ratio(weights, part.ratio)
        elif part.threshold is not None:
            self._weigh_rate(weights, part.threshold)
        if weights.harm is not None and weights.safe is not None:
            weights.failing = crosses(weights.harm, weights.harm_level) & (trials != 0)
            weights.passing = crosses(weights.safe, gate.beta) & (trials != 0) & ~weights.failing
        if part.limit is not None and gate.watches(part, self._stage):
            weights.alarmed = self._alarmed(part.signal, part.limit, by_user)
        return weights

    def _weigh_rate(self, weights: SignalWeights, threshold: float) -> None:
        part, users = weights.part, self._inputs.users
        weights.harm = _log_e(weights.failures, weights.trials, threshold, "above")
        weights.safe = _log_e(weights.mature_failures, weights.mature_trials, threshold, "below")
        if users is not None and weights.by_user.any():

            def by_window(direction: Direction, maturity_s: float) -> FloatArray:
                return users.log_e(
                    part.signal, threshold, maturity_s=maturity_s, direction=direction, epochs=self._epochs
                )

            weights.harm = np.where(weights.by_user, by_window("above", 0.0), weights.harm)
            weights.safe = np.where(weights.by_user, by_window("below", part.maturity or 0.0), weights.safe)

    def _weigh_ratio(self, weights: SignalWeights, ratio: float) -> None:
        arms = self._inputs.arms
        weights.compared = [compare(arms, epoch, self._gate, weights.part) for epoch in self._epochs.tolist()]
        pairs = [ratio_evidence(compared, ratio) for compared in weights.compared]
        weights.harm = np.array([float(harm.log_e[0]) for harm, _ in pairs])
        weights.safe = np.array([float(safe.log_e[0]) for _, safe in pairs])

    def _alarmed(self, signal: str, limit: float, by_user: Flags) -> Flags:
        inputs, alarmed = self._inputs, np.zeros(self._epochs.size, dtype=np.bool_)
        rules = inputs.gates.after_promotion
        (near,) = np.nonzero(~by_user & inputs.sums.prefilter.near(signal, limit, self._epochs))
        if near.size:
            epochs = self._epochs[near]
            minutes = detector_minutes(inputs.state, epochs, watermark_us=inputs.sums.watermark_us, rules=rules)
            watched = watch_actions(minutes, signal, limit, epochs, rules)
            alarmed[near] = [regression.since is not None for regression in watched]
        if inputs.users is not None and by_user.any():
            regressions = inputs.users.regressions(signal, limit, rules)
            raised = {epoch for epoch, regression in regressions.items() if regression.since is not None}
            alarmed |= by_user & np.isin(self._epochs, list(raised))
        return alarmed

    def _counted(self, part: GateSignal) -> tuple[Integers, Integers]:
        sums = self._inputs.sums
        if part.signal in QUANTILES:
            source = QUANTILES[part.signal].source
            trials = sums.observed[source][self._epochs]
            if part.limit_micro is None:
                return np.zeros_like(trials), trials
            return sums.above[source, histogram.snap(part.limit_micro)][self._epochs], trials
        if part.signal in COUNTS:
            count = COUNTS[part.signal]
            return self._count(count.counted), self._count(count.trials)
        rate = RATES[part.signal]
        return self._sum(rate.failures), self._sum(rate.trials)

    def _mature(self, part: GateSignal, failures: Integers, trials: Integers) -> tuple[Integers, Integers]:
        """Of those, what a promotion may count."""
        if part.signal == "missing_outcome":
            # What is pending counts as missing here: it may hold a promotion up, and must not help it.
            pending = self._inputs.missing.pending[self._epochs]
            return failures + pending, trials + pending
        if part.maturity is None or part.signal not in RATES:
            return failures, trials
        rate, sums, maturity_s = RATES[part.signal], self._inputs.sums, part.maturity

        def young(names: tuple[str, ...]) -> Integers:
            return np.asarray(np.sum([sums.young(maturity_s, name)[self._epochs] for name in names], axis=0))

        return failures - young(rate.failures), trials - young(rate.trials)

    def _sum(self, names: tuple[str, ...]) -> Integers:
        return np.asarray(np.sum([self._count(name) for name in names], axis=0))

    def _count(self, name: str) -> Integers:
        if name not in self._counts:
            self._counts[name] = self._inputs.counter(name)[self._epochs]
        return self._counts[name]


def ratio_evidence(compared: Compared, ratio: float) -> tuple[RatioEvidence, RatioEvidence]:
    """Evidence that a cell fails more, and less, than a multiple of its baseline; the latter by what is mature."""
    nothing = RatioEvidence.none(1, ratio=ratio, direction="above", comparison=compared.comparison)
    return nothing.after(compared.batches), replace(nothing, direction="below").after(compared.mature)


def among(failures: Integers, trials: Integers) -> tuple[FloatArray, FloatArray]:
    """Failures and trials as they are weighed; an event that comes twice for one trial is one failure."""
    n = trials.astype(np.float64)
    return np.minimum(failures.astype(np.float64), n), n


def _log_e(failures: Integers, trials: Integers, threshold: float, direction: Direction) -> FloatArray:
    return log_e_value(*among(failures, trials), threshold, direction=direction)
