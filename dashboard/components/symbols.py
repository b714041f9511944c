"""Small drawings: the symbol of each state, sparklines, evidence bars and intervals against a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboard.components.html import Markup, join, tag
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


def sparkline(values: Sequence[float | None], *, limit: float | None, label: str) -> Markup:
    """A trend without axes, one value per bin, oldest first; None, where nothing was measured, stays a gap.

    The scale always reaches the limit, a dashed line, so that flat and low looks flat and low.
    """
    width, height, inset = 56.0, 16.0, 2.0
    measured = [value for value in values if value is not None]
    if not measured:
        return tag("svg", class_="sk-spark", viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label)
    top = max([*measured, (limit or 0.0) * 1.25]) or 1.0
    step = (width - 2 * inset) / max(len(values) - 1, 1)

    def y(value: float) -> float:
        return height - inset - (height - 2 * inset) * min(value / top, 1.0)

    runs: list[list[tuple[float, float]]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((inset + index * step, y(value)))
    runs = [run for run in runs if run]
    lines = [tag("polyline", points=_points(run)) for run in runs if len(run) > 1]
    dots = [tag("circle", cx=run[0][0], cy=run[0][1], r=1.1, class_="sk-spark-lone") for run in runs if len(run) == 1]
    end_x, end_y = runs[-1][-1]
    over = limit is not None and measured[-1] > limit
    parts = [
        None if limit is None else tag("line", x1=0, x2=width, y1=y(limit), y2=y(limit), class_="sk-spark-limit"),
        *lines,
        *dots,
        tag("circle", cx=end_x, cy=end_y, r=1.9, class_="sk-spark-end sk-over" if over else "sk-spark-end"),
    ]
    return tag("svg", parts, class_="sk-spark", viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label)


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


def _points(run: Sequence[tuple[float, float]]) -> str:
    return join(f"{x:.1f},{y:.1f} " for x, y in run).strip()
