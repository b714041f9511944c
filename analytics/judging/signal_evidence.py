"""The evidence of signals in full, for the verdicts that are written or read: values, bounds, and how many more."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from analytics.evidence import histogram
from analytics.evidence.clustered_rate import ASSUMPTIONS, UserWindows
from analytics.evidence.sequential import crosses, log_e_value, lower_bound, trials_to_decision, upper_bound
from analytics.judging.levels import watched_as
from analytics.judging.user_rates import UserRates
from analytics.judging.user_windows import harm_windows, measure
from analytics.judging.weights import EvaluationInputs, SignalWeights, among
from analytics.signals.cells import Histogram, known_count
from analytics.signals.definitions import COUNTS, MICRO_PER, QUANTILES
from analytics.verdicts.evidence_models import (
    Regression,
    SignalEvidence,
    SignalState,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from analytics.evidence.sequential import BoolArray, Direction, FloatArray
    from analytics.gates.gate_file import Gate
    from analytics.judging.compared import Compared
    from analytics.signals.state import EpochRows, Integers
    from analytics.text import Unit

    Positions = npt.NDArray[np.intp]

_NO_BINS: Final[Histogram] = (np.empty(0, dtype=np.int16), np.empty(0, dtype=np.int64))


class _Bounds(NamedTuple):
    """Bounds of a signal's rate by action, and how many trials more decide, one value a row."""

    lower: FloatArray
    upper: FloatArray
    more: FloatArray
    more_to_harm: FloatArray


class EvidenceRows:
    """What the signals of a gate say about cells at one stage, in full."""

    def __init__(
        self, gate: Gate, stage: str, epochs: EpochRows, positions: Positions, inputs: EvaluationInputs
    ) -> None:
        self._gate = gate
        self._stage = stage
        self._positions = positions
        self._epochs = epochs[positions]
        self._inputs = inputs
        self._rates = UserRates(gate, self._epochs, positions, inputs)
        watched = any(gate.watches(part, stage) for part in gate.signals)
        self._minutes = inputs.sums.detector.minutes(self._epochs if watched else self._epochs[:0])
        self._bounds_by_action: dict[int, _Bounds] = {}

    def all(self, signals: Sequence[SignalWeights]) -> list[tuple[SignalEvidence, ...]]:
        """What every signal says about each of the rows."""
        # The bounds of all signals at once: most of what few rows cost is the number of calls.
        weighed = [weights for weights in signals if weights.is_weighed and weights.compared is None]
        if weighed:
            self._bounds_by_action = self._bound([weights.place for weights in weighed], weighed)
        return list(zip(*(self._of(weights) for weights in signals), strict=True))

    def _bound(self, places: list[int], weighed: list[SignalWeights]) -> dict[int, _Bounds]:
        at, beta, deadline_s = self._positions, self._gate.beta, self._inputs.gates.outcome_deadline_s
        thresholds = np.array([[weights.part.threshold or 0.0] for weights in weighed])
        alpha = np.stack([weights.window_levels[at] for weights in weighed])
        known = [among(*weights.harm_counts) for weights in weighed]
        mature = [among(weights.mature_failures, weights.mature_trials) for weights in weighed]
        x, n = (np.stack([counts[side][at] for counts in known]) for side in (0, 1))
        old_x, old_n = (np.stack([counts[side][at] for counts in mature]) for side in (0, 1))
        more = trials_to_decision(old_x, old_n, thresholds, direction="below", alpha=beta)
        never = [not weights.part.promotion_ages_s(deadline_s) for weights in weighed]
        more[np.array(never)] = np.inf
        columns = (
            lower_bound(x, n, alpha=alpha),
            upper_bound(old_x, old_n, alpha=beta),
            more,
            trials_to_decision(x, n, thresholds, direction="above", alpha=alpha),
        )
        return {place: _Bounds(*(column[row] for column in columns)) for row, place in enumerate(places)}

    def _of(self, weights: SignalWeights) -> list[SignalEvidence]:
        at = self._positions
        basis = self._basis(weights)
        if not weights.is_weighed or weights.harm is None or weights.safe is None:
            states: list[SignalState] = _states(weights, at) if weights.is_asked else ["not_applicable"] * at.size
            return [SignalEvidence(**row, state=state) for row, state in zip(basis, states, strict=True)]
        lower, upper, more, more_to_harm, assumes = self._bounds(weights)
        regressions, pooled = self._regressions(weights), self._rates.pooled(weights)
        first, heavy = self._rates.first_actions(weights), self._rates.heavy_users(weights)
        to_come, above = self._rates.users_to_come(weights), self._rates.above_limit(weights)
        levels = weights.window_levels[at].tolist()
        return [
            SignalEvidence(
                **row,
                state=state,
                lower=lower[place],
                upper=upper[place],
                log_e_harm=float(weights.harm[position]),
                log_e_safe=float(weights.safe[position]),
                harm_threshold=-math.log(levels[place]),
                safe_threshold=-math.log(self._gate.beta),
                more_needed=int(more[place]) if np.isfinite(more[place]) else None,
                more_to_harm=int(more_to_harm[place]) if np.isfinite(more_to_harm[place]) else None,
                weight=weights.share,
                assumes=assumes[place],
                regression=regressions[place],
                pooled=pooled[place],
                first_actions=first[place],
                heavy_users=heavy[place],
                users_to_come=to_come[place],
                above_limit=above[place],
            )
            for place, (position, row, state) in enumerate(zip(at, basis, _states(weights, at), strict=True))
        ]

    def _basis(self, weights: SignalWeights) -> list[dict[str, Any]]:
        """What is said of a signal whether or not it is weighed."""
        part, at = weights.part, self._positions
        counts = (
            *(weights.failures, weights.trials, weights.unreported),
            *(weights.mature_failures, weights.mature_trials),
        )
        table = [tuple(int(count) for count in row) for row in zip(*(counted[at] for counted in counts), strict=True)]
        values: list[float | None]
        unit: Unit
        if part.signal in QUANTILES:
            quantile = QUANTILES[part.signal]
            bins = self._inputs.state.histograms(quantile.source, self._epochs)
            values = [quantile.value(*bins.get(epoch, _NO_BINS)) for epoch in self._epochs.tolist()]
            unit, snapped = quantile.unit, None if part.limit_micro is None else histogram.snap(part.limit_micro)
            limit = None if snapped is None else snapped / MICRO_PER[quantile.unit]
        elif part.signal in COUNTS or part.role == "trip":
            values, unit = [float(failures) for failures, *_ in table], "count"
            limit = float(part.max_count or 0) if part.role == "trip" else None
        else:
            values, unit, limit = [x / n if n else None for x, n, *_ in table], "ratio", part.limit
        if weights.compared is not None:
            values = [weights.compared[position].value for position in at]
            limit, unit = (part.delta, "points") if part.delta is not None else (part.ratio, "times")
        by_user, windows = weights.by_user[at], np.zeros(at.size, dtype=np.int64)
        if self._inputs.users is not None and by_user.any():
            counting = harm_windows(part)
            closed = self._inputs.users.table(measure(part), counting, self._epochs)
            windows = closed.windows
            # What is shown must be what is weighed: a pooled rate may lie outside its own bounds.
            weighed = by_user & (weights.compared is None) & (part.signal not in QUANTILES)
            shares = zip(values, weighed, closed.value.tolist(), strict=True)
            values = [(None if math.isnan(share) else share) if user else value for value, user, share in shares]
        return [
            {
                "signal": part.signal,
                "role": part.role,
                "value": value,
                "failures": failures,
                "trials": trials,
                "unreported": unreported,
                "limit": limit,
                "unit": unit,
                "mature_failures": mature_failures,
                "mature_trials": mature_trials,
                "by": "user" if user else "action",
                "windows": int(count) if user else None,
                "needs_data": weights.applies and part.needs_data,
                "dry_run": part.dry_run,
            }
            for value, user, count, (failures, trials, unreported, mature_failures, mature_trials) in zip(
                values, by_user, windows, table, strict=True
            )
        ]

    def _bounds(
        self, weights: SignalWeights
    ) -> tuple[list[float | None], list[float | None], FloatArray, FloatArray, list[str]]:
        """Lower and upper bounds, trials until safety and until harm are shown, and what is assumed."""
        part, at, beta = weights.part, self._positions, self._gate.beta
        alpha = weights.window_levels[at]
        if weights.compared is not None:
            return _compared_bounds([weights.compared[position] for position in at], weights.harm_level, beta)
        threshold, by_action = part.threshold or 0.0, self._bounds_by_action[weights.place]
        more, more_to_harm = by_action.more, by_action.more_to_harm
        lower: list[float | None] = by_action.lower.tolist()
        upper: list[float | None] = by_action.upper.tolist()
        if part.signal in QUANTILES:
            lower, upper = self._quantile_bounds(weights)
        assumes = [ASSUMPTIONS["action"]] * at.size
        users, by_user = self._inputs.users, np.flatnonzero(weights.by_user[at])
        if users is not None and by_user.size:
            every = users.table(measure(part), harm_windows(part), self._epochs[by_user])
            mature = self._rates.best_windows(users, part, by_user, weights.claim)
            if part.promotion_ages_s(self._inputs.gates.outcome_deadline_s):
                more[by_user] = trials_to_decision(*_shares(mature), threshold, direction="below", alpha=beta)
            level = alpha[by_user]
            more_to_harm[by_user] = trials_to_decision(*_shares(every), threshold, direction="above", alpha=level)
            lows, highs = every.lower_bound(alpha=level).tolist(), mature.upper_bound(alpha=beta).tolist()
            is_share = part.signal not in QUANTILES  # of what lies above a quantile's limit: see `above_limit`
            for place, low, high in zip(by_user.tolist(), lows, highs, strict=True):
                lower[place], upper[place] = (low, high) if is_share else (None, None)
                assumes[place] = ASSUMPTIONS["user"]
        return lower, upper, more, more_to_harm, assumes

    def _quantile_bounds(self, weights: SignalWeights) -> tuple[list[float | None], list[float | None]]:
        """Confidence bounds of a quantile, in its unit.

        The lower bound is the largest limit that the evidence would call broken, the upper bound the smallest that it
        would call kept. Only limits beside an occupied bin are tried, since the count above changes nowhere else.
        """
        quantile = QUANTILES[weights.part.signal]
        per_unit, occupied_bins = MICRO_PER[quantile.unit], self._inputs.state.histograms(quantile.source, self._epochs)
        lower: list[float | None] = [None] * self._epochs.size
        upper: list[float | None] = [None] * self._epochs.size
        places = [place for place, epoch in enumerate(self._epochs.tolist()) if known_count(occupied_bins.get(epoch))]
        if not places:
            return lower, upper
        bins, counts = zip(*(occupied_bins[int(self._epochs[place])] for place in places), strict=True)
        from_bin = [np.cumsum(count[::-1])[::-1] for count in counts]
        sizes = [count.size for count in counts]
        unreported = np.repeat(weights.unreported[self._positions[places]], sizes)
        trials = np.repeat([int(count.sum()) for count in counts], sizes) + unreported

        def crossed(failures: npt.NDArray[np.int64], direction: Direction, level: float) -> list[BoolArray]:
            evident = crosses(log_e_value(failures, trials, quantile.tail, direction=direction), level)
            return np.split(evident, np.cumsum(sizes)[:-1])

        at_least = np.concatenate(from_bin)
        broken = crossed(at_least, "above", weights.harm_level)
        safe = crossed(at_least - np.concatenate(counts) + unreported, "below", self._gate.beta)
        for place, occupied, is_broken, is_safe in zip(places, bins, broken, safe, strict=True):
            low, high = occupied[is_broken], occupied[is_safe]
            lower[place] = float(histogram.BOUNDS[low[-1] - 1] / per_unit) if low.size and low[-1] > 0 else 0.0
            if high.size and high[0] < histogram.OVERFLOW_BIN:
                upper[place] = float(histogram.BOUNDS[high[0]] / per_unit)
        return lower, upper

    def _regressions(self, weights: SignalWeights) -> list[Regression | None]:
        """What the detector says of each row, where it watches: by user wherever the signal itself is."""
        part, users, inputs = weights.part, self._inputs.users, self._inputs
        if weights.alarmed is None or part.limit is None:
            return [None] * self._epochs.size
        by_action, by_user = watched_as(self._gate, part, self._stage, inputs.gates, part.limit)
        minutes = None if part.harm_age_s else self._minutes
        watched: list[Regression | None] = list(inputs.sums.detector.regressions(by_action, self._epochs, minutes))
        if users is not None:
            places = np.flatnonzero(weights.by_user[self._positions])
            regressions = users.regressions(by_user, self._epochs[places])
            for place, regression in zip(places.tolist(), regressions, strict=True):
                watched[place] = regression
        return watched


def _compared_bounds(
    rows: Sequence[Compared], alpha: float, beta: float
) -> tuple[list[float | None], list[float | None], FloatArray, FloatArray, list[str]]:
    lower = [compared.harm.bounds(alpha, beta)[0] for compared in rows]
    upper = [compared.safe.bounds(alpha, beta)[1] for compared in rows]
    more = np.array([compared.safe.more_trials("below", beta) for compared in rows], dtype=np.float64)
    more_to_harm = np.array([compared.harm.more_trials("above", alpha) for compared in rows], dtype=np.float64)
    return lower, upper, more, more_to_harm, [compared.assumes for compared in rows]


def _shares(windows: UserWindows) -> tuple[FloatArray, Integers]:
    """Failures and trials whose rate is the average share of a window; rounding must not push it over one."""
    count = windows.windows
    return np.minimum(np.nan_to_num(windows.value) * count, count), count


def _states(weights: SignalWeights, at: Positions) -> list[SignalState]:
    marks = zip(weights.missing[at], weights.failing[at], weights.passing[at], strict=True)
    if weights.part.role == "trip":
        return ["fail" if failing else "pass" for _, failing, _ in marks]
    if weights.is_baseline is not None and weights.is_baseline[at].any():
        others = _states(replace(weights, is_baseline=None), at)
        return ["not_applicable" if own else state for own, state in zip(weights.is_baseline[at], others, strict=True)]
    return [
        "missing" if missing else "fail" if failing else "pass" if passing else "undecided"
        for missing, failing, passing in marks
    ]
