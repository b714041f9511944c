"""One action: where it is and why, its signals over time, who its users are, its attempts, and what went wrong."""

from __future__ import annotations

import difflib
from functools import partial
from typing import TYPE_CHECKING, Final

import streamlit as st

from analytics.lake.table_schemas import VERDICTS
from analytics.verdicts import heartbeats
from dashboard import labels
from dashboard.act_desk import Role
from dashboard.commands_shown import copy_as_command
from dashboard.components import charts
from dashboard.components.html import Child, Markup, join, tag
from dashboard.components.layout import heading, panel, table
from dashboard.components.live_html import link
from dashboard.components.symbols import STATE_WORDS, ladder, symbol
from dashboard.components.verdict_card import evidence_table, verdict_card
from dashboard.data.action_background import CellAttempt, attempts, deployments, shares_of_users, wrong_decisions
from dashboard.data.action_rows import ActionRow, action_rows
from dashboard.page_context import live
from producers.boundary.stage_store import RUNGS, ActionName, StageChange
from producers.errors import StagekeeperError
from producers.wire.stage import LADDER, MODE_OF_STAGE, Mode, Stage

if TYPE_CHECKING:
    from analytics.report import CellSignals
    from analytics.verdicts.document import VerdictDocument
    from dashboard.data.cell_history import CellHistory
    from dashboard.page_context import PageContext
    from dashboard.urls import PageLocation
    from producers.boundary.stage_store import StageSetting

_KEY: Final = "stage"


def show(context: PageContext) -> None:
    """The action that the address names."""
    snapshot, location = context.snapshot(), context.location
    rows = [] if snapshot is None else action_rows(snapshot)
    row = _row(rows, location)
    if row is None:
        _missing(context, rows)
        return
    live(context, partial(_upper, row=row), "action")
    with st.container(key="sk-acts", horizontal=True):
        if st.button("Change stage…", key="sk-change-stage"):
            _change_dialog(context, row)
        named = " ".join(f"--{name} {value}" for name, value in row.action._asdict().items())
        copy_as_command(
            f"stagekeeper stage show {named} --json",
            f"stagekeeper stage history {named} --json",
            f"stagekeeper verdicts --json | jq '.[] | select(.tool == \"{row.action.tool}\")'",
        )
    live(context, partial(_lower, row=row), "evidence")


def _row(rows: list[ActionRow], location: PageLocation) -> ActionRow | None:
    wanted = (location.environment, location.workflow, location.tool)
    mine = [row for row in rows if row.action == wanted]
    cohort = location.cohort or "all"
    return next((row for row in mine if row.cohort == cohort), mine[0] if mine and location.cohort is None else None)


def _missing(context: PageContext, rows: list[ActionRow]) -> None:
    """Say that there is no such action, where its name is known, and what is near it."""
    location = context.location
    name = f"{location.workflow or '?'} / {location.tool or '?'}"
    elsewhere = sorted({row.action.environment for row in rows if row.action[1:] == (location.workflow, location.tool)})
    names = {
        f"{row.action.workflow} / {row.action.tool}": row
        for row in rows
        if location.environment in {None, row.action.environment}
    }
    near = [
        (close, location.of_action(names[close].action).address)
        for close in difflib.get_close_matches(name, names, n=4, cutoff=0.4)
    ]
    near += [(f"{name} in {other}", location.with_values(environment=other).address) for other in elsewhere]
    cohort = f", cohort {location.cohort}," if location.cohort else ""
    where = f"in {location.environment}" if location.environment else "here"
    detail = "Nothing has been counted under this name. It may have been named in an old link, or its lake replaced."
    context.nothing_here(f"No action “{name}”{cohort} {where}", detail, near)


def _cell(context: PageContext, row: ActionRow) -> CellSignals:
    """The stage that the address names, or the one that matters most now."""
    snapshot, stage = context.snapshot(), context.here().stage
    fresh = row if snapshot is None else _row(action_rows(snapshot), context.location) or row
    cells = (*fresh.alive, *fresh.former)
    return next((cell for cell in cells if cell.stage == stage), cells[0])


def _verdict(context: PageContext, cell: CellSignals) -> VerdictDocument | None:
    snapshot = context.snapshot()
    found = None if snapshot is None else snapshot.verdicts.get(cell.cell)
    return None if found is None or snapshot is None else heartbeats.confirmed(found, snapshot.heartbeat)


def _setting(context: PageContext, action: ActionName) -> StageSetting | None:
    """What the store says; None where it cannot be read, which the policy page explains."""
    try:
        return context.desk.stage(action)
    except StagekeeperError:
        return None


def _upper(context: PageContext, row: ActionRow) -> None:
    cell = _cell(context, row)
    verdict, now = _verdict(context, cell), context.now
    fault = context.gates.fault
    notice = None if fault is None else tag("p", tag("b", "Gate file: "), fault, class_="sk-notice", role="alert")
    action = ActionName(cell.environment, cell.workflow, cell.tool)
    if verdict is None:
        text = "No verdict yet. The judge looks when numbers change; is a worker running with a gate file?"
        card = panel("Not judged", tag("p", text))
    else:
        card = verdict_card(verdict, context.gates.sha256, now)
    parts = [
        notice,
        _title(context, row, cell, verdict),
        _stages(context, row, cell, verdict, _setting(context, action)),
        card,
    ]
    context.show(join(parts), "upper")


def _title(context: PageContext, row: ActionRow, cell: CellSignals, verdict: VerdictDocument | None) -> Markup:
    name = [tag("span", cell.workflow, " / ", class_="sk-dim"), cell.tool]
    facts = [
        cell.environment,
        None if cell.cohort == "all" else f"cohort {cell.cohort}",
        cell.risk_class.replace("_", " ") if cell.risk_class else None,
        f"owner {row.owner}" if row.owner else None,
        labels.plural(cell.counts.get("decisions", 0), "decision"),
        labels.plural(cell.counts.get("executed", 0), "execution"),
        f"{labels.dollars(cell.cost_usd.mean)} each" if cell.cost_usd is not None else None,
    ]
    aside: Child = None
    if verdict is not None and verdict.to_stage is not None:
        word = "rollback" if verdict.verdict == "ROLL_BACK" else "promotion"
        wanted = verdict.latched_by or verdict.verdict_id
        aside = link(
            context.location.at("recommendations", item=wanted).address, f"Review the {word}", class_="sk-open"
        )
    back = link("./", "Overview", class_="sk-more")
    return join(
        [
            tag("p", back, f" / {cell.environment}", class_="sk-facts"),
            heading(name, " · ".join(filter(None, facts)), aside=aside),
        ]
    )


def _stages(
    context: PageContext,
    row: ActionRow,
    cell: CellSignals,
    verdict: VerdictDocument | None,
    setting: StageSetting | None,
) -> Markup:
    to_stage = None if verdict is None else verdict.to_stage
    names = [stage.value for stage in LADDER]
    rungs = [
        (labels.stage_name(stage), "here" if stage == cell.stage else "to" if stage == to_stage else "")
        for stage in (names if cell.stage in names else [*names, cell.stage])
    ]
    about = [change for change in context.reader.people().changes if change.is_about(row.action)]
    notes: list[Child] = [tag("span", "first decided here ", labels.timed(cell.first_decided_at))]
    if about:
        last = about[-1]
        notes.append(
            tag(
                "span",
                "last change ",
                labels.timed(last.at),
                f" by {last.data.changed_by}: ",
                tag("q", last.data.reason),
            )
        )
    if setting is not None and setting.share is not None:
        ramp = [tag("b", f"{share} %") if share == setting.share else f"{share} %" for share in RUNGS]
        notes.append(tag("span", "ramp ", join(part for share in ramp for part in (share, " "))))
    if setting is not None and (setting.emergency or setting.denied):
        stopped = "falls back: an emergency covers it" if setting.emergency else "is denied, whatever its stage"
        notes.append(tag("b", symbol("emergency"), stopped, class_="sk-ROLL_BACK"))
    elif setting is not None and setting.stage is not None and setting.stage.value != cell.stage:
        notes.append(
            tag("b", f"the store says {labels.stage_name(setting.stage.value).lower()}: no decision by it yet")
        )
    others = [one for one in (*row.alive, *row.former) if one.stage != cell.stage]
    links = [
        link(
            context.location.with_values(stage=one.stage).address,
            f"at {labels.stage_name(one.stage).lower()}",
            class_="sk-more",
        )
        for one in others
    ]
    if links:
        notes.append(tag("span", "also ", join(part for one in links for part in (one, " "))))
    return tag(
        "div",
        ladder(rungs),
        tag("p", join(part for note in notes for part in (note, " \u00a0 ")), class_="sk-facts"),
        class_="sk-where",
    )


def _lower(context: PageContext, row: ActionRow) -> None:
    cell = _cell(context, row)
    verdict = _verdict(context, cell)
    history = context.reader.history(cell.cell, None if verdict is None else verdict.epoch)
    left, right = st.columns([64, 36], gap="small")
    with left:
        if history is not None and not history.rows.is_empty():
            _timeline(context, row, verdict, history)
    with right:
        context.show(join([_users(context, cell, verdict), _attempts(context, cell), _wrong(context, cell)]), "beside")
    evidence = evidence_table(verdict)
    if evidence is not None:
        context.show(evidence, "lower")


def _timeline(context: PageContext, row: ActionRow, verdict: VerdictDocument | None, history: CellHistory) -> None:
    known = [charts.lane_rows(lane, history, verdict) for lane in charts.LANES]
    lanes = [rows for rows in known if len(rows)]
    marks = [
        charts.TimeMark(
            change.at, f"{change.data.before or '?'} → {change.data.after or '?'} by {change.data.changed_by}"
        )
        for change in context.reader.people().changes
        if change.is_about(row.action)
    ]
    minute = int(context.now.timestamp() // 60)
    deployed = context.reader.cached(
        ("deployments", row.action, minute), (), lambda lake: deployments(lake, row.action)
    )
    marks += [charts.TimeMark(one.at, one.what) for one in deployed or ()]
    incidents = history.rows.filter(history.rows["incidents"] > 0).select("bucket", "incidents").iter_rows()
    marks += [charts.TimeMark(at, labels.plural(number, "incident")) for at, number in incidents]
    if verdict is not None:
        marks.append(charts.TimeMark(verdict.judged_at, f"verdict {STATE_WORDS[verdict.verdict]}"))
    latency = charts.evidence_of(verdict, "latency_p95")
    key = "line: rate by action, this attempt so far · band: where the true rate can be · dashes: limit · bars: changes"
    with st.container(key="sk-timeline", border=True):
        st.html(tag("div", tag("h2", "Signals on one time axis"), tag("p", key), class_="sk-chart-head"))
        theme = st.context.theme.type or "light"
        for place, (words, spec) in enumerate(charts.timeline(lanes, history, marks, latency, theme)):
            st.html(tag("p", words, class_="sk-chart-words"))
            st.vega_lite_chart(spec=spec, theme=None, key=f"sk-lane-{place}", alt=words, width="stretch")
        with st.expander("Show numbers"):
            st.dataframe(history.rows, alt="The numbers of the charts")


def _users(context: PageContext, cell: CellSignals, verdict: VerdictDocument | None) -> Markup:
    epoch, half_minute = None if verdict is None else verdict.epoch, int(context.now.timestamp() // 30)
    numbers = context.reader.cached(
        ("users", cell.cell, half_minute), (), lambda lake: shares_of_users(lake, cell.cell, epoch)
    )
    if not numbers:
        return panel("Who its users are", tag("p", "No decision names a user.", class_="sk-quiet"))
    total = sum(numbers)
    parts = [numbers[0], sum(numbers[1:10]), sum(numbers[10:])]
    shares = [labels.percent(part / total) for part in parts]
    bar = tag(
        "div",
        [tag("i", style=f"width:{100 * part / total:.1f}%") for part in parts if part],
        class_="sk-share",
        aria_hidden="true",
    )
    rest = f" · the other {labels.count(len(numbers) - 10)}: {shares[2]}" if len(numbers) > 10 else ""
    nine = f" · next {min(len(numbers) - 1, 9)}: {shares[1]}" if len(numbers) > 1 else ""
    text = f"heaviest user: {shares[0]}{nine}{rest} of {labels.plural(total, 'decision')}"
    return panel(
        "Who its users are", tag("p", labels.plural(len(numbers), "user")), bar, tag("p", text, class_="sk-quiet")
    )


def _attempts(context: PageContext, cell: CellSignals) -> Markup:
    found: list[CellAttempt] = (
        context.reader.cached(("attempts", cell.cell), (VERDICTS,), lambda lake: attempts(lake, cell.cell)) or []
    )
    rows: list[tuple[Child, ...]] = [
        (
            labels.count(one.number),
            [symbol(one.verdict), STATE_WORDS[one.verdict]],
            labels.timed(one.since),
            labels.span((one.until - one.since).total_seconds()),
        )
        for one in found[:8]
    ]
    name = "Attempts at this stage"
    body: Child = (
        table(("Attempt", "Last verdict", "First judged", "Judged for"), rows, name=name)
        if rows
        else tag("p", "None was judged.")
    )
    return panel(name, body)


def _wrong(context: PageContext, cell: CellSignals) -> Markup:
    minute = int(context.now.timestamp() // 10)
    found = context.reader.cached(("wrong", cell.cell, minute), (), lambda lake: wrong_decisions(lake, cell.cell)) or []
    rows: list[tuple[Child, ...]] = [
        (
            link(
                context.location.at("audit", item=one.decision_id).address,
                f"{one.decision_id[:13]}…",
                class_="sk-more sk-mono",
            ),
            one.what,
            labels.timed(one.at),
        )
        for one in found
    ]
    name = "Decisions that went wrong"
    none = tag("p", "None that the lake holds.", class_="sk-quiet")
    return panel(name, table(("Decision", "What", "When"), rows, name=name) if rows else none)


@st.dialog("Change stage", width="large")
def _change_dialog(context: PageContext, row: ActionRow) -> None:
    """The difference before it is made; upward only as the gate allows."""
    try:
        setting = context.desk.stage(row.action)
        now = setting.stage or Stage.SEARCH_ONLY
        stages = [stage for stage in LADDER if stage.rank <= now.rank + 1]
        to = st.selectbox(
            "To", stages[::-1], index=min(1, len(stages) - 1), format_func=lambda stage: labels.stage_name(stage.value)
        )
        share = st.selectbox("Share of accounts", RUNGS) if to is Stage.PROGRESSIVE_EXPANSION else None
        mode: Mode = MODE_OF_STAGE[to]
        change = StageChange(row.action, mode, setting.version, share)
        diff = context.desk.preview(change)
    except StagekeeperError as error:
        st.error(str(error))
        return
    st.code(diff or f"Nothing: {row.action} has that stage already.", language="diff")
    st.caption("Down it always goes. Up it goes one stage, where the verdict promotes it or an override is in force.")
    refused = context.who_and_why(_KEY, "Because (kept with the change)", role=Role.OPERATOR)
    if st.button(
        f"Change to {labels.stage_name(to.value).lower()}",
        type="primary",
        disabled=refused is not None or not diff,
        on_click=context.act,
        args=(partial(_change, context, change),),
        kwargs={"name_key": _KEY, "reason_key": f"{_KEY}-reason"},
        key="sk-change-act",
    ):
        st.rerun()


def _change(context: PageContext, change: StageChange, reason: str) -> str:
    context.desk.change_stage(context.acting(_KEY), change, reason)
    return f"{change.action} has the mode {change.to.value} now."
