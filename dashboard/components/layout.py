"""The head of every page, its frame, and the pages for no data and for trouble."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from dashboard import labels
from dashboard.components.html import Child, Markup, join, tag
from dashboard.components.live_html import link
from dashboard.components.symbols import STATE_WORDS, URGENCY, symbol

if TYPE_CHECKING:
    from datetime import datetime

    from dashboard.data.reader import LakeSnapshot
    from dashboard.urls import PageLocation

STALE_S = 900.0  # seconds without a new event after which the head says that evidence is old

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


def header(snapshot: LakeSnapshot, location: PageLocation, now: datetime) -> Markup:
    """Name, freshness, environments and tallies."""
    return tag(
        "header",
        brand(_freshness(snapshot, now)),
        tag("nav", _environments(snapshot, location), _tallies(snapshot, location, now), class_="sk-tallies"),
        class_="sk-header",
    )


def _freshness(snapshot: LakeSnapshot, now: datetime) -> Markup:
    signals = snapshot.signals.values()
    watermark = max((row.last_event_at for row in signals if row.last_event_at is not None), default=None)
    stale = watermark is None or (now - watermark).total_seconds() > STALE_S
    return tag(
        "span",
        tag("span", class_="sk-pulse sk-pulse-old" if stale else "sk-pulse", aria_hidden="true"),
        tag("span", "Evidence to ", tag("b", labels.clock(watermark))),
        tag("span", f"{'old: ' if stale else ''}{labels.age(watermark, now)}", class_="sk-fresh-age"),
        tag("span", "lake version ", tag("b", labels.count(snapshot.versions["signals"]))),
        class_="sk-fresh sk-fresh-old" if stale else "sk-fresh",
        title="The newest event that was counted, by its own clock",
    )


def _environments(snapshot: LakeSnapshot, location: PageLocation) -> Markup | None:
    names = sorted({cell.environment for cells in (snapshot.signals, snapshot.verdicts) for cell in cells})
    if len(names) < 2:
        return None
    choices = [("All environments", None), *((name, name) for name in names)]
    return tag(
        "span",
        [
            link(
                location.with_environment(name).address,
                shown,
                class_="sk-choice",
                aria_current="true" if location.environment == name else None,
            )
            for shown, name in choices
        ],
        class_="sk-choices",
        role="group",
        aria_label="Environment",
    )


def _tallies(snapshot: LakeSnapshot, location: PageLocation, now: datetime) -> Markup:
    numbers = Counter(
        document.verdict
        for cell, document in snapshot.verdicts.items()
        if location.covers(cell.environment, cell.workflow)
    )
    parts = []
    for state in URGENCY:
        number = numbers[state]
        chosen = location.verdict == state
        parts.append(
            link(
                location.with_verdict(None if chosen else state).address,
                tag("span", symbol(state), tag("b", labels.count(number)), class_=f"sk-tally-n sk-{state}"),
                tag("span", STATE_WORDS[state], class_="sk-tally-word"),
                class_="sk-tally" if number else "sk-tally sk-tally-none",
                aria_current="true" if chosen else None,
            )
        )
    rejects = snapshot.rejects.total
    parts.append(
        link(
            location.with_view("rejects").address,
            tag("span", tag("b", labels.count(rejects)), class_="sk-tally-n"),
            tag("span", "Rejected event" if rejects == 1 else "Rejected events", class_="sk-tally-word"),
            class_="sk-tally sk-tally-apart" if rejects else "sk-tally sk-tally-apart sk-tally-none",
            aria_current="true" if location.view == "rejects" and location.cell is None else None,
        )
    )
    parts.append(_quality(snapshot, location, now))
    return join(parts)


def _quality(snapshot: LakeSnapshot, location: PageLocation, now: datetime) -> Markup:
    run = snapshot.quality
    if run is None:
        shown, note = tag("b", labels.UNKNOWN), "No quality run yet"
    else:
        passed = run.success
        shown = tag("b", symbol("pass" if passed else "fail"), " passed" if passed else " failed")
        note = f"Quality, {labels.age(run.run_at, now)}"
    return link(
        location.with_view("quality").address,
        tag("span", shown, class_="sk-tally-n"),
        tag("span", note, class_="sk-tally-word"),
        class_="sk-tally" if run is not None else "sk-tally sk-tally-none",
        aria_current="true" if location.view == "quality" and location.cell is None else None,
    )


def nothing_yet(lead: str, detail: str, commands: list[tuple[str, str]]) -> Markup:
    """There is no data: say so, and what to do."""
    return tag(
        "div",
        tag("header", brand(), class_="sk-header"),
        tag(
            "main",
            tag("h1", lead, class_="sk-h1"),
            tag("p", detail, class_="sk-lead"),
            [tag("div", tag("p", why), command_line(command), class_="sk-step") for why, command in commands],
            tag("p", "This page looks again every two seconds.", class_="sk-quiet"),
            class_="sk-empty",
        ),
    )


def trouble(message: str) -> Markup:
    """Something is wrong that a person can mend: the named error's own words."""
    return tag(
        "div",
        tag("header", brand(), class_="sk-header"),
        tag(
            "main",
            tag("h1", "The evidence cannot be read", class_="sk-h1"),
            tag("p", message[:1].upper() + message[1:], class_="sk-lead sk-trouble"),
            tag("p", "This page looks again every two seconds; nothing needs to be restarted here.", class_="sk-quiet"),
            class_="sk-empty",
            role="alert",
        ),
    )


def panel(title: str, location: PageLocation, *body: Child) -> Markup:
    """A view of its own, with its title and the way back."""
    return tag(
        "main",
        tag(
            "div",
            link(location.with_environment(location.environment).address, "← All actions", class_="sk-back"),
            tag("h1", title, class_="sk-h1"),
            class_="sk-title sk-title-plain",
        ),
        tag("section", *body, class_="sk-panel"),
        class_="sk-detail",
    )


def table(heads: tuple[str, ...], rows: list[tuple[Child, ...]]) -> Markup:
    """A plain table."""
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", [tag("th", head, scope="col") for head in heads])),
            tag("tbody", [tag("tr", [tag("td", value) for value in row]) for row in rows]),
            class_="sk-table",
        ),
        class_="sk-scroll",
    )


def command_line(command: str) -> Markup:
    """A command to copy."""
    return tag("pre", tag("code", command), class_="sk-command")
