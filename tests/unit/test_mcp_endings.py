"""How a call of an MCP tool ended: an ask is no execution, a refusal no failure, and each is on record."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from fastmcp import Client
from fastmcp.server.context import Context  # noqa: TC002 - FastMCP reads the annotations of tools
from mcp import MCPError
from mcp_cases import READ, Setting
from mcp_types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult

from producers.boundary.review_store import ReviewStore
from producers.wire.events import Resolution

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_tool_that_asks_for_input_has_not_run() -> None:
    setting = Setting()

    @setting.server.tool(annotations=READ)
    async def guarded(item: str, ctx: Context) -> Any:
        if ctx.input_responses is None:
            return asks()
        return "done"

    async with Client(setting.server, elicitation_handler=accepts) as client:
        result = await client.call_tool("guarded", {"item": "x"}, raise_on_error=False)
    assert result.content[0].text == "done"
    assert setting.endings == [("cancelled", "ToolAskedError"), ("succeeded", None)]


def asks() -> InputRequiredResult:
    schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}}
    request = ElicitRequest(params=ElicitRequestFormParams(message="sure?", requested_schema=schema))
    return InputRequiredResult(input_requests={"sure": request}, request_state="s")


async def accepts(*_: Any) -> Any:
    return {"sure": True}


async def test_an_ask_spends_no_approval(tmp_path: Path) -> None:
    store = ReviewStore(tmp_path / "reviews.db")
    setting = Setting(reviews=store, flags={"approval": True})

    @setting.server.tool
    async def wipe(item: str, ctx: Context) -> Any:
        if ctx.input_responses is None:
            return asks()
        setting.ran.append(item)
        return "wiped"

    async def call() -> Any:
        async with Client(setting.server, elicitation_handler=accepts) as client:
            return await client.call_tool("wipe", {"item": "x"}, raise_on_error=False)

    assert (await call()).is_error
    (waiting,) = store.waiting()
    store.resolve(waiting.queued.decision_id, Resolution.APPROVED, reviewer="ada", rationale="yes")
    assert (await call()).content[0].text == "wiped"
    assert setting.ran == ["x"]
    assert setting.endings == [("succeeded", None)], "one approval, one execution"
    assert (await call()).is_error, "it was spent by the execution"


async def test_arguments_that_the_tool_does_not_take_are_refused_and_no_failure() -> None:
    setting = Setting()

    @setting.server.tool(annotations=READ)
    def add(one: int) -> int:
        return one + 1

    @setting.server.tool(annotations=READ)
    def invalid_upstream(one: int) -> int:
        raise MCPError(code=-32602, message="no such order")

    for tool, arguments in (("add", {"one": "many"}), ("add", {}), ("add", {"one": 1, "two": 2})):
        assert (await setting.call(tool, **arguments)).is_error
    assert (await setting.call("invalid_upstream", one=1)).is_error
    assert [status for status, _ in setting.endings] == ["refused"] * 4


async def test_a_tool_that_outlasts_its_time_has_timed_out() -> None:
    setting = Setting()

    @setting.server.tool(annotations=READ, timeout=0.01)
    async def slow() -> None:
        await asyncio.Event().wait()

    @setting.server.tool(annotations=READ)
    async def inner() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    assert (await setting.call("slow")).is_error
    assert (await setting.call("inner")).is_error
    assert [status for status, _ in setting.endings] == ["timed_out"] * 2


async def test_a_client_that_calls_off_has_cancelled() -> None:
    setting, reached = Setting(), asyncio.Event()

    @setting.server.tool(annotations=READ)
    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    async with Client(setting.server) as client:
        call = asyncio.create_task(client.call_tool("hang", {}))
        await reached.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert [status for status, _ in setting.endings] == ["cancelled"]


async def test_what_cannot_be_digested_is_refused_on_record() -> None:
    setting = Setting()
    setting.tool("look", annotations=READ)
    for value in ("\ud800", float("nan")):
        result = await setting.server.call_tool("look", {"item": value})
        assert result.is_error
        assert "[decision" in str(result.content)
    assert {event.data.decision.result.reason for event in setting.decided} == {"arguments_not_digestible"}
    assert setting.ran == []


async def test_a_name_that_another_action_has_is_refused_on_record() -> None:
    setting = Setting()
    setting.router.action(workflow="shop", system="s", risk_class="search", reversibility="automatic")(look)
    setting.tool("look", annotations=READ)
    result = await setting.call("look", item="x")
    assert result.is_error
    assert "already" in result.content[0].text
    assert [event.data.decision.result.reason for event in setting.decided] == ["action_not_unique"]


def look() -> None: ...
