"""The service's connections over real sockets, with deadlines that a test can await."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from stagekeeper.api.http_connections import MOST, guarded_connections, most_connections

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
NEVER = 3_600.0
SHORT = 0.05
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Serving:
    """A server whose application answers once it may."""

    def __init__(self, port: int, clients: contextlib.AsyncExitStack) -> None:
        self.port = port
        self.clients = clients
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked, self.left = asyncio.Event(), asyncio.Event()
        self.body = b"here"

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        self.asked.set()
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(8):
            await send({"type": "http.response.body", "body": self.body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        self.left.set()

    async def connect(self, sent: bytes = b"") -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1_024)
        self.clients.callback(writer.close)
        writer.write(sent)
        return reader, writer


@contextlib.asynccontextmanager
async def serving(most: int | None = None, **deadlines: float) -> AsyncIterator[_Serving]:
    async with contextlib.AsyncExitStack() as clients:
        state = _Serving(0, clients)
        config = uvicorn.Config(
            state.application,
            http=guarded_connections(**{"head_s": NEVER, "stall_s": NEVER, **deadlines}),
            limit_concurrency=most,
            timeout_keep_alive=3_600,
            interface="asgi3",
            lifespan="off",
            log_config=None,
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        state.port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield state
        finally:
            state.may_answer.set()
            server.force_exit = True
            await server.shutdown()


async def answered(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    await reader.readuntil(b"0\r\n\r\n")


async def ended(reader: asyncio.StreamReader) -> None:
    """Read until the server has closed."""
    with contextlib.suppress(ConnectionResetError):
        while await reader.read(65_536):
            pass


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHo", b"\r\n"])
async def test_a_head_that_does_not_come_is_not_waited_for(sent: bytes) -> None:
    async with serving(head_s=SHORT) as server, asyncio.timeout(20):
        first, _ = await server.connect(sent)
        await ended(first)


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHo", b"\r\n"])
async def test_nor_is_that_of_a_second_request(sent: bytes) -> None:
    async with serving(head_s=SHORT) as server, asyncio.timeout(20):
        reader, writer = await server.connect(ASK)
        await answered(reader)
        writer.write(sent)
        await ended(reader)


async def test_an_answer_that_is_not_made_yet_has_no_deadline_of_its_head() -> None:
    async with serving(head_s=SHORT) as server, asyncio.timeout(20):
        server.may_answer.clear()
        reader, _ = await server.connect(ASK)
        other, _ = await server.connect()
        await ended(other)  # whose deadline ends later
        server.may_answer.set()
        await answered(reader)


async def test_an_answer_that_nobody_reads_does_not_keep_its_connection() -> None:
    async with serving(stall_s=SHORT) as server, asyncio.timeout(20):
        server.body = b"x" * 4_000_000
        await server.connect(ASK)
        await server.left.wait()


async def test_the_longest_idle_makes_room_and_a_whole_request_never_does() -> None:
    async with serving(most=4) as server, asyncio.timeout(20):
        server.may_answer.clear()
        working, _ = await server.connect(ASK)
        await server.asked.wait()
        body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"
        idle = [(await server.connect(sent))[0] for sent in (b"", b"GET / HT", body, b"", b"")]
        newest, _ = await server.connect(ASK)
        await asyncio.gather(*(ended(reader) for reader in idle[:4]))
        server.may_answer.set()
        await answered(working)
        await answered(newest)


def test_as_many_are_held_as_files_may_be_open() -> None:
    assert 0 < most_connections() <= MOST
