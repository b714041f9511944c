"""Which view is shown for a location, and where its parts stand on the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from analytics.verdicts import heartbeats
from dashboard.components import charts
from dashboard.components.html import Markup, join, tag
from dashboard.components.layout import header, nothing_yet
from dashboard.data.reader import FRESHNESS_S
from dashboard.views.cell import evidence_table, headline
from dashboard.views.overview import matrix
from dashboard.views.quality import quality_panel
from dashboard.views.recommendations import recommendations
from dashboard.views.rejects import rejects_panel

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.verdicts.document import VerdictDocument
    from dashboard.components.live_html import LiveHtml
    from dashboard.data.cell_history import CellHistory
    from dashboard.data.reader import GateFileState, LakeReader, LakeSnapshot
    from dashboard.urls import PageLocation
    from producers.wire.receipt import Cell

_BEGIN = [
    ("See it work, with simulated agents:", "stagekeeper up --demo"),
    ("Send events of your own: start the broker and the worker, then point a router at them.", "stagekeeper up"),
    ("Or read what recorded agents did:", "stagekeeper import transcript FILE --catalog CATALOG.yaml"),
]


def page(
    html: LiveHtml,
    reader: LakeReader,
    gates: GateFileState | None,
    location: PageLocation,
    now: datetime,
    *,
    unsigned: bool,
) -> None:
    """Show one location as the lake is now, and whether receipts are `unsigned`.

    Raises a `StagekeeperError` where the lake cannot be read.
    """
    snapshot = reader.snapshot()
    if snapshot is None:
        detail = f"This page reads {reader.root}, and nothing is there. A worker creates it with its first event."
        body = nothing_yet("There is no lake yet", detail, _BEGIN)
        html.show(body, slot="upper", content="no lake", leads=True)
    elif location.cell is not None:
        _cell_page(html, reader, snapshot, gates=gates, location=location, cell=location.cell, now=now)
    elif location.view == "overview" and not (snapshot.signals or snapshot.verdicts or snapshot.rejects.total):
        detail = (
            f"The lake at {reader.root} is there and empty. It fills as soon as a worker runs and agents ask to act."
        )
        simulate = ("With the broker and a worker running, send simulated decisions:", "stagekeeper simulate")
        body = nothing_yet("No decisions yet", detail, [simulate, *_BEGIN[::2]])
        html.show(body, slot="upper", content="empty", leads=True)
    else:
        body = join([_head(snapshot, gates, location, now), _view(snapshot, location, now, unsigned=unsigned)])
        html.show(body, slot="upper", content=location.view, leads=True)


def _view(snapshot: LakeSnapshot, location: PageLocation, now: datetime, *, unsigned: bool) -> Markup:
    if location.view == "rejects":
        return rejects_panel(snapshot.rejects, location, now)
    if location.view == "quality":
        return quality_panel(snapshot.quality, location, now, unsigned=unsigned)
    board = tag("section", matrix(snapshot, location), class_="sk-board", aria_label="Actions by stage")
    return tag("main", board, recommendations(snapshot, location, now), class_="sk-overview")


def _head(snapshot: LakeSnapshot, gates: GateFileState | None, location: PageLocation, now: datetime) -> Markup:
    fault = None if gates is None else gates.fault
    notice = None if fault is None else tag("p", tag("b", "Gate file: "), fault, class_="sk-notice", role="alert")
    limit_s = FRESHNESS_S if gates is None else gates.freshness_s
    return join([header(snapshot, location, now, freshness_s=limit_s), notice])


def _cell_page(
    html: LiveHtml,
    reader: LakeReader,
    snapshot: LakeSnapshot,
    *,
    gates: GateFileState | None,
    location: PageLocation,
    cell: Cell,
    now: datetime,
) -> None:
    verdict = snapshot.verdicts.get(cell)
    if verdict is not None:
        verdict = heartbeats.confirmed(verdict, snapshot.heartbeat)
    in_force = None if gates is None else gates.sha256
    # Everything is worked out before anything is shown, and the two halves go out together: numbers of one version of
    # the lake must not stand beside those of another. The charts, which the browser takes longest over, come last.
    history = reader.history(cell, None if verdict is None else verdict.epoch)
    body = headline(cell, snapshot.signals.get(cell), verdict, location=location, gates_sha256=in_force, now=now)
    table = evidence_table(verdict)
    head = _head(snapshot, gates, location, now)
    html.show(join([head, body]), slot="upper", content=location.address, leads=True)
    middle = st.container()
    if table is not None:
        html.show(table, slot="lower", content=location.address)
    if history is not None and not history.rows.is_empty():
        with middle:
            _charts(history, verdict)


def _charts(history: CellHistory, verdict: VerdictDocument | None) -> None:
    for chart, column in zip(charts.CHARTS, st.columns(len(charts.CHARTS), gap="small"), strict=True):
        spec = charts.drawing(chart, history, verdict)
        note = charts.caption(chart, history, verdict)
        with column:
            st.html(tag("div", tag("h3", chart.title), tag("p", note), class_="sk-chart-head"))
            if spec is None:
                st.html(tag("p", "Nothing measured yet.", class_="sk-chart-none"))
            else:
                st.vega_lite_chart(spec=spec, theme=None, key=f"chart-{chart.signal}", alt=f"{chart.title}: {note}")
