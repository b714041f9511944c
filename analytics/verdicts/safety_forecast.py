"""When a signal may be shown safe: a range with its probability, worked out where somebody reads it.

It takes some 30 ms a signal, so the ledger's sentences do without it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from analytics.evidence.forecast import SafetyForecast, forecast_safety
from analytics.signals.definitions import QUANTILES
from analytics.text import percent
from analytics.verdicts.messages import observations

if TYPE_CHECKING:
    from analytics.verdicts.evidence_models import SignalEvidence

HARDLY: Final = 0.01
"""A chance that is told as none."""


def compared_with(evidence: SignalEvidence) -> float | None:
    """The share of failures that evidence is weighed against; None where it is against no share."""
    if evidence.signal in QUANTILES:
        return QUANTILES[evidence.signal].tail
    limit = evidence.limit
    return limit if limit is not None and 0 < limit < 1 else None


def safety_outlook(evidence: SignalEvidence) -> SafetyForecast | None:
    """When safety may be shown; None where the counts that a promotion goes by are not those of one rate."""
    threshold, decides = compared_with(evidence), evidence.safe_threshold
    if threshold is None or decides is None or evidence.unit in {"times", "points"} or not evidence.mature_trials:
        return None
    failures, trials = evidence.mature_failures, evidence.mature_trials
    if evidence.by == "user":
        trials = evidence.windows or 0
        share = evidence.value if evidence.above_limit is None else evidence.above_limit.value
        if evidence.users_to_come is not None:
            share, trials = evidence.users_to_come.value, evidence.users_to_come.users
        failures = math.ceil((share or 0.0) * trials)
    return forecast_safety(min(failures, trials), trials, threshold, beta=math.exp(-decides))


def outlook_text(evidence: SignalEvidence) -> str | None:
    """`242 to over 5,000 more executions (10-90 %); 82 % within 5,000`; None where nothing can be foretold."""
    forecast = safety_outlook(evidence)
    if forecast is None:
        return None
    trials, far = observations(evidence), f"{forecast.horizon:,}"
    if forecast.within < HARDLY:
        return f"less than a chance of {percent(HARDLY)} within {far} more {trials}"
    ends = [f"over {far}" if more is None else f"{more:,}" for more in (forecast.early, forecast.late)]
    # No forecast is certain.
    return (
        f"{' to '.join(dict.fromkeys(ends))} more {trials} (10-90 %); "
        f"{percent(min(round(forecast.within, 2), 0.99))} within {far}"
    )
