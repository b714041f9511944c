"""One attempt to deliver one message: http or https alone, to an address that may be asked, and nowhere else.

Redirects are not followed, proxies of the environment not used. The address is checked after the name was resolved, on
the very addresses that are then connected to.
"""

from __future__ import annotations

import ipaddress
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver

from streams.webhooks.messages_out import signed

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

    from aiohttp.abc import ResolveResult

    from streams.webhooks.endpoints import Endpoint

TIMEOUT_S: Final = 15.0  # for one attempt as a whole
LONGEST_WAIT_S: Final = 3_600.0  # that a receiver may ask for

_UNICAST: Final = ipaddress.ip_network("2000::/3")  # of IPv6 nothing else is handed out for public use
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")  # an address of IPv4 stands in the last four bytes
# Never asked: Teredo and 6to4, which lead to any address of IPv4, and where AWS hands out credentials.
_NEVER: Final = tuple(ipaddress.ip_network(network) for network in ("2001::/32", "2002::/16", "fd00:ec2::/32"))


class ForbiddenAddressError(OSError):
    """The receiver lies at an address that is not asked."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one attempt."""

    delivered: bool
    detail: str  # without the URL, which may be a secret
    wait_s: float | None = None  # how long the receiver asks to be left alone
    gone: bool = False  # whether it wants nothing any more


async def deliver(session: aiohttp.ClientSession, endpoint: Endpoint, message_id: str, body: bytes) -> Attempt:
    """Send a message once; only an answer of 2xx counts as delivered. Raises nothing that a receiver can cause."""
    timestamp = int(time.time())
    headers = {"content-type": "application/json", "webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    if endpoint.secrets:
        headers["webhook-signature"] = signed(endpoint.secrets, message_id, timestamp, body)
    try:
        check_literal(endpoint)
        async with session.post(endpoint.url, data=body, headers=headers, allow_redirects=False) as answer:
            return _attempt(answer)
    except TimeoutError:
        return Attempt(delivered=False, detail=f"no answer within {TIMEOUT_S:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # Not the whole message: of some it holds the URL.
        forbidden = next((one for one in (error, error.__cause__) if isinstance(one, ForbiddenAddressError)), None)
        why = forbidden or getattr(error, "strerror", None)
        return Attempt(delivered=False, detail=type(error).__name__ + (f": {why}" if why else ""))


@asynccontextmanager
async def session_for(endpoint: Endpoint) -> AsyncIterator[aiohttp.ClientSession]:
    """A session whose connections go where this endpoint may be, and nowhere else."""
    connector = aiohttp.TCPConnector(resolver=_CheckedResolver(allow_private=endpoint.allow_private), limit=1)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
        yield session


def check_literal(endpoint: Endpoint) -> None:
    """Raise `ForbiddenAddressError` where the URL names an address that is not asked; names are checked later."""
    host = urlsplit(endpoint.url).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return
    check_address(host, allow_private=endpoint.allow_private)


def check_address(address: str, *, allow_private: bool) -> None:
    """Raise `ForbiddenAddressError` for what is not public; private ones may be allowed, link-local ones never."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or (ipaddress.IPv4Address(ip.packed[-4:]) if ip in _NAT64 else ip)
    is_public = ip.is_global and (ip.version == 4 or ip in _UNICAST)
    is_private = ip.is_private or ip.is_loopback
    # Link-local addresses are where clouds hand out credentials.
    never = ip.is_link_local or ip.is_multicast or ip.is_unspecified or any(ip in network for network in _NEVER)
    if never or not (is_public or (allow_private and is_private)):
        hint = "; `allow_private: true` allows it" if is_private and not (never or allow_private) else ""
        raise ForbiddenAddressError(f"{ip} is not a public address{hint}")


class _CheckedResolver(AbstractResolver):
    """Resolves names, and hands out no address that is not asked."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = 0) -> list[ResolveResult]:  # type: ignore[assignment]
        found = await self._resolver.resolve(host, port, family)
        for one in found:
            check_address(one["host"], allow_private=self._allow_private)
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _attempt(answer: aiohttp.ClientResponse) -> Attempt:
    status = answer.status
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Attempt(delivered=True, detail=f"{status}")
    why = " (redirects are not followed)" if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST else ""
    wait_s = _wait_s(answer.headers.get("retry-after"))
    return Attempt(delivered=False, detail=f"{status}{why}", wait_s=wait_s, gone=status == HTTPStatus.GONE)


def _wait_s(text: str | None) -> float | None:
    """`Retry-After`, seconds or a date, as seconds; None where there is none that can be read."""
    if text is None:
        return None
    try:
        wait_s: Any = float(text) if text.strip().isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return float(min(max(wait_s, 0.0), LONGEST_WAIT_S))
