"""HTML that the page replaces in place; a click on one of its links navigates without a reload."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import streamlit as st

from dashboard.components.html import Child, Markup, tag

if TYPE_CHECKING:
    from collections.abc import Mapping

_ASSETS = Path(__file__).parent / "assets"
_NAME = "stagekeeper.live_html"


class LiveHtml:
    """Mounts built HTML. Make one at the top of each run of the page."""

    def __init__(self) -> None:
        script = (_ASSETS / "live_html.js").read_text(encoding="utf-8")
        self._mount = st.components.v2.component(_NAME, js=script, isolate_styles=False)
        st.html(f"<style>{(_ASSETS / 'page.css').read_text(encoding='utf-8')}</style>")

    def show(self, body: Markup, *, slot: str, content: str, leads: bool = False) -> None:
        """Show built HTML; a click on one of its links sets the query parameters and runs the page again.

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
                st.query_params.from_dict(dict(parse_qsl(address.removeprefix("?"))))

        # The moment makes every answer a new one, so that the browser can tell a quiet lake from a lost server.
        data = {"html": str(body), "view": content, "leads": leads, "at": time.time()}
        self._mount(data=data, key=slot, on_go_change=go)


def link(address: str, *children: Child, **attributes: str | None) -> Markup:
    """A link inside the page: a click stays in this session, a new tab opens the same address."""
    return tag("a", *children, href=address, data_go=True, **attributes)


def query_parameters() -> Mapping[str, str]:
    """What the page is asked to show."""
    return st.query_params.to_dict()
