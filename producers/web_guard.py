"""Who may ask a web server of ours: no page of another site, which could have its name lead here (DNS rebinding)."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Collection

LOOPBACK: Final = "127.0.0.1"


def may_ask(host: str | None, origin: str | None, names: Collection[str]) -> bool:
    """Whether a request's Host, and its Origin where there is one, name an address, `localhost` or one of the names.

    Whoever rebinds a name has to ask by that name, and never by an address.
    """
    if not _is_ours(f"//{host or ''}", names):
        return False
    return origin is None or _is_ours(origin, names)


def _is_ours(url: str, names: Collection[str]) -> bool:
    try:
        parts = urlsplit(url)
        name = parts.hostname
        _ = parts.port  # raises where it is none
    except ValueError:
        return False
    if not name or parts.username is not None or parts.path or parts.query or parts.fragment:
        return False
    if name == "localhost" or name in {one.lower() for one in names}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
