"""One cell: the verdict and why, what would change it, and the evidence for every signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboard import labels
from dashboard.components.html import Markup, tag
from dashboard.components.live_html import link
from dashboard.components.symbols import evidence_bar, interval, ladder, signal_state_label, state_label, symbol
from dashboard.data.forecast import explanation, forecasts, trials_of
from dashboard.views.recommendations import codes
from producers.wire.stage import LADDER

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.report import CellSignals
    from analytics.verdicts.document import VerdictDocument
    from analytics.verdicts.evidence_models import SignalEvidence
    from dashboard.urls import PageLocation
    from producers.wire.receipt import Cell

_MOST_REASONS = 3
_TOWARDS = {
    "PROMOTE": "To promote",
    "ROLL_BACK": "To roll back",
    "HOLD": "To start over",
    "INVALID": "To reach a verdict",
}


def headline(
    cell: Cell,
    signals: CellSignals | None,
    verdict: VerdictDocument | None,
    *,
    location: PageLocation,
    gates_sha256: str | None,
    now: datetime,
) -> Markup:
    """The upper half: which cell, its verdict, and what would change it.

    Args:
        cell: The cell.
        signals: What was counted; None where nothing was.
        verdict: The latest verdict; None where there is none.
        location: Where on the page this is.
        gates_sha256: Digest of the gate file in force; None where it is not known.
        now: The moment that ages are told from.
    """
    return tag(
        "main",
        _title(cell, signals, verdict, location),
        _absent(signals) if verdict is None else _verdict(verdict, gates_sha256, now),
        class_="sk-detail",
    )


def _title(cell: Cell, signals: CellSignals | None, verdict: VerdictDocument | None, location: PageLocation) -> Markup:
    counts = {} if signals is None else signals.counts
    facts = [cell.environment]
    facts += [] if cell.cohort == "all" else [f"cohort {cell.cohort}"]
    facts += [] if signals is None or signals.risk_class is None else [signals.risk_class.replace("_", " ")]
    facts += [
        labels.plural(counts.get("decisions", 0), "decision"),
        labels.plural(counts.get("executed", 0), "execution"),
    ]
    if signals is not None and signals.epochs > 1:
        facts.append(labels.plural(signals.epochs, "epoch"))
    to_stage = None if verdict is None else verdict.to_stage
    names = [stage.value for stage in LADDER]
    rungs = [
        (labels.stage_name(stage), "here" if stage == cell.stage else "to" if stage == to_stage else "")
        for stage in (names if cell.stage in names else [*names, cell.stage])
    ]
    return tag(
        "div",
        link(location.with_environment(location.environment).address, "← All actions", class_="sk-back"),
        tag(
            "h1",
            tag("span", cell.workflow, class_="sk-dim"),
            tag("span", " / ", class_="sk-faint"),
            tag("span", cell.tool),
            class_="sk-h1",
        ),
        tag("p", " · ".join(facts), class_="sk-facts"),
        ladder(rungs),
        class_="sk-title",
    )


def _absent(signals: CellSignals | None) -> Markup:
    if signals is None:
        text = "Nothing has been counted for this cell. It may have been named in an old link, or its lake replaced."
    else:
        text = (
            "No verdict yet. The judge looks at a cell when its numbers change; is a worker running with a gate file?"
        )
    return tag("section", tag("p", text, class_="sk-why"), class_="sk-verdict sk-verdict-NONE")


def _verdict(verdict: VerdictDocument, gates_sha256: str | None, now: datetime) -> Markup:
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
    if exposure is not None and exposure.minimum:
        facts.append(("Exposure", f"{labels.count(exposure.actions)}, at least {labels.count(exposure.minimum)}", None))
    return tag(
        "section",
        tag(
            "div",
            tag("p", state_label(verdict.verdict), _to(verdict), class_="sk-verdict-word"),
            tag("p", explanation(verdict), class_="sk-why"),
            _reasons(verdict),
            tag(
                "dl",
                [tag("div", tag("dt", name), tag("dd", value, title=full)) for name, value, full in facts],
                class_="sk-provenance",
            ),
            class_="sk-verdict-main",
        ),
        _change(verdict),
        class_=f"sk-verdict sk-verdict-{verdict.verdict}",
    )


def _reasons(verdict: VerdictDocument) -> Markup | None:
    """The reasons one by one, unless the sentence above says all of it; many of them fold away."""
    if len(verdict.reasons) == 1 and verdict.reasons[0].message in verdict.summary:
        return None
    rows = tag(
        "ul",
        [tag("li", tag("code", reason.code), " ", reason.message) for reason in verdict.reasons],
        class_="sk-reasons",
    )
    if len(verdict.reasons) <= _MOST_REASONS:
        return rows
    summary = tag("summary", f"{len(verdict.reasons)} reasons: ", tag("code", codes(verdict)))
    return tag("details", summary, rows, class_="sk-reasons")


def _to(verdict: VerdictDocument) -> Markup | None:
    if verdict.to_stage is None:
        return None
    return tag("span", " to ", tag("b", labels.stage_name(verdict.to_stage)), class_="sk-verdict-to")


def _change(verdict: VerdictDocument) -> Markup:
    changes = forecasts(verdict)
    groups = [
        tag(
            "div",
            tag("h3", symbol(towards), _TOWARDS[towards], class_=f"sk-h3 sk-{towards}"),
            tag("ul", [tag("li", change.text) for change in changes if change.towards == towards]),
        )
        for towards in _TOWARDS
        if any(change.towards == towards for change in changes)
    ]
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
    heads = ("Signal", "State", "Value", "Counts", "Bounds against the limit", "Limit", "Harm", "Safe", "Still needed")
    return tag(
        "section",
        tag("h2", "Evidence by signal", tag("span", _KEY, class_="sk-key"), class_="sk-h2"),
        tag(
            "div",
            tag(
                "table",
                tag("thead", tag("tr", [tag("th", head, scope="col") for head in heads])),
                tag("tbody", [_row(evidence) for evidence in verdict.signals]),
                class_="sk-table sk-evidence",
            ),
            class_="sk-scroll",
            tabindex="0",
            role="region",
            aria_label="Evidence by signal",
        ),
        class_="sk-panel",
    )


_KEY = "dot: value · bar: where the true value can be · line: limit, always in the middle · Harm, Safe: evidence so far"


def _row(evidence: SignalEvidence) -> Markup:
    unit = evidence.unit
    bounds = f"{labels.quantity(evidence.lower, unit)} to {labels.quantity(evidence.upper, unit)}"
    harm = evidence_bar(
        evidence.log_e_harm, evidence.harm_threshold, kind="harm", label="Evidence that the limit is broken"
    )
    safe = evidence_bar(
        evidence.log_e_safe, evidence.safe_threshold, kind="safe", label="Evidence that the limit is kept"
    )
    none = tag("span", labels.UNKNOWN, class_="sk-faint")
    return tag(
        "tr",
        tag(
            "th",
            labels.signal_name(evidence.signal),
            " ",
            tag("span", labels.role_name(evidence.role), class_="sk-role"),
            scope="row",
        ),
        tag("td", signal_state_label(evidence.state)),
        tag("td", labels.quantity(evidence.value, unit), class_="sk-num sk-strong"),
        tag(
            "td",
            f"{labels.count(evidence.failures)} of {labels.count(evidence.trials)} ",
            tag("span", trials_of(evidence.signal), class_="sk-role"),
            class_="sk-num",
        ),
        tag(
            "td",
            interval(evidence.value, evidence.lower, evidence.upper, evidence.limit),
            tag("span", bounds if evidence.upper is not None or evidence.lower is not None else "", class_="sk-bounds"),
        ),
        tag("td", labels.quantity(evidence.limit, unit), class_="sk-num"),
        tag("td", harm or none),
        tag("td", safe or none),
        tag("td", _needed(evidence), class_="sk-num"),
        class_=f"sk-row-{evidence.state}",
    )


def _needed(evidence: SignalEvidence) -> str:
    if evidence.state in {"pass", "not_applicable"} or evidence.role not in {"guardrail", "promote"}:
        return labels.UNKNOWN
    never = evidence.more_needed is None and evidence.trials
    return "not at this rate" if never else labels.count(evidence.more_needed)
