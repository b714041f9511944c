"""The signals of a cell on one time axis: rates with anytime-valid bounds and limits, latency as a heat map."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import altair as alt
import polars as pl

from analytics.evidence.sequential import lower_bound, upper_bound
from dashboard import labels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from analytics.verdicts.document import VerdictDocument
    from analytics.verdicts.evidence_models import SignalEvidence
    from dashboard.data.cell_history import CellHistory

_FONT: Final = '"Source Sans", system-ui, sans-serif'
_LEVEL: Final = 0.05  # of bounds where no gate states one
_NAMES: Final = ("ink", "soft", "grid", "line", "band", "limit", "low")
_LIGHT: Final = ("#15202b", "#4d5a67", "#e9edf1", "#1d4f73", "#c9dae6", "#b3380c", "#eef3f7")
_DARK: Final = ("#e7ecf0", "#b0bbc5", "#2c3742", "#8cc4ee", "#28435a", "#ff9d76", "#1d2832")
_DURATION: Final = "datum.value < 1000 ? datum.value + ' ms' : datum.value / 1000 + ' s'"


@dataclass(frozen=True)
class RateLane:
    """One rate over time."""

    title: str
    signal: str
    failures: str  # columns of the history, summed over the epoch
    trials: str


LANES: Final = (
    RateLane("Denial", "denial", "denied_of_epoch", "decisions_of_epoch"),
    RateLane("Undo", "undo", "taken_back_of_epoch", "executed_of_epoch"),
    RateLane("Execution error", "execution_error", "failed_of_epoch", "executed_of_epoch"),
)


@dataclass(frozen=True, slots=True)
class TimeMark:
    """Something that happened to an action: a stage change, a deployment, an incident, a verdict."""

    at: datetime
    what: str


def evidence_of(verdict: VerdictDocument | None, signal: str) -> SignalEvidence | None:
    """What a verdict says about a signal."""
    return None if verdict is None else next((part for part in verdict.signals if part.signal == signal), None)


def lane_rows(lane: RateLane, history: CellHistory, verdict: VerdictDocument | None) -> pl.DataFrame:
    """A lane as rows: bucket, rate, lower, upper (percent, by action over the epoch so far), n; limit or null."""
    evidence = evidence_of(verdict, lane.signal)
    alpha = math.exp(-evidence.harm_threshold) if evidence is not None and evidence.harm_threshold else _LEVEL
    beta = math.exp(-evidence.safe_threshold) if evidence is not None and evidence.safe_threshold else _LEVEL
    rows = history.rows.filter(pl.col(lane.trials) > 0)
    failures, trials = (rows[name].to_numpy() for name in (lane.failures, lane.trials))
    limit = None if evidence is None or evidence.limit is None else 100.0 * evidence.limit
    return rows.select(
        "bucket",
        pl.lit(lane.title).alias("signal"),
        (100.0 * pl.col(lane.failures) / pl.col(lane.trials)).alias("rate"),
        pl.col(lane.trials).alias("n"),
        pl.lit(limit, dtype=pl.Float64).alias("limit"),
    ).with_columns(
        lower=pl.Series(100.0 * lower_bound(failures, trials, alpha=alpha), dtype=pl.Float64),
        upper=pl.Series(100.0 * upper_bound(failures, trials, alpha=beta), dtype=pl.Float64),
    )


def sentence(rows: pl.DataFrame) -> str:
    """A lane in words, for whoever does not see it."""
    last, name = rows.row(-1, named=True), rows["signal"][0]
    limit = "no limit" if last["limit"] is None else f"limit {last['limit']:.2g} %"
    return f"{name} {last['rate']:.2g} % by action, between {last['lower']:.2g} % and {last['upper']:.2g} %, {limit}"


def timeline(
    lanes: Sequence[pl.DataFrame],
    history: CellHistory,
    marks: Sequence[TimeMark],
    latency: SignalEvidence | None,
    theme: str,
) -> list[tuple[str, dict[str, Any]]]:
    """A chart for each lane, all over the same axis, as what it says in words and as Vega-Lite with its data."""
    colours = dict(zip(_NAMES, _DARK if theme == "dark" else _LIGHT, strict=True))
    first, last = history.rows["bucket"].min(), history.rows["bucket"].max()
    axis = alt.Axis(grid=False, tickCount=6, labelOverlap=True)
    x = alt.X("bucket:T", title=None, axis=axis, scale=alt.Scale(nice=False))
    moment = history.rows.schema["bucket"]
    happened = pl.DataFrame(
        {"bucket": [mark.at for mark in marks], "what": [mark.what for mark in marks]},
        schema={"bucket": moment, "what": pl.String},
    ).filter(pl.col("bucket").is_between(first, last))
    shown = []
    for lane in lanes:
        chart = _lane(lane, x, colours)
        shown.append((sentence(lane), _spec(chart, happened, x, colours, rows=lane)))
    if len(history.latency):
        cells = history.latency.with_columns(until=pl.col("bucket") + pl.duration(minutes=history.width_min))
        shown.append((latency_sentence(history), _spec(_heat(latency, x, colours), happened, x, colours, rows=cells)))
    return shown


def _spec(
    layers: list[alt.Chart], happened: pl.DataFrame, x: alt.X, colours: dict[str, str], *, rows: pl.DataFrame
) -> dict[str, Any]:
    marks = _on("marks").mark_rule(color=colours["ink"], strokeDash=[2, 2], strokeWidth=1.5)
    chart = (
        alt.layer(*layers, marks.encode(x=x, tooltip=["what:N", "bucket:T"]))
        .properties(
            height=92,
            width="container",
            background="transparent",
            padding={"left": 0, "right": 8, "top": 4, "bottom": 0},
            usermeta={"embedOptions": {"actions": False}},
        )
        .configure(font=_FONT, aria=False)  # what it shows stands in words beside it
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=colours["soft"],
            gridColor=colours["grid"],
            domainColor=colours["grid"],
            tickColor=colours["grid"],
        )
    )
    spec: dict[str, Any] = chart.to_dict()
    return {**spec, "datasets": {"rows": rows, "marks": happened}}


def _on(name: str) -> alt.Chart:
    return alt.Chart(alt.NamedData(name=name))


def _axis(expression: str) -> alt.Axis:
    """One width of the labels for every lane, so that moments stand below each other."""
    return alt.Axis(tickCount=3, labelExpr=expression, minExtent=46, maxExtent=46)


def _lane(lane: pl.DataFrame, x: alt.X, colours: dict[str, str]) -> list[alt.Chart]:
    limit = lane["limit"][0] if len(lane) else None
    highest = lane["rate"].max()
    top = max((highest if isinstance(highest, float) else 0.0) * 1.6, 2.0 * (limit or 0.0), 0.5)
    y = alt.Scale(domain=[0, top], clamp=True, nice=False)
    axis = _axis("datum.value + ' %'")
    tooltip = [alt.Tooltip("bucket:T"), alt.Tooltip("n:Q", format=",")]
    tooltip += [alt.Tooltip(f"{part}:Q", format=".2f") for part in ("rate", "lower", "upper")]
    band = _on("rows").mark_area(color=colours["band"], opacity=0.7)
    line = _on("rows").mark_line(color=colours["line"], strokeWidth=2)
    layers = [
        band.encode(x=x, y=alt.Y("lower:Q", scale=y, axis=axis, title=None), y2="upper:Q"),
        line.encode(x=x, y=alt.Y("rate:Q", scale=y, axis=axis, title=None), tooltip=tooltip),
    ]
    if limit is not None:
        rule = _on("rows").transform_aggregate(limit="max(limit)").mark_rule(color=colours["limit"], strokeDash=[5, 3])
        layers.append(rule.encode(y=alt.Y("limit:Q", scale=y, axis=axis, title=None)))
    return layers


def _heat(latency: SignalEvidence | None, x: alt.X, colours: dict[str, str]) -> list[alt.Chart]:
    y, axis = alt.Scale(type="log"), _axis(_DURATION)
    tooltip = [alt.Tooltip("bucket:T"), alt.Tooltip("low_ms:Q", format=",.0f"), alt.Tooltip("share:Q", format=".1%")]
    scale = alt.Scale(range=[colours["low"], colours["line"]])
    heights = alt.Y("low_ms:Q", scale=y, axis=axis, title=None)
    colour = alt.Color("share:Q", scale=scale, legend=None)
    cells = _on("rows").mark_rect().encode(x=x, x2="until:T", y=heights, y2="high_ms:Q", color=colour, tooltip=tooltip)
    if latency is None or latency.limit is None or latency.unit != "ms":
        return [cells]
    rule = alt.Chart(alt.InlineData([{"limit": latency.limit}])).mark_rule(color=colours["limit"], strokeDash=[5, 3])
    return [cells, rule.encode(y=alt.Y("limit:Q", scale=y, axis=axis, title=None))]


def latency_sentence(history: CellHistory) -> str:
    """The newest latencies in words."""
    known = history.rows.filter(pl.col("latency_p95").is_not_null())
    if not len(known):
        return "no latency is known"
    last = known.row(-1, named=True)
    p50, p95 = (labels.milliseconds(last[f"latency_{name}"]) for name in ("p50", "p95"))
    return f"Latency as shares of executions; at last p50 {p50}, p95 {p95}"
