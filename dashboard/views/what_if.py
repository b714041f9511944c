"""What if: a gate file is edited with lint as it is typed, and tried on history beside the one in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import altair as alt
import polars as pl
import streamlit as st

from analytics.backtest.compare import Backtest, backtest, in_force
from analytics.backtest.history import History
from analytics.gates.gate_file import GateFile
from analytics.gates.lint import lint_gates
from analytics.verdicts.document import VerdictDocument
from dashboard import labels
from dashboard.commands_shown import copy_as_command
from dashboard.components.html import join, tag
from dashboard.components.layout import heading, panel, table
from dashboard.components.live_html import link
from dashboard.components.symbols import STATE_WORDS, symbol
from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from analytics.backtest.history import Turn
    from analytics.lake.tables import Lake
    from dashboard.components.html import Child
    from dashboard.page_context import PageContext

MOST_LANES: Final = 20
_EDITED: Final = "sk-gates-text"
_RESULT: Final = "sk-backtest"
_COLOURS: Final = {
    "light": ["#b3380c", "#006a4e", "#71389a", "#7b8793"],
    "dark": ["#ff9d76", "#55c7a0", "#cda6f0", "#6f7d8a"],
}


def show(context: PageContext) -> None:
    """The answer, the editor, and the two timelines."""
    if context.snapshot() is None:
        context.nothing_here("There is no lake yet", "A gate file is tried on what was counted, and nothing was.", [])
        return
    result: Backtest | None = st.session_state.get(_RESULT)
    note = "History had the rules of its time: what agents would have asked under others is not known."
    context.show(heading(_answer(result), note), "head")
    if _EDITED not in st.session_state:
        st.session_state[_EDITED] = _gate_text(context)
    editor, findings = st.columns([58, 42], gap="small")
    with editor:
        text = str(st.text_area("Gate file (YAML)", key=_EDITED, height=420))
    with findings:
        fault = _lint(context, text)
    with st.container(key="sk-foot", horizontal=True):
        st.button("Try on history", type="primary", disabled=fault, on_click=_try, args=(context,), key="sk-try")
        st.download_button("Save as file", text, "gates.yaml", "application/yaml", disabled=fault, key="sk-save")
        st.button("Back to the file in force", on_click=_reset, args=(context,), key="sk-reset")
        copy_as_command("stagekeeper gate lint gates.yaml", "stagekeeper backtest --gates gates.yaml --json")
    if result is not None:
        _compare(context, result)


def _answer(result: Backtest | None) -> str:
    if result is None:
        return "What if the gates were others?"
    different = len({difference.cell for difference in result.differences})
    cells = len(result.old.keys() | result.new.keys())
    judged = labels.plural(cells, "action at its stage", "actions at their stages")
    return f"{different} of {judged} would have been judged otherwise"


def _gate_text(context: PageContext) -> str:
    try:
        return context.desk.gates.read_text(encoding="utf-8")
    except OSError:
        return "version: 1\ngates: []\n"


def _reset(context: PageContext) -> None:
    st.session_state[_EDITED] = _gate_text(context)
    st.session_state.pop(_RESULT, None)


def _lint(context: PageContext, text: str) -> bool:
    """Show what lint finds; whether the file cannot be used."""
    try:
        found = lint_gates(GateFile.parse(text.encode()))
    except StagekeeperError as error:
        context.show(panel("Lint", tag("p", symbol("INVALID"), str(error), role="alert")), "lint")
        return True
    kinds = {"error": "INVALID", "warning": "ROLL_BACK", "note": "undecided"}
    items = [
        tag(
            "li",
            symbol(kinds[issue.level]),
            tag("b", f"{issue.level} {issue.code}"),
            tag("span", f"{issue.place}: {issue.message}"),
        )
        for issue in found
    ]
    body: Child = (
        tag("ol", items, class_="sk-steps sk-lint") if items else tag("p", symbol("pass"), "Nothing to say against it.")
    )
    context.show(panel("Lint", body, note=labels.plural(len(items), "finding")), "lint")
    return any(issue.level == "error" for issue in found)


def _try(context: PageContext) -> None:
    """Run history through both files; the result stays until the editor is set back."""
    try:
        new = GateFile.parse(str(st.session_state[_EDITED]).encode())
        st.session_state[_RESULT] = context.reader.look(lambda lake: _run(lake, new))
    except StagekeeperError as error:
        context.say(str(error), good=False)


def _run(lake: Lake, new: GateFile) -> Backtest:
    return backtest(History.from_lake(lake), in_force(lake), new)


def _compare(context: PageContext, result: Backtest) -> None:
    rows: list[tuple[Child, ...]] = [
        (
            link(
                context.location.of_cell(one.cell).address, f"{one.cell.workflow} / {one.cell.tool}", class_="sk-more"
            ),
            labels.stage_name(one.cell.stage),
            labels.timed(one.since),
            labels.timed(one.until) if one.until is not None else "on",
            _said(one.old),
            _said(one.new),
        )
        for one in result.differences[:100]
    ]
    name = "Where they part, and why"
    heads = ("Action", "Stage", "From", "To", "File in force", "This file")
    none = tag("p", "Both files say the same at every minute.", class_="sk-quiet")
    context.show(join([panel(name, table(heads, rows, name=name) if rows else none)]), "differences")
    lanes = _lanes(result)
    if len(lanes):
        st.vega_lite_chart(spec=_chart(lanes), theme=None, key="sk-what-if-chart", alt=_answer(result), width="stretch")


def _said(turn: Turn | None) -> str:
    if turn is None:
        return "nothing yet"
    return f"{STATE_WORDS[turn.verdict.result.verdict.value]}: {VerdictDocument.from_verdict(turn.verdict).summary}"


def _lanes(result: Backtest) -> pl.DataFrame:
    """The stretches of each verdict under both files, of the actions that differ."""
    rows = []
    for cell in dict.fromkeys(difference.cell for difference in result.differences[:MOST_LANES]):
        for file, turns in (("in force", result.old), ("this file", result.new)):
            mine = turns.get(cell, [])
            ends = [*(turn.at for turn in mine[1:]), result.until]
            name = f"{cell.tool}, {labels.stage_name(cell.stage).lower()}: {file}"
            rows += [
                {"lane": name, "from": turn.at, "to": end, "verdict": STATE_WORDS[turn.verdict.result.verdict.value]}
                for turn, end in zip(mine, ends, strict=True)
            ]
    return pl.DataFrame(rows)


def _chart(lanes: pl.DataFrame) -> dict[str, Any]:
    words = ["Roll back", "Promote", "Invalid", "Hold"]
    colours = _COLOURS["dark" if st.context.theme.type == "dark" else "light"]
    chart = (
        alt.Chart(alt.NamedData(name="rows"))
        .mark_bar(height=12)
        .encode(
            x=alt.X("from:T", title=None),
            x2="to:T",
            y=alt.Y("lane:N", title=None, sort=None, axis=alt.Axis(labelLimit=320)),
            color=alt.Color("verdict:N", scale=alt.Scale(domain=words, range=colours), title=None),
            tooltip=["lane:N", "verdict:N", "from:T", "to:T"],
        )
        .properties(width="container", background="transparent", usermeta={"embedOptions": {"actions": False}})
    )
    spec: dict[str, Any] = chart.to_dict()
    return {**spec, "datasets": {"rows": lanes}}
