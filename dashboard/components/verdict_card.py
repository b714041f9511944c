"""The verdict on a cell and why, what would change it, and the evidence for every signal."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from dashboard import labels
from dashboard.components.html import Markup, tag
from dashboard.components.symbols import evidence_bar, interval, signal_state_label, state_label, symbol
from dashboard.data.outlook import explanation, forecasts, trials_of

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.verdicts.document import VerdictDocument
    from analytics.verdicts.evidence_models import SignalEvidence

_MOST_REASONS = 3
_TOWARDS = {
    "PROMOTE": "To promote",
    "ROLL_BACK": "To roll back",
    "HOLD": "To start over",
    "INVALID": "To reach a verdict",
}


def verdict_card(verdict: VerdictDocument, gates_sha256: str | None, now: datetime) -> Markup:
    """The verdict, why it is so, and what would change it; `gates_sha256` is of the gate file in force, where known."""
    exposure = verdict.exposure
    confirmed_at = verdict.confirmed_at or verdict.judged_at
    changed = "" if gates_sha256 in {None, verdict.gate_sha256} else ", changed since"
    facts: list[tuple[str, str, str | None]] = [
        ("Gate", verdict.gate or labels.UNKNOWN, None),
        ("Gate file", f"{(verdict.gate_sha256 or labels.UNKNOWN)[:12]}{changed}", verdict.gate_sha256),
        ("Verdict", verdict.verdict_id[:12], verdict.verdict_id),
        ("Lake version", labels.count(verdict.lake_version), None),
        ("Evidence to", labels.clock(verdict.watermark), labels.moment(verdict.watermark)),
        ("Judged", labels.age(verdict.judged_at, now), labels.moment(verdict.judged_at)),
        ("Looked at", labels.age(confirmed_at, now), labels.moment(confirmed_at)),
    ]
    if verdict.claim is not None:
        facts.append(("Speaks of", labels.CLAIMS[verdict.claim], verdict.claim_text))
    if verdict.attempt is not None:
        facts.append(("Attempt", f"{labels.count(verdict.attempt)} of this action here", None))
    if verdict.unit:
        facts.append(("Counted", verdict.unit, None))
    if exposure is not None and exposure.minimum:
        facts.append(("Exposure", f"{labels.count(exposure.actions)}, at least {labels.count(exposure.minimum)}", None))
    to = None
    if verdict.to_stage is not None:
        to = tag("span", " to ", tag("b", labels.stage_name(verdict.to_stage)), class_="sk-verdict-to")
    provenance = [tag("div", tag("dt", name), tag("dd", value, title=full)) for name, value, full in facts]
    parts = [
        tag("p", state_label(verdict.verdict), to, class_="sk-verdict-word"),
        tag("p", explanation(verdict), class_="sk-why"),
        _reasons(verdict),
        tag("dl", provenance, class_="sk-provenance"),
    ]
    body = [tag("div", parts, class_="sk-verdict-main"), _change(verdict)]
    return tag("section", body, class_=f"sk-verdict sk-verdict-{verdict.verdict}")


def codes(verdict: VerdictDocument) -> str:
    """The reason codes, each once, with how often."""
    counted = Counter(reason.code for reason in verdict.reasons)
    return ", ".join(code if times == 1 else f"{code} \u00d7{times}" for code, times in counted.items()) or "no reason"


def _reasons(verdict: VerdictDocument) -> Markup | None:
    """The reasons one by one, unless the sentence above says all of it; many of them fold away."""
    if (
        len(verdict.reasons) == 1
        and verdict.reasons[0].code != "latched"
        and verdict.reasons[0].message in verdict.summary
    ):
        return None
    items = [tag("li", tag("code", reason.code), " ", reason.message) for reason in verdict.reasons]
    rows = tag("ul", items, class_="sk-reasons")
    if len(verdict.reasons) <= _MOST_REASONS:
        return rows
    summary = tag("summary", f"{len(verdict.reasons)} reasons: ", tag("code", codes(verdict)))
    return tag("details", summary, rows, class_="sk-reasons")


def _change(verdict: VerdictDocument) -> Markup:
    changes = forecasts(verdict)
    groups = []
    for towards, title in _TOWARDS.items():
        if items := [tag("li", change.text) for change in changes if change.towards == towards]:
            head = tag("h3", symbol(towards), title, class_=f"sk-h3 sk-{towards}")
            groups.append(tag("div", head, tag("ul", items)))
    return tag(
        "aside",
        tag("h2", "What would change this verdict", class_="sk-h2"),
        groups or tag("p", "Nothing that is counted so far comes near a limit.", class_="sk-quiet"),
        class_="sk-change",
    )


def evidence_table(verdict: VerdictDocument | None) -> Markup | None:
    """The lower half: every signal of the gate with its counts, its bounds and its evidence."""
    if verdict is None or not verdict.signals:
        return None
    name = "Evidence by signal"
    heads = ("Signal", "State", "Value", "Counts", "Bounds against the limit", "Limit", "Harm", "Safe", "Still needed")
    head = tag("thead", tag("tr", [tag("th", title, scope="col") for title in heads]))
    table = tag("table", head, tag("tbody", map(_row, verdict.signals)), class_="sk-table sk-evidence")
    return tag(
        "section",
        tag("h2", name, tag("span", _KEY, class_="sk-key"), class_="sk-h2"),
        tag("div", table, class_="sk-scroll", tabindex="0", role="region", aria_label=name),
        class_="sk-panel",
    )


_KEY = "dot: value · bar: where the true value can be · line: limit, always in the middle · Harm, Safe: evidence so far"


def _row(evidence: SignalEvidence) -> Markup:
    unit, none = evidence.unit, tag("span", labels.UNKNOWN, class_="sk-faint")
    name = [labels.signal_name(evidence.signal), " ", tag("span", labels.role_name(evidence.role), class_="sk-role")]
    failures = f"{labels.count(evidence.failures)} of {labels.count(evidence.trials)} "
    bounds = ""
    if evidence.upper is not None or evidence.lower is not None:
        bounds = f"{labels.quantity(evidence.lower, unit)} to {labels.quantity(evidence.upper, unit)}"
    forest = interval(evidence.value, evidence.lower, evidence.upper, evidence.limit)
    return tag(
        "tr",
        tag("th", name, scope="row"),
        tag("td", signal_state_label(evidence.state)),
        tag(
            "td",
            labels.quantity(evidence.value, unit),
            " ",
            tag("span", labels.by(evidence), class_="sk-role"),
            class_="sk-num sk-strong",
        ),
        tag("td", failures, tag("span", trials_of(evidence.signal), class_="sk-role"), class_="sk-num"),
        tag("td", forest, tag("span", bounds, class_="sk-bounds")),
        tag("td", labels.quantity(evidence.limit, unit), class_="sk-num"),
        tag("td", evidence_bar(evidence.log_e_harm, evidence.harm_threshold, kind="harm", shows="broken") or none),
        tag("td", evidence_bar(evidence.log_e_safe, evidence.safe_threshold, kind="safe", shows="kept") or none),
        tag("td", _needed(evidence), class_="sk-num"),
        class_=f"sk-row-{evidence.state}",
    )


def _needed(evidence: SignalEvidence) -> str:
    if evidence.state in {"pass", "not_applicable"} or evidence.role not in {"guardrail", "promote"}:
        return labels.UNKNOWN
    never = evidence.more_needed is None and evidence.trials
    return "not at this rate" if never else labels.count(evidence.more_needed)
