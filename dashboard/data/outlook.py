"""What would change a verdict, in sentences with the numbers of its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analytics.evidence.sequential import log_e_value
from analytics.signals.definitions import SIGNALS
from analytics.verdicts.safety_forecast import HARDLY, compared_with, safety_outlook
from dashboard import labels
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from analytics.verdicts.document import VerdictDocument
    from analytics.verdicts.evidence_models import SignalEvidence

_LOOK_AHEAD = 2_000  # how many further failures in a row are tried before a rollback counts as far away

_TO_MEND: dict[str, str] = {
    "no_gate": "A gate that matches this action. Add one to the gate file; the judge reads it again by itself.",
    "ambiguous_gate": "A gate file in which one gate matches this action better than every other.",
    "no_signals": "A guardrail in the gate that applies at this stage.",
    "stale_evidence": "New events about this action.",
    "contradictory_counts": "Producers whose events do not contradict each other.",
}


_UNTIL_IT_ENDS = (
    "The end of this epoch, which decides beside the newest one: it is over once nothing was decided in it for five "
    "minutes, and the verdict is that on the newest then."
)


@dataclass(frozen=True)
class Forecast:
    """One thing that would change a verdict."""

    towards: VerdictName  # the verdict that would follow; HOLD stands for a fresh start, INVALID for any verdict at all
    text: str  # what it takes, with its numbers


def forecasts(verdict: VerdictDocument) -> list[Forecast]:
    """Everything that stands between this verdict and another one."""
    codes = {reason.code for reason in verdict.reasons}
    if verdict.verdict == "INVALID":
        return [Forecast(VerdictName.INVALID, _TO_MEND[code]) for code in _TO_MEND if code in codes]
    ended = [Forecast(VerdictName.HOLD, _UNTIL_IT_ENDS)] if "epoch_beside" in codes else []
    if verdict.verdict == "ROLL_BACK":
        return [
            *ended,
            Forecast(
                VerdictName.HOLD,
                "A new attempt. The first crossing is what counts, so this verdict stands until the stage, the model, "
                "the prompt, the tool or the policy of this action changes; counting then starts afresh. No edit of "
                "the gate clears it; a signed-off override sets it aside until it expires.",
            ),
        ]
    return [*ended, *_to_promote(verdict, codes), *_to_roll_back(verdict)]


def _to_promote(verdict: VerdictDocument, codes: set[str]) -> list[Forecast]:
    if verdict.verdict == "PROMOTE":
        return []
    if "top_of_ladder" in codes:
        return [Forecast(VerdictName.PROMOTE, "Nothing: there is no higher stage. The guardrails are watched on.")]
    if "is_baseline" in codes:
        return [Forecast(VerdictName.PROMOTE, "Nothing: others are compared with this one, and it with nothing.")]
    if "not_on_ladder" in codes:
        return [Forecast(VerdictName.PROMOTE, "A gate whose ladder has this stage on it.")]
    texts = []
    exposure = verdict.exposure
    if exposure is not None and exposure.actions < exposure.minimum:
        missing = labels.plural(exposure.minimum - exposure.actions, "more decision")
        texts.append(f"{missing} to reach the minimum exposure of {labels.count(exposure.minimum)}.")
    texts += [
        _towards_safe(evidence)
        for evidence in verdict.signals
        if evidence.role in {"guardrail", "promote"} and evidence.state not in {"pass", "not_applicable"}
    ]
    return [Forecast(VerdictName.PROMOTE, text) for text in texts]


def _to_roll_back(verdict: VerdictDocument) -> list[Forecast]:
    runs = [(run, evidence) for evidence in verdict.signals if (run := failures_to_harm(evidence)) is not None]
    nearest = sorted(runs, key=lambda run: run[0])[:3]
    texts = [
        f"{labels.signal_name(evidence.signal)}: at most {labels.count(run)} in a row among the next "
        f"{trials_of(evidence.signal)}."
        for run, evidence in nearest
    ]
    texts += [
        f"{labels.signal_name(evidence.signal)}: "
        f"{labels.count(int(evidence.limit or 0) - evidence.failures + 1)} more trips at once."
        for evidence in verdict.signals
        if evidence.role == "trip" and evidence.state == "pass"
    ]
    return [Forecast(VerdictName.ROLL_BACK, text) for text in texts]


def explanation(verdict: VerdictDocument) -> str:
    """Why the verdict is what it is, with its numbers.

    One that stands since an earlier look names that look; the numbers of today are those of the signal nearest to its
    limit.
    """
    if {reason.code for reason in verdict.reasons} != {"latched"}:
        return labels.because(verdict.summary)
    judged = [part for part in verdict.signals if part.limit and part.upper is not None and part.lower is not None]
    nearest = max(judged, key=lambda part: (part.upper or 0.0) / (part.limit or 1.0), default=None)
    since = f"Stands since verdict {(verdict.latched_by or '')[:12]} of this attempt."
    if nearest is None:
        return since
    value, limit = labels.quantity(nearest.value, nearest.unit), labels.quantity(nearest.limit, nearest.unit)
    which, bound = ("lower", nearest.lower) if verdict.verdict == "ROLL_BACK" else ("upper", nearest.upper)
    return (
        f"{labels.signal_name(nearest.signal)} {value} ({labels.count(nearest.failures)} of "
        f"{labels.count(nearest.trials)}), limit {limit}, {which} bound {labels.quantity(bound, nearest.unit)}. {since}"
    )


def failures_to_harm(evidence: SignalEvidence) -> int | None:
    """Failures in a row after which a guardrail would call a rollback; None where it cannot, already did, or is far."""
    threshold = compared_with(evidence)
    decides = evidence.harm_threshold
    if evidence.role != "guardrail" or threshold is None or decides is None or evidence.state == "fail":
        return None
    if evidence.by == "user" or evidence.unit in {"times", "points"}:
        return None  # the counts shown are not those that the evidence was weighed by
    run = np.arange(1, _LOOK_AHEAD + 1)
    evidence_then = log_e_value(evidence.failures + run, evidence.trials + run, threshold, direction="above")
    reached = np.flatnonzero(evidence_then >= decides)
    return int(run[reached[0]]) if reached.size else None


def trials_of(signal: str) -> str:
    """What is counted for a signal, in the plural."""
    definition = SIGNALS.get(signal)
    return "trials" if definition is None else definition.trial


def _towards_safe(evidence: SignalEvidence) -> str:
    name = labels.signal_name(evidence.signal)
    limit = labels.quantity(evidence.limit, evidence.unit)
    value = labels.quantity(evidence.value, evidence.unit)
    trials = "closed user-windows" if evidence.by == "user" else trials_of(evidence.signal)
    trials = "different users" if evidence.users_to_come is not None else trials
    if evidence.state == "missing" or not evidence.trials:
        return f"{name}: the first {trials}. Nothing has been seen yet, and nothing missing promotes."
    outlook = safety_outlook(evidence)
    if outlook is not None and outlook.within < HARDLY:
        return (
            f"{name}: {value} is too high to be shown under {limit}, with less than a chance of 1\u202f% within "
            f"{labels.count(outlook.horizon)} more {trials}. It has to come down."
        )
    if outlook is not None:
        far = labels.count(outlook.horizon)
        ends = [f"over {far}" if more is None else labels.count(more) for more in (outlook.early, outlook.late)]
        needed = " to ".join(dict.fromkeys(ends))
        share = min(round(100 * outlook.within), 99)  # no forecast is certain
        return f"{name}: {needed} more {trials} (10-90\u202f%); {share}\u202f% within {far} ({value}, limit {limit})."
    if evidence.more_needed is not None:
        needed = labels.count(evidence.more_needed)
        return f"{name}: about {needed} more {trials} like those so far ({value}, limit {limit})."
    return f"{name}: {value} is not shown under {limit} while it stays as it is."
