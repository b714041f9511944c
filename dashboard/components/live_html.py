"""HTML that the page replaces in place; a click on one of its links navigates without a reload."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import streamlit as st

from dashboard.components.html import Child, Markup, tag

_ASSETS: Final = Path(__file__).parent / "assets"
_NAME: Final = "stagekeeper.live_html"
_ASKED: Final = "sk-asked-for"


class LiveHtml:
    """Mounts built HTML. Make one at the top of each run of the page."""

    def __init__(self) -> None:
        script = (_ASSETS / "live_html.js").read_text(encoding="utf-8")
        self._mount = st.components.v2.component(_NAME, js=script, isolate_styles=False)
        dark = st.context.theme.type == "dark"
        styles = [
            (_ASSETS / name).read_text(encoding="utf-8") for name in ("page.css", *(["dark.css"] if dark else []))
        ]
        st.html(f"<style>{''.join(styles)}</style>")

    def show(self, body: Markup, *, slot: str, content: str, leads: bool = False) -> None:
        """Show built HTML; a click on one of its links asks for its address.

        Args:
            body: What to show.
            slot: Where on the page; the HTML of a slot is changed in place.
            content: Names what is shown there; another content replaces the old one whole.
            leads: Whether it is the page's head: it scrolls to its top when the content changes, and tells of a lost
                server.
        """

        def go() -> None:
            address = st.session_state[slot].go
            if address:
                ask_for(address)

        # The moment makes every answer a new one, so that the browser can tell a quiet lake from a lost server.
        data = {"html": str(body), "view": content, "leads": leads, "at": time.time()}
        self._mount(data=data, key=slot, on_go_change=go)


def ask_for(address: str) -> None:
    """Go to an address as soon as the page runs again."""
    st.session_state[_ASKED] = address


def is_asked() -> bool:
    """Whether an address was asked for that the page has not gone to."""
    return _ASKED in st.session_state


def asked_for() -> str | None:
    """The address that was asked for since the last run."""
    address: str | None = st.session_state.pop(_ASKED, None)
    return address


def link(address: str, *children: Child, **attributes: str | None) -> Markup:
    """A link inside the page: a click stays in this session, a new tab opens the same address."""
    return tag("a", *children, href=address, data_go=True, **attributes)
