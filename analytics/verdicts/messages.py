"""Sentences about verdicts, with their numbers: what was measured, among how many, the limit and the bound."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal

from analytics.signals.definitions import QUANTILES, RATES, SIGNALS
from analytics.text import amount, duration, iso, percent
from analytics.verdicts import caveats
from producers.wire.events import Reason, VerdictName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from analytics.gates.gate_file import Gate
    from analytics.gates.minimum_exposure import MinimumExposure
    from analytics.verdicts.evidence_models import SignalEvidence, SplitEvidence, VerdictClaim
    from analytics.verdicts.verdict import Exposure, VerdictInputs, VerdictResult

_ROLL_BACK = "roll back"
_NO_PROMOTION = "no promotion"
_WITHIN = "within its limit"
_CONCLUSIONS = (_ROLL_BACK, _NO_PROMOTION, _WITHIN)


def windows_of(count: int) -> str:
    """A number of closed user-windows, in words."""
    return f"{count:,} closed user-window{'' if count == 1 else 's'}"


def observations(evidence: SignalEvidence) -> str:
    """What a promotion needs more of: executions and their like, user-windows, or different users."""
    if evidence.users_to_come is not None:
        return "different users"
    return "user-windows" if evidence.by == "user" else SIGNALS[evidence.signal].trial


def measured(evidence: SignalEvidence) -> str:
    """The value and the counts behind it: `undo 4.1 % (12 of 291)`."""
    if evidence.signal in QUANTILES and evidence.unit == "times":
        among = f"{evidence.trials:,} {SIGNALS[evidence.signal].trial}{_unreported(evidence)}"
        return f"{evidence.signal} {amount(evidence.value, evidence.unit)} ({among})"
    if evidence.signal in QUANTILES and evidence.limit is not None:
        over = f"{evidence.failures:,} of {evidence.trials:,} above the limit{_unreported(evidence)}"
        if evidence.above_limit is not None and evidence.above_limit.value is not None:
            average = f"{percent(evidence.above_limit.value)} in the average of {windows_of(evidence.windows or 0)}"
            over = f"{over}; {average}, {percent(evidence.above_limit.allowed)} allowed"
        return f"{evidence.signal} {amount(evidence.value, evidence.unit)} ({over})"
    if evidence.signal in RATES and evidence.role != "trip":
        share = f"{evidence.failures:,} of {evidence.trials:,}"
        if evidence.by == "user":
            share = f"average of {windows_of(evidence.windows or 0)}; {share} {SIGNALS[evidence.signal].trial}"
        share += _unreported(evidence)
        if 0 < evidence.mature_trials < evidence.trials:
            share += f"; {evidence.mature_trials:,} mature"
        return f"{evidence.signal} {amount(evidence.value, evidence.unit)} ({share})"
    trial = SIGNALS[evidence.signal].trial
    among = f"{evidence.trials:,} {trial.removesuffix('s') if evidence.trials == 1 else trial}"
    return f"{evidence.signal} {evidence.failures:,} (among {among})"


def harm(evidence: SignalEvidence) -> str:
    """Why a guardrail rolls back."""
    first = evidence.first_actions
    by_windows = evidence.lower is not None and evidence.limit is not None and evidence.lower >= evidence.limit
    if first is not None and first.log_e_harm >= first.harm_threshold and not by_windows:
        return (
            f"{evidence.signal}: {first.failures:,} of {first.trials:,} users' first actions failed "
            f"({percent(first.failures / first.trials)}; windows that are still open among them), "
            f"limit {_limit(evidence)}: {_ROLL_BACK}"
        )
    heavy = evidence.heavy_users
    if heavy is not None and heavy.log_e_harm >= heavy.harm_threshold and not by_windows:
        return (
            f"{evidence.signal}: heavy users made {percent(heavy.share)} of the actions, and {heavy.failures:,} of "
            f"{heavy.trials:,} of theirs failed ({percent(heavy.failures / heavy.trials)}), so all actions together "
            f"are over the limit of {_limit(evidence)}, however well the others went: {_ROLL_BACK}"
        )
    return _bounded(evidence, "lower", _ROLL_BACK)


def undecided(evidence: SignalEvidence) -> str:
    """What is still missing."""
    bound = _bound(evidence, "upper")
    return f"{_against_limit(evidence)}, {bound}{_of_users_to_come(evidence)}: {_needed(evidence)}"


def missing(evidence: SignalEvidence) -> str:
    """A signal that must be shown safe and has no trials."""
    return f"{evidence.signal}: no {SIGNALS[evidence.signal].trial} yet, limit {_limit(evidence)}: {_needed(evidence)}"


def trip(evidence: SignalEvidence) -> str:
    """A count that is over its maximum."""
    return f"{measured(evidence)}, at most {amount(evidence.limit, 'count')} allowed: {_ROLL_BACK}"


def immature(evidence: SignalEvidence) -> str:
    """A signal of which no outcome is old enough."""
    return f"{_against_limit(evidence)}: no {SIGNALS[evidence.signal].trial} are old enough to count yet"


def rates_disagree(evidence: SignalEvidence) -> str:
    """An average user within the limit, and traffic that is not shown to be."""
    found = evidence.pooled
    if found is None or found.value is None:
        return f"{_against_limit(evidence)}: {_NO_PROMOTION}"
    heaviest = "" if found.heaviest is None else f"; the heaviest user-window made {percent(found.heaviest)} of them"
    return (
        f"{_against_limit(evidence)}: the average user is within the limit, and the traffic is not shown to be, with "
        f"{percent(found.value)} of all actions failed or unreported ({found.failures:,} of {found.trials:,}{heaviest})"
    )


def no_maturity(evidence: SignalEvidence) -> str:
    """A signal of which nothing says how late a failure may come."""
    return (
        f"{_against_limit(evidence)}: the gate states no `maturity` for it, so none of its "
        f"{SIGNALS[evidence.signal].trial} can be told to be over; state how late it may come, such as `maturity: 24h`"
    )


def regression(evidence: SignalEvidence) -> str:
    """A guardrail that holds over the whole epoch, and broke since the promotion."""
    detected = evidence.regression
    if detected is None:
        return f"{evidence.signal}: {_ROLL_BACK}"
    share = "unknown" if detected.value is None else percent(detected.value)
    since = "" if detected.since is None else f" since {iso(detected.since)}"
    counted = f"{detected.failures:,} of {detected.trials:,}"
    if detected.by == "user" and detected.part == "windows":
        counted = f"average of {windows_of(detected.windows or 0)}; {counted} {SIGNALS[evidence.signal].trial}"
    elif detected.by == "user":
        counted += " of users' first actions" if detected.part == "first_actions" else " of heavy users' actions"
    return (
        f"{evidence.signal} has risen above its limit of {_limit(evidence)}{since}: {share} "
        f"({counted}) within {duration(detected.window_s)}, counted by {detected.by}: {_ROLL_BACK}"
    )


def too_few_users(evidence: SignalEvidence) -> str:
    """Users seen that are within a limit, and too few of them to speak of others."""
    found = evidence.users_to_come
    if found is None:
        return f"{_against_limit(evidence)}: {_NO_PROMOTION}"
    return (
        f"{_against_limit(evidence)}: kept by the users seen, but a promotion here speaks of users to come, for "
        f"whom each counts once; {found.users:,} different users came, and it takes at least {found.least:,} without a "
        "failure. Where so many can never come, `claim: users_seen` on the gate promotes for those who do"
    )


def claim_of(inputs: VerdictInputs, verdict: VerdictName) -> VerdictClaim | None:
    """Of whom a verdict speaks; None where nothing follows from the evidence."""
    if verdict is VerdictName.ROLL_BACK:
        return "traffic_seen"
    if inputs.gate is None or verdict is VerdictName.INVALID:
        return None
    return inputs.gate.claim_at(inputs.cell.stage)


def claim(inputs: VerdictInputs, verdict: VerdictName) -> str:
    """What a verdict claims, and of whom; empty where it claims nothing."""
    if (kept := claim_of(inputs, verdict)) is None:
        return ""
    if kept == "traffic_seen":
        return "of the traffic seen more failed than a limit allows, on average; nothing is said of other traffic"
    lead = "" if verdict is VerdictName.PROMOTE else "a promotion from here would say: "
    if not any(part.by == "user" for part in inputs.signals):
        return f"{lead}each limit is kept by these actions, every one of them taken for another user's"
    if kept == "users_seen":
        return f"{lead}each limit is kept by the traffic of the users seen; nothing is said of others"
    return (
        f"{lead}each limit is kept on average by a user to come, if like those seen in their first windows, and by all "
        "actions seen"
    )


def approval_required(gate: Gate) -> str:
    """What is still missing when the evidence is complete."""
    return f"the gate `{gate.name}` opens only once a person has approved; ask {gate.owner or 'its owner'}"


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


def _of_split(code: str, split: SplitEvidence) -> str:
    if code == "undeclared_arm":
        declared = ", ".join(arm.arm for arm in split.arms)
        return f"{split.by} `{split.arm}` has no share in the declared split ({declared}): {_NO_PROMOTION}"
    what = "users" if split.unit == "user" else "actions"
    arms = "; ".join(
        f"{arm.arm} {percent(arm.assigned / split.assigned)} ({arm.assigned:,} of {split.assigned:,} {what}), "
        f"declared {percent(arm.declared)}"
        for arm in split.arms
    )
    crossed = f"; {split.crossed:,} users were in more than one arm" if split.crossed else ""
    odds = math.exp(min(split.log_e_highest, 700.0))
    at = "" if split.mismatch_at is None else f", and enough by {iso(split.mismatch_at)}"
    return (
        f"traffic is not split as declared since {iso(split.since)}: {arms}{crossed}. That weighs up to "
        f"{'a billion and more' if odds > 1e9 else f'{odds:,.0f}'} to 1 against it{at} (1,000 to 1 suffice), "
        f"so nothing that compares the arms can be believed: {_NO_PROMOTION}"
    )


def no_gate(environment: str, workflow: str, tool: str) -> str:
    """An action that no gate is for."""
    return f"no gate matches {environment}/{workflow}/{tool}; add one to the gate file"


def not_on_ladder(stage: str, gate: Gate) -> str:
    """A stage outside the gate's ladder."""
    return f"{stage} is not on the ladder of the gate `{gate.name}` ({' → '.join(gate.ladder)})"


def summary(verdict: VerdictName, to_stage: str | None, reasons: Sequence[Reason], *, attempt: int = 1) -> str:
    """One sentence: what follows, the first reason with its numbers, and which attempt it is, if not the first."""
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
    tried = f" Attempt {attempt:,} of this cell." if attempt > 1 else ""
    return f"{lead}: {first}{others}.{tried}"


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
        return [
            f"outcomes of {'this' if made.epoch == inputs.epoch else 'the earlier'} epoch {made.epoch} came late; it "
            f"is graded {made.verdict.value} now (verdict {made.verdict_id}): {made.summary}"
            for made in inputs.regraded
        ]
    if evidence is not None:
        return [_OF_SIGNALS[code](evidence)]
    if code == "epoch_beside" and inputs.beside is not None:
        sentence = caveats.beside(inputs.epoch, inputs.beside)
    elif inputs.gate is None or code == inputs.fault_code:
        sentence = inputs.fault or "no gate"
    elif code in _OF_INPUTS:
        sentence = _OF_INPUTS[code](inputs, inputs.gate)
    elif code == "dry_run" and would is not None:
        would_say = f"{would.verdict.value}: {summary(would.verdict, would.to_stage, would.reasons)}"
        sentence = f"the gate `{inputs.gate.name}` is a dry run here and does nothing; it would say {would_say}"
    else:
        sentence = _of_inputs(code, inputs, inputs.gate, verdict, detail)
    return [sentence]


def _of_inputs(code: str, inputs: VerdictInputs, gate: Gate, verdict: VerdictName, detail: str) -> str:
    if code == "below_minimum_exposure":
        return _too_little(inputs.exposure, gate.minimum_exposure, detail)
    if code == "hold_expired" and gate.hold_expires is not None:
        held, meant = duration(inputs.exposure.held_s), duration(gate.hold_expires)
        return f"held for {held}, at most {meant} were meant: {gate.owner or 'nobody'} must decide"
    if code == "combined_harm" and inputs.log_e_combined is not None:
        return combined_harm(inputs.signals, inputs.log_e_combined, gate.alpha)
    if inputs.split is not None and code in {"split_mismatch", "undeclared_arm"}:
        return _of_split(code, inputs.split)
    latch = inputs.latches[verdict]
    decided = f"verdict {latch.verdict_id} decided {verdict.value} on this epoch under"
    if latch.content_sha256 != inputs.gate_content_sha256:
        content = "that is not kept" if latch.content_sha256 is None else latch.content_sha256[:12]
        return f"{decided} gate content {content}, not that of now; no edit clears it, only a person's override"
    return (
        f"{decided} this gate; it stands, because evidence is looked at all the time and the first crossing is what "
        "counts"
    )


def _too_little(seen: Exposure, least: MinimumExposure, what: str) -> str:
    zone = "" if least.timezone == "UTC" else f" ({least.timezone})"
    if what == "days":
        days = f"{seen.days:,} day{'' if seen.days == 1 else 's'}"
        return f"decisions on {days}{zone}, at least {least.days:g} are asked for"
    if what == "weekdays":
        return f"decisions on {seen.weekdays} of the 7 days of the week{zone}, all are asked for"
    if what == "hours":
        hours = f"{seen.hours} hour{'' if seen.hours == 1 else 's'}"
        return f"decisions in {hours} of the day{zone}, at least {least.hours} are asked for"
    if what == "actions":
        needed = least.actions - seen.actions
        return f"{seen.actions:,} actions decided, at least {least.actions:,} must be seen: {needed:,} more needed"
    if seen.users is None:
        return f"users were not counted, at least {least.users:,} must be seen"
    unnamed = f"; {seen.unnamed:,} actions name no user" if seen.unnamed else ""
    return f"{seen.users:,} different users in closed windows, at least {least.users:,} must be seen{unnamed}"


def _unreported(evidence: SignalEvidence) -> str:
    return f"; {evidence.unreported:,} unreported" if evidence.unreported else ""


def _limit(evidence: SignalEvidence) -> str:
    return amount(evidence.limit, evidence.unit)


def _against_limit(evidence: SignalEvidence) -> str:
    return f"{measured(evidence)}, limit {_limit(evidence)}"


def _bounded(evidence: SignalEvidence, side: Literal["lower", "upper"], conclusion: str) -> str:
    about = _of_users_to_come(evidence) if side == "upper" else ""
    return f"{_against_limit(evidence)}, {_bound(evidence, side)}{about}: {conclusion}"


def _bound(evidence: SignalEvidence, side: Literal["lower", "upper"]) -> str:
    if (above := evidence.above_limit) is not None:
        # By user a quantile has no bound in its own unit, and what lies above its limit has.
        return f"{side} bound {percent(above.lower if side == 'lower' else above.upper)} above it"
    bound = evidence.lower if side == "lower" else evidence.upper
    return f"no {side} bound yet" if bound is None else f"{side} bound {amount(bound, evidence.unit)}"


def _of_users_to_come(evidence: SignalEvidence) -> str:
    if (found := evidence.users_to_come) is None:
        return ""
    return f" for users to come, by the first windows of {found.users:,} different users"


def _needed(evidence: SignalEvidence) -> str:
    if evidence.more_needed is None:
        if evidence.unit in {"times", "points"} and evidence.value is None:
            return f"its baseline has no {SIGNALS[evidence.signal].trial} beside it yet, or none that failed"
        return "not shown safe while the rate stays as it is"
    rate = "at this rate" if evidence.failures else "without a failure"
    return f"{evidence.more_needed:,} more {observations(evidence)} needed {rate}"


_OF_SIGNALS: Final[Mapping[str, Callable[[SignalEvidence], str]]] = {
    "harm": harm,
    "regression": regression,
    "trip": trip,
    "missing_data": missing,
    "over_limit": lambda evidence: _bounded(evidence, "lower", _NO_PROMOTION),
    "no_maturity": no_maturity,
    "rates_disagree": rates_disagree,
    "too_few_users": too_few_users,
    "immature": immature,
    "more_evidence_needed": undecided,
    "shown_safe": lambda evidence: _bounded(evidence, "upper", _WITHIN),
}
_OF_INPUTS: Final[Mapping[str, Callable[[VerdictInputs, Gate], str]]] = {
    "no_signals": lambda inputs, gate: (
        f"the gate `{gate.name}` has no signal that decides anything at {inputs.cell.stage}; add a guardrail"
    ),
    "no_promotion_signals": lambda _, gate: (
        f"the gate `{gate.name}` only trips at this stage; add a guardrail or a promote signal that can be shown safe"
    ),
    "not_on_ladder": lambda inputs, gate: not_on_ladder(inputs.cell.stage, gate),
    "top_of_ladder": lambda inputs, _: f"{inputs.cell.stage} is the top of the ladder; the guardrails are watched on",
    "is_baseline": lambda inputs, gate: caveats.is_baseline(inputs.cell, gate),
    "approval_required": lambda _, gate: approval_required(gate),
    "stale_evidence": lambda inputs, _: (
        f"the newest evidence is {duration(inputs.stale_s or 0.0)} older than the newest event: it promotes nothing"
    ),
    "set_aside": lambda inputs, _: (
        f"verdict {inputs.latches[VerdictName.ROLL_BACK].verdict_id} had rolled this epoch back; a person's override "
        "sets that aside until it expires"
    ),
    "late_outcomes": lambda inputs, _: caveats.late_outcomes(inputs),
    "late_harm": lambda inputs, _: caveats.late_harm(inputs.late_harm),
    "rising": lambda inputs, _: caveats.rising(inputs.course),
    "uneven_hours": lambda inputs, _: caveats.uneven_hours(inputs.course),
    "regraded": lambda inputs, _: (
        f"verdict {inputs.latches[VerdictName.PROMOTE].verdict_id} had promoted this epoch on what was known then; "
        "it is graded anew"
    ),
}
