"""Data quality: what makes verdicts unusable, what was rejected, what is missing, and what the last run found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from dashboard import labels
from dashboard.commands_shown import copy_as_command
from dashboard.components.html import Child, Markup, join, tag
from dashboard.components.layout import heading, nothing_yet, panel, table
from dashboard.components.live_html import link
from dashboard.components.quality_tables import quality_tables
from dashboard.components.reject_tables import reject_tables
from dashboard.page_context import live

if TYPE_CHECKING:
    from datetime import datetime

    from dashboard.data.reader import LakeSnapshot
    from dashboard.data.routers import RouterState
    from dashboard.page_context import PageContext
    from dashboard.urls import PageLocation


def show(context: PageContext) -> None:
    """The page, anew every two seconds."""
    live(context, _show, "quality")
    with st.container(key="sk-foot", horizontal=True):
        copy_as_command("stagekeeper quality run --json", "stagekeeper doctor --json", "stagekeeper signals --json")


def _show(context: PageContext) -> None:
    snapshot, now = context.snapshot(), context.now
    if snapshot is None:
        begin = [("The lake is created with the first event:", "stagekeeper up")]
        context.show(nothing_yet("There is no lake yet", f"This page reads {context.reader.root}.", begin), "quality")
        return
    parts = [
        heading("Data quality", aside="what makes verdicts unusable first"),
        _unusable(snapshot, context.here()),
        _sources(context.reader.routers(now), now),
        _missing(snapshot, context.here()),
        reject_tables(snapshot.rejects, now),
        quality_tables(snapshot.quality, now, unsigned=context.unsigned),
    ]
    context.show(join(parts), "quality")


def _unusable(snapshot: LakeSnapshot, location: PageLocation) -> Markup:
    found = [
        verdict
        for verdict in snapshot.verdicts.values()
        if verdict.verdict == "INVALID" and location.covers(verdict.environment, verdict.workflow)
    ]
    rows: list[tuple[Child, ...]] = [
        (
            link(location.of_cell(verdict.cell).address, f"{verdict.workflow} / {verdict.tool}", class_="sk-more"),
            verdict.environment,
            tag("code", verdict.reasons[0].code if verdict.reasons else ""),
            verdict.reasons[0].message if verdict.reasons else verdict.summary,
        )
        for verdict in found[:30]
    ]
    name = "Actions without a usable verdict"
    if not rows:
        return panel(name, tag("p", "None: every action that is judged has a usable verdict.", class_="sk-quiet"))
    return panel(
        name, table(("Action", "Environment", "Reason", "What is wrong"), rows, name=name), note=f"{len(found)}"
    )


def _sources(routers: list[RouterState], now: datetime) -> Markup:
    rows: list[tuple[Child, ...]] = [
        (
            one.source,
            tag("code", one.ruleset[:12] or labels.UNKNOWN),
            labels.timed(one.last_decided_at),
            labels.age(one.last_decided_at, now),
        )
        for one in routers
    ]
    name = "Routers of the last quarter of an hour"
    none = tag("p", "No router has decided anything.", class_="sk-quiet")
    return panel(name, table(("Router", "Ruleset", "Last decision", "Age"), rows, name=name) if rows else none)


def _missing(snapshot: LakeSnapshot, location: PageLocation) -> Markup:
    late = [
        (rate, cell)
        for cell in snapshot.signals.values()
        if location.covers(cell.environment, cell.workflow) and (rate := cell.rates.get("missing_outcome"))
    ]
    late.sort(key=lambda one: -one[0])
    rows: list[tuple[Child, ...]] = [
        (
            link(location.of_cell(cell.cell).address, f"{cell.workflow} / {cell.tool}", class_="sk-more"),
            labels.stage_name(cell.stage),
            labels.percent(rate),
            labels.count(cell.counts.get("expected")),
            labels.count(cell.counts.get("executed")),
        )
        for rate, cell in late[:20]
    ]
    name = "Outcomes that are missing"
    none = tag("p", "Every outcome that is due has come.", class_="sk-quiet")
    return panel(name, table(("Action", "Stage", "Missing", "Expected", "Reported"), rows, name=name) if rows else none)
