"""The other views: what was rejected and why, the last quality run, and what to do when there is nothing to show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboard import labels
from dashboard.components.html import Child, Markup, join, tag
from dashboard.components.live_html import link
from dashboard.components.symbols import STATE_WORDS, signal_state_label, symbol
from dashboard.data.models import URGENCY

if TYPE_CHECKING:
    from datetime import datetime

    from dashboard.data.models import QualityRun, Rejects, Report
    from dashboard.data.reader import Snapshot
    from dashboard.urls import Place

REASONS: dict[str, str] = {
    "not_json": "The value is not JSON.",
    "not_object": "The value is JSON, but not an object.",
    "null_value": "The record has no value.",
    "too_large": "The value is larger than an event may be.",
    "wrong_type": "A field has the wrong type, or a value that cannot be.",
    "missing_field": "A required field is missing.",
    "unknown_type": "No event has this type.",
    "unknown_version": "The type is known, this version of it is not.",
    "missing_receipt": "The event names no decision.",
    "malformed_receipt": "The receipt cannot be read.",
    "unsigned_receipt": "A key is configured, and the receipt carries no signature.",
    "forged_receipt": "The receipt's signature is not ours.",
    "receipt_mismatch": "The receipt says otherwise than the event that carries it.",
    "impossible_time": "The event is from the future.",
    "negative_value": "A latency, cost or wait is below zero.",
}
"""What each reason code means."""


def rejects_panel(rejects: Rejects, place: Place, now: datetime) -> Markup:
    """What was refused: by reason, then the latest records."""
    if not rejects.total:
        return _panel("Rejected events", place, tag("p", "Every event so far could be used.", class_="sk-quiet"))
    reasons = sorted(rejects.by_reason.items(), key=lambda item: (-item[1], item[0]))
    by_reason = _table(
        ("Reason", "Meaning", "Events"),
        [
            (tag("code", reason), REASONS.get(reason, ""), tag("span", labels.count(number), class_="sk-num"))
            for reason, number in reasons
        ],
    )
    latest = _table(
        ("Reason", "What was wrong", "Where", "Size", "First bytes", "When"),
        [
            (
                tag("code", reject.reason),
                reject.detail,
                tag("span", f"{reject.topic} / {reject.partition} / {reject.offset}", class_="sk-mono"),
                tag("span", f"{labels.count(reject.size)} B", class_="sk-num"),
                tag("code", (reject.first_bytes or "")[:96], class_="sk-bytes"),
                tag("span", labels.age(reject.rejected_at, now), title=labels.moment(reject.rejected_at)),
            )
            for reject in rejects.latest
        ],
    )
    return _panel(
        "Rejected events",
        place,
        tag(
            "p",
            f"{labels.plural(rejects.total, 'event')} could not be used and moved no number. Each is also on the topic "
            "agent.dead-letter, so that it can be mended and sent again.",
            class_="sk-lead",
        ),
        by_reason,
        tag("h2", f"The latest {len(rejects.latest)}", class_="sk-h2"),
        latest,
    )


def quality_panel(run: QualityRun | None, place: Place, now: datetime) -> Markup:
    """What the last quality run found."""
    if run is None:
        return _panel(
            "Data quality",
            place,
            tag(
                "p", "No quality run is kept in this lake. It checks the newest events type by type:", class_="sk-lead"
            ),
            _command("stagekeeper quality run"),
        )
    rows: list[tuple[Child, ...]] = [
        (
            signal_state_label("pass" if found.success else "fail"),
            tag("code", found.event_type),
            tag("span", labels.count(found.checked), class_="sk-num"),
            tag(
                "ul",
                [
                    tag(
                        "li",
                        f"{failure.meaning or failure.expectation}: {labels.count(failure.unexpected)} events"
                        f"{'' if failure.severity == 'critical' else ' (warning)'}",
                        [tag("code", example) for example in failure.examples[:3]],
                    )
                    for failure in found.failed
                ],
                class_="sk-plain",
            )
            if found.failed
            else "Everything holds.",
        )
        for found in run.types
    ]
    return _panel(
        "Data quality",
        place,
        tag(
            "p",
            f"Run {labels.age(run.run_at, now)}, at {labels.moment(run.run_at)}. The newest events are checked again, "
            "from their bytes, independently of the stream that let them in.",
            class_="sk-lead",
        ),
        _table(("Result", "Event type", "Checked", "Found"), rows),
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
            [tag("div", tag("p", why), _command(command), class_="sk-step") for why, command in commands],
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


def _panel(title: str, place: Place, *body: Child) -> Markup:
    return tag(
        "main",
        tag(
            "div",
            link(place.within(place.environment).address, "← All actions", class_="sk-back"),
            tag("h1", title, class_="sk-h1"),
            class_="sk-title sk-title-plain",
        ),
        tag("section", *body, class_="sk-panel"),
        class_="sk-detail",
    )


def _table(heads: tuple[str, ...], rows: list[tuple[Child, ...]]) -> Markup:
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


def _command(command: str) -> Markup:
    return tag("pre", tag("code", command), class_="sk-command")


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
        tag("span", "Evidence to ", tag("b", labels.clock(watermark))),
        tag("span", f"{'old: ' if stale else ''}{labels.age(watermark, now)}", class_="sk-fresh-age"),
        tag("span", "lake version ", tag("b", labels.count(snapshot.versions["signals"]))),
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
                tag("span", symbol(state), tag("b", labels.count(number)), class_=f"sk-tally-n sk-{state}"),
                tag("span", STATE_WORDS[state], class_="sk-tally-word"),
                class_="sk-tally" if number else "sk-tally sk-tally-none",
                aria_current="true" if chosen else None,
            )
        )
    rejects = snapshot.report.rejects.total
    parts.append(
        link(
            place.on("rejects").address,
            tag("span", tag("b", labels.count(rejects)), class_="sk-tally-n"),
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
        shown, note = tag("b", labels.UNKNOWN), "No quality run yet"
    else:
        passed = run.success
        shown = tag("b", symbol("pass" if passed else "fail"), " passed" if passed else " failed")
        note = f"Quality, {labels.age(run.run_at, now)}"
    return link(
        place.on("quality").address,
        tag("span", shown, class_="sk-tally-n"),
        tag("span", note, class_="sk-tally-word"),
        class_="sk-tally" if run is not None else "sk-tally sk-tally-none",
        aria_current="true" if place.panel == "quality" and place.cell is None else None,
    )
