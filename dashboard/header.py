"""The head of every view: what this is, how fresh the evidence is, and how much needs a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboard import words
from dashboard.console import link
from dashboard.document import URGENCY
from dashboard.marks import STATE_WORDS, symbol
from dashboard.markup import Markup, join, tag

if TYPE_CHECKING:
    from datetime import datetime

    from dashboard.document import Report
    from dashboard.kept import Snapshot
    from dashboard.places import Place

STALE_S = 900.0
"""Seconds without a new event after which the head says that evidence is old."""

_LOGO = tag(
    "svg",
    tag("path", d="M2 20h5v-5h5v-5h5V5h5", fill="none", stroke="currentColor", stroke_width="2.6"),
    tag("circle", cx=19.5, cy=5, r=2.6, class_="sk-logo-dot"),
    class_="sk-logo",
    viewBox="0 0 24 24",
    aria_hidden="true",
)


def brand(freshness: Markup | None = None) -> Markup:
    """The line with the name; all there is while there is no data."""
    return tag(
        "div",
        tag("a", _LOGO, tag("span", "Stagekeeper", class_="sk-name"), href="?", data_go=True, class_="sk-brand"),
        tag("span", "what agents may do, and the evidence for it", class_="sk-motto"),
        freshness,
        class_="sk-top",
    )


def header(snapshot: Snapshot, place: Place, now: datetime) -> Markup:
    """Name, freshness, environments and tallies."""
    report = snapshot.report
    return tag(
        "header",
        brand(_freshness(snapshot, now)),
        tag("nav", _environments(report, place), _tallies(snapshot, place, now), class_="sk-tallies"),
        class_="sk-header",
    )


def newest_event(report: Report) -> datetime | None:
    """The moment of the newest event that was counted: the watermark of the page."""
    return max((row.last_event_at for row in report.signals if row.last_event_at is not None), default=None)


def _freshness(snapshot: Snapshot, now: datetime) -> Markup:
    watermark = newest_event(snapshot.report)
    stale = watermark is None or (now - watermark).total_seconds() > STALE_S
    return tag(
        "span",
        tag("span", class_="sk-pulse sk-pulse-old" if stale else "sk-pulse", aria_hidden="true"),
        tag("span", "Evidence to ", tag("b", words.clock(watermark))),
        tag("span", f"{'old: ' if stale else ''}{words.age(watermark, now)}", class_="sk-fresh-age"),
        tag("span", "lake version ", tag("b", words.count(snapshot.versions["signals"]))),
        class_="sk-fresh sk-fresh-old" if stale else "sk-fresh",
        title="The newest event that was counted, by its own clock",
    )


def _environments(report: Report, place: Place) -> Markup | None:
    names = sorted({row.environment for row in report.signals} | {row.environment for row in report.verdicts})
    if len(names) < 2:
        return None
    choices = [("All environments", None), *((name, name) for name in names)]
    return tag(
        "span",
        [
            link(
                place.within(name).address,
                shown,
                class_="sk-choice",
                aria_current="true" if place.environment == name else None,
            )
            for shown, name in choices
        ],
        class_="sk-choices",
        role="group",
        aria_label="Environment",
    )


def _tallies(snapshot: Snapshot, place: Place, now: datetime) -> Markup:
    verdicts = [
        verdict
        for cell, verdict in snapshot.report.latest_verdicts().items()
        if place.covers(cell.environment, cell.workflow)
    ]
    parts = []
    for state in URGENCY:
        number = sum(verdict.verdict == state for verdict in verdicts)
        chosen = place.state == state
        parts.append(
            link(
                place.only(None if chosen else state).address,
                tag("span", symbol(state), tag("b", words.count(number)), class_=f"sk-tally-n sk-{state}"),
                tag("span", STATE_WORDS[state], class_="sk-tally-word"),
                class_="sk-tally" if number else "sk-tally sk-tally-none",
                aria_current="true" if chosen else None,
            )
        )
    rejects = snapshot.report.rejects.total
    parts.append(
        link(
            place.on("rejects").address,
            tag("span", tag("b", words.count(rejects)), class_="sk-tally-n"),
            tag("span", "Rejected event" if rejects == 1 else "Rejected events", class_="sk-tally-word"),
            class_="sk-tally sk-tally-apart" if rejects else "sk-tally sk-tally-apart sk-tally-none",
            aria_current="true" if place.panel == "rejects" and place.cell is None else None,
        )
    )
    parts.append(_quality(snapshot, place, now))
    return join(parts)


def _quality(snapshot: Snapshot, place: Place, now: datetime) -> Markup:
    run = snapshot.quality
    if run is None:
        shown, note = tag("b", words.UNKNOWN), "No quality run yet"
    else:
        passed = run.success
        shown = tag("b", symbol("pass" if passed else "fail"), " passed" if passed else " failed")
        note = f"Quality, {words.age(run.run_at, now)}"
    return link(
        place.on("quality").address,
        tag("span", shown, class_="sk-tally-n"),
        tag("span", note, class_="sk-tally-word"),
        class_="sk-tally" if run is not None else "sk-tally sk-tally-none",
        aria_current="true" if place.panel == "quality" and place.cell is None else None,
    )
