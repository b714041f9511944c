"""How numbers, moments and names read on the page."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import streamlit as st

from analytics.signals.definitions import SIGNALS
from dashboard.components.html import Markup, tag
from producers.wire.stage import LADDER

if TYPE_CHECKING:
    from analytics.verdicts.evidence_models import SignalEvidence

UNKNOWN = "\u2013"
CLAIMS = {"traffic_seen": "the traffic seen", "users_seen": "the users seen", "users_to_come": "users to come"}

STAGE_NAMES: dict[str, str] = {stage.value: stage.value.replace("_", " ").capitalize() for stage in LADDER}

SIGNAL_NAMES: dict[str, str] = {
    **{signal: signal.replace("_", " ").capitalize() for signal in SIGNALS},
    "constrain": "Constrained",
    "review": "Sent to review",
    "undo_failed": "Failed undo",
    "support": "Support signal",
}


def stage_name(stage: str | None) -> str:
    """A stage as people say it; an unknown one as it was written."""
    return UNKNOWN if stage is None else STAGE_NAMES.get(stage, stage.replace("_", " "))


def signal_name(signal: str) -> str:
    """A signal as people say it."""
    return SIGNAL_NAMES.get(signal, signal.replace("_", " ").capitalize())


def role_name(role: str) -> str:
    """What a signal may do to a verdict."""
    return {"promote": "promotion only", "watch": "watched only", "trip": "trip wire"}.get(role, role)


def percent(ratio: float | None) -> str:
    """A ratio as a percentage with as many digits as tell two rates apart."""
    if ratio is None:
        return UNKNOWN
    value = ratio * 100
    digits = 0 if value >= 100 or value == 0 else 1 if value >= 10 else 2 if value < 1 else 1
    return f"{value:.{digits}f}\u202f%"


def by(evidence: SignalEvidence) -> str:
    """What one observation of a signal is."""
    return f"by {evidence.by}"


def count(number: int | None) -> str:
    """An integer with thousands apart."""
    return UNKNOWN if number is None else f"{number:,}"


def milliseconds(value: float | None) -> str:
    """A duration in milliseconds, seconds or minutes, with about three digits."""
    if value is None:
        return UNKNOWN
    if value < 10:
        return f"{value:.1f} ms"
    if value < 999.5:
        return f"{value:.0f} ms"
    seconds = value / 1_000
    if seconds < 600:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"


def dollars(value: float | None) -> str:
    """An amount of money: small amounts keep their digits."""
    if value is None:
        return UNKNOWN
    return f"${value:,.2f}" if value >= 1 or value == 0 else f"${value:.4f}"


def quantity(value: float | None, unit: str) -> str:
    """A value in the unit that a verdict names: ratio, ms, usd, count, times (a baseline) or points (above it)."""
    if unit == "ms":
        return milliseconds(value)
    if unit == "count":
        return count(None if value is None else round(value))
    if unit == "usd":
        return dollars(value)
    if unit == "points":
        return UNKNOWN if value is None else f"{100 * value:+.2g} pp"
    if unit == "times":
        return UNKNOWN if value is None else f"{value:.2g}\u00d7"
    return percent(value)


_NAMES = {**STAGE_NAMES, **SIGNAL_NAMES}
# Only what no ordinary word is spelled like: `undo` and `review` read well as they are.
_IDENTIFIER = re.compile(r"\b(" + "|".join(sorted((name for name in _NAMES if "_" in name), reverse=True)) + r")\b")
_UNIT = re.compile(r"(?<=\d) (?=(%|ms)(\W|$))")


def age(then: datetime | None, now: datetime) -> str:
    """How long ago a moment was, in one unit."""
    if then is None:
        return UNKNOWN
    seconds = (now - then).total_seconds()
    if seconds < 0:
        return "just now" if seconds > -5 else f"{span(-seconds)} ahead"
    return "just now" if seconds < 2 else f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """A length of time in its largest fitting unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    if seconds < 129_600:
        return f"{seconds / 3_600:.0f} h"
    return f"{seconds / 86_400:.0f} d"


def clock(moment: datetime | None) -> str:
    """A moment of today as a time, with its zone."""
    return UNKNOWN if moment is None else f"{moment:%H:%M:%S} UTC"


def moment(value: datetime | None) -> str:
    """A moment with its date."""
    return UNKNOWN if value is None else f"{value:%Y-%m-%d %H:%M:%S} UTC"


def timed(value: datetime | None, text: str | None = None) -> Markup:
    """A moment in the viewer's zone, and in UTC on hover and for programs."""
    if value is None:
        return tag("span", UNKNOWN)
    zone = st.context.timezone
    local = value.astimezone(ZoneInfo(zone)) if zone else value
    today = datetime.now(local.tzinfo).date() == local.date()
    shown = text or (f"{local:%H:%M:%S}" if today else f"{local:%d %b %H:%M}")
    return tag("time", shown, datetime=value.isoformat(), title=moment(value), tabindex="0" if text is None else None)


def every(minutes: int) -> str:
    """The width of a bin, as people say it."""
    names = {1: "per minute", 60: "per hour", 1_440: "per day"}
    return names.get(minutes, f"per {minutes} min" if minutes < 60 else f"per {minutes // 60} h")


def because(summary: str) -> str:
    """A verdict's sentence without its first words, where the verdict itself already stands beside it.

    Signals and stages are called by their names, and a number stays on the line of its unit.
    """
    lead, _, rest = summary.partition(": ")
    spoken = rest if rest and lead.startswith(("Promote to", "Roll back to", "Hold", "No verdict")) else summary
    named = _IDENTIFIER.sub(lambda match: _NAMES[match[0]].lower(), spoken)
    together = _UNIT.sub("\u202f", named)
    return together[:1].upper() + together[1:]


def plural(number: int, one: str, many: str | None = None) -> str:
    """A count with its noun."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"
