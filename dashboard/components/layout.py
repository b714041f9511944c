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

    from analytics.audit.quality import QualityRun
    from dashboard.data.reader import LakeSnapshot
    from dashboard.urls import PageLocation


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


def header(snapshot: LakeSnapshot, location: PageLocation, now: datetime, *, freshness_s: float) -> Markup:
    """Name, freshness, environments and tallies; evidence older than so many seconds, which opens no gate, is old."""
    return tag(
        "header",
        brand(_freshness(snapshot, now, freshness_s)),
        tag("nav", _environments(snapshot, location), _tallies(snapshot, location, now), class_="sk-tallies"),
        class_="sk-header",
    )


def _freshness(snapshot: LakeSnapshot, now: datetime, limit_s: float) -> Markup:
    signals = snapshot.signals.values()
    watermark = max((row.last_event_at for row in signals if row.last_event_at is not None), default=None)
    stale = watermark is None or (now - watermark).total_seconds() > limit_s
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
    links = [
        link(
            location.with_environment(name).address,
            "All environments" if name is None else name,
            class_="sk-choice",
            aria_current="true" if location.environment == name else None,
        )
        for name in [None, *names]
    ]
    return tag("span", links, class_="sk-choices", role="group", aria_label="Environment")


def _tallies(snapshot: LakeSnapshot, location: PageLocation, now: datetime) -> Markup:
    numbers = Counter(
        document.verdict
        for cell, document in snapshot.verdicts.items()
        if location.covers(cell.environment, cell.workflow)
    )
    tallies = []
    for state in URGENCY:
        number, chosen = numbers[state], location.verdict == state
        address = location.with_verdict(None if chosen else state).address
        shown = tag("span", symbol(state), tag("b", labels.count(number)), class_=f"sk-tally-n sk-{state}")
        tallies.append(_tally(address, shown, STATE_WORDS[state], empty=not number, chosen=chosen))
    number = snapshot.rejects.total
    address, chosen = location.with_view("rejects").address, location.view == "rejects" and location.cell is None
    shown = tag("span", tag("b", labels.count(number)), class_="sk-tally-n")
    word = "Rejected event" if number == 1 else "Rejected events"
    tallies.append(_tally(address, shown, word, class_="sk-tally sk-tally-apart", empty=not number, chosen=chosen))
    return join([*tallies, _quality(snapshot.quality, location, now)])


def _quality(run: QualityRun | None, location: PageLocation, now: datetime) -> Markup:
    if run is None:
        result, note = tag("b", labels.UNKNOWN), "No quality run yet"
    else:
        result = tag("b", symbol("pass" if run.success else "fail"), " passed" if run.success else " failed")
        note = f"Quality, {labels.age(run.run_at, now)}"
    shown = tag("span", result, class_="sk-tally-n")
    chosen = location.view == "quality" and location.cell is None
    return _tally(location.with_view("quality").address, shown, note, empty=run is None, chosen=chosen)


def _tally(address: str, shown: Markup, word: str, *, class_: str = "sk-tally", empty: bool, chosen: bool) -> Markup:
    return link(
        address,
        shown,
        tag("span", word, class_="sk-tally-word"),
        class_=f"{class_} sk-tally-none" if empty else class_,
        aria_current="true" if chosen else None,
    )


def nothing_yet(lead: str, detail: str, commands: list[tuple[str, str]]) -> Markup:
    """There is no data: say so, and what to do."""
    steps = [tag("div", tag("p", why), command_line(command), class_="sk-step") for why, command in commands]
    return _without_data(lead, tag("p", detail, class_="sk-lead"), steps, "This page looks again every two seconds.")


def trouble(message: str) -> Markup:
    """Something is wrong that a person can mend: the named error's own words."""
    detail = tag("p", message[:1].upper() + message[1:], class_="sk-lead sk-trouble")
    note = "This page looks again every two seconds; nothing needs to be restarted here."
    return _without_data("The evidence cannot be read", detail, None, note, role="alert")


def _without_data(lead: str, detail: Markup, steps: Child, note: str, role: str | None = None) -> Markup:
    head = tag("header", brand(), class_="sk-header")
    parts = [tag("h1", lead, class_="sk-h1"), detail, steps, tag("p", note, class_="sk-quiet")]
    return tag("div", head, tag("main", parts, class_="sk-empty", role=role))


def back_to_overview(location: PageLocation) -> Markup:
    """The way back from a cell or a panel."""
    return link(location.with_environment(location.environment).address, "← All actions", class_="sk-back")


def panel(title: str, location: PageLocation, *body: Child) -> Markup:
    """A view of its own, with its title and the way back."""
    head = [back_to_overview(location), tag("h1", title, class_="sk-h1")]
    section = tag("section", *body, class_="sk-panel")
    return tag("main", tag("div", head, class_="sk-title sk-title-plain"), section, class_="sk-detail")


def table(heads: tuple[str, ...], rows: list[tuple[Child, ...]]) -> Markup:
    """A plain table."""
    head = tag("thead", tag("tr", [tag("th", title, scope="col") for title in heads]))
    body = tag("tbody", [tag("tr", [tag("td", value) for value in row]) for row in rows])
    return tag("div", tag("table", head, body, class_="sk-table"), class_="sk-scroll")


def command_line(command: str) -> Markup:
    """A command to copy."""
    return tag("pre", tag("code", command), class_="sk-command")
