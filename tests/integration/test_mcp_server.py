"""The example server as a program, asked by a real client over stdio and over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from mcp import MCPError

from producers.delivery.outbox import Outbox
from producers.wire.events import ActionDecided, ActionExecuted, event_from_bytes
from stagekeeper.commands import cli
from streams.ports import available_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PROGRAM = str(ROOT / "examples" / "mcp_server.py")


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STAGEKEEPER_")}
    return {**kept, "PYTHONPATH": str(ROOT), "STAGEKEEPER_HOME": str(home)}


@contextmanager
def over_stdio(home: Path) -> Iterator[Any]:
    yield StdioTransport(sys.executable, [PROGRAM], env=environment(home), keep_alive=False)


@contextmanager
def over_http(home: Path) -> Iterator[Any]:
    port = available_port()
    server = subprocess.Popen(
        [sys.executable, PROGRAM, str(port)], env=environment(home), stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    said: list[str] = []
    for line in server.stderr:
        said.append(line)
        if "Uvicorn running" in line:
            break
    reader = threading.Thread(target=server.stderr.read)  # or its pipe fills up
    reader.start()
    try:
        assert server.poll() is None, "".join(said)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        server.terminate()
        server.wait(20)
        reader.join()
        server.stderr.close()


@pytest.mark.parametrize("serving", [over_stdio, over_http])
async def test_every_tool_of_the_example_is_behind_the_boundary(
    serving: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGEKEEPER_HOME", str(tmp_path))
    monkeypatch.delenv("STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    with serving(tmp_path) as address:
        async with Client(address) as client:

            async def call(tool: str, **arguments: Any) -> Any:
                return await client.call_tool(tool, arguments, raise_on_error=False)

            assert {tool.name for tool in await client.list_tools()} >= {"get_order", "issue_refund"}
            read = await call("get_order", order="4711")
            assert read.data == "order 4711: one book, 12 euros"
            queued = await call("issue_refund", order="4711", euros=12)
            assert queued.is_error
            assert "waits for a person" in queued.content[0].text
            word = ["approve", queued.meta["stagekeeper/decision"], "--as", "ada", "--because", "agreed"]
            said = CliRunner().invoke(cli, ["review", *word])
            assert said.exit_code == 0, said.output
            assert (await call("issue_refund", order="4711", euros=13)).is_error, "not what was approved"
            refunded = await call("issue_refund", order="4711", euros=12)
            assert refunded.data == "refunded 12 euros for 4711"
            denied = await call("delete_customer", customer="ada")
            assert denied.is_error
            assert "not_authorized" in denied.content[0].text
            constrained = await call("draft_refund", order="4711", euros=12)
            assert constrained.is_error
            assert "constrained to search_only" in constrained.content[0].text
            invented = await call("no_such_tool", order="4711")
            assert "no tool 'no_such_tool'" in invented.content[0].text
            versioned = await client.call_tool("get_order", {"order": "1"}, version="1.0", raise_on_error=False)
            assert "no versions to choose from" in versioned.content[0].text
            with pytest.raises(MCPError, match="no resource"):
                await client.read_resource("orders://4711")
            decision = denied.meta["stagekeeper/decision"]
    with Outbox(tmp_path / "outbox.db") as outbox:
        events = [event_from_bytes(record.value) for record in outbox.after(0, 100)]
    decided = [event for event in events if isinstance(event, ActionDecided)]
    ran = {event.subject for event in events if isinstance(event, ActionExecuted)}
    outcomes = [event.data.decision.result.outcome for event in decided]
    assert outcomes == ["allow", "queue_for_review", "queue_for_review", "deny", "constrain", *["deny"] * 3]
    assert [event.data.contract.tool for event in decided[5:]] == ["unknown_tool"] * 3
    assert decided[3].subject == decision
    assert ran == {decided[0].subject, decided[1].subject}
