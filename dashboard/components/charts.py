"""Signals over time, with the limit drawn in."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
import polars as pl

from dashboard import labels

if TYPE_CHECKING:
    from analytics.verdicts.document import VerdictDocument
    from dashboard.data.cell_history import CellHistory

_INK, _SOFT, _GRID, _LINE, _SECOND, _LIMIT = "#15202b", "#5a6774", "#e8ecf0", "#1d4f73", "#8fa6b8", "#b3380c"
_FONT = '"Source Sans", system-ui, sans-serif'
_HEIGHT = 140
_ROWS = "rows"


@dataclass(frozen=True)
class Chart:
    """One chart."""

    title: str
    strong: tuple[str, str]  # column of the history that is drawn strongly, and its name; the limit is for this one
    faint: tuple[str, str]  # column that is drawn faintly behind it, and its name
    trials: str  # column with the counts that each bin rests on
    signal: str  # the signal whose limit is drawn
    unit: str  # `ratio` or `ms`


def _rate(title: str, signal: str, trials: str) -> Chart:
    return Chart(title, (f"{signal}_so_far", "so far"), (signal, "each"), trials, signal, "ratio")


CHARTS: tuple[Chart, ...] = (
    _rate("Denial", "denial", "decisions"),
    _rate("Undo", "undo", "executed"),
    _rate("Execution error", "execution_error", "executed"),
    Chart("Latency", ("latency_p95", "p95"), ("latency_p50", "p50"), "executed", "latency_p95", "ms"),
)
"""The charts of a cell, in reading order."""


def caption(chart: Chart, history: CellHistory, verdict: VerdictDocument | None) -> str:
    """What a chart shows, in words: its lines and its limit."""
    limit = None if verdict is None else verdict.limit_of(chart.signal)
    shown = "no limit in the gate" if limit is None else f"limit {labels.quantity(limit, chart.unit)}"
    if chart.unit == "ms":
        return f"p95 and p50 {labels.every(history.width_min)}, {shown}"
    return f"so far, and {labels.every(history.width_min)}, {shown}"


def drawing(chart: Chart, history: CellHistory, verdict: VerdictDocument | None) -> dict[str, Any] | None:
    """One chart of a cell's history as Vega-Lite with its data; None where nothing was measured."""
    scale = 1.0 if chart.unit == "ms" else 100.0
    stated = None if verdict is None else verdict.limit_of(chart.signal)
    limit = None if stated is None else stated * scale
    (strong, _), (faint, _) = chart.strong, chart.faint
    rows = history.rows.select(
        "bucket",
        pl.col("bucket").dt.strftime("%Y-%m-%d %H:%M UTC").alias("at"),
        pl.col(chart.trials).alias("n"),
        strong=pl.col(strong) * scale,
        faint=pl.col(faint) * scale,
        limit=pl.lit(limit, dtype=pl.Float64),
    ).filter(pl.col("strong").is_not_null() | pl.col("faint").is_not_null())
    if rows.is_empty():
        return None
    spec = deepcopy(_spec(chart, _top(rows, limit), limited=limit is not None))
    return {**spec, "datasets": {_ROWS: rows}}


# Making a spec takes thirty times as long as showing it, and an unchanged lake asks for the same ones every time.
@lru_cache(maxsize=256)
def _spec(chart: Chart, top: float, *, limited: bool) -> dict[str, Any]:
    suffix = " ms" if chart.unit == "ms" else "%"
    height = alt.Scale(domain=[0, top], nice=False, clamp=True)
    x = alt.X(
        "bucket:T",
        title=None,
        scale=alt.Scale(type="utc"),
        axis=alt.Axis(tickCount=4, labelOverlap=True, format="%H:%M"),
    )
    tooltip = [
        alt.Tooltip("at:N", title="from"),
        alt.Tooltip("strong:Q", title=f"{chart.strong[1]} ({suffix.strip()})", format=",.2f"),
        alt.Tooltip("faint:Q", title=f"{chart.faint[1]} ({suffix.strip()})", format=",.2f"),
        alt.Tooltip("n:Q", title=chart.trials, format=","),
    ]

    def y(column: str) -> alt.Y:
        axis = alt.Axis(tickCount=4, labelExpr=f"format(datum.value, ',') + '{suffix}'")
        return alt.Y(f"{column}:Q", title=None, scale=height, axis=axis)

    base = alt.Chart().encode(x=x, tooltip=tooltip)
    # Points that lie higher than the axis stand at its top: one bad minute must not flatten the limit.
    behind = (
        base.mark_line(color=_SECOND, strokeWidth=1.5)
        if chart.unit == "ms"
        else base.mark_circle(color=_SECOND, size=14, opacity=0.85)
    )
    newest = base.transform_window(last="rank()", sort=[alt.SortField("bucket", "descending")])
    layers: list[alt.Chart] = [
        behind.encode(y=y("faint")),
        base.mark_line(color=_LINE, strokeWidth=2).encode(y=y("strong")),
        newest.transform_filter("datum.last == 1").mark_circle(color=_LINE, size=34, opacity=1).encode(y=y("strong")),
    ]
    if limited:
        rule = alt.Chart().transform_aggregate(limit="max(limit)")
        layers.append(rule.mark_rule(color=_LIMIT, strokeDash=[5, 3], strokeWidth=1.4).encode(y=y("limit")))
    spec: dict[str, Any] = (
        alt.layer(*layers, data=alt.NamedData(name=_ROWS))
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
        .to_dict()
    )
    return spec


def _top(rows: pl.DataFrame, limit: float | None) -> float:
    """The upper end of the axis: room for the strong line and the limit, and for most of what lies behind."""
    strong, faint = rows["strong"].drop_nulls(), rows["faint"].drop_nulls()
    usual = float(faint.quantile(0.9) or 0.0) if len(faint) else 0.0
    peak = float(np.max(strong.to_numpy())) if len(strong) else 0.0
    return _round_up(max(peak, usual, limit or 0.0) * 1.15) or 1.0


def _round_up(value: float) -> float:
    """To two digits: the axis stands still while the numbers move a little."""
    if value <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / step) * step, 12)
