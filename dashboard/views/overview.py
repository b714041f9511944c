"""The matrix: actions by stages, each cell with its verdict and the few numbers that carry it."""

from __future__ import annotations

import heapq
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from dashboard import labels
from dashboard.components.html import Markup, join, tag
from dashboard.components.live_html import link
from dashboard.components.symbols import STATE_WORDS, URGENCY, mark_label, sparkline, state_label
from producers.wire.stage import LADDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from analytics.report import CellSignals
    from analytics.verdicts.document import VerdictDocument
    from analytics.verdicts.list_marks import Kind
    from dashboard.data.reader import LakeSnapshot
    from dashboard.data.trends import Trend
    from dashboard.urls import PageLocation
    from producers.wire.receipt import Cell


MOST_ACTIONS: Final = 150  # more make a page that a browser can neither hold nor a person read


class ActionRow(NamedTuple):
    """A row: one tool of one workflow in one environment."""

    environment: str
    workflow: str
    tool: str


def matrix(snapshot: LakeSnapshot, location: PageLocation) -> Markup:
    """The actions that have counts, as a table; of very many, those with the most urgent verdicts."""
    rows: dict[ActionRow, dict[str, list[CellSignals]]] = defaultdict(lambda: defaultdict(list))
    for signals in snapshot.signals.values():
        if location.covers(signals.environment, signals.workflow):
            rows[ActionRow(signals.environment, signals.workflow, signals.tool)][signals.stage].append(signals)
    stages = [stage.value for stage in LADDER]
    used = {stage for row in rows.values() for stage in row}
    stages += sorted(used - set(stages))
    several = len({action.environment for action in rows}) > 1
    verdicts, kinds = snapshot.verdicts, snapshot.marks.kinds
    shown = _most_urgent(rows, verdicts, location)

    def slot(cohorts: Sequence[CellSignals]) -> Markup:
        if not cohorts:
            return tag("td", tag("span", "no data", class_="sk-unseen"), class_="sk-slot sk-slot-empty", role="cell")
        cells = [
            cell(signals, verdicts.get(signals.cell), snapshot.trends.get(signals.cell), location, kinds)
            for signals in sorted(cohorts, key=lambda signals: signals.cohort)
        ]
        return tag("td", cells, class_="sk-slot", role="cell")

    lines = [
        tag(
            "tr",
            _action(action, rows[action], location, show_environment=several),
            [slot(rows[action].get(stage, ())) for stage in stages],
            role="row",
        )
        for action in shown
    ]
    table = tag(
        "table",
        tag("caption", "Actions by stage of authority", class_="sk-unseen"),
        tag("thead", _head(stages, used), role="rowgroup"),
        tag("tbody", lines, role="rowgroup"),
        class_="sk-matrix",
        role="table",
    )
    if len(shown) == len(rows):
        return table
    note = (
        f"{labels.count(len(shown))} of {labels.count(len(rows))} actions: those with the most urgent verdicts. Choose "
        "an environment or a workflow to see others; `stagekeeper signals` lists all."
    )
    return join([table, tag("p", note, class_="sk-quiet")])


def _most_urgent(
    rows: Mapping[ActionRow, Mapping[str, list[CellSignals]]],
    verdicts: Mapping[Cell, VerdictDocument],
    location: PageLocation,
) -> list[ActionRow]:
    """At most `MOST_ACTIONS` of them, by name."""

    def urgency(action: ActionRow) -> tuple[int, ActionRow]:
        cells = [signals.cell for row in rows[action].values() for signals in row]
        states = [verdicts[cell].verdict for cell in cells if cell in verdicts]
        if location.verdict in states:
            return -1, action
        return min(map(URGENCY.index, states), default=len(URGENCY)), action

    return sorted(heapq.nsmallest(MOST_ACTIONS, rows, key=urgency))


def _head(stages: Iterable[str], used: set[str]) -> Markup:
    corner = tag("th", "Workflow and tool", scope="col", role="columnheader", class_="sk-corner")
    heads = [
        tag(
            "th",
            tag("span", index, class_="sk-rung-n", aria_hidden="true"),
            labels.stage_name(stage),
            scope="col",
            role="columnheader",
            class_=None if stage in used else "sk-unused",
        )
        for index, stage in enumerate(stages, start=1)
    ]
    return tag("tr", corner, heads, role="row")


def _action(
    action: ActionRow, row: dict[str, list[CellSignals]], location: PageLocation, *, show_environment: bool
) -> Markup:
    risks = sorted({signals.risk_class for cells in row.values() for signals in cells if signals.risk_class})
    environment = f"{action.environment} \u00b7 " if show_environment else None
    return tag(
        "th",
        tag("span", environment, _workflow(action.workflow, location), class_="sk-workflow"),
        tag("span", action.tool, class_="sk-tool"),
        tag("span", ", ".join(risk.replace("_", " ") for risk in risks), class_="sk-risk"),
        scope="row",
        role="rowheader",
    )


def _workflow(workflow: str, location: PageLocation) -> Markup:
    if location.workflow is None:
        return link(location.with_workflow(workflow).address, workflow, aria_label=f"Show {workflow} alone")
    return link(location.with_workflow(None).address, workflow, " \u00d7", aria_label="Show all workflows")


def cell(
    signals: CellSignals,
    verdict: VerdictDocument | None,
    trend: Trend | None,
    location: PageLocation,
    kinds: Mapping[str, Kind],
) -> Markup:
    """One cell, as a link to its detail; `kinds` is what the list of all cells marks, by the verdict's id."""
    mark = None if verdict is None else kinds.get(verdict.verdict_id)
    marked = "" if mark is None else f", marked {mark}"
    state = "NONE" if verdict is None else verdict.verdict
    latency = signals.latency_ms
    p50, p95 = (None, None) if latency is None else (latency.p50, latency.p95)
    decisions = signals.counts.get("decisions", 0)
    name = (
        f"{signals.workflow} {signals.tool} at {labels.stage_name(signals.stage)}"
        f"{'' if signals.cohort == 'all' else f', cohort {signals.cohort}'}: {STATE_WORDS[state]}{marked}, "
        f"{labels.plural(decisions, 'decision')}, denial {labels.percent(signals.rates.get('denial'))}, "
        f"undo {labels.percent(signals.rates.get('undo'))}, latency p50 {labels.milliseconds(p50)}, "
        f"p95 {labels.milliseconds(p95)}. Open detail."
    )
    quantiles = [
        tag("span", "p50 ", tag("b", labels.milliseconds(p50))),
        tag("span", "p95 ", tag("b", labels.milliseconds(p95)), class_=_over(verdict, "latency_p95", p95)),
    ]
    size = tag("span", "n ", tag("b", labels.count(decisions)), class_="sk-n")
    return link(
        location.with_cell(signals.cell).address,
        tag("span", labels.stage_name(signals.stage), class_="sk-cell-stage"),
        tag("span", state_label(state), mark_label(mark), size, class_="sk-cell-head"),
        None if signals.cohort == "all" else tag("span", signals.cohort, class_="sk-cohort"),
        _rate("denial", "Denial", signals, verdict, () if trend is None else trend.denial),
        _rate("undo", "Undo", signals, verdict, () if trend is None else trend.undo),
        _decisive(verdict),
        tag("span", quantiles, class_="sk-cell-latency"),
        class_=f"sk-cell sk-cell-{state}",
        aria_label=name,
    )


_SHOWN = frozenset({"denial", "undo", "latency_p95"})


def _decisive(verdict: VerdictDocument | None) -> Markup | None:
    """What a rollback rests on, where no other line of the cell shows it."""
    if verdict is None or verdict.verdict != "ROLL_BACK" or not verdict.reasons:
        return None
    signal = verdict.reasons[0].signal
    evidence = next((part for part in verdict.signals if part.signal == signal and part.state == "fail"), None)
    if evidence is None or evidence.signal in _SHOWN:
        return None
    value = tag("b", labels.quantity(evidence.value, evidence.unit), class_="sk-over")
    return tag("span", tag("span", labels.signal_name(evidence.signal)), value, class_="sk-cell-decisive")


def _rate(
    signal: str, word: str, signals: CellSignals, verdict: VerdictDocument | None, values: tuple[float | None, ...]
) -> Markup:
    value = signals.rates.get(signal)
    limit = None if verdict is None else verdict.limit_of(signal)
    return tag(
        "span",
        tag("span", word, class_="sk-cell-word"),
        tag("b", labels.percent(value), class_=_over(verdict, signal, value)),
        sparkline(values, limit=limit, label=f"{word} over time"),
        class_="sk-cell-rate",
    )


def _over(verdict: VerdictDocument | None, signal: str, value: float | None) -> str | None:
    limit = None if verdict is None else verdict.limit_of(signal)
    return "sk-over" if limit is not None and value is not None and value > limit else None
