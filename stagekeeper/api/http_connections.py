"""Connections of the service: whoever keeps one and sends nothing loses it, by deadline or to whoever comes."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

HEAD_S: Final = 10.0  # how long a request's line and headers may take to come
STALL_S: Final = 30.0  # how long a client may read nothing of an answer
MOST: Final = 2_000


class GuardedConnection(HttpToolsProtocol):
    """HTTP/1.1 with deadlines that uvicorn lacks: of a request's head, and of an answer that is not read.

    At the most connections, the one that has waited longest for its client is closed for a new one; one whose request
    is whole is never closed for another.
    """

    head_s: ClassVar[float] = HEAD_S
    stall_s: ClassVar[float] = STALL_S
    waiting: ClassVar[dict[GuardedConnection, None]]  # for their clients, longest first; of one server

    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Make room, and give the first request its deadline."""
        super().connection_made(transport)
        while self.limit_concurrency and len(self.connections) >= self.limit_concurrency and self.waiting:
            longest = next(iter(self.waiting))
            longest.leave()
            self.connections.discard(longest)
        self.waiting[self] = None
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self.waiting.pop(self, None)
        _cancel(self._deadline)
        self._deadline = None
        _cancel(self._stalled)
        self._stalled = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Give the head of a further request its deadline, which starts with the first byte and no byte prolongs."""
        super().data_received(data)
        if self._is_between_requests() and self.timeout_keep_alive_task is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        """The head has come in time."""
        _cancel(self._deadline)
        self._deadline = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is whole: the service works, its client waits."""
        self.waiting.pop(self, None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the client again."""
        super().on_response_complete()
        if self._is_between_requests() and not self.transport.is_closing():
            self.waiting.pop(self, None)
            self.waiting[self] = None

    def pause_writing(self) -> None:
        """Too much of an answer is unread."""
        super().pause_writing()
        _cancel(self._stalled)
        self._stalled = self.loop.call_later(self.stall_s, self.leave)

    def resume_writing(self) -> None:
        """The client reads on."""
        _cancel(self._stalled)
        self._stalled = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection whose client asks no more, even where it has not read the last answers."""
        self.leave()

    def leave(self) -> None:
        """Close at once: an orderly end would wait for a client that does not come."""
        self.waiting.pop(self, None)
        self.transport.abort()

    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _expect_head(self) -> None:
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.head_s, self.leave)


def guarded_connections(*, head_s: float = HEAD_S, stall_s: float = STALL_S) -> type[GuardedConnection]:
    """The protocol of one server, with deadlines in seconds."""
    return type("Guarded", (GuardedConnection,), {"head_s": head_s, "stall_s": stall_s, "waiting": {}})


def most_connections() -> int:
    """How many this process can hold, at most 2,000; raises its limit of open files as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST  # beside connections there are databases, lakes and brokers
    if soft < wanted and (hard == resource.RLIM_INFINITY or hard > soft):
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(MOST, soft // 2)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
