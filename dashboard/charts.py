"""Signals over time, with the limit drawn in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import altair as alt
import numpy as np
import polars as pl

from dashboard import words

if TYPE_CHECKING:
    from dashboard.document import Verdict
    from dashboard.history import History

_INK, _SOFT, _GRID, _LINE, _SECOND, _LIMIT = "#15202b", "#5a6774", "#e8ecf0", "#1d4f73", "#8fa6b8", "#b3380c"
_FONT = '"Source Sans", system-ui, sans-serif'
_HEIGHT = 140


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
        title: What it shows.
        strong: Column of the history that is drawn strongly, and its name; the limit is for this one.
        faint: Column that is drawn faintly behind it, and its name.
        trials: Column with the counts that each bin rests on.
        signal: The signal whose limit is drawn.
        unit: `ratio` or `ms`.
    """

    title: str
    strong: tuple[str, str]
    faint: tuple[str, str]
    trials: str
    signal: str
    unit: str


def _rate(title: str, signal: str, trials: str) -> Panel:
    return Panel(title, (f"{signal}_so_far", "so far"), (signal, "each"), trials, signal, "ratio")


PANELS: tuple[Panel, ...] = (
    _rate("Denial", "denial", "decisions"),
    _rate("Undo", "undo", "executed"),
    _rate("Execution error", "execution_error", "executed"),
    Panel("Latency", ("latency_p95", "p95"), ("latency_p50", "p50"), "executed", "latency_p95", "ms"),
)
"""The charts of a cell, in reading order."""


def caption(panel: Panel, history: History, verdict: Verdict | None) -> str:
    """What a chart shows, in words: its lines and its limit."""
    limit = None if verdict is None else verdict.limit_of(panel.signal)
    shown = "no limit in the gate" if limit is None else f"limit {words.quantity(limit, panel.unit)}"
    if panel.unit == "ms":
        return f"p95 and p50 {words.every(history.width_min)}, {shown}"
    return f"so far, and {words.every(history.width_min)}, {shown}"


def chart(panel: Panel, history: History, verdict: Verdict | None) -> alt.LayerChart | None:
    """One panel of a cell's history; None where nothing was measured."""
    scale, suffix = (1.0, " ms") if panel.unit == "ms" else (100.0, "%")
    (strong, strong_name), (faint, faint_name) = panel.strong, panel.faint
    points = history.rows.select(
        "bucket", pl.col(panel.trials).alias("n"), strong=pl.col(strong) * scale, faint=pl.col(faint) * scale
    ).filter(pl.col("strong").is_not_null() | pl.col("faint").is_not_null())
    if points.is_empty():
        return None
    stated = None if verdict is None else verdict.limit_of(panel.signal)
    limit = None if stated is None else stated * scale
    top = _top(points, limit)
    axis = alt.Axis(tickCount=4, labelExpr=f"format(datum.value, ',') + '{suffix}'")
    height = alt.Scale(domain=[0, top], nice=False, clamp=True)
    x = alt.X("bucket:T", title=None, axis=alt.Axis(tickCount=4, labelOverlap=True, format="%H:%M"))
    tooltip = [
        alt.Tooltip("bucket:T", title="from", format="%Y-%m-%d %H:%M"),
        alt.Tooltip("strong:Q", title=f"{strong_name} ({suffix.strip()})", format=",.2f"),
        alt.Tooltip("faint:Q", title=f"{faint_name} ({suffix.strip()})", format=",.2f"),
        alt.Tooltip("n:Q", title=panel.trials, format=","),
    ]
    base = alt.Chart(points).encode(x=x, tooltip=tooltip)
    in_front = alt.Y("strong:Q", title=None, scale=height, axis=axis)
    behind = alt.Y("faint:Q", title=None, scale=height, axis=axis)
    layers: list[alt.Chart] = []
    if panel.unit == "ms":
        layers.append(base.mark_line(color=_SECOND, strokeWidth=1.5).encode(y=behind))
    else:
        # Points that lie higher than the axis stand at its top: one bad minute must not flatten the limit.
        layers.append(base.mark_circle(color=_SECOND, size=14, opacity=0.85).encode(y=behind))
    layers.append(base.mark_line(color=_LINE, strokeWidth=2).encode(y=in_front))
    layers.append(
        base.transform_window(last="rank()", sort=[alt.SortField("bucket", "descending")])
        .transform_filter("datum.last == 1")
        .mark_circle(color=_LINE, size=34, opacity=1)
        .encode(y=in_front)
    )
    if limit is not None:
        rule = alt.Chart(pl.DataFrame({"strong": [limit]}))
        layers.append(rule.mark_rule(color=_LIMIT, strokeDash=[5, 3], strokeWidth=1.4).encode(y=in_front))
    drawn: alt.LayerChart = (
        alt.layer(*layers)
        .properties(
            height=_HEIGHT,
            background="transparent",
            padding={"left": 0, "right": 8, "top": 6, "bottom": 0},
            usermeta={"embedOptions": {"actions": False}},
        )
        .configure(font=_FONT)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=_SOFT, labelFontSize=11, gridColor=_GRID, domainColor=_GRID, tickColor=_GRID, labelPadding=4
        )
        .configure_axisX(grid=False)
    )
    return drawn


def _top(points: pl.DataFrame, limit: float | None) -> float:
    """The upper end of the axis: room for the strong line and the limit, and for most of what lies behind."""
    strong, faint = points["strong"].drop_nulls(), points["faint"].drop_nulls()
    usual = float(faint.quantile(0.9) or 0.0) if len(faint) else 0.0
    peak = float(np.max(strong.to_numpy())) if len(strong) else 0.0
    return max(peak, usual, limit or 0.0) * 1.2 or 1.0
