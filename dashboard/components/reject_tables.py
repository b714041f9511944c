"""Rejected events: by reason, and the latest of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboard import labels
from dashboard.components.html import Child, Markup, join, tag
from dashboard.components.layout import panel, table

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.report import RejectSummary

_MEANINGS: dict[str, str] = {
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


def reject_tables(rejects: RejectSummary, now: datetime) -> Markup:
    """What was refused: by reason, then the latest records."""
    if not rejects.total:
        return panel("Rejected events", tag("p", "Every event so far could be used.", class_="sk-quiet"))
    reasons = sorted(rejects.by_reason.items(), key=lambda item: (-item[1], item[0]))
    by_reason: list[tuple[Child, ...]] = [
        (tag("code", reason), _MEANINGS.get(reason, ""), tag("span", labels.count(number), class_="sk-num"))
        for reason, number in reasons
    ]
    latest: list[tuple[Child, ...]] = [
        (
            tag("code", reject.reason),
            reject.detail,
            tag("span", f"{reject.topic} / {reject.partition} / {reject.offset}", class_="sk-mono"),
            tag("span", f"{labels.count(reject.size)} B", class_="sk-num"),
            tag("code", reject.first_bytes[:96], class_="sk-bytes"),
            tag("span", labels.age(reject.rejected_at, now), title=labels.moment(reject.rejected_at)),
        )
        for reject in rejects.latest
    ]
    lead = (
        f"{labels.plural(rejects.total, 'event')} could not be used and moved no number. Each is also on the topic "
        "agent.dead-letter, so that it can be mended and sent again."
    )
    name = f"The latest {len(rejects.latest)} rejected events"
    return join(
        [
            panel(
                "Rejected events",
                tag("p", lead, class_="sk-lead"),
                table(("Reason", "Meaning", "Events"), by_reason, name="Rejected events by reason"),
            ),
            panel(name, table(("Reason", "What was wrong", "Where", "Size", "First bytes", "When"), latest, name=name)),
        ]
    )
