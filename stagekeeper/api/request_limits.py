"""Limits of a request, before anybody reads it: its body's size and depth, and how long the body may take to come."""

from __future__ import annotations

import asyncio
import re
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from stagekeeper.api.problems import problem_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES: Final = 1_048_576  # of a body; a record on a topic holds no more
DEEPEST: Final = 64  # objects and lists within each other

# Anybody may send a body, so the work grows with its length only: a string that never ends is one, too, and nothing is
# tried again. Whoever sends other text than JSON is told so by who reads it.
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_STEP: Final = bytes(set(range(256)) - _STEPS.keys())


class RequestLimits:
    """ASGI middleware that reads bodies within limits, and passes them on whole."""

    def __init__(self, app: ASGIApp, body_s: float = 15.0) -> None:
        self._app = app
        self._body_s = body_s  # how long a body may take to come

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413, 408 or 422 in place of the application where a body goes beyond."""
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD"}:
            await self._app(scope, receive, send)
            return
        stated = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        too_long = problem_response(413, "body_too_large", f"a body has at most {MOST_BYTES:,} bytes")
        if not stated.isdigit() or int(stated) > MOST_BYTES:
            await too_long(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._body_s):
                body = await _read(receive)
        except TimeoutError:
            late = problem_response(408, "body_too_slow", f"a body comes within {self._body_s:g} s")
            await late(scope, receive, send)
            return
        if body is None:
            return
        if len(body) > MOST_BYTES:
            await too_long(scope, receive, send)
            return
        if _is_too_deep(body):
            deep = problem_response(422, "body_too_deep", f"a body has at most {DEEPEST} levels within each other")
            await deep(scope, receive, send)
            return
        passed_on = False

        async def replay() -> Message:
            nonlocal passed_on
            if passed_on:
                return await receive()
            passed_on = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, replay, send)


async def _read(receive: Receive) -> bytearray | None:
    """The body, or a little more than a body may have; None where the client has gone."""
    body = bytearray()
    while len(body) <= MOST_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return body


def _is_too_deep(body: bytearray) -> bool:
    if body.count(b"{") + body.count(b"[") <= DEEPEST:
        return False
    brackets = _STRING.sub(b"", body).translate(None, _NO_STEP)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > DEEPEST
