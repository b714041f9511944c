"""Puts the views together: which of them is shown for a place, and where its parts stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from dashboard.components import charts
from dashboard.components.html import join, tag
from dashboard.components.layout import header, nothing_yet, quality_panel, rejects_panel
from dashboard.views.cell import evidence_table, headline
from dashboard.views.overview import matrix
from dashboard.views.recommendations import recommendations

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.verdicts.document import VerdictDocument
    from dashboard.components.html import Markup
    from dashboard.components.live_html import Console
    from dashboard.data.cell_history import History
    from dashboard.data.reader import GateFileState, LakeReader, Snapshot
    from dashboard.urls import Place
    from producers.wire.receipt import Cell

_BEGIN = [
    ("See it work, with simulated agents:", "stagekeeper up --demo"),
    ("Send events of your own: start the broker and the worker, then point a router at them.", "stagekeeper up"),
    ("Or read what recorded agents did:", "stagekeeper import transcript FILE --catalog CATALOG.yaml"),
]


@dataclass(frozen=True)
class _View:
    """What every view is made from."""

    snapshot: Snapshot
    gates: GateFileState | None
    place: Place
    now: datetime

    def head(self) -> Markup:
        fault = None if self.gates is None else self.gates.fault
        notice = None if fault is None else tag("p", tag("b", "Gate file: "), fault, class_="sk-notice", role="alert")
        return join([header(self.snapshot, self.place, self.now), notice])


def page(console: Console, reader: LakeReader, gates: GateFileState | None, place: Place, now: datetime) -> None:
    """Show one place as the lake is now.

    Raises:
        StagekeeperError: The lake cannot be read; the message says how to mend it.
    """
    snapshot = reader.snapshot()
    if snapshot is None:
        console.show(
            nothing_yet(
                "There is no lake yet",
                f"This page reads {reader.root}, and nothing is there. A worker creates it with its first event.",
                _BEGIN,
            ),
            place="upper",
            view="no lake",
            leads=True,
        )
        return
    view = _View(snapshot, gates, place, now)
    report = snapshot.report
    if place.cell is not None:
        _detail(console, reader, view, place.cell)
    elif place.panel == "rejects":
        body = rejects_panel(report.rejects, place, now)
        console.show(join([view.head(), body]), place="upper", view="rejects", leads=True)
    elif place.panel == "quality":
        body = quality_panel(snapshot.quality, place, now)
        console.show(join([view.head(), body]), place="upper", view="quality", leads=True)
    elif not report.signals and not report.verdicts and not report.rejects.total:
        console.show(
            nothing_yet(
                "No decisions yet",
                f"The lake at {reader.root} is there and empty. It fills as soon as a worker runs and agents ask "
                "to act.",
                [
                    ("With the broker and a worker running, send simulated decisions:", "stagekeeper simulate"),
                    *_BEGIN[::2],
                ],
            ),
            place="upper",
            view="empty",
            leads=True,
        )
    else:
        board = tag(
            "main",
            tag("section", matrix(snapshot, place), class_="sk-board", aria_label="Actions by stage"),
            recommendations(report, place, now),
            class_="sk-overview",
        )
        console.show(join([view.head(), board]), place="upper", view="overview", leads=True)


def _detail(console: Console, reader: LakeReader, view: _View, cell: Cell) -> None:
    signals = next((row for row in view.snapshot.report.signals if row.cell == cell), None)
    verdict = view.snapshot.report.latest_verdicts().get(cell)
    in_force = None if view.gates is None else view.gates.sha256
    # Everything is worked out before anything is shown, and the two halves go out together: numbers that belong to one
    # look must not stand beside those of another. The charts, which the browser takes longest over, come last.
    history = reader.history(cell, None if verdict is None else verdict.epoch)
    body = headline(cell, signals, verdict, place=view.place, gates_sha256=in_force, now=view.now)
    table = evidence_table(verdict)
    console.show(join([view.head(), body]), place="upper", view=view.place.address, leads=True)
    middle = st.container()
    if table is not None:
        console.show(table, place="lower", view=view.place.address)
    if history is not None and not history.rows.is_empty():
        with middle:
            _charts(history, verdict)


def _charts(history: History, verdict: VerdictDocument | None) -> None:
    for panel, column in zip(charts.PANELS, st.columns(len(charts.PANELS), gap="small"), strict=True):
        drawn = charts.drawing(panel, history, verdict)
        note = charts.caption(panel, history, verdict)
        with column:
            st.html(tag("div", tag("h3", panel.title), tag("p", note), class_="sk-chart-head"))
            if drawn is None:
                st.html(tag("p", "Nothing measured yet.", class_="sk-chart-none"))
            else:
                st.vega_lite_chart(spec=drawn, theme=None, key=f"chart-{panel.signal}", alt=f"{panel.title}: {note}")
