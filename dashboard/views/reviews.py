"""Reviews: the queue, the one that is open with everything a reviewer needs, and how reviewing goes."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Final

import streamlit as st

from dashboard import labels
from dashboard.act_desk import Role
from dashboard.commands_shown import copy_as_command
from dashboard.components.html import Child, Markup, join, tag
from dashboard.components.layout import heading, panel, table
from dashboard.components.live_html import link
from dashboard.components.symbols import symbol
from dashboard.data.review_facts import always_approved, in_order, loads, shape
from dashboard.page_context import live
from producers.wire.events import Resolution

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from dashboard.page_context import PageContext
    from dashboard.urls import PageLocation
    from producers.boundary.approvals import Review
    from producers.wire.contract import ActionContract

MOST_LISTED: Final = 60
MOST_SIMILAR: Final = 6
_KEY: Final = "review"
_SOON_S: Final = 600.0


def show(context: PageContext) -> None:
    """The queue beside the review that is open."""
    waiting = _waiting(context)
    chosen = _chosen(waiting, context.location)
    listed, item = st.columns([27, 73], gap="medium")
    with listed:
        live(context, _list, "queue")
    with item:
        if context.location.item is not None and chosen is None:
            name = context.location.item
            context.nothing_here(
                f"Nothing waits as {name}", "It may be decided, or it may have expired; the audit has its story.",
                [("Its story", context.location.at("audit", item=name).address)],
            )  # fmt: skip
        elif chosen is None:
            quiet = tag("p", "An action comes here when a rule or a stage asks for a person's approval.")
            context.show(join([heading("Nothing waits for a review"), panel("", quiet)]), "review")
        else:
            live(context, partial(_item, decision_id=chosen.queued.decision_id), "review")
            _form(context, chosen, waiting)
            copy_as_command(
                f"stagekeeper review show {chosen.queued.decision_id} --json", "stagekeeper review list --json"
            )
    live(context, _how_it_goes, "reviewing")


def _waiting(context: PageContext) -> list[Review]:
    waiting, _ = context.desk.reviews()
    environment = context.location.environment
    return in_order(one for one in waiting if environment in {None, one.queued.contract.target.environment})


def _chosen(waiting: Sequence[Review], location: PageLocation) -> Review | None:
    if location.item is None:
        return waiting[0] if waiting else None
    return next((one for one in waiting if one.queued.decision_id == location.item), None)


def _list(context: PageContext) -> None:
    waiting, now = _waiting(context), context.now
    location = context.here()
    chosen = _chosen(waiting, location)
    items = [tag("li", _entry(one, location, now, chosen)) for one in waiting[:MOST_LISTED]]
    body: Child = tag("ul", items, class_="sk-list") if items else tag("p", "The queue is empty.", class_="sk-quiet")
    refused = [tag("p", text, class_="sk-notice", role="alert") for text in context.desk.reviews()[1]]
    title = tag("p", f"Queue {len(waiting)} · riskiest first, then oldest", class_="sk-list-title")
    context.show(tag("section", title, refused, body, aria_label="Queue of reviews"), "queue", content="queue")


def _entry(one: Review, location: PageLocation, now: datetime, chosen: Review | None) -> Markup:
    queued, contract = one.queued, one.queued.contract
    left_s = (queued.expires_at - now).total_seconds()
    risk = tag("span", contract.risk_class.value.replace("_", " "), class_="sk-dim")
    expiry = tag(
        "span",
        symbol("waits"),
        f"expires in {labels.span(max(left_s, 0))}",
        class_="sk-chip-late" if left_s < _SOON_S else "sk-dim",
    )
    return link(
        location.with_values(item=queued.decision_id).address,
        tag("span", risk, expiry, class_="sk-list-head"),
        tag("b", f"{contract.workflow} / {contract.tool}"),
        tag("span", contract.intent[:80], tag("span", labels.age(queued.queued_at, now)), class_="sk-list-foot"),
        aria_current="true" if chosen is not None and queued.decision_id == chosen.queued.decision_id else None,
    )


def _item(context: PageContext, decision_id: str) -> None:
    waiting = _waiting(context)
    one = next((review for review in waiting if review.queued.decision_id == decision_id), None)
    if one is None:
        text = "It was decided meanwhile, or it has expired. Choose another one in the queue."
        context.show(panel("This waits no longer", tag("p", text)), "review")
        return
    queued, contract, now = one.queued, one.queued.contract, context.now
    left_s = (queued.expires_at - now).total_seconds()
    expiry = tag(
        "span",
        symbol("waits"),
        f"expires in {labels.span(max(left_s, 0))}",
        class_="sk-chip-late" if left_s < _SOON_S else None,
    )
    asked = " for ".join(filter(None, [contract.actor.agent, contract.actor.user, contract.actor.account]))
    notes = [
        f"{contract.workflow} / {contract.tool} · asked by {asked} at ",
        labels.timed(queued.queued_at),
        " · decision ",
        tag("code", decision_id),
    ]
    body = [
        heading(queued.consequence or f"Run {contract.tool}", notes, aside=expiry),
        panel(
            "",
            tag(
                "dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in _facts(one)], class_="sk-pairs"
            ),
        ),
        panel(
            "Exactly what will run",
            _arguments(one),
            note=["approval is bound to these arguments: ", tag("code", queued.binding[:12])],
        ),
        _similar(context, contract),
    ]
    context.show(join(body), "review")


def _facts(one: Review) -> list[tuple[str, Child]]:
    queued, contract = one.queued, one.queued.contract
    evidence, target = contract.evidence, contract.target
    known = [
        f"confidence {evidence.confidence:.2f}" if evidence.confidence is not None else None,
        f"evaluator {evidence.evaluator_result}" if evidence.evaluator_result else None,
        f"{evidence.source_coverage:.0%} of claims covered by sources"
        if evidence.source_coverage is not None
        else None,
        f"earlier review {evidence.prior_review}" if evidence.prior_review else None,
    ]
    scope = " · ".join(f"{name} {value}" for name, value in contract.scope.model_dump(exclude_none=True).items())
    risk = f"{contract.risk_class.value.replace('_', ' ')}, reversibility {contract.reversibility.value}"
    quoted = tag("div", contract.intent, class_="sk-quote")
    fallback = contract.fallback.note or contract.fallback.mode.value.replace("_", " ")
    words = [tag("li", f"{word.resolution.value} by {word.reviewer}: {word.rationale}") for word in one.words]
    approvals = f"{len(one.approvals)} of {queued.approvers or 1}"
    rows: list[tuple[str, Child]] = [
        ("Consequence", [tag("b", risk), f". {queued.consequence or 'None is stated.'}"]),
        ("Rule that fired", [tag("code", queued.rule), " · ruleset ", tag("code", queued.ruleset_sha256[:12])]),
        ("Scope", " · ".join(filter(None, [f"{target.system} {target.record or ''} in {target.environment}", scope]))),
        ("Evidence", " · ".join(filter(None, known)) or "none is given"),
        ("The agent's own words, not checked", quoted),
        ("Approvals", [approvals, tag("ul", words) if words else None]),
        ("If rejected, or if nobody answers", fallback),
    ]
    return rows


def _arguments(one: Review) -> Markup:
    text = json.dumps(one.queued.arguments, ensure_ascii=False, indent=1)
    return tag("pre", tag("code", f"{one.queued.contract.tool}({text})"), class_="sk-command", tabindex="0")


def _similar(context: PageContext, contract: ActionContract) -> Markup:
    words = [
        word
        for word in context.reader.people().words
        if (word.workflow, word.tool) == (contract.workflow, contract.tool)
    ]
    rows: list[tuple[Child, ...]] = [
        (
            word.data.resolution,
            word.data.reviewer,
            word.data.rationale,
            link(
                context.location.at("audit", item=word.decision_id).address,
                f"{word.decision_id[:13]}…",
                class_="sk-more sk-mono",
            ),
            labels.timed(word.at),
        )
        for word in words[::-1][:MOST_SIMILAR]
    ]
    name = "Similar decisions and how they ended"
    if not rows:
        return panel(name, tag("p", "This action was never reviewed before.", class_="sk-quiet"))
    approved = sum(word.data.resolution == "approved" for word in words)
    note = f"{len(words)} reviewed, {approved} approved"
    return panel(name, table(("Ended", "Reviewer", "Reason", "Decision", "When"), rows, name=name), note=note)


def _form(context: PageContext, one: Review, waiting: Sequence[Review]) -> None:
    """Approve or reject, both alike; others of identical shape only where they are ticked one by one."""
    queued = one.queued
    alike = [other for other in waiting if other is not one and shape(other) == shape(one)]
    with st.container(border=True, key="sk-answer"):
        refused = context.who_and_why(_KEY, "Reason, kept with the decision and shown to the agent", role=Role.REVIEWER)
        also = [
            other.queued.decision_id
            for other in alike[:20]
            if st.checkbox(
                f"also {other.queued.decision_id[:13]}: {json.dumps(other.queued.arguments, ensure_ascii=False)[:120]}",
                key=f"sk-also-{other.queued.decision_id}",
                disabled=refused is not None,
            )
        ]
        with st.container(horizontal=True):
            for label, resolution in (("Approve once", Resolution.APPROVED), ("Reject", Resolution.REJECTED)):
                st.button(
                    f"{label} ({len(also) + 1})" if also else label,
                    disabled=refused is not None,
                    on_click=context.act,
                    args=(partial(_resolve, context, (queued.decision_id, *also), resolution),),
                    kwargs={"name_key": _KEY, "reason_key": f"{_KEY}-reason"},
                    key=f"sk-{resolution.value}",
                )
        if queued.needs_authentication and not context.visitor.authenticated:
            st.caption(
                "Approving this needs somebody who has signed in: a name that nobody has checked is no second person."
            )


def _resolve(context: PageContext, decision_ids: Sequence[str], resolution: Resolution, reason: str) -> str:
    visitor = context.acting(_KEY)
    return " ".join(context.desk.resolve(visitor, decision_id, resolution, reason) for decision_id in decision_ids)


def _how_it_goes(context: PageContext) -> None:
    words = context.reader.people().words
    rows: list[tuple[Child, ...]] = [
        (
            load.reviewer,
            labels.count(load.decided),
            labels.percent(load.approved / load.decided),
            labels.milliseconds(load.median_wait_ms),
            labels.count(load.hasty),
        )
        for load in loads(words)[:20]
    ]
    heads = ("Reviewer", "Decided", "Approved", "Median from queue to word", "Within 5 s of being queued")
    body: Child = (
        table(heads, rows, name="Reviewers") if rows else tag("p", "No review is on record yet.", class_="sk-quiet")
    )
    always = [tag("li", f"{action}: {number} of {number} approved") for action, number in always_approved(words)]
    candidates = panel("Perhaps no review needed", tag("ul", always), note="always approved") if always else None
    note = "a word within seconds is a sign that nobody read, and no blame"
    context.show(join([panel("How reviewing goes", body, note=note), candidates]), "reviewing", content="reviewing")
