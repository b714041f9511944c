"""The signal that decides a verdict, and the sentence that says it: one number for one thing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dashboard import labels

if TYPE_CHECKING:
    from analytics.verdicts.document import VerdictDocument
    from analytics.verdicts.evidence_models import SignalEvidence


class DecidingSignal(NamedTuple):
    """What a verdict rests on, in two lines."""

    name: str
    value: str
    by: str  # what is counted: by user, or by action; empty where nothing is
    note: str  # the bound that matters against the limit, or what is missing
    evidence: SignalEvidence | None  # None where no signal decides


def deciding_signal(verdict: VerdictDocument) -> DecidingSignal:
    """What the verdict rests on: what broke, what is not shown safe yet, or what came nearest to its limit."""
    exposure = verdict.exposure
    if verdict.verdict == "INVALID":
        reason = verdict.reasons[0]
        name = labels.signal_name(reason.signal) if reason.signal else reason.code.replace("_", " ").capitalize()
        return DecidingSignal(name, "unknown" if reason.signal else "", "", reason.message, None)
    if verdict.verdict == "HOLD" and exposure is not None and exposure.actions < exposure.minimum:
        missing = labels.count(exposure.minimum - exposure.actions)
        return DecidingSignal("Actions", labels.count(exposure.actions), "", f"{missing} more before a promotion", None)
    evidence = _evidence(verdict)
    if evidence is None:
        return DecidingSignal("No signal", "", "", verdict.reasons[0].message if verdict.reasons else "", None)
    return DecidingSignal(
        labels.signal_name(evidence.signal),
        labels.quantity(evidence.value, evidence.unit),
        labels.by(evidence),
        bound_in_words(evidence, harm=verdict.verdict == "ROLL_BACK"),
        evidence,
    )


def bound_in_words(evidence: SignalEvidence, *, harm: bool) -> str:
    """The bound that matters, and the limit."""
    limit = f"limit {labels.quantity(evidence.limit, evidence.unit)}"
    if evidence.role == "promote":
        limit = f"promotion only, {limit}"
    if harm and evidence.lower is not None:
        return f"at least {labels.quantity(evidence.lower, evidence.unit)}, {limit}"
    if evidence.upper is not None:
        return f"at most {labels.quantity(evidence.upper, evidence.unit)}, {limit}"
    return limit


def _evidence(verdict: VerdictDocument) -> SignalEvidence | None:
    named = [reason.signal for reason in verdict.reasons if reason.signal is not None]
    by_name = {part.signal: part for part in verdict.signals}
    if verdict.verdict == "ROLL_BACK":
        failing = [by_name[name] for name in named if name in by_name and by_name[name].state == "fail"]
        if failing:
            return failing[0]
    judged = [part for part in verdict.signals if part.role in {"guardrail", "promote"} and part.trials]
    if verdict.verdict == "HOLD":
        judged = [part for part in judged if part.state != "pass"] or judged
    return max(judged, key=_nearness, default=None)


def _nearness(evidence: SignalEvidence) -> float:
    bound = evidence.upper if evidence.upper is not None else evidence.value
    return (bound or 0.0) / evidence.limit if evidence.limit else 0.0
