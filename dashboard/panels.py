"""The other views: what was rejected and why, the last quality run, and what to do when there is nothing to show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboard import words
from dashboard.console import link
from dashboard.header import brand
from dashboard.marks import signal_state_label
from dashboard.markup import Child, Markup, tag

if TYPE_CHECKING:
    from datetime import datetime

    from dashboard.document import QualityRun, Rejects
    from dashboard.places import Place

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
            (tag("code", reason), REASONS.get(reason, ""), tag("span", words.count(number), class_="sk-num"))
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
                tag("span", f"{words.count(reject.size)} B", class_="sk-num"),
                tag("code", (reject.first_bytes or "")[:96], class_="sk-bytes"),
                tag("span", words.age(reject.rejected_at, now), title=words.moment(reject.rejected_at)),
            )
            for reject in rejects.latest
        ],
    )
    return _panel(
        "Rejected events",
        place,
        tag(
            "p",
            f"{words.plural(rejects.total, 'event')} could not be used and moved no number. Each is also on the topic "
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
            tag("span", words.count(found.checked), class_="sk-num"),
            tag(
                "ul",
                [
                    tag(
                        "li",
                        f"{failure.meaning or failure.expectation}: {words.count(failure.unexpected)} events"
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
            f"Run {words.age(run.run_at, now)}, at {words.moment(run.run_at)}. The newest events are checked again, "
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
