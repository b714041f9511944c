"""The page as a whole: who may see it, its navigation, the strip above every page, and the page itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import streamlit as st

from dashboard.components.html import tag
from dashboard.components.layout import trouble
from dashboard.components.live_html import LiveHtml, ask_for, asked_for, is_asked
from dashboard.components.strip import changed_verdicts, emergency_band, strip
from dashboard.data.freshness import freshness
from dashboard.data.reader import LakeReader, read_gate_file
from dashboard.emergency import emergency_dialog
from dashboard.identity import current_visitor
from dashboard.page_context import REFRESH_S, PageContext
from dashboard.urls import PageLocation
from dashboard.views import action, audit, data_quality, overview, policy, recommendations, reviews, what_if
from producers.errors import StagekeeperError
from producers.web_guard import may_ask

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from dashboard.act_desk import ActDesk
    from dashboard.urls import PageName

_SEEN: Final = "sk-verdicts-seen"

_PAGES: Final[dict[PageName, tuple[str, Callable[[PageContext], None]]]] = {
    "overview": ("Overview", overview.show),
    "recommendations": ("Recommendations", recommendations.show),
    "reviews": ("Reviews", reviews.show),
    "policy": ("Policy", policy.show),
    "audit": ("Audit", audit.show),
    "data-quality": ("Data quality", data_quality.show),
    "what-if": ("What if", what_if.show),
    "action": ("Action", action.show),
}


@st.cache_resource(show_spinner=False)
def shared_reader(root: str) -> LakeReader:
    """One reader for every page that is open on a lake."""
    return LakeReader(root)


def serve(desk: ActDesk, *, lake_root: str, freshness_s: float, web_names: Collection[str], unsigned: bool) -> None:
    """Show the page that the address asks for.

    Args:
        desk: What acts for the people at the page.
        lake_root: Root of the lake.
        freshness_s: Narrows the gate file's freshness, in seconds.
        web_names: Further host names that the page answers to.
        unsigned: Whether no receipt key is set.
    """
    headers = st.context.headers
    if headers and not may_ask(headers.get("Host"), headers.get("Origin"), web_names):
        st.error("Host or Origin names nobody here. Whoever runs this page can add the name with --web-name.")
        st.stop()
    st.set_page_config(page_title="Stagekeeper", layout="wide", initial_sidebar_state="collapsed")
    html = LiveHtml()
    try:
        visitor = current_visitor(acts_unauthenticated=desk.acts_unauthenticated, roles_claim=desk.roles_claim)
    except StagekeeperError as error:
        html.show(trouble(str(error)), slot="sign-in", content="trouble")
        return
    if visitor is None:
        st.title("Sign in")
        st.button("Sign in", type="primary", on_click=st.login)
        return
    names: dict[str, PageName] = {}
    places = {}
    for name, (title, page) in _PAGES.items():
        path = "" if name == "overview" else name

        def run(page: Callable[[PageContext], None] = page, name: PageName = name) -> None:
            _page(context_at(name), page)

        places[name] = st.Page(
            run,
            title=title,
            url_path=path or None,
            default=name == "overview",
            visibility="hidden" if name == "action" else "visible",
        )
        names[title] = name

    def context_at(name: PageName) -> PageContext:
        location = PageLocation.from_parameters(name, st.query_params.to_dict())
        gates = read_gate_file(desk.gates, freshness_s=freshness_s)
        return PageContext(desk, shared_reader(lake_root), html, visitor, location, gates, _follow, unsigned=unsigned)

    def go() -> None:
        address = asked_for()
        if address is not None:
            wanted = PageLocation.from_address(address)
            st.switch_page(places[wanted.page], query_params=wanted.parameters())

    chosen = st.navigation(list(places.values()), position="top")
    go()
    here = context_at(names[chosen.title])
    _strip(here)
    chosen.run()


def _follow() -> None:
    # Not from a part of the page: what other parts show at that moment would come to a page that is gone.
    if is_asked():
        st.rerun()


def _page(context: PageContext, page: Callable[[PageContext], None]) -> None:
    context.show_outcome()
    try:
        page(context)
    except StagekeeperError as error:
        context.html.show(trouble(str(error)), slot="trouble", content="trouble")


def _strip(context: PageContext) -> None:
    with st.container(key="sk-strip", horizontal=True, vertical_alignment="center"):
        _live_strip(context)
        _environment(context)
        who = context.visitor.name or "no name given"
        roles = "unauthenticated" if not context.visitor.authenticated else ", ".join(sorted(context.visitor.roles))
        st.caption(f"{who} · {roles}")
        if st.button("Emergency…", key="sk-emergency", icon=":material/emergency_home:"):
            emergency_dialog(context, None)


@st.fragment(run_every=REFRESH_S)
def _live_strip(context: PageContext) -> None:
    context.follow()
    try:
        snapshot, now = context.snapshot(), context.now
        states = {} if snapshot is None else {cell: v.verdict.value for cell, v in snapshot.verdicts.items()}
        news = changed_verdicts(st.session_state.get(_SEEN, states), states)
        st.session_state[_SEEN] = states
        fresh = freshness(snapshot, now, context.gates.freshness_s)
        context.html.show(
            strip(fresh, context.reader.routers(now), now, news=news), slot="strip", content="strip", leads=True
        )
    except StagekeeperError as error:
        unreadable = tag("p", tag("b", "Damaged: "), str(error), class_="sk-notice", role="alert")
        context.html.show(unreadable, slot="strip", content="trouble", leads=True)
    try:
        band = emergency_band(context.desk.switches())
    except StagekeeperError as error:
        band = tag("p", tag("b", "Flags: "), str(error), class_="sk-notice", role="alert")
    if band is not None:
        context.html.show(band, slot="band", content="band")


def _environment(context: PageContext) -> None:
    try:
        snapshot = context.snapshot()
    except StagekeeperError:
        snapshot = None  # what is wrong stands in the strip
    known = {cell.environment for cell in (snapshot.signals if snapshot is not None else ())}
    chosen = context.location.environment
    options = ["", *sorted(known | ({chosen} if chosen else set()))]

    def go() -> None:
        wanted = st.session_state["sk-environment"]
        ask_for(context.location.with_values(environment=wanted or None).address)

    st.selectbox(
        "Environment",
        options,
        index=options.index(chosen or ""),
        format_func=lambda name: name or "All environments",
        key="sk-environment",
        label_visibility="collapsed",
        on_change=go,
        width=180,
    )
