"""The page, which `stagekeeper page` serves. It only reads."""

from __future__ import annotations

import argparse
import math
import sys
from datetime import UTC, datetime
from pathlib import Path

import streamlit as st

from dashboard.components.layout import trouble
from dashboard.components.live_html import LiveHtml, query_parameters
from dashboard.data.reader import LakeReader, read_gate_file
from dashboard.navigation import page
from dashboard.urls import PageLocation
from producers.errors import StagekeeperError
from producers.web_guard import may_ask

REFRESH_S = 2.0


@st.cache_resource(show_spinner=False)
def reader(root: str) -> LakeReader:
    """One reader for every page that is open on a lake."""
    return LakeReader(root)


@st.fragment(run_every=REFRESH_S)
def refreshing(html: LiveHtml, lake: str, gates: Path | None, freshness_s: float, *, unsigned: bool) -> None:
    """Show the page, and again every `REFRESH_S` seconds."""
    try:
        state = None if gates is None else read_gate_file(gates, freshness_s=freshness_s)
        location = PageLocation.from_parameters(query_parameters())
        page(html, reader(lake), state, location, datetime.now(UTC), unsigned=unsigned)
    except StagekeeperError as error:
        html.show(trouble(str(error)), slot="upper", content="trouble", leads=True)


def main(arguments: list[str]) -> None:
    """Set the page up and show it."""
    parser = argparse.ArgumentParser(prog="dashboard/app.py")
    parser.add_argument("--lake", default=".stagekeeper/lake", help="root of the Delta tables")
    parser.add_argument("--gates", type=Path, default=None, help="the gate file in force")
    parser.add_argument(
        "--freshness-s", type=float, default=math.inf, help="narrows the gate file's freshness, seconds"
    )
    parser.add_argument("--web-name", action="append", default=[], help="a further host name to answer to")
    parser.add_argument("--unsigned", action="store_true", help="say that no receipt key is set")
    chosen = parser.parse_args(arguments)
    headers = st.context.headers
    if headers and not may_ask(headers.get("Host"), headers.get("Origin"), chosen.web_name):
        st.error("Host or Origin names nobody here. Whoever runs this page can add the name with --web-name.")
        st.stop()
    st.set_page_config(page_title="Stagekeeper", layout="wide", initial_sidebar_state="collapsed")
    refreshing(LiveHtml(), chosen.lake, chosen.gates, chosen.freshness_s, unsigned=chosen.unsigned)


main(sys.argv[1:])
