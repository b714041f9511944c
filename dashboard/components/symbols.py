"""Small drawings: the symbol of each state, evidence bars, the ladder, and intervals against a limit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dashboard.components.html import Markup, tag
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analytics.verdicts.list_marks import Kind

# Verdicts in the order in which a person should look at them.
URGENCY = (VerdictName.ROLL_BACK, VerdictName.PROMOTE, VerdictName.INVALID, VerdictName.HOLD)

STATE_WORDS: dict[str, str] = {
    "PROMOTE": "Promote",
    "HOLD": "Hold",
    "ROLL_BACK": "Roll back",
    "INVALID": "Invalid",
    "NONE": "Not judged",  # counts, and no verdict yet
}

# Shapes differ as much as colours do: up, bars, down, crossed, ring.
_SHAPES: dict[str, Markup] = {
    "PROMOTE": tag("path", d="M7 2 13 12H1Z"),
    "HOLD": tag("path", d="M2.5 2H6v10H2.5zM8 2h3.5v10H8z"),
    "ROLL_BACK": tag("path", d="M7 12 1 2h12Z"),
    "INVALID": tag(
        "path", d="M3.2 1.6 7 5.4l3.8-3.8 1.6 1.6L8.6 7l3.8 3.8-1.6 1.6L7 8.6l-3.8 3.8-1.6-1.6L5.4 7 1.6 3.2z"
    ),
    "NONE": tag("path", d="M7 1.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11Zm0 2a3.5 3.5 0 1 1 0 7 3.5 3.5 0 0 1 0-7Z"),
    "pass": tag("path", d="M5.3 12 .9 7.6l1.7-1.7 2.7 2.7 6.1-6.1 1.7 1.7z"),
    "undecided": tag("path", d="M7 1.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11Zm0 2v7a3.5 3.5 0 0 1 0-7Z"),
    "not_applicable": tag("path", d="M2 6h10v2H2z"),
    "late": tag("path", d="M7 .8 13.2 7 7 13.2.8 7z"),
    "waits": tag("path", d="M2.5 1h9v2L8.4 7l3.1 4v2h-9v-2l3.1-4-3.1-4z"),
    "emergency": tag("path", d="M4.3.8h5.4l3.5 3.5v5.4l-3.5 3.5H4.3L.8 9.7V4.3z"),
    "ok": tag("circle", cx=7, cy=7, r=5),
}
_SHAPES |= {"fail": _SHAPES["ROLL_BACK"], "missing": _SHAPES["INVALID"]}


def symbol(state: str) -> Markup:
    """The shape of a state, drawn in the colour of the text around it."""
    return tag("svg", _SHAPES[state], class_="sk-sym", viewBox="0 0 14 14", aria_hidden="true")


def state_label(state: str) -> Markup:
    """Symbol and word of a verdict."""
    return tag("span", symbol(state), STATE_WORDS[state], class_=f"sk-state sk-{state}")


def mark_label(mark: Kind | None) -> Markup | None:
    """The star of what a list of verdicts believes of one; None where it is not marked."""
    if mark is None:
        return None
    return tag("span", "* ", mark, class_="sk-mark", title="Marked by e-BH; the note below the list says what it means")


def signal_state_label(state: str) -> Markup:
    """Symbol and word of one signal's state."""
    return tag("span", symbol(state), state.replace("_", " ").capitalize(), class_=f"sk-sig sk-sig-{state}")


def interval(value: float | None, lower: float | None, upper: float | None, limit: float | None) -> Markup:
    """A value and its bounds on a scale where the limit always stands in the middle.

    One scale for every row lets the eye run down the limit. What lies beyond twice the limit ends in an arrow.
    """
    if limit is None or limit <= 0 or (value is None and lower is None and upper is None):
        return tag("span", class_="sk-forest sk-forest-none", aria_hidden="true")
    width, height, middle = 240.0, 22.0, 11.0

    def x(quantity: float) -> float:
        return 6 + (width - 12) * min(max(quantity / (2 * limit), 0.0), 1.0)

    parts: list[Markup] = [
        tag("rect", x=x(limit), y=0, width=width - x(limit), height=height, class_="sk-forest-over"),
        tag("line", x1=x(limit), x2=x(limit), y1=0, y2=height, class_="sk-forest-limit"),
    ]
    if lower is not None or upper is not None:
        left, right = x(lower or 0.0), x(2 * limit if upper is None else upper)
        parts.append(tag("line", x1=left, x2=right, y1=middle, y2=middle, class_="sk-forest-bar"))
        if lower is not None and lower <= 2 * limit:
            parts.append(tag("line", x1=left, x2=left, y1=middle - 4, y2=middle + 4, class_="sk-forest-bar"))
        if upper is not None and upper <= 2 * limit:
            parts.append(tag("line", x1=right, x2=right, y1=middle - 4, y2=middle + 4, class_="sk-forest-bar"))
        else:
            parts.append(tag("path", d=f"M{width - 6:g} {middle - 4:g}l5 4-5 4z", class_="sk-forest-arrow"))
    if value is not None:
        if value > 2 * limit:
            parts.append(tag("path", d=f"M{width - 9:g} {middle - 5:g}l8 5-8 5z", class_="sk-forest-dot"))
        else:
            parts.append(tag("circle", cx=x(value), cy=middle, r=4, class_="sk-forest-dot"))
    return tag("svg", parts, class_="sk-forest", viewBox=f"0 0 {width:g} {height:g}", aria_hidden="true")


def log_interval(value: float | None, lower: float | None, upper: float | None, limit: float | None) -> Markup:
    """A value and its bounds as multiples of the limit, on one logarithmic scale from an eighth to eight times.

    One scale for every signal lets the eye run down the limit. What lies outside ends in an arrow.
    """
    width, height, middle, edge = 132.0, 18.0, 9.0, 6.0
    if limit is None or limit <= 0 or (value is None and lower is None and upper is None):
        return tag("span", class_="sk-bounds-none", aria_hidden="true")

    def x(quantity: float) -> float:
        octaves = math.log2(quantity / limit) if quantity > 0 else -3.0
        return edge + (width - 2 * edge) * (min(max(octaves, -3.0), 3.0) + 3.0) / 6.0

    parts = [
        tag("rect", x=x(limit), y=0, width=width - edge - x(limit), height=height, class_="sk-forest-over"),
        tag("line", x1=x(limit), x2=x(limit), y1=0, y2=height, class_="sk-forest-limit"),
    ]
    if lower is not None or upper is not None:
        left, right = x(lower or 0.0), x(8 * limit if upper is None else upper)
        parts.append(tag("line", x1=left, x2=right, y1=middle, y2=middle, class_="sk-forest-bar"))
        if (lower or 0.0) * 8 > limit:
            parts.append(tag("line", x1=left, x2=left, y1=middle - 4, y2=middle + 4, class_="sk-forest-bar"))
        else:
            parts.append(tag("path", d=f"M{edge:g} {middle - 4:g}l-5 4 5 4z", class_="sk-forest-arrow"))
        if upper is not None and upper <= 8 * limit:
            parts.append(tag("line", x1=right, x2=right, y1=middle - 4, y2=middle + 4, class_="sk-forest-bar"))
        else:
            parts.append(tag("path", d=f"M{width - edge:g} {middle - 4:g}l5 4-5 4z", class_="sk-forest-arrow"))
    if value is not None:
        parts.append(tag("circle", cx=x(value), cy=middle, r=3.6, class_="sk-forest-dot"))
    return tag("svg", parts, class_="sk-log", viewBox=f"0 0 {width:g} {height:g}", aria_hidden="true")


def evidence_bar(log_e: float | None, threshold: float | None, *, kind: str, shows: str) -> Markup | None:
    """How far the log evidence that a limit is broken or kept has come towards the threshold at which it decides."""
    if log_e is None or threshold is None or threshold <= 0:
        return None
    share = min(max(log_e / threshold, 0.0), 1.0)
    return tag(
        "span",
        tag("span", class_=f"sk-bar-fill sk-bar-{kind}", style=f"width:{share * 100:.0f}%"),
        class_="sk-bar",
        role="meter",
        aria_label=f"Evidence that the limit is {shows}",
        aria_valuemin=0,
        aria_valuemax=100,
        aria_valuenow=round(share * 100),
        title=f"log evidence {log_e:.2f} of {threshold:.2f}",
    )


def ladder(rungs: Sequence[tuple[str, str]]) -> Markup:
    """The stages as a staircase: (name, `here`, `to` or an empty string) each."""
    words = {"here": "now", "to": "recommended"}
    items = [
        tag(
            "li",
            tag("span", name, class_="sk-rung-name"),
            tag("span", words[mark], class_="sk-rung-mark") if mark else None,
            class_=f"sk-rung sk-rung-{mark}" if mark else "sk-rung",
            aria_current="step" if mark == "here" else None,
        )
        for name, mark in rungs
    ]
    return tag("ol", items, class_="sk-ladder", aria_label="Stages of authority")
