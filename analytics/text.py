"""Numbers, durations and moments as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datetime import datetime

# Of a signal; `times` is a multiple of a baseline, `points` a difference from its rate.
Unit = Literal["ratio", "ms", "usd", "count", "times", "points"]


def iso(moment: datetime) -> str:
    """A moment as RFC 3339 in UTC."""
    return moment.isoformat().replace("+00:00", "Z")


def printable(line: str) -> str:
    """A line that holds text from outside, fit for a terminal: without what would move the cursor or begin a line."""
    return "".join(mark if mark.isprintable() else "�" for mark in line)


def percent(ratio: float) -> str:
    """A ratio as a percentage, with enough digits that a small one is not shown as zero."""
    shown = 100 * ratio
    return f"{shown:,.0f} %" if shown >= 100 else f"{shown:.3g} %"


def amount(value: float | None, unit: Unit) -> str:
    """A value in its unit. Quantiles are known to about 1 %, so no more digits are shown than that bears."""
    if value is None:
        return "unknown"
    if unit == "ratio":
        return percent(value)
    if unit == "times":
        return f"{value:.3g} times the baseline"
    if unit == "points":
        return f"{100 * value:.3g} points above the baseline"
    if unit == "ms":
        return f"{float(f'{value:.3g}'):,.0f} ms" if value >= 10 else f"{value:.2g} ms"
    return f"${value:,.2f}" if unit == "usd" and value >= 1 else f"${value:.2g}" if unit == "usd" else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """A duration in the largest unit that keeps it readable."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} s"
