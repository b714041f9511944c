"""Numbers as the commands that give them."""

from __future__ import annotations

import streamlit as st


def copy_as_command(*commands: str) -> None:
    """The commands that give what the page shows, to be copied."""
    with st.popover("Copy as command", icon=":material/terminal:"):
        for command in commands:
            st.code(command, language="shell")
