"""The emergency dialog: a target and a reason, and it is in force with the second click."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import streamlit as st

from dashboard import labels
from dashboard.act_desk import EmergencySwitch, Role
from dashboard.data.action_rows import action_rows
from producers.boundary.stage_store import ActionName, StageChange
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dashboard.act_desk import Visitor
    from dashboard.page_context import PageContext

WHAT: Final = {
    "everything": "Fallback for everything",
    "fallback": "Fallback for one action",
    "deny": "Deny one tool",
    "search": "Return one action to search only",
}


@st.dialog("Emergency", width="medium")
def emergency_dialog(context: PageContext, what: str | None) -> None:
    """Ask what to stop and why; each act takes one click from here."""
    keys = list(WHAT)
    chosen = st.selectbox(
        "What", keys, index=keys.index(what) if what else 0, format_func=WHAT.__getitem__, key="sk-emergency-what"
    )
    snapshot = context.snapshot()
    rows = [] if snapshot is None else action_rows(snapshot)
    target: ActionName | str | None = None
    actions = sorted({row.action for row in rows})
    if chosen == "deny":
        target = _pick("Tool", sorted({action.tool for action in actions}))
    elif chosen in {"search", "fallback"}:
        target = _pick_action(actions)
    covered = [row for row in rows if _covers(target, row.action)]
    decisions = sum(cell.counts.get("decisions", 0) for row in covered for cell in row.alive)
    st.caption(
        f"It covers {labels.plural(len(covered), 'action')} that the lake knows, with "
        f"{labels.plural(decisions, 'decision')} so far, in every environment of {context.desk.store_name}."
    )
    refused = context.who_and_why("emergency", "Because (kept with the change)", role=Role.OPERATOR)
    if st.button(
        f"{WHAT[chosen]} now",
        type="primary",
        disabled=refused is not None or (chosen != "everything" and target is None),
        on_click=context.act,
        args=(lambda reason: stop(context, context.acting("emergency"), chosen, target, reason),),
        kwargs={"name_key": "emergency", "reason_key": "emergency-reason"},
        key="sk-emergency-act",
    ):
        st.rerun()  # the dialog closes, and the page says what came of it


def stop(context: PageContext, visitor: Visitor, what: str, target: ActionName | str | None, reason: str) -> str:
    """Put an emergency into force."""
    if what == "search" and isinstance(target, ActionName):
        before = context.desk.stage(target)
        context.desk.change_stage(visitor, StageChange(target, Mode.SEARCH_ONLY, before.version), reason)
        return f"{target} is at search only."
    if what == "deny":
        return context.desk.flip(visitor, EmergencySwitch("deny", tool=str(target)), reason, on=True)
    if isinstance(target, ActionName):
        switch = EmergencySwitch("fallback", workflow=target.workflow, tool=target.tool)
        return context.desk.flip(visitor, switch, reason, on=True)
    return context.desk.flip(visitor, EmergencySwitch("fallback"), reason, on=True)


def resume(context: PageContext, switch: EmergencySwitch, key: str) -> None:
    """A form that takes an emergency away."""
    refused = context.who_and_why(key, f"Why {switch.about} may go on", role=Role.OPERATOR)
    st.button(
        "Resume",
        disabled=refused is not None,
        on_click=context.act,
        args=(lambda reason: context.desk.flip(context.acting(key), switch, reason, on=False),),
        kwargs={"name_key": key, "reason_key": f"{key}-reason"},
        key=f"{key}-act",
    )


def _pick(label: str, names: Sequence[str]) -> str | None:
    chosen = st.selectbox(label, names, index=None, key="sk-emergency-tool", accept_new_options=True)
    return str(chosen) if chosen else None


def _pick_action(actions: Sequence[ActionName]) -> ActionName | None:
    chosen: ActionName | None = st.selectbox("Action", actions, index=None, format_func=str, key="sk-emergency-action")
    return chosen


def _covers(target: ActionName | str | None, action: ActionName) -> bool:
    if isinstance(target, ActionName):
        return action == target
    return target is None or action.tool == target
