"""What users' windows say of a signal beside its own evidence, for the verdicts that are written or read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from analytics.evidence.clustered_rate import UserWindows
from analytics.evidence.sequential import trials_to_decision
from analytics.judging.levels import EARLY_SHARE
from analytics.judging.user_windows import harm_windows, measure, promotion_windows
from analytics.judging.weights import EvaluationInputs, SignalWeights, most_evident
from analytics.signals.definitions import QUANTILES
from analytics.verdicts.evidence_models import AboveLimit, FirstActionRate, FirstWindowRate, HeavyUserRate, PooledRate

if TYPE_CHECKING:
    import numpy.typing as npt

    from analytics.gates.gate_file import Claim, Gate
    from analytics.gates.gate_signal import GateSignal
    from analytics.judging.user_evidence import UserEvidence
    from analytics.signals.state import EpochRows

    Positions = npt.NDArray[np.intp]


class UserRates:
    """The rates of users, first actions, heavy users and all actions together, one value a row."""

    def __init__(self, gate: Gate, epochs: EpochRows, positions: Positions, inputs: EvaluationInputs) -> None:
        self._gate = gate
        self._epochs = epochs
        self._positions = positions
        self._users = inputs.users
        self._deadline_s = inputs.gates.outcome_deadline_s

    def users_to_come(self, weights: SignalWeights) -> list[FirstWindowRate | None]:
        """Different users by their first windows, where a promotion speaks of users to come."""
        rates: list[FirstWindowRate | None] = [None] * self._epochs.size
        users, by_user = self._users, np.flatnonzero(weights.by_user[self._positions])
        if users is None or weights.seen is None or not by_user.size:
            return rates
        first = self.best_windows(users, weights.part, by_user, weights.claim)
        threshold = weights.part.threshold or 0.0
        least = trials_to_decision(0, 0, threshold, direction="below", alpha=self._gate.beta)
        values, counts = first.value.tolist(), first.windows.tolist()
        for place, value, count in zip(by_user.tolist(), values, counts, strict=True):
            rates[place] = FirstWindowRate(
                users=count,
                value=None if math.isnan(value) else value,
                least=int(least),
                log_e_seen=float(weights.seen[self._positions[place]]),
            )
        return rates

    def above_limit(self, weights: SignalWeights) -> list[AboveLimit | None]:
        """The share of the average user-window that lies above the limit of a quantile, with its bounds."""
        part = weights.part
        shares: list[AboveLimit | None] = [None] * self._epochs.size
        users, by_user = self._users, np.flatnonzero(weights.by_user[self._positions])
        if users is None or part.signal not in QUANTILES or part.threshold is None or not by_user.size:
            return shares
        every = users.table(measure(part), harm_windows(part), self._epochs[by_user])
        best = self.best_windows(users, part, by_user, weights.claim)
        lows = every.lower_bound(alpha=weights.window_levels[self._positions][by_user])
        highs = best.upper_bound(alpha=self._gate.beta)
        for row, place in enumerate(by_user.tolist()):
            value = float(every.value[row])
            shares[place] = AboveLimit(
                value=None if math.isnan(value) else value,
                lower=float(lows[row]),
                upper=float(highs[row]),
                allowed=part.threshold,
            )
        return shares

    def first_actions(self, weights: SignalWeights) -> list[FirstActionRate | None]:
        """Users' first due actions, in open windows too."""
        rates: list[FirstActionRate | None] = [None] * self._epochs.size
        if weights.first is None or weights.first_harm is None:
            return rates
        failures, trials = weights.first
        for place, position in enumerate(self._positions.tolist()):
            if weights.by_user[position]:
                rates[place] = FirstActionRate(
                    failures=int(failures[position]),
                    trials=int(trials[position]),
                    log_e_harm=float(weights.first_harm[position]),
                    harm_threshold=-math.log(weights.harm_level * EARLY_SHARE),
                )
        return rates

    def heavy_users(self, weights: SignalWeights) -> list[HeavyUserRate | None]:
        """The actions of heavy users, where there are any."""
        rates: list[HeavyUserRate | None] = [None] * self._epochs.size
        users = self._users
        if users is None or weights.heavy_harm is None:
            return rates
        failures, trials = users.blocks(weights.part.signal, self._epochs).pooled()
        due = users.early_counts(self._epochs)[-1]
        for place in np.flatnonzero(weights.by_user[self._positions] & (trials > 0)).tolist():
            rates[place] = HeavyUserRate(
                failures=int(failures[place]),
                trials=int(trials[place]),
                share=float(trials[place] / due[place]),
                log_e_harm=float(weights.heavy_harm[self._positions[place]]),
                harm_threshold=-math.log(weights.harm_level * EARLY_SHARE),
            )
        return rates

    def pooled(self, weights: SignalWeights) -> list[PooledRate | None]:
        """All actions together, where they are counted by user."""
        rates: list[PooledRate | None] = [None] * self._epochs.size
        users, by_user = self._users, np.flatnonzero(weights.by_user[self._positions])
        if users is None or weights.pooled is None or not by_user.size:
            return rates
        if weights.compared is not None:
            for place in by_user.tolist():
                position = int(self._positions[place])
                arms = weights.compared[position].pooled
                rates[place] = None if arms is None else arms.rate(float(weights.pooled[position]))
            return rates
        part, alike, epochs = weights.part, self._gate.correlation, self._epochs[by_user]
        countings = promotion_windows(part, self._deadline_s)
        if not countings:
            return rates
        threshold = part.threshold or 0.0
        best, _ = most_evident(
            [users.pooled_log_e(measure(part), threshold, counting, alike, epochs) for counting in countings]
        )
        windows = UserWindows.chosen([users.table(measure(part), counting, epochs) for counting in countings], best)
        effects = np.choose(
            best, [users.design_effect(measure(part), counting, alike, epochs) for counting in countings]
        )
        failures, trials = windows.pooled()
        for row, place in enumerate(by_user.tolist()):
            x, n = int(failures[row]), int(trials[row])
            heaviest = windows.actions[windows.cell == row]
            rates[place] = PooledRate(
                failures=x,
                trials=n,
                value=x / n if n else None,
                design_effect=float(effects[row]),
                heaviest=int(heaviest.max()) / n if n else None,
                log_e_safe=float(weights.pooled[self._positions[place]]),
            )
        return rates

    def best_windows(
        self, users: UserEvidence, part: GateSignal, places: Positions, claim: Claim | None
    ) -> UserWindows:
        """Of the counts that a promotion may rest on, the one that says most for each row."""
        epochs, threshold = self._epochs[places], part.threshold or 0.0
        countings = promotion_windows(part, self._deadline_s, claim)
        if not countings:
            return UserWindows.of(places.size, cell=[], actions=[], failures=[], count=[])
        log_e = [users.log_e(measure(part), threshold, counting, "below", epochs) for counting in countings]
        best, _ = most_evident(log_e)
        tables = [users.table(measure(part), counting, epochs) for counting in countings]
        return UserWindows.chosen(tables, best)
