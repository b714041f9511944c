"""Policy: emergency controls first, then a contract to try, the changes, and the flags in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import streamlit as st
from pydantic import ValidationError

from dashboard import labels
from dashboard.commands_shown import copy_as_command
from dashboard.components.html import Child, Markup, join, tag
from dashboard.components.layout import heading, panel, table
from dashboard.components.symbols import symbol
from dashboard.data.action_rows import action_rows
from dashboard.data.contract_trial import contract_of, outcome_in_words, steps_of
from dashboard.emergency import WHAT, emergency_dialog, resume
from dashboard.page_context import live
from producers.boundary.stage_store import ActionName
from producers.errors import StagekeeperError
from producers.wire.contract import Reversibility, RiskClass

if TYPE_CHECKING:
    from datetime import date

    from dashboard.act_desk import EmergencySwitch, FlagFacts
    from dashboard.page_context import PageContext

MOST_CHANGES: Final = 40
_NOTES: Final = {
    "everything": "Every action goes to its fallback.",
    "fallback": "One action falls back; others go on.",
    "deny": "One tool is refused everywhere, whatever its stage.",
    "search": "One action may only search; others go on.",
}


def show(context: PageContext) -> None:
    """The page."""
    switches = context.desk.switches()
    in_force = (
        f"{labels.plural(len(switches), 'emergency', 'emergencies')} in force" if switches else "no emergency in force"
    )
    context.show(heading("Policy in force", f"{context.desk.store_name} · {in_force}"), "head")
    _emergencies(context, switches)
    left, right = st.columns([64, 36], gap="small")
    with left:
        _try_contract(context)
    with right:
        live(context, _changes, "changes")
    live(context, _flags, "flags")
    with st.container(key="sk-foot", horizontal=True):
        copy_as_command(
            "stagekeeper stage show --json", "stagekeeper flags show --json", "stagekeeper stage history --json"
        )


def _emergencies(context: PageContext, switches: list[EmergencySwitch]) -> None:
    with st.container(border=True, key="sk-emergencies"):
        st.markdown("## Emergency controls")
        st.caption("Each asks for a reason, works in two clicks, and can be resumed from here.")
        for column, what in zip(st.columns(len(WHAT)), WHAT, strict=True):
            with column:
                if st.button(f"{WHAT[what]}…", key=f"sk-open-{what}", width="stretch"):
                    emergency_dialog(context, what)
                st.caption(_NOTES[what])
        for place, switch in enumerate(switches):
            words = "falls back" if switch.kind == "fallback" else "is denied"
            with st.expander(f"{switch.about.capitalize()} {words}: resume…", expanded=True):
                resume(context, switch, f"resume-{place}")


def _try_contract(context: PageContext) -> None:
    snapshot = context.snapshot()
    actions = sorted({row.action for row in (action_rows(snapshot) if snapshot is not None else [])})
    with st.container(border=True, key="sk-trial"):
        st.markdown("## Try a contract")
        st.caption("Asks the rules in force, records nothing, runs nothing.")
        with st.form("sk-trial-form", border=False):
            first, second, third = st.columns(3)
            named = first.selectbox(
                "Action", [str(action) for action in actions], accept_new_options=True, index=0 if actions else None
            )
            agent = second.text_input("Agent", value="support-agent")
            account = third.text_input("Account", value="")
            risk = first.selectbox("Risk class", [one.value for one in RiskClass], index=4)
            reversibility = second.selectbox("Reversibility", [one.value for one in Reversibility], index=1)
            confidence = third.number_input("Confidence", 0.0, 1.0, 0.94)
            asked = st.form_submit_button("Decide")
        if not asked:
            return
        parts = (named or "").split("/")
        if len(parts) != len(ActionName._fields):
            st.error("Name the action as environment/workflow/tool, for example production/refunds/issue_refund.")
            return
        try:
            contract = contract_of(
                *parts, agent=agent, account=account, risk=risk, reversibility=reversibility, confidence=confidence
            )
        except ValidationError as error:
            fault = error.errors()[0]
            st.error(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}")
            return
        try:
            staged = context.desk.decide(contract)
        except StagekeeperError as error:
            st.error(str(error))
            return
        steps = [
            tag(
                "li",
                symbol("ok" if step.decides else "pass" if step.asked else "not_applicable"),
                tag("b", step.name),
                tag("span", step.says if step.asked else f"not asked: already decided ({step.says})"),
                class_="sk-decides" if step.decides else None if step.asked else "sk-unasked",
            )
            for step in steps_of(staged)
        ]
        ruleset = tag("span", "ruleset ", tag("code", (staged.decision.ruleset_sha256 or "")[:12]), class_="sk-key")
        stage = labels.stage_name(staged.stage.value).lower()
        reason = tag("p", f"at {stage}, by the rule {staged.decision.result.reason or 'allow'}")
        body = panel(outcome_in_words(staged), reason, tag("ol", steps, class_="sk-steps"), note=ruleset)
        context.show(body, "trial", content=str(named))


def _changes(context: PageContext) -> None:
    every = [
        one for one in context.reader.people().changes if context.location.environment in {None, one.data.environment}
    ]
    items = [
        tag(
            "li",
            tag(
                "span",
                tag("b", f"{one.about}: {one.data.before or '?'} → {one.data.after or '?'}"),
                labels.timed(one.at),
                class_="sk-list-head",
            ),
            tag("span", f"{one.data.changed_by}: {one.data.reason}"),
            tag("span", tag("code", one.data.flag_key), class_="sk-list-foot"),
            class_="sk-change-entry",
        )
        for one in every[::-1][:MOST_CHANGES]
    ]
    body: Child = (
        tag("ol", items, class_="sk-list") if items else tag("p", "No change is on record.", class_="sk-quiet")
    )
    context.show(panel("Changes", body, note=f"{len(items)} of {len(every)}"), "changes", content="changes")


def _flags(context: PageContext) -> None:
    today = context.now.date()
    rows: list[tuple[Child, ...]] = [
        (
            tag("code", flag.key),
            flag.state,
            tag("code", flag.default),
            flag.says or labels.UNKNOWN,
            flag.owner or "nobody",
            _review(flag, today),
            flag.cleanup_condition or labels.UNKNOWN,
        )
        for flag in context.desk.flags()
    ]
    heads = ("Flag", "State", "Default", "What it says now", "Owner", "Review", "Clean up when")
    context.show(join([panel("Flags in force", table(heads, rows, name="Flags in force"))]), "flags", content="flags")


def _review(flag: FlagFacts, today: date) -> Markup | str:
    """When somebody is to look at a temporary flag again; what is past that day is late."""
    if not flag.review_date:
        return labels.UNKNOWN
    if flag.review_date < today.isoformat():
        return tag("span", symbol("late"), f"past review since {flag.review_date}", class_="sk-chip-late")
    return flag.review_date
