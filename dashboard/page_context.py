"""What every page is given: the lake, the desk, who looks, and where."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import streamlit as st

from dashboard.components.layout import not_found, trouble
from dashboard.identity import ask_name, remember
from dashboard.urls import PageLocation
from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from dashboard.act_desk import ActDesk, Role, Visitor
    from dashboard.components.html import Markup
    from dashboard.components.live_html import LiveHtml
    from dashboard.data.reader import GateFileState, LakeReader, LakeSnapshot

REFRESH_S: Final = 2.0
_SAID: Final = "sk-said"


@dataclass(frozen=True)
class PageContext:
    """One run of one page."""

    desk: ActDesk
    reader: LakeReader
    html: LiveHtml
    visitor: Visitor
    location: PageLocation
    gates: GateFileState
    follow: Callable[[], None]  # goes where a link led to; to be called first in every fragment
    unsigned: bool  # whether no receipt key is set

    @property
    def now(self) -> datetime:
        """The moment."""
        return self.desk.now()

    def here(self) -> PageLocation:
        """Where the page is now: a fragment may have moved on since the whole page ran."""
        return PageLocation.from_parameters(self.location.page, st.query_params.to_dict())

    def show(self, body: Markup, slot: str, *, content: str | None = None) -> None:
        """Show built HTML in a slot of the page."""
        self.html.show(body, slot=slot, content=content or self.here().address)

    def snapshot(self) -> LakeSnapshot | None:
        """The lake as it is; None where there is none, which is shown."""
        return self.reader.snapshot()

    def nothing_here(self, title: str, detail: str, near: list[tuple[str, str]]) -> None:
        """Say that what the address names is not there, with what is near it."""
        self.show(not_found(title, detail, near), "nothing")

    def act(self, work: Callable[[str], str], *, name_key: str, reason_key: str) -> None:
        """Do an act with the reason and name typed; what came of it is shown when the page runs again.

        A reason stays where it is while the act is refused, so that nobody types it twice.
        """
        name = str(st.session_state.get(f"{name_key}-name", self.visitor.name))
        remember(name)
        reason = str(st.session_state.get(reason_key, ""))
        try:
            st.session_state[_SAID] = (True, work(reason))
        except StagekeeperError as error:
            st.session_state[_SAID] = (False, str(error))
        else:
            st.session_state[reason_key] = ""

    def say(self, text: str, *, good: bool) -> None:
        """Tell what came of something when the page runs again."""
        st.session_state[_SAID] = (good, text)

    def acting(self, name_key: str) -> Visitor:
        """The visitor by the name that was typed beside an act."""
        typed = st.session_state.get(f"{name_key}-name")
        return (
            self.visitor
            if self.visitor.authenticated or typed is None
            else replace(self.visitor, name=str(typed).strip())
        )

    def show_outcome(self) -> None:
        """What came of the last act, once."""
        said = st.session_state.pop(_SAID, None)
        if said is not None:
            done, text = said
            (st.success if done else st.error)(text)

    def refused(self, role: Role) -> str | None:
        """Why a control does not work for the visitor; None where it does."""
        if self.visitor.may(role):
            return None
        held = ", ".join(sorted(self.visitor.roles))
        name = f"signed in as {self.visitor.name}, {held}" if self.visitor.name else f"not signed in ({held})"
        return f"You may look, not decide: this needs the role {role}, and you are {name}."

    def who_and_why(self, key: str, label: str, *, role: Role) -> str | None:
        """Ask who acts and why; None where the visitor may, else why not."""
        refused = self.refused(role)
        ask_name(self.visitor, key) if refused is None else None
        st.text_area(label, key=f"{key}-reason", height=68, disabled=refused is not None, max_chars=4_000)
        if refused is not None:
            st.caption(refused)
        return refused


@st.fragment(run_every=REFRESH_S)
def live(context: PageContext, show: Callable[[PageContext], None], slot: str) -> None:
    """Show a part of the page, and again every `REFRESH_S` seconds; a named error takes its place."""
    context.follow()
    try:
        show(context)
    except StagekeeperError as error:
        context.html.show(trouble(str(error)), slot=f"{slot}-trouble", content="trouble")
