"""Weighing: every signal of a gate over the cells at one stage, as arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from analytics.evidence import histogram
from analytics.evidence.sequential import Direction, FloatArray, crosses, log_e_value, trials_to_decision
from analytics.judging.baseline import Arms, compare
from analytics.judging.levels import EARLY_SHARE, share_of, watched_as
from analytics.judging.soundness import Soundness
from analytics.judging.user_windows import FIRST_FAILED, WindowCount, harm_windows, measure, promotion_windows
from analytics.signals.cells import MATURE
from analytics.signals.definitions import COUNTERS, COUNTS, QUANTILES, RAN_BADLY, RATES, UNREPORTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analytics.gates.gate_file import Claim, Gate, GateFile
    from analytics.gates.gate_signal import GateSignal
    from analytics.judging.compared import Compared
    from analytics.judging.latches import LatchRows
    from analytics.judging.user_evidence import UserEvidence
    from analytics.judging.window_sums import WindowSums
    from analytics.signals.alive_epochs import AliveEpochs
    from analytics.signals.missing_outcomes import MissingOutcomes
    from analytics.signals.state import CellState, EpochRows, Flags, Integers


@dataclass
class EvaluationInputs:
    """Everything that the verdicts of one look follow from."""

    state: CellState  # everything counted
    sums: WindowSums  # the sums over minutes and bins, at the watermark of the look
    gates: GateFile  # the gate file
    alive: AliveEpochs  # the epochs of every cell that decide now
    users: UserEvidence | None  # closed user-windows; None where nothing is counted by user
    latches: LatchRows  # what earlier looks decided
    compared: EpochRows  # the epochs that are evaluated and whose gate holds arms against each other
    attempts: Integers  # of every epoch, which attempt of its cell it is

    @cached_property
    def missing(self) -> MissingOutcomes:
        """Expected, missing and pending executions of every epoch."""
        return self.sums.missing()

    @cached_property
    def refuted(self) -> Flags:
        """The epochs whose rollback late outcomes have refuted, or refute now."""
        return self.latches.refuted | self.latches.refuted_now(self.state, self.missing)

    @cached_property
    def soundness(self) -> Soundness:
        """Which counts add up."""
        return Soundness({name: self.counter(name) for name in (*COUNTERS, *MATURE)})

    @cached_property
    def arms(self) -> Arms:
        """The cells of the actions that are compared."""
        return Arms(self.state, self.alive.current, self.compared, self.sums.watermark_us, self.gates)

    def counter(self, name: str) -> Integers:
        """One counter of every epoch, those of `MATURE` among them."""
        missing = self.missing
        mature = dict(zip(MATURE, missing.columns, strict=True))
        return mature[name] if name in mature else self.state.counter(name)


@dataclass
class SignalWeights:
    """One signal of a gate over cells at one stage. Evidence is a natural logarithm; arrays have one value a cell."""

    part: GateSignal  # the signal as the gate states it
    place: int  # its place among the gate's signals
    applies: bool  # whether the gate asks it at the stage
    is_weighed: bool  # whether there is a threshold, or a baseline, to weigh it against
    failures: Integers  # failed trials as counted; for a quantile, observations above the limit
    trials: Integers  # trials whose outcome is known; for a quantile, known observations
    unreported: Integers  # trials that are due and whose outcome is not known
    mature_failures: Integers  # of those that a promotion may count
    mature_trials: Integers  # trials that a promotion may count
    by_user: Flags  # whether closed user-windows are the observations
    unpermitted: Integers  # executions that nobody permitted, which may all have failed: a rollback counts none of them
    failing: Flags  # where harm is evident, or a trip is over its maximum
    passing: Flags  # where safety is evident, or a trip is not
    harm: FloatArray | None = None  # evidence that the limit is broken, by all that is known; None if not weighed
    safe: FloatArray | None = None  # evidence that the limit is kept, by what is mature; likewise
    # Evidence that the actions of all users together keep the limit, where they are counted by user; None likewise
    pooled: FloatArray | None = None
    # Users' first actions, in open windows too, and their evidence that the limit is broken; None where there are none
    first: tuple[Integers, Integers] | None = None
    first_harm: FloatArray | None = None
    heavy_harm: FloatArray | None = None  # evidence by heavy users that all actions together break it; likewise
    claim: Claim | None = None  # of whom a promotion would speak; None where there is none
    seen: FloatArray | None = None  # evidence that the limit is kept among the users seen, where the claim is of others
    share: float | None = None  # a guardrail's share of alpha; None for other roles
    harm_level: float = 1.0  # the error level at which this signal alone shows harm
    few_users: Flags | None = None  # where only those seen are shown safe, too few to speak of users to come
    disagree: Flags | None = None  # where the average user is shown safe, and the actions of all together are not
    tainted: Flags | None = None  # where it counts what cannot be, which shows no harm; None nowhere
    alarmed: Flags | None = None  # where the change detector has raised an alarm; None where it does not watch
    is_baseline: Flags | None = None  # where the cell is what others are compared with; None where nothing is compared
    compared: list[Compared] | None = None  # what was counted against a baseline, where the limit is a ratio

    @property
    def harm_counts(self) -> tuple[Integers, Integers]:
        """Failures and trials that a rollback counts."""
        failures, trials = self.failures, self.trials + self.unreported
        if self.part.harm_age_s:
            failures, trials = self.mature_failures, self.mature_trials
        return np.maximum(failures - self.unpermitted, 0), np.maximum(trials - self.unpermitted, 0)

    @property
    def window_levels(self) -> FloatArray:
        """The error level at which the evidence itself shows harm, where users' first actions may show it too."""
        return np.asarray(self.harm_level * np.where(self.by_user, 1.0 - EARLY_SHARE * len(self.early), 1.0))

    @property
    def early(self) -> list[FloatArray]:
        """The evidence of harm that needs no closed window of its own."""
        return [early for early in (self.first_harm, self.heavy_harm) if early is not None]

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


def combined(signals: Sequence[SignalWeights], *, dry: bool, early: int | None = None) -> FloatArray | None:
    """The weighted sum of the guardrails' e-values, as a natural logarithm; None where there are no guardrails.

    A weighted mean of e-values is an e-value whatever their dependence (Vovk & Wang, "E-values: calibration,
    combination and applications", Annals of Statistics 49(3), 2021). With `dry`, dry runs count too. With
    `early` the first or second kind of early evidence stands for users' windows, where there is any.
    """
    total: FloatArray | None = None
    for signal in signals:
        counts = signal.part.role == "guardrail" and (dry or not signal.part.dry_run)
        if counts and signal.harm is not None and signal.share is not None:
            harm = signal.harm
            if early is not None and signal.early:
                harm = np.where(signal.by_user, signal.early[early], harm)
            term = harm + math.log(signal.share)
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
        unreported = self._unreported(part, trials)
        counts = (failures, trials, unreported, *self._promotable(part, failures, trials, unreported)[0])
        by_user = self._named if gate.unit_of(part) == "user" else nobody
        is_weighed = applies and part.role != "trip" and (part.threshold is not None or part.is_compared)
        sound = self._inputs.soundness
        unpermitted = sound.unpermitted_of(part, self._epochs)
        weights = SignalWeights(part, place, applies, is_weighed, *counts, by_user, unpermitted, nobody, nobody)
        weights.tainted = sound.tainted(part, self._epochs)
        if applies and part.role == "trip":
            weights.failing = failures > float(part.max_count or 0)
            weights.passing = ~weights.failing
        if not is_weighed:
            return weights
        if part.role == "guardrail":
            weights.share = share_of(gate, part, self._stage)
        weights.claim = gate.claim_at(self._stage)
        weights.harm_level = gate.alpha * (1.0 if weights.share is None else weights.share)
        if part.is_compared:
            self._compare(weights)
        elif part.threshold is not None:
            self._weigh_rate(weights, part.threshold)
        if weights.harm is not None and weights.safe is not None:
            weights.failing = crosses(weights.harm, weights.window_levels) & (trials != 0)
            for early in weights.early:
                weights.failing |= weights.by_user & crosses(early, weights.harm_level * EARLY_SHARE)
            weights.passing = crosses(weights.safe, gate.beta) & (trials != 0) & ~weights.failing
        if weights.pooled is not None:
            weights.disagree = weights.by_user & weights.passing & ~crosses(weights.pooled, gate.beta)
            weights.passing &= ~weights.disagree
            weights.few_users = self._few_users(weights)
        if part.limit is not None and gate.watches(part, self._stage):
            weights.alarmed = self._alarmed(part, part.limit, by_user) & (failures > weights.unpermitted)
        return weights

    def _weigh_rate(self, weights: SignalWeights, threshold: float) -> None:
        part, users = weights.part, self._inputs.users
        # What is not known yet never adds to harm, and always adds to what stands against a promotion.
        weights.harm = _log_e(*weights.harm_counts, threshold, "above")
        counts = self._promotable(part, weights.failures, weights.trials, weights.unreported)
        at, weights.safe = most_evident([_log_e(x, n, threshold, "below") for x, n in counts])
        weights.mature_failures = np.choose(at, [x for x, _ in counts])
        weights.mature_trials = np.choose(at, [n for _, n in counts])
        if users is not None and weights.by_user.any():
            harm = users.log_e(
                measure(part),
                threshold,
                harm_windows(part),
                "above",
                self._epochs,
            )
            countings = promotion_windows(part, self._inputs.gates.outcome_deadline_s)
            safe = self._shown_by_users(users, part, threshold, countings)
            if weights.claim == "users_to_come":
                first = promotion_windows(part, self._inputs.gates.outcome_deadline_s, weights.claim)
                weights.seen, safe = safe, self._shown_by_users(users, part, threshold, first)
            alike = self._gate.correlation
            pooled = [users.pooled_log_e(measure(part), threshold, count, alike, self._epochs) for count in countings]
            weights.pooled = most_evident(pooled)[1] if pooled else np.zeros(self._epochs.size)
            weights.harm = np.where(weights.by_user, harm, weights.harm)
            if part.signal in FIRST_FAILED:
                weights.first = users.first_actions(part.signal, self._epochs)
                weights.first_harm = _log_e(*weights.first, threshold, "above")
                weights.heavy_harm = users.heavy_log_e(part.signal, threshold, self._epochs)
            weights.safe = np.where(weights.by_user, safe, weights.safe)

    def _few_users(self, weights: SignalWeights) -> Flags | None:
        """Where the users seen are shown safe, and too few different ones came to speak of users to come.

        Where many came and are not shown safe, it is their rate, and not how many they are.
        """
        part, users, beta = weights.part, self._inputs.users, self._gate.beta
        countings = promotion_windows(part, self._inputs.gates.outcome_deadline_s, weights.claim)
        if weights.seen is None or weights.pooled is None or part.threshold is None or users is None or not countings:
            return None
        most = np.max([users.table(measure(part), counting, self._epochs).windows for counting in countings], axis=0)
        few = most < trials_to_decision(0, 0, part.threshold, direction="below", alpha=beta)
        seen = crosses(weights.seen, beta) & crosses(weights.pooled, beta) & (weights.trials != 0)
        return np.asarray(weights.by_user & seen & few & ~weights.passing & ~weights.failing)

    def _shown_by_users(
        self, users: UserEvidence, part: GateSignal, threshold: float, countings: Sequence[WindowCount]
    ) -> FloatArray:
        shown = [users.log_e(measure(part), threshold, counting, "below", self._epochs) for counting in countings]
        return most_evident(shown)[1] if shown else np.zeros(self._epochs.size)

    def _compare(self, weights: SignalWeights) -> None:
        arms, users = self._inputs.arms, self._inputs.users
        weights.is_baseline = arms.are_baselines(self._epochs, self._gate)
        weights.compared = [
            compare(arms, epoch, self._gate, weights.part, users=users if by_user else None, claim=weights.claim)
            for epoch, by_user in zip(self._epochs.tolist(), weights.by_user.tolist(), strict=True)
        ]
        weights.harm = np.array([compared.harm.log_e("above") for compared in weights.compared])
        weights.safe = np.array([compared.safe.log_e("below") for compared in weights.compared])
        if weights.by_user.any():
            pooled = (compared.pooled for compared in weights.compared)
            weights.pooled = np.array([0.0 if arms is None else arms.log_e_safe() for arms in pooled])

    def _alarmed(self, part: GateSignal, limit: float, by_user: Flags) -> Flags:
        inputs, alarmed = self._inputs, np.zeros(self._epochs.size, dtype=np.bool_)
        by_action, users = watched_as(self._gate, part, self._stage, inputs.gates, limit)
        places = np.flatnonzero(~by_user)
        near = places[inputs.sums.detector.near(by_action, self._epochs[places])]
        if near.size:
            regressions = inputs.sums.detector.regressions(by_action, self._epochs[near])
            alarmed[near] = [regression.since is not None for regression in regressions]
        if inputs.users is not None and by_user.any():
            regressions = inputs.users.regressions(users, self._epochs[by_user])
            alarmed[by_user] = [regression.since is not None for regression in regressions]
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
        failures, trials = self._sum(rate.failures), self._sum(rate.trials)
        if part.awaits != "everything":
            return failures, trials
        # What was undone, or had an incident, without an execution to be known may be the same as what is overdue.
        overdue, ran_badly = self._inputs.missing.missing[self._epochs], self._sum(RAN_BADLY)
        return np.maximum(failures, ran_badly + overdue), trials + overdue

    def _unreported(self, part: GateSignal, trials: Integers) -> Integers:
        """Trials that are due and whose outcome is not known: not reported yet, or reported without a value."""
        if part.awaits == "execution":
            due = self._inputs.missing.unreported[self._epochs]
            if part.signal not in QUANTILES:
                return due
            unvalued = np.maximum(self._count("executed") - trials, 0)
            return np.asarray(np.where(trials > 0, due + unvalued, 0))
        if part.awaits == "everything":
            missing = self._inputs.missing
            return np.asarray(missing.unreported[self._epochs] - missing.missing[self._epochs])
        if part.awaits == "review":
            return self._open_reviews(np.zeros_like(trials), self._sum(UNREPORTED["review"][1]))
        return np.zeros_like(trials)

    def _promotable(
        self, part: GateSignal, failures: Integers, trials: Integers, unreported: Integers
    ) -> list[tuple[Integers, Integers]]:
        """Failures and trials that a promotion may count, at each age that is valid."""
        if part.signal == "missing_outcome":
            # What is pending counts as missing here: it may hold a promotion up, and must not help it.
            pending = self._inputs.missing.pending[self._epochs]
            return [(failures + pending, trials + pending)]
        ages_s = part.promotion_ages_s(self._inputs.gates.outcome_deadline_s)
        return [self._at_age(part, age_s, failures, trials, unreported) for age_s in ages_s] or [
            (np.zeros_like(failures), np.zeros_like(trials))
        ]

    def _at_age(
        self, part: GateSignal, age_s: float, failures: Integers, trials: Integers, unreported: Integers
    ) -> tuple[Integers, Integers]:
        if not age_s:
            return failures + unreported, trials + unreported
        rate = RATES[part.signal]
        if part.awaits == "everything":
            failures, trials = np.maximum(self._sum(rate.failures), self._sum(RAN_BADLY)), self._sum(rate.trials)
        failed, tried = failures - self._young(age_s, rate.failures), trials - self._young(age_s, rate.trials)
        undecided = np.zeros_like(tried)
        if part.awaits in {"execution", "everything"}:
            undecided = self._inputs.missing.overdue[self._epochs]
        elif part.awaits == "review":
            undecided = self._open_reviews(self._young(age_s, ("queued",)), tried)
        return failed + undecided, tried + undecided

    def _open_reviews(self, young: Integers, resolved: Integers) -> Integers:
        return np.asarray(np.maximum(self._count("queued") - young - resolved, 0))

    def _young(self, age_s: float, names: tuple[str, ...]) -> Integers:
        sums = self._inputs.sums
        return np.asarray(np.sum([sums.young(age_s, name)[self._epochs] for name in names], axis=0))

    def _sum(self, names: tuple[str, ...]) -> Integers:
        return np.asarray(np.sum([self._count(name) for name in names], axis=0))

    def _count(self, name: str) -> Integers:
        if name not in self._counts:
            self._counts[name] = self._inputs.counter(name)[self._epochs]
        return self._counts[name]


def most_evident(log_e: Sequence[FloatArray]) -> tuple[Integers, FloatArray]:
    """Of evidence of several ages, each of which is valid, the one that says most for each cell, and what it says.

    Where none says anything the first stands, which rests on most trials.
    """
    at, best = np.zeros(log_e[0].size, dtype=np.int64), log_e[0]
    for place, other in enumerate(log_e[1:], start=1):
        better = other > np.maximum(best, 0.0)
        at, best = np.where(better, place, at), np.where(better, other, best)
    return at, best


def among(failures: Integers, trials: Integers) -> tuple[FloatArray, FloatArray]:
    """Failures and trials as they are weighed; an event that comes twice for one trial is one failure."""
    n = trials.astype(np.float64)
    return np.minimum(failures.astype(np.float64), n), n


def _log_e(failures: Integers, trials: Integers, threshold: float, direction: Direction) -> FloatArray:
    return log_e_value(*among(failures, trials), threshold, direction=direction)
