"""Who is at the page: signed in through Streamlit's own login (OIDC), or a name that nobody has checked."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import streamlit as st
from streamlit.errors import StreamlitSecretNotFoundError

from dashboard.act_desk import Role, Visitor
from producers.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME: Final = "sk-own-name"
_NOBODY: Final = Visitor("", frozenset({Role.VIEWER}))


def sign_in_is_configured() -> bool:
    """Whether Streamlit's secrets name an identity provider; raises `SettingsError` where they cannot be read."""
    try:
        return "auth" in st.secrets
    except StreamlitSecretNotFoundError as error:
        if "No secrets found" in str(error):
            return False
        raise SettingsError(f"the file with the sign-in cannot be read, so nobody may act: {error}") from error


def current_visitor(*, acts_unauthenticated: bool, roles_claim: str) -> Visitor | None:
    """Who is at the page; None where people sign in, and this one has not."""
    if sign_in_is_configured():
        if not st.user.is_logged_in:
            return None
        return visitor_from_claims(st.user.to_dict(), roles_claim)
    host = st.context.headers.get("Host")
    if not acts_unauthenticated or (host is not None and not _is_loopback(host)):
        return _NOBODY
    return Visitor(str(st.session_state.get(_NAME, "")), frozenset(Role))


def visitor_from_claims(claims: Mapping[str, object], roles_claim: str) -> Visitor:
    """The person whom claims of an identity provider name, with the roles that one of them lists."""
    # An address that the provider has not checked may be anybody's.
    email = claims.get("email") if claims.get("email_verified") is not False else None
    name = next((str(value) for value in (email, claims.get("sub")) if value), "")
    listed = claims.get(roles_claim)
    words = listed.replace(",", " ").split() if isinstance(listed, str) else listed
    held = {str(word) for word in words} if isinstance(words, list | tuple) else set()
    roles = {role for role in Role if role.value in held} if name else set()
    return Visitor(name, frozenset({Role.VIEWER, *roles}), authenticated=bool(name))


def ask_name(visitor: Visitor, key: str) -> str:
    """Who acts: known, or asked for beside the act, and remembered until the page is closed."""
    if visitor.authenticated:
        return visitor.name
    typed = st.text_input("Your name (recorded as unauthenticated)", value=visitor.name, key=f"{key}-name")
    return str(typed)


def remember(name: str) -> None:
    """Offer the name again at the next act."""
    st.session_state[_NAME] = name.strip()


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
