"""Sentences about verdicts, with their numbers: what was measured, among how many, the limit and the bound."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from analytics.signals.definitions import QUANTILES, RATES, SIGNALS
from analytics.text import amount, duration, iso, percent
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from analytics.gates.gate_file import Gate, MinimumExposure
    from analytics.verdicts.evidence_models import Reassessment, SignalEvidence, SplitEvidence
    from analytics.verdicts.verdict import Exposure, Latch, VerdictInputs, VerdictResult
    from producers.wire.events import Reason

_ROLL_BACK = "roll back"
_NO_PROMOTION = "no promotion"
_WITHIN = "within its limit"
_CONCLUSIONS = (_ROLL_BACK, _NO_PROMOTION, _WITHIN)


def trials_of(signal: str, count: int) -> str:
    """A number of trials of a signal, in words."""
    trial = SIGNALS[signal].trial
    return f"{count:,} {trial.removesuffix('s') if count == 1 else trial}"


def windows_of(count: int) -> str:
    """A number of closed user-windows, in words."""
    return f"{count:,} closed user-window{'' if count == 1 else 's'}"


def measured(evidence: SignalEvidence) -> str:
    """The value and the counts behind it: `undo 4.1 % (12 of 291)`."""
    if evidence.signal in QUANTILES and evidence.limit is not None:
        over = f"{evidence.failures:,} of {evidence.trials:,} above the limit"
        return f"{evidence.signal} {amount(evidence.value, evidence.unit)} ({over})"
    if evidence.signal in RATES and evidence.role != "trip":
        share = f"{evidence.failures:,} of {evidence.trials:,}"
        if evidence.by == "user":
            share = f"average of {windows_of(evidence.windows or 0)}; {share} {SIGNALS[evidence.signal].trial}"
        if evidence.mature_trials < evidence.trials:
            share += f"; {evidence.mature_trials:,} mature"
        return f"{evidence.signal} {amount(evidence.value, evidence.unit)} ({share})"
    return f"{evidence.signal} {evidence.failures:,} (among {trials_of(evidence.signal, evidence.trials)})"


def harm(evidence: SignalEvidence) -> str:
    """Why a guardrail rolls back."""
    return f"{_against_limit(evidence)}, lower bound {amount(evidence.lower, evidence.unit)}: {_ROLL_BACK}"


def over_limit(evidence: SignalEvidence) -> str:
    """Why a promotion signal blocks."""
    return f"{_against_limit(evidence)}, lower bound {amount(evidence.lower, evidence.unit)}: {_NO_PROMOTION}"


def safe(evidence: SignalEvidence) -> str:
    """Why a signal no longer stands in the way."""
    return f"{_against_limit(evidence)}, upper bound {amount(evidence.upper, evidence.unit)}: {_WITHIN}"


def undecided(evidence: SignalEvidence) -> str:
    """What is still missing."""
    bound = (
        f"upper bound {amount(evidence.upper, evidence.unit)}" if evidence.upper is not None else "no upper bound yet"
    )
    return f"{_against_limit(evidence)}, {bound}: {_needed(evidence)}"


def missing(evidence: SignalEvidence) -> str:
    """A signal that must be shown safe and has no trials."""
    return f"{evidence.signal}: no {SIGNALS[evidence.signal].trial} yet, limit {_limit(evidence)}: {_needed(evidence)}"


def trip(evidence: SignalEvidence) -> str:
    """A count that is over its maximum."""
    return f"{measured(evidence)}, at most {amount(evidence.limit, 'count')} allowed: {_ROLL_BACK}"


def immature(evidence: SignalEvidence) -> str:
    """A signal of which no outcome is old enough."""
    return f"{_against_limit(evidence)}: no {SIGNALS[evidence.signal].trial} are old enough to count yet"


def regression(evidence: SignalEvidence) -> str:
    """A guardrail that holds over the whole epoch, and broke since the promotion."""
    found = evidence.regression
    if found is None:
        return f"{evidence.signal}: {_ROLL_BACK}"
    share = "unknown" if found.value is None else percent(found.value)
    since = "" if found.since is None else f" since {iso(found.since)}"
    counted = f"{found.failures:,} of {found.trials:,}"
    if found.by == "user":
        counted = f"average of {windows_of(found.windows or 0)}; {counted} {SIGNALS[evidence.signal].trial}"
    return (
        f"{evidence.signal} has risen above its limit of {_limit(evidence)}{since}: {share} "
        f"({counted}) within {duration(found.window_s)}, counted by {found.by}: {_ROLL_BACK}"
    )


def regraded(verdict_id: str) -> str:
    """An epoch that was promoted and turns out harmful."""
    return f"verdict {verdict_id} had promoted this epoch on what was known then; it is graded anew"


def earlier_epoch(made: Reassessment) -> str:
    """An epoch that is over, of which outcomes came late."""
    return (
        f"outcomes of the earlier epoch {made.epoch} came late; it is graded {made.verdict.value} now "
        f"(verdict {made.verdict_id}): {made.summary}"
    )


def dry_run(gate: str, verdict: VerdictName, summary: str) -> str:
    """A gate that does nothing."""
    return f"the gate `{gate}` is a dry run here and does nothing; it would say {verdict.value}: {summary}"


def hold_expired(held_s: float, expires_s: float, owner: str) -> str:
    """A hold that has gone on for too long."""
    return f"held for {duration(held_s)}, at most {duration(expires_s)} were meant: {owner} must decide"


def approval_required(gate: Gate) -> str:
    """What is still missing when the evidence is complete."""
    return f"the gate `{gate.name}` opens only once a person has approved; ask {gate.owner or 'its owner'}"


def unit(seen: Exposure) -> str:
    """What one observation is, and what that takes for granted."""
    if not seen.by_user:
        why = "" if seen.users is None else ": the lake names no user of these actions"
        return f"counted by action{why}; assumes independent actions"
    unnamed = f", and {seen.unnamed:,} actions that name no user" if seen.unnamed else ""
    until = "" if seen.as_of is None else f" up to {iso(seen.as_of)}"
    return f"counted by user where the gate asks for it: {seen.users:,} users in closed windows{until}{unnamed}"


def few_users(seen: Exposure, minimum: int) -> str:
    """Too few different users."""
    if seen.users is None:
        return f"users were not counted, at least {minimum:,} must be seen"
    unnamed = f"; {seen.unnamed:,} actions name no user" if seen.unnamed else ""
    return f"{seen.users:,} different users in closed windows, at least {minimum:,} must be seen{unnamed}"


def few_days(days: float, minimum: float) -> str:
    """Too short a time."""
    return f"seen over {days:.3g} days, at least {minimum:g} days are asked for"


def combined_harm(signals: Sequence[SignalEvidence], log_e: float, alpha: float) -> str:
    """Guardrails that are broken together, though none alone."""
    weighed = [
        part
        for part in signals
        if part.role == "guardrail" and not part.dry_run and part.log_e_harm is not None and part.weight
    ]
    weighed.sort(key=lambda part: (part.log_e_harm or 0.0) + math.log(part.weight or 1.0), reverse=True)
    suspects = "; ".join(_against_limit(part) for part in weighed[:2])
    return (
        f"the guardrails together weigh {math.exp(min(log_e, 700.0)):,.0f} to 1 against the action "
        f"({1 / alpha:,.0f} to 1 suffice), though no single one is decided; most of it is from {suspects}: {_ROLL_BACK}"
    )


def latched(latch: Latch) -> str:
    """A verdict that stands although the evidence alone would no longer reach it."""
    return (
        f"verdict {latch.verdict_id} decided {latch.verdict.value} on this epoch under this gate file; "
        "it stands, because evidence is looked at all the time and the first crossing is what counts"
    )


def exposure(actions: int, minimum: int) -> str:
    """Too few actions so far."""
    return f"{actions:,} actions decided, at least {minimum:,} must be seen: {minimum - actions:,} more needed"


def split_mismatch(found: SplitEvidence) -> str:
    """A split that is not as declared."""
    what = "users" if found.unit == "user" else "actions"
    arms = "; ".join(
        f"{arm.arm} {percent(arm.assigned / found.assigned)} ({arm.assigned:,} of {found.assigned:,} {what}), "
        f"declared {percent(arm.declared)}"
        for arm in found.arms
    )
    crossed = f"; {found.crossed:,} users were in more than one arm" if found.crossed else ""
    odds = math.exp(min(found.log_e_highest, 700.0))
    at = "" if found.mismatch_at is None else f", and enough by {iso(found.mismatch_at)}"
    return (
        f"traffic is not split as declared since {iso(found.since)}: {arms}{crossed}. That weighs up to "
        f"{'a billion and more' if odds > 1e9 else f'{odds:,.0f}'} to 1 against it{at} (1,000 to 1 suffice), "
        f"so nothing that compares the arms can be believed: {_NO_PROMOTION}"
    )


def undeclared_arm(found: SplitEvidence) -> str:
    """A cell in no declared arm."""
    declared = ", ".join(arm.arm for arm in found.arms)
    return f"{found.by} `{found.arm}` has no share in the declared split ({declared}): {_NO_PROMOTION}"


def stale(stale_s: float) -> str:
    """Evidence that is too old."""
    return f"the newest evidence is {duration(stale_s)} older than the newest event: it promotes nothing"


def no_gate(environment: str, workflow: str, tool: str) -> str:
    """An action that no gate is for."""
    return f"no gate matches {environment}/{workflow}/{tool}; add one to the gate file"


def no_signals(gate: str, stage: str) -> str:
    """A gate that decides nothing."""
    return f"the gate `{gate}` has no signal that decides anything at {stage}; add a guardrail"


def no_promotion_signals(gate: str) -> str:
    """A gate that can only roll back."""
    return f"the gate `{gate}` only trips at this stage; add a guardrail or a promote signal that can be shown safe"


def not_on_ladder(stage: str, gate: Gate) -> str:
    """A stage outside the gate's ladder."""
    return f"{stage} is not on the ladder of the gate `{gate.name}` ({' → '.join(gate.ladder)})"


def top_of_ladder(stage: str) -> str:
    """Nowhere to go."""
    return f"{stage} is the top of the ladder; the guardrails are watched on"


def summary(verdict: VerdictName, to_stage: str | None, reasons: Sequence[Reason]) -> str:
    """One sentence that says what follows, and the first reason with its numbers."""
    lead = {
        VerdictName.PROMOTE: f"Promote to {to_stage}",
        VerdictName.ROLL_BACK: f"Roll back to {to_stage}",
        VerdictName.HOLD: "Hold",
        VerdictName.INVALID: "No verdict is possible",
    }[verdict]
    others = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    first = reasons[0].message
    for conclusion in _CONCLUSIONS:
        first = first.removesuffix(f": {conclusion}")
    return f"{lead}: {first}{others}."


def sentences(
    code: str,
    inputs: VerdictInputs,
    *,
    verdict: VerdictName,
    evidence: SignalEvidence | None = None,
    detail: str = "",
    would: VerdictResult | None = None,
) -> list[str]:
    """A reason in sentences: one, but as many for earlier epochs as were graded anew.

    `evidence` is of the signal that the reason is about; `detail` says which exposure is too small.
    """
    if code == "earlier_epoch_regraded":
        return [earlier_epoch(made) for made in inputs.regraded]
    if evidence is not None:
        return [_OF_SIGNALS[code](evidence)]
    if inputs.fault is not None or inputs.gate is None:
        return [inputs.fault or "no gate"]
    if code in _OF_GATES:
        return [_OF_GATES[code](inputs.gate, inputs.cell.stage)]
    if code == "dry_run" and would is not None:
        return [dry_run(inputs.gate.name, would.verdict, summary(would.verdict, would.to_stage, would.reasons))]
    is_latched = code == "latched"
    return [latched(inputs.latches[verdict]) if is_latched else _of_inputs(code, inputs, inputs.gate, detail)]


def _of_inputs(code: str, inputs: VerdictInputs, gate: Gate, detail: str) -> str:
    if code == "below_minimum_exposure":
        return _too_little(inputs.exposure, gate.minimum_exposure, detail)
    if code == "stale_evidence" and inputs.stale_s is not None:
        return stale(inputs.stale_s)
    if code == "hold_expired" and gate.hold_expires is not None:
        return hold_expired(inputs.exposure.held_s, gate.hold_expires, gate.owner or "nobody")
    if code == "combined_harm" and inputs.log_e_combined is not None:
        return combined_harm(inputs.signals, inputs.log_e_combined, gate.alpha)
    if inputs.split is not None and code in {"split_mismatch", "undeclared_arm"}:
        return split_mismatch(inputs.split) if code == "split_mismatch" else undeclared_arm(inputs.split)
    return regraded(inputs.latches[VerdictName.PROMOTE].verdict_id)


def _too_little(seen: Exposure, least: MinimumExposure, what: str) -> str:
    if what == "users":
        return few_users(seen, least.users)
    return few_days(seen.days, least.days) if what == "days" else exposure(seen.actions, least.actions)


def _limit(evidence: SignalEvidence) -> str:
    return amount(evidence.limit, evidence.unit)


def _against_limit(evidence: SignalEvidence) -> str:
    return f"{measured(evidence)}, limit {_limit(evidence)}"


def _needed(evidence: SignalEvidence) -> str:
    if evidence.more_needed is None:
        return "never shown safe at this rate"
    rate = "at this rate" if evidence.failures else "without a failure"
    observed = "user-windows" if evidence.by == "user" else SIGNALS[evidence.signal].trial
    return f"{evidence.more_needed:,} more {observed} needed {rate}"


_OF_SIGNALS: Final[Mapping[str, Callable[[SignalEvidence], str]]] = {
    "harm": harm,
    "regression": regression,
    "trip": trip,
    "missing_data": missing,
    "over_limit": over_limit,
    "immature": immature,
    "more_evidence_needed": undecided,
    "shown_safe": safe,
}
_OF_GATES: Final[Mapping[str, Callable[[Gate, str], str]]] = {
    "no_signals": lambda gate, stage: no_signals(gate.name, stage),
    "no_promotion_signals": lambda gate, _: no_promotion_signals(gate.name),
    "not_on_ladder": lambda gate, stage: not_on_ladder(stage, gate),
    "top_of_ladder": lambda _, stage: top_of_ladder(stage),
    "approval_required": lambda gate, _: approval_required(gate),
}
