"""The overview: what needs a person first, then every action by stage, with the signal that decides its verdict."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import streamlit as st

from dashboard import labels
from dashboard.commands_shown import copy_as_command
from dashboard.components.html import Child, Markup, join, tag
from dashboard.components.layout import heading, nothing_yet
from dashboard.components.live_html import link
from dashboard.components.symbols import STATE_WORDS, URGENCY, log_interval, mark_label, symbol
from dashboard.data.action_rows import ActionRow, action_rows
from dashboard.data.deciding import deciding_signal
from dashboard.data.needs import WORDS, Need, needs
from dashboard.page_context import live
from producers.wire.stage import LADDER, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from analytics.report import CellSignals
    from analytics.verdicts.list_marks import Kind
    from dashboard.data.reader import LakeSnapshot
    from dashboard.page_context import PageContext
    from dashboard.urls import PageLocation

MOST_NEEDS: Final = 5
MOST_ROWS: Final = 50
_STATES: Final = (*(state.value for state in URGENCY), "NONE")
_BEGIN: Final = [
    ("See it work, with simulated agents:", "stagekeeper up --demo"),
    ("Send events of your own: start the broker and the worker, then point a router at them.", "stagekeeper up"),
    ("Or read what recorded agents did:", "stagekeeper import transcript FILE --catalog CATALOG.yaml"),
]


def show(context: PageContext) -> None:
    """The overview, anew every two seconds."""
    live(context, _show, "overview")
    with st.container(key="sk-foot", horizontal=True):
        copy_as_command("stagekeeper signals --json", "stagekeeper verdicts --json", "stagekeeper recommendations list")


def _show(context: PageContext) -> None:
    snapshot, location, now = context.snapshot(), context.here(), context.now
    if snapshot is None:
        detail = (
            f"This page reads {context.reader.root}, and nothing is there. A worker creates it with its first event."
        )
        context.show(nothing_yet("There is no lake yet", detail, _BEGIN), "upper", content="no lake")
        return
    if not (snapshot.signals or snapshot.verdicts):
        detail = f"The lake at {context.reader.root} is there and empty. It fills as soon as agents ask to act."
        simulate = ("With the broker and a worker running, send simulated decisions:", "stagekeeper simulate")
        context.show(nothing_yet("No decisions yet", detail, [simulate, *_BEGIN[::2]]), "upper", content="empty")
        return
    waiting, refused = context.desk.reviews()
    found = needs(context.reader.followed(now), snapshot.verdicts, waiting, location)
    fault = context.gates.fault
    notices = [] if fault is None else [tag("p", tag("b", "Gate file: "), fault, class_="sk-notice", role="alert")]
    notices += [tag("p", tag("b", "Review: "), text, class_="sk-notice", role="alert") for text in refused]
    every = location.show == "needs"
    context.show(join([*notices, need_list(found, location, now, every=every)]), "upper", content="overview")
    rows = [row for row in action_rows(snapshot) if location.covers(row.action.environment, row.action.workflow)]
    _filters(rows, location)
    location = context.here()
    chosen = [row for row in rows if row.matches(location) and location.verdict in {None, row.state}]
    context.show(matrix(chosen, snapshot, location), "lower", content="overview")


def need_list(found: Sequence[Need], location: PageLocation, now: datetime, *, every: bool = False) -> Markup:
    """What needs a person, as a list; the first few of many unless `every` one is asked for."""
    title = f"{labels.plural(len(found), 'thing')} {'needs' if len(found) == 1 else 'need'} a person"
    if not found:
        quiet = tag("p", "No recommendation is open, every change is in force, and nothing waits for a review.")
        return join([heading("Nothing needs a person"), tag("div", quiet, class_="sk-panel sk-quiet")])
    shown = found if every else found[:MOST_NEEDS]
    items = [tag("li", _need(need, now), class_=f"sk-need sk-need-{need.kind}") for need in shown]
    more = None
    if len(found) > len(shown):
        more = link(location.with_values(show="needs").address, f"{len(found) - len(shown)} more", class_="sk-more")
    listed = tag("ol", items, class_="sk-needs")
    section = tag("section", listed, more, aria_label="What needs a person")
    return join([heading(title, aside="most urgent first"), section])


def _need(need: Need, now: datetime) -> Markup:
    return link(
        need.leads_to.address,
        tag("span", symbol(need.kind), WORDS[need.kind], class_=f"sk-need-kind sk-{need.kind}"),
        tag("b", need.what, class_="sk-need-what"),
        tag("span", need.text, class_="sk-need-text"),
        tag("span", labels.age(need.since, now).removesuffix(" ago"), class_="sk-need-age"),
        tag("span", "Open", class_="sk-open"),
    )


def _filters(rows: Sequence[ActionRow], location: PageLocation) -> None:
    """Search, verdict, owner and risk class; the address holds what is chosen."""
    st.session_state["sk-search"] = location.search or ""
    st.session_state["sk-verdict"] = location.verdict or ""
    st.session_state["sk-owner"] = location.owner or ""
    st.session_state["sk-risk"] = location.risk or ""
    numbers = Counter(row.state for row in rows)
    owners = sorted({row.owner for row in rows if row.owner} | ({location.owner} if location.owner else set()))
    risks = sorted({row.risk for row in rows if row.risk} | ({location.risk} if location.risk else set()))
    with st.container(key="sk-filters", horizontal=True, vertical_alignment="center"):
        st.markdown("## Actions by stage")
        st.text_input(
            "Search", placeholder="Workflow, tool or owner", key="sk-search", label_visibility="collapsed",
            on_change=_choose, args=("search",), width=200,
        )  # fmt: skip
        st.segmented_control(
            "Verdict",
            ["", *(state for state in _STATES if numbers[state] or state == location.verdict)],
            format_func=lambda state: f"{STATE_WORDS[state]} {numbers[state]}" if state else f"All {len(rows)}",
            key="sk-verdict",
            label_visibility="collapsed",
            on_change=_choose,
            args=("verdict",),
        )
        _pick("owner", owners, "Any owner")
        _pick("risk", risks, "Any risk class")


def _pick(name: str, values: list[str], anything: str) -> None:
    st.selectbox(
        anything,
        ["", *values],
        format_func=lambda value: (value or anything).replace("_", " "),
        key=f"sk-{name}",
        label_visibility="collapsed",
        on_change=_choose,
        args=(name,),
        width=150,
    )


def _choose(name: str) -> None:
    value = st.session_state[f"sk-{name}"]
    if value:
        st.query_params[name] = value
    else:
        st.query_params.pop(name, None)


def matrix(rows: Sequence[ActionRow], snapshot: LakeSnapshot, location: PageLocation) -> Markup:
    """The actions as a table, a row each; of very many, the most urgent."""
    if not rows:
        return tag("p", "No action matches. Clear the search, or choose another verdict.", class_="sk-panel sk-quiet")
    kinds, several = snapshot.marks.kinds, len({row.action.environment for row in rows}) > 1
    shown = rows[:MOST_ROWS]
    stages = [stage.value for stage in LADDER]
    stages += sorted({cell.stage for row in shown for cell in (*row.alive, *row.former)} - set(stages))
    table = tag(
        "table",
        tag("caption", "Actions by stage of authority", class_="sk-unseen"),
        tag("thead", _head(stages)),
        tag("tbody", [_row(row, snapshot, stages, kinds, several=several, location=location) for row in shown]),
        class_="sk-matrix",
    )
    board = tag("div", table, class_="sk-board", role="region", aria_label="Actions by stage", tabindex="0")
    marks = tag("p", snapshot.marks.note, class_="sk-quiet sk-marks")
    if len(shown) == len(rows):
        return join([board, marks])
    note = (
        f"The {labels.count(len(shown))} most urgent of {labels.count(len(rows))} actions. Search, or choose a verdict."
    )
    return join([board, tag("p", note, class_="sk-quiet"), marks])


def _head(stages: Iterable[str]) -> Markup:
    heads = [
        tag(
            "th",
            tag("span", index, class_="sk-rung-n"),
            " ",
            labels.stage_name(stage),
            scope="col",
            class_="sk-stage-head",
        )
        for index, stage in enumerate(stages, start=1)
    ]
    scale = tag("span", tag("span", "\u215b\u00d7"), tag("span", "limit"), tag("span", "8\u00d7"), class_="sk-scale")
    return tag(
        "tr",
        tag("th", "Action", scope="col", class_="sk-corner"),
        heads,
        tag("th", "Deciding signal", scope="col"),
        tag("th", scale, scope="col", class_="sk-bounds-head"),
        tag("th", "Actions", scope="col", class_="sk-count"),
    )


def _row(
    row: ActionRow,
    snapshot: LakeSnapshot,
    stages: Sequence[str],
    kinds: Mapping[str, Kind],
    *,
    several: bool,
    location: PageLocation,
) -> Markup:
    main, verdict = row.alive[0], row.verdict
    alive = {cell.stage: cell for cell in row.alive}
    former = {cell.stage for cell in row.former}
    target = None if verdict is None else verdict.to_stage
    top = max((stages.index(stage) for stage in alive), default=0)
    slots: list[Child] = []
    for place, stage in enumerate(stages):
        kind = "sk-slot sk-climbed" if place < top else "sk-slot"
        chip: Child = None
        if stage in alive:
            chip = _chip(alive[stage], snapshot, kinds)
        elif stage == target:
            chip = tag("span", "recommended", class_="sk-chip sk-chip-target")
        elif stage in former and place > top:
            chip = tag("span", "was here", class_="sk-chip sk-chip-was")
        slots.append(tag("td", chip, class_=kind))
    risk = None if row.risk is None else tag("span", f" · {row.risk.replace('_', ' ')}", class_="sk-risk")
    cohort = None if row.cohort == "all" else tag("span", f" {row.cohort}", class_="sk-cohort")
    environment = tag("span", f" {row.action.environment}", class_="sk-cohort") if several else None
    workflow = tag("span", row.action.workflow, risk, class_="sk-workflow")
    name = link(
        location.of_cell(main.cell).with_values(stage=None).address,
        workflow,
        tag("span", row.action.tool, cohort, environment, class_="sk-tool"),
        class_="sk-action",
        title=_in_words(row),
    )
    count = tag("td", labels.count(main.counts.get("decisions", 0)), class_="sk-count")
    return tag("tr", tag("th", name, scope="row"), slots, _deciding(row), count, class_=f"sk-row sk-row-{row.state}")


def _chip(cell: CellSignals, snapshot: LakeSnapshot, kinds: Mapping[str, Kind]) -> Markup:
    verdict = snapshot.verdicts.get(cell.cell)
    state = "NONE" if verdict is None else verdict.verdict.value
    mark = mark_label(None if verdict is None else kinds.get(verdict.verdict_id))
    return tag("span", symbol(state), STATE_WORDS[state], mark, class_=f"sk-chip sk-chip-{state}")


def _deciding(row: ActionRow) -> Markup:
    verdict = row.verdict
    if verdict is None:
        waiting = tag("span", "not judged yet: no gate, or no look since it was counted", class_="sk-note")
        return join([tag("td", waiting, class_="sk-deciding"), tag("td")])
    deciding = deciding_signal(verdict)
    over = "sk-over" if verdict.verdict == "ROLL_BACK" else None
    first = tag(
        "span", deciding.name, " ", tag("b", deciding.value, class_=over), " ", tag("span", deciding.by, class_="sk-by")
    )
    note = tag("span", deciding.note, class_="sk-note", title=deciding.note)
    part = deciding.evidence
    bounds = (
        log_interval(None, None, None, None)
        if part is None
        else log_interval(part.value, part.lower, part.upper, part.limit)
    )
    return join([tag("td", first, note, class_="sk-deciding"), tag("td", bounds, class_="sk-bounds-cell")])


def _in_words(row: ActionRow) -> str:
    main, action = row.alive[0], row.action
    cohort = "" if row.cohort == "all" else f", cohort {row.cohort}"
    rung = f"stage {Stage(main.stage).rank + 1} of {len(LADDER)}, " if main.stage in set(Stage) else ""
    decisions = labels.plural(main.counts.get("decisions", 0), "decision")
    stage = labels.stage_name(main.stage)
    return f"{action.workflow} {action.tool}{cohort}: {rung}{stage}, {STATE_WORDS[row.state]}, {decisions}. Open it."
