"""The console: shows built HTML in the page and brings its links back as navigation, without a reload."""

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
_NAME = "stagekeeper.console"


class Console:
    """Mounts built HTML. Make one at the top of each run of the page."""

    def __init__(self) -> None:
        script = (_ASSETS / "live_html.js").read_text(encoding="utf-8")
        self._mount = st.components.v2.component(_NAME, js=script, isolate_styles=False)
        st.html(f"<style>{(_ASSETS / 'page.css').read_text(encoding='utf-8')}</style>")

    def show(self, body: Markup, *, place: str, view: str, leads: bool = False) -> None:
        """Show built HTML; a click on one of its links sets the query parameters and runs the page again.

        Args:
            body: What to show.
            place: Names the place on the page; the same place is changed in place.
            view: Names what is shown there; another view replaces the old one whole.
            leads: Whether this place is the page's head: it scrolls to its top when the view changes, and says so
                when the server is lost.
        """

        def go() -> None:
            where = st.session_state[place].go
            if where:
                st.query_params.from_dict(dict(parse_qsl(where.removeprefix("?"))))

        # The moment makes every answer a new one, so that the browser can tell a quiet lake from a lost server.
        data = {"html": str(body), "view": view, "leads": leads, "at": time.time()}
        self._mount(data=data, key=place, on_go_change=go)


def link(where: str, *children: Child, **attributes: str | None) -> Markup:
    """A link inside the page: a click stays in this session, a new tab opens the same address."""
    return tag("a", *children, href=where, data_go=True, **attributes)


def selected() -> Mapping[str, str]:
    """The query parameters: what the page is asked to show."""
    return st.query_params.to_dict()
