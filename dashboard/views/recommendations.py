"""The recommendations: what to do next, most urgent first, each with its numbers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from dashboard import labels
from dashboard.components.html import Child, Markup, tag
from dashboard.components.live_html import link
from dashboard.components.symbols import URGENCY, mark_label, state_label
from dashboard.data.outlook import explanation

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.verdicts.document import VerdictDocument
    from analytics.verdicts.list_marks import Kind
    from dashboard.data.reader import LakeSnapshot
    from dashboard.urls import PageLocation
    from producers.wire.receipt import Cell

MOST_CARDS: Final = 100
_UNJUDGED = "No verdicts yet. A worker with a gate file judges a cell as soon as its numbers change."


def _urgency(verdict: VerdictDocument) -> tuple[int, Cell]:
    # Not by age: every verdict is reached anew when its numbers change, and a list that moves cannot be read.
    return URGENCY.index(verdict.verdict), verdict.cell


def recommendations(snapshot: LakeSnapshot, location: PageLocation, now: datetime) -> Markup:
    """The latest verdict on each cell, as a list."""
    latest = [
        verdict for cell, verdict in snapshot.verdicts.items() if location.covers(cell.environment, cell.workflow)
    ]
    shown = sorted((verdict for verdict in latest if location.verdict in {None, verdict.verdict}), key=_urgency)
    everything = note = None
    if location.verdict is not None:
        everything = link(location.with_verdict(None).address, f"Show all {len(latest)}", class_="sk-more")
    if len(shown) > MOST_CARDS:
        note = (
            f"The {labels.count(MOST_CARDS)} most urgent of {labels.count(len(shown))}. Choose a verdict above, an "
            "environment or a workflow to see others; `stagekeeper verdicts` lists all."
        )
    elif not shown:
        note = "None of this kind." if latest else _UNJUDGED
    kinds = snapshot.marks.kinds
    cards = [tag("li", card(verdict, location, now, kinds.get(verdict.verdict_id))) for verdict in shown[:MOST_CARDS]]
    return tag(
        "section",
        tag("h2", "Recommendations", everything, class_="sk-h2"),
        tag("ol", cards, class_="sk-recs") if cards else None,
        tag("p", note, class_="sk-quiet") if note else None,
        tag("p", snapshot.marks.note, class_="sk-quiet sk-marks") if cards else None,
        class_="sk-rail",
        aria_label="Recommendations",
    )


def card(verdict: VerdictDocument, location: PageLocation, now: datetime, mark: Kind | None) -> Markup:
    """One recommendation, as a link to the cell it is about; `mark` is what the list believes of it."""
    when = tag("span", labels.age(verdict.judged_at, now), class_="sk-when", title=labels.moment(verdict.judged_at))
    foot = [
        tag("span", codes(verdict)),
        tag("span", verdict.independence) if verdict.independence is not None else None,
        tag("span", "gate ", verdict.gate or labels.UNKNOWN),
        tag("span", verdict.verdict_id[:12], class_="sk-mono", title=verdict.verdict_id),
    ]
    return link(
        location.with_cell(verdict.cell).address,
        tag("span", state_label(verdict.verdict), mark_label(mark), when, class_="sk-rec-head"),
        tag("span", tag("b", verdict.tool), " ", tag("span", verdict.workflow, class_="sk-dim"), class_="sk-rec-what"),
        tag("span", _move(verdict), class_="sk-rec-move"),
        tag("span", explanation(verdict), class_="sk-rec-why"),
        tag("span", foot, class_="sk-rec-foot"),
        class_=f"sk-rec sk-rec-{verdict.verdict}",
    )


def codes(verdict: VerdictDocument) -> str:
    """The reason codes, each once, with how often."""
    counted = Counter(reason.code for reason in verdict.reasons)
    return ", ".join(code if times == 1 else f"{code} \u00d7{times}" for code, times in counted.items()) or "no reason"


def _move(verdict: VerdictDocument) -> Markup:
    to: list[Child] = []
    if verdict.to_stage is not None:
        to = [tag("span", " → ", class_="sk-arrow", aria_label="to"), labels.stage_name(verdict.to_stage)]
    cohort = "" if verdict.cohort == "all" else f" ({verdict.cohort})"
    return tag("span", labels.stage_name(verdict.stage), to, cohort, class_="sk-move")
