"""Recommendations: what is to be done, what was, and the one that is open, from evidence to proof."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import streamlit as st

from analytics.enactment.enactments import Life
from dashboard import labels
from dashboard.act_desk import RecommendationAnswer, Role
from dashboard.commands_shown import copy_as_command
from dashboard.components.html import Child, Markup, join, tag
from dashboard.components.layout import diff_lines, heading, panel, table
from dashboard.components.life import life_steps
from dashboard.components.live_html import link
from dashboard.components.symbols import log_interval, signal_state_label, state_label
from dashboard.data.freshness import freshness
from dashboard.data.outlook import explanation
from dashboard.data.proven_change import made_change, prove
from dashboard.page_context import live
from producers.boundary.stage_store import ActionName, StageChange
from producers.wire.stage import MODE_OF_STAGE, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from analytics.backtest.recommendation_outcomes import Followed
    from analytics.verdicts.document import VerdictDocument
    from dashboard.page_context import PageContext
    from dashboard.urls import PageLocation

MOST_LISTED: Final = 60
_TO_DO: Final = frozenset({Life.OPEN, Life.APPLIED, Life.NOT_IN_FORCE})
_SHOWN: Final = {"todo": "To do", "done": "Done", "all": "All"}
_HOLDS: Final = {1: "for a day", 7: "for a week", 30: "for 30 days"}
_KEY: Final = "recommendation"


def show(context: PageContext) -> None:
    """The list beside the one that is open."""
    followed = _followed(context)
    chosen = _chosen(followed, context.location)
    listed, item = st.columns([27, 73], gap="medium")
    with listed:
        live(context, _list, "list")
    with item:
        if context.location.item is not None and chosen is None:
            near = [
                (_name(one), context.location.with_values(item=one.recommendation.verdict_id).address)
                for one in followed[-5:]
            ]
            context.nothing_here(
                f"No recommendation {context.location.item}", "It may be of another lake, or an older one.", near
            )
        elif chosen is None:
            quiet = tag("p", "Nothing was recommended here yet. The judge recommends a move once evidence carries it.")
            context.show(join([heading("No recommendation is open"), panel("", quiet)]), "item")
        else:
            live(context, partial(_item, recommendation_id=chosen.recommendation.verdict_id), "item")
            if chosen.life is Life.OPEN:
                _answer(context, chosen)
            _commands(chosen)


def _followed(context: PageContext) -> list[Followed]:
    """Those of the environment, newest first; what is to be done before what is done."""
    location = context.location
    known = context.reader.followed(context.now)
    mine = [one for one in known if location.environment in {None, one.recommendation.cell[0]}]
    return sorted(
        mine,
        key=lambda one: (
            one.life not in _TO_DO,
            one.recommendation.verdict != "ROLL_BACK",
            -one.recommendation.at.timestamp(),
        ),
    )


def _chosen(followed: Sequence[Followed], location: PageLocation) -> Followed | None:
    if location.item is None:
        return next((one for one in followed if one.life in _TO_DO), followed[0] if followed else None)
    return next((one for one in followed if one.recommendation.verdict_id == location.item), None)


def _list(context: PageContext) -> None:
    location, followed = context.here(), _followed(context)
    part = location.show if location.show in _SHOWN else "todo"
    choices = [
        link(
            location.with_values(show=name).address,
            f"{word} {sum(_is_shown(one, name) for one in followed)}",
            class_="sk-choice",
            aria_current="true" if name == part else None,
        )
        for name, word in _SHOWN.items()
    ]
    shown = [one for one in followed if _is_shown(one, part)]
    chosen = _chosen(followed, location)
    items = [tag("li", _entry(one, location, context.now, chosen)) for one in shown[:MOST_LISTED]]
    listed: Child = tag("ul", items, class_="sk-list") if items else tag("p", "None of this kind.", class_="sk-quiet")
    more = None
    if len(shown) > MOST_LISTED:
        more = tag("p", f"The newest {MOST_LISTED} of {labels.count(len(shown))}.", class_="sk-quiet")
    lately = [one for one in followed if one.life not in _TO_DO][:5] if part == "todo" else []
    done = (
        [
            tag("p", "Lately done", class_="sk-list-title"),
            tag("ul", [tag("li", _entry(one, location, context.now, chosen)) for one in lately], class_="sk-list"),
        ]
        if lately
        else []
    )
    body = tag("section", tag("div", choices, class_="sk-choices"), listed, more, done, aria_label="Recommendations")
    context.show(body, "list", content="list")


def _is_shown(one: Followed, part: str) -> bool:
    return part == "all" or (one.life in _TO_DO) is (part == "todo")


def _name(one: Followed) -> str:
    _, workflow, tool, _, cohort = one.recommendation.cell
    return f"{workflow} / {tool}" + ("" if cohort == "all" else f" ({cohort})")


def _entry(one: Followed, location: PageLocation, now: datetime, chosen: Followed | None) -> Markup:
    said = one.recommendation
    life = "open" if one.life is Life.OPEN else one.life.value
    late = one.life is Life.NOT_IN_FORCE
    return link(
        location.with_values(item=said.verdict_id).address,
        tag(
            "span",
            state_label(said.verdict),
            tag("span", life, class_="sk-chip-late" if late else "sk-dim"),
            class_="sk-list-head",
        ),
        tag("b", _name(one)),
        tag(
            "span",
            f"to {labels.stage_name(said.to_stage).lower()}",
            tag("span", labels.age(said.at, now)),
            class_="sk-list-foot",
        ),
        aria_current="true" if chosen is not None and said.verdict_id == chosen.recommendation.verdict_id else None,
    )


def _item(context: PageContext, recommendation_id: str) -> None:
    """Everything about one that moves: its life, its evidence, its proof."""
    now = context.now
    one = next(one for one in context.reader.followed(now) if one.recommendation.verdict_id == recommendation_id)
    said = one.recommendation
    changes = context.reader.people().changes
    made = made_change(one, changes, context.desk.store_name)
    proof = None
    if made is not None:
        beat = int(now.timestamp())
        proof = context.reader.cached(
            ("proof", recommendation_id, beat),
            (),
            lambda lake: prove(lake, made, now=now, deadline_s=context.desk.effect_deadline_s),
        )
    environment, workflow, tool, stage, _ = said.cell
    word = "Roll back" if said.verdict == "ROLL_BACK" else "Promote"
    action = context.location.of_action(ActionName(environment, workflow, tool))
    notes = [
        f"from {labels.stage_name(stage).lower()} · {environment} · ",
        link(action.address, "why, on the action's page", class_="sk-more"),
        " · recommendation ",
        tag("code", said.verdict_id[:12]),
    ]
    verdict = _verdict(context, one)
    parts = [
        heading(f"{word} {_name(one)} to {labels.stage_name(said.to_stage).lower()}", notes),
        tag(
            "section", life_steps(one, proof, now, context.desk.effect_deadline_s), class_="sk-panel", aria_label="Life"
        ),
        _why(verdict),
    ]
    if made is not None:
        because = [tag("b", made.by), ": ", tag("q", made.reason), " ", labels.timed(made.step.at)]
        parts.append(panel("Done", tag("p", because)))
    context.show(join(parts), "item")


def _verdict(context: PageContext, one: Followed) -> VerdictDocument | None:
    """The newest verdict on the cell, where it still says what was recommended."""
    snapshot, said = context.snapshot(), one.recommendation
    found = (
        None
        if snapshot is None
        else next((v for cell, v in snapshot.verdicts.items() if tuple(cell) == said.cell), None)
    )
    return (
        found if found is not None and (found.verdict.value, found.to_stage) == (said.verdict, said.to_stage) else None
    )


def _why(verdict: VerdictDocument | None) -> Markup:
    if verdict is None:
        return panel("Why", tag("p", "The verdict says something else by now; the action's page has what it says."))
    rows: list[tuple[Child, ...]] = [
        (
            tag("b", labels.signal_name(part.signal)),
            signal_state_label(part.state),
            [tag("b", labels.quantity(part.value, part.unit)), " ", tag("span", labels.by(part), class_="sk-by")],
            log_interval(part.value, part.lower, part.upper, part.limit),
            f"{labels.quantity(part.lower, part.unit)} to {labels.quantity(part.upper, part.unit)}",
            f"limit {labels.quantity(part.limit, part.unit)}",
        )
        for part in verdict.signals
        if part.role in {"guardrail", "promote"} and part.trials
    ]
    heads = ("Signal", "State", "Value", "\u215b\u00d7 to 8\u00d7 the limit", "Where it can be", "Limit")
    return panel("Why", tag("p", explanation(verdict)), table(heads, rows, name="Evidence by signal"))


def _answer(context: PageContext, one: Followed) -> None:
    """The difference, and the form that accepts or dismisses it as it is shown here."""
    said, desk = one.recommendation, context.desk
    environment, workflow, tool, _, cohort = said.cell
    action, to = ActionName(environment, workflow, tool), Stage(said.to_stage)
    verdict, rolls_back = _verdict(context, one), said.verdict == "ROLL_BACK"
    setting = desk.stage(action)
    diff = desk.preview(StageChange(action, MODE_OF_STAGE[to], setting.version))
    version = tag("span", f"{desk.store_name}, read at ", tag("code", setting.version[:8]), class_="sk-key")
    shown = diff_lines(diff) if diff else tag("p", f"Nothing: {action} has that stage already.", class_="sk-quiet")
    context.show(panel("What would be changed", shown, note=version), "difference", content=said.verdict_id)
    snapshot = context.snapshot()
    stale = freshness(snapshot, context.now, context.gates.freshness_s).state in {"stale", "none"}
    with st.container(border=True, key="sk-answer"):
        refused = context.who_and_why(_KEY, "Because (kept with the change)", role=Role.OPERATOR)
        with st.container(horizontal=True, vertical_alignment="center"):
            holds = st.selectbox(
                "A dismissal holds", list(_HOLDS), index=1, format_func=_HOLDS.__getitem__, key="sk-holds", width=150,
                label_visibility="collapsed", disabled=refused is not None,
            )  # fmt: skip
            for accept in (True, False):
                answer = RecommendationAnswer(
                    accept, action, to, "ROLL_BACK" if rolls_back else "PROMOTE",
                    None if cohort == "all" else cohort,
                    said.verdict_id if verdict is None else verdict.verdict_id,
                    said.verdict_id, setting.version, timedelta(days=int(holds)),
                )  # fmt: skip
                useless = accept and not rolls_back and (verdict is None or stale)
                label = f"Accept and {'roll back' if rolls_back else 'promote'}" if accept else "Dismiss"
                st.button(
                    label,
                    type="primary" if accept else "secondary",
                    disabled=refused is not None or useless or (accept and not diff),
                    on_click=context.act,
                    args=(partial(_act, context, answer),),
                    kwargs={"name_key": _KEY, "reason_key": f"{_KEY}-reason"},
                    key=f"sk-{'accept' if accept else 'dismiss'}",
                )
        if verdict is None or stale:
            st.caption("The evidence is stale, or says something else by now: a promotion cannot be accepted on it.")
        st.caption(f"If it has moved on from {setting.version[:8]}, nothing is written and you see the new difference.")


def _act(context: PageContext, answer: RecommendationAnswer, reason: str) -> str:
    return context.desk.answer(context.acting(_KEY), answer, reason)


def _commands(one: Followed) -> None:
    said = one.recommendation
    environment, workflow, tool, _, _ = said.cell
    move = f"--environment {environment} --workflow {workflow} --tool {tool} --to {said.to_stage}"
    because = '--as NAME --because "..."'
    accept = (
        f"stagekeeper stage set {move} {because}"
        if said.verdict == "ROLL_BACK"
        else f"stagekeeper recommendations accept {move} {because} --expires 7d"
    )
    copy_as_command("stagekeeper recommendations list --all --json", accept)
