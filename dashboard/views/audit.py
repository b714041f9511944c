"""Audit: search decisions, and read the whole story of one, from contract to verdict, with what is missing."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Final

import streamlit as st

from analytics.audit.completeness import completeness
from analytics.audit.search import DecisionHit, DecisionQuery, search
from analytics.audit.search_index import SearchIndex, index_path
from analytics.audit.story import DEADLINE, UntoldDecisionError, story
from analytics.audit.story_text import steps_of, to_markdown
from analytics.lake.table_schemas import EVENTS
from dashboard import labels
from dashboard.commands_shown import copy_as_command
from dashboard.components.html import join, tag
from dashboard.components.layout import heading, panel, table
from dashboard.components.live_html import link
from dashboard.components.symbols import symbol

if TYPE_CHECKING:
    from datetime import date

    from analytics.audit.search import SearchPage
    from analytics.audit.story import Story
    from analytics.lake.tables import Lake
    from dashboard.components.html import Child, Markup
    from dashboard.page_context import PageContext

MOST_HITS: Final = 50
_OUTCOMES: Final = ("", "allow", "constrain", "queue_for_review", "deny", "fallback")
_ASKED: Final = "sk-audit-query"


def show(context: PageContext) -> None:
    """The search, or the story of the decision that the address names."""
    if context.snapshot() is None:
        context.nothing_here(
            "There is no lake yet", f"This page reads {context.reader.root}, and nothing is there.", []
        )
    elif context.location.item is not None:
        _story(context, context.location.item)
    else:
        _search(context)


def _search(context: PageContext) -> None:
    context.show(heading("Audit", "Every decision, and everything that the lake knows about it."), "head")
    with st.form("sk-audit"):
        columns = st.columns(4)
        given = {
            "decision": columns[0].text_input("Decision id"),
            "actor": columns[1].text_input("Agent, user or service identity"),
            "tool": columns[2].text_input("Tool", value=context.location.tool or ""),
            "target": columns[3].text_input("System, record or environment", value=context.location.environment or ""),
            "outcome": columns[0].selectbox(
                "Outcome", _OUTCOMES, format_func=lambda name: name.replace("_", " ") or "any"
            ),
            "text": columns[1].text_input("Words of the intent"),
        }
        since = columns[2].date_input("Decided from (UTC)", value=None)
        until = columns[3].date_input("Through (UTC)", value=None)
        asked = columns[0].form_submit_button("Search", type="primary")
    if asked:
        st.session_state[_ASKED] = (given, since, until)
    given, since, until = st.session_state.get(_ASKED, (given, since, until))
    if given["decision"].strip():
        _story(context, given["decision"].strip(), leads=False)
        return
    page = context.reader.look(lambda lake: _found(lake, context, _query(given, since, until)))
    if page is None:
        return
    rows: list[tuple[Child, ...]] = [_hit(context, hit) for hit in page.hits]
    name = "Decisions, the newest first"
    more = f"the newest {MOST_HITS}; narrow the search for others" if page.before is not None else f"{len(rows)} found"
    heads = ("Decision", "When", "Action", "Asked by", "Outcome", "Reason")
    none = tag("p", "No decision matches.", class_="sk-quiet")
    context.show(panel(name, table(heads, rows, name=name) if rows else none, note=more), "hits")
    words = " ".join(f"--{name} {value}" for name, value in given.items() if value and name not in {"decision", "text"})
    copy_as_command(f"stagekeeper audit search {words} --json".replace("  ", " "), "stagekeeper audit verify --json")
    _gaps(context)


def _query(given: dict[str, Any], first: date | None, last: date | None) -> DecisionQuery:
    named = {name: str(value).strip() for name, value in given.items() if name != "decision"}
    text = named.pop("text")
    since = None if first is None else datetime.combine(first, time(), UTC)
    until = None if last is None else datetime.combine(last, time(), UTC) + timedelta(days=1)
    return DecisionQuery(**{name: value for name, value in named.items() if value}, text=text, since=since, until=until)


def _found(lake: Lake, context: PageContext, query: DecisionQuery) -> SearchPage:
    with closing(SearchIndex(index_path(lake.root, context.desk.home))) as index:
        return search(index, query, events_version=index.follow(lake), limit=MOST_HITS)


def _hit(context: PageContext, hit: DecisionHit) -> tuple[Child, ...]:
    asked_by = " for ".join(filter(None, (hit.agent, hit.user)))
    return (
        link(
            context.location.with_values(item=hit.decision_id).address,
            f"{hit.decision_id[:13]}…",
            class_="sk-more sk-mono",
        ),
        labels.timed(hit.decided_at),
        f"{hit.workflow} / {hit.tool}, {labels.stage_name(hit.stage).lower()}",
        asked_by,
        hit.outcome.replace("_", " ") + (f" to {hit.mode}" if hit.mode else ""),
        hit.reason,
    )


def _gaps(context: PageContext) -> None:
    """Whether the record is whole; looked at only when somebody asks, since it reads everything."""
    if not st.toggle("Check whether the record is whole", key="sk-whole"):
        return
    report = context.reader.cached(("whole",), (EVENTS,), lambda lake: completeness(lake, deadline=DEADLINE))
    if report is None:
        return
    rows: list[tuple[Child, ...]] = [
        (
            symbol("INVALID" if gap.invalidates else "undecided"),
            tag("code", gap.code),
            gap.meaning,
            labels.count(gap.count),
            "; ".join(f"{one.what}: {one.detail}" for one in gap.examples[:2]),
        )
        for gap in report.gaps
        if gap.count
    ]
    whole = tag("p", symbol("pass"), "Nothing is missing and nothing is too much.")
    heads = ("", "Gap", "What it means", "How often", "For example")
    context.show(panel("The record", table(heads, rows, name="The record") if rows else whole), "gaps")


def _story(context: PageContext, decision_id: str, *, leads: bool = True) -> None:
    try:
        told = context.reader.look(lambda lake: story(lake, decision_id))
    except UntoldDecisionError as error:
        search_for = [("Search decisions", context.location.with_values(item=None).address)] if leads else []
        context.nothing_here(f"No decision {decision_id}", str(error), search_for)
        return
    if told is None:
        return
    items = [
        tag(
            "li",
            symbol("late" if step.is_missing else "pass"),
            tag("b", step.title),
            labels.timed(step.at) if step.at is not None else None,
            [tag("span", line) for line in step.lines],
            class_="sk-missing" if step.is_missing else None,
        )
        for step in steps_of(told)
    ]
    notes = [f"{told.environment} · {told.workflow} / {told.tool} · {labels.stage_name(told.stage).lower()}"]
    back = link(context.location.with_values(item=None).address, "All decisions", class_="sk-more") if leads else None
    title = heading(["Decision ", tag("code", decision_id)], told.summary, notes, aside=back)
    parts = [title] if leads else [panel(["Decision ", tag("code", decision_id)], tag("p", told.summary))]
    parts += [panel("The whole story", tag("ol", items, class_="sk-steps")), _bytes(told)]
    context.show(join(parts), "story")
    with st.container(key="sk-foot", horizontal=True):
        st.download_button("Save as Markdown", to_markdown(told), f"{decision_id}.md", "text/markdown")
        copy_as_command(f"stagekeeper audit why {decision_id} --json")


def _bytes(told: Story) -> Markup:
    rows: list[tuple[Child, ...]] = [
        (
            tag("code", one.type),
            labels.timed(one.time),
            one.source,
            tag("code", f"{one.topic} / {one.partition} / {one.offset}"),
        )
        for one in told.events
    ]
    name = "Recorded events"
    return panel(name, table(("Type", "When", "Source", "Where its bytes lie"), rows, name=name))
