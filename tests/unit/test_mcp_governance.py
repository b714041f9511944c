"""What an MCP client, or a third party behind the server, could do to run something else than was decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import Permit
from fastmcp import Client, FastMCP
from fastmcp.prompts.base import Prompt
from fastmcp.resources.base import Resource
from fastmcp.server import create_proxy
from mcp import MCPError
from mcp_cases import READ, WRITE, Setting, catalog
from mcp_types import PromptReference

from producers.boundary.mcp import ToolNotes
from producers.wire.contract import Fallback, FallbackMode

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("order", [["1.0", None], [None, "1.0"], ["v1.0"], ["1"]])
async def test_the_version_that_runs_is_the_version_that_was_decided(order: list[str | None]) -> None:
    setting = Setting(flags={"mode": "search_only"})
    setting.tool("wipe", version="1.0", says="destroyed")
    setting.tool("wipe", version="2.0", annotations=READ, says="looked")
    for version in order:
        result = await setting.call("wipe", version=version, item="x")
        assert result.is_error is (version is not None)
    assert "destroyed" not in setting.ran
    expected = {None: ("wipe", "2.0", "scoped_read")}
    assert setting.contracts == [expected.get(version, ("wipe", "1.0", "irreversible")) for version in order]


async def test_a_version_that_nothing_has_is_refused_on_record() -> None:
    setting = Setting()
    setting.tool("wipe", version="1.0", annotations=READ)
    setting.tool("plain", annotations=READ)
    assert (await setting.call("wipe", version="9.9", item="x")).is_error
    assert (await setting.call("plain", version="1.0", item="x")).is_error
    assert setting.ran == []
    assert [event.data.decision.result.reason for event in setting.decided] == ["unknown_tool", "unknown_version"]


async def test_a_version_does_not_pass_through_a_proxy() -> None:
    ran: list[str] = []
    backend = FastMCP("third party")
    backend.tool(lambda: ran.append("destroyed"), name="wipe", version="1.0")
    backend.tool(lambda: ran.append("looked"), name="wipe", version="2.0", annotations=READ)
    setting = Setting(create_proxy(backend), flags={"mode": "search_only"})
    assert (await setting.call("wipe", version="1.0")).is_error
    assert not (await setting.call("wipe")).is_error
    assert ran == ["looked"]


async def test_what_the_catalog_says_of_one_version_does_not_hold_for_another() -> None:
    says = catalog(wipe={"risk_class": "scoped_read", "tool_version": "2.0"}, note={"risk_class": "scoped_read"})
    setting = Setting(flags={"mode": "search_only"}, catalog=says)
    for name in ("wipe", "note"):
        setting.tool(name, version="1.0", says=f"{name} 1.0")
        setting.tool(name, version="2.0", says=f"{name} 2.0")
        assert (await setting.call(name, version="1.0", item="x")).is_error
        assert not (await setting.call(name, version="2.0", item="x")).is_error
        assert not (await setting.call(name, item="x")).is_error
    assert setting.ran == ["wipe 2.0"] * 2 + ["note 2.0"] * 2
    assert ("wipe", "1.0", "irreversible") in setting.contracts


class Meanwhile(Permit):
    """Does something once an action is being decided."""

    def __init__(self) -> None:
        self.do: Callable[[], object] = lambda: None

    def authorize(self, contract: Any) -> Any:
        self.do()
        return super().authorize(contract)


async def test_what_comes_under_the_name_meanwhile_does_not_run() -> None:
    meanwhile = Meanwhile()
    setting = Setting(authorizer=meanwhile)
    server = setting.server

    def offer(version: str, said: str) -> None:
        setting.tool("look", annotations=READ if version == "1" else None, version=version, says=said)
        server.add_prompt(Prompt.from_function(lambda: said, name="ask", version=version))
        server.add_resource(Resource.from_function(lambda: said, "shop://list", name="list", version=version))

    def replace() -> None:
        offer("9", "destroyed")
        server.add_resource(Resource.from_function(lambda: "destroyed", "shop://items/book", name="book"))

    offer("1", "looked")
    server.resource("shop://items/{item}", name="item")(lambda item: f"looked for {item}")
    for use, said in {
        (lambda client: client.read_resource("shop://items/book")): "looked for book",
        (lambda client: client.call_tool("look", {"item": "x"})): "looked",
        (lambda client: client.read_resource("shop://list")): "looked",
        (lambda client: client.get_prompt("ask")): "looked",
    }.items():
        meanwhile.do = replace
        async with Client(server) as client:
            assert said in str(await use(client))
        meanwhile.do = lambda: None
        provider = server.local_provider
        provider.remove_tool("look", version="9")
        provider.remove_prompt("ask", version="9")
        provider.remove_resource("shop://list", version="9")
        provider.remove_resource("shop://items/book")
    assert "destroyed" not in setting.ran


async def test_annotations_cannot_become_milder_while_the_server_runs() -> None:
    setting = Setting(flags={"mode": "search_only"})
    setting.tool("wipe", says="destroyed")
    assert (await setting.call("wipe", item="x")).is_error
    setting.server.local_provider.remove_tool("wipe")
    setting.tool("wipe", annotations=READ, says="destroyed")
    assert (await setting.call("wipe", item="x")).is_error
    setting.server.local_provider.remove_tool("wipe")
    setting.tool("wipe", annotations=READ, version="7", says="destroyed")  # nor by another version
    assert (await setting.call("wipe", item="x")).is_error
    assert setting.ran == []


async def test_annotations_may_become_worse() -> None:
    setting = Setting(flags={"mode": "search_only"})
    setting.tool("look", annotations=READ)
    assert not (await setting.call("look", item="x")).is_error
    setting.server.local_provider.remove_tool("look")
    setting.tool("look", annotations=WRITE)
    assert (await setting.call("look", item="x")).is_error
    assert setting.ran == ["look"]


def with_reads(setting: Setting) -> None:
    server = setting.server

    @server.resource("shop://list")
    def listed() -> str:
        setting.ran.append("list")
        return "listed"

    @server.resource("shop://items/{item}")
    def item(item: str) -> str:
        setting.ran.append(f"item {item}")
        return f"item {item}"

    @server.prompt
    def ask(about: str) -> str:
        setting.ran.append(f"ask {about}")
        return f"ask {about}"

    @server.completion
    def complete(ref: Any, argument: Any, context: Any) -> list[str]:
        setting.ran.append("complete")
        return ["x"]


async def use_reads(setting: Setting) -> list[str]:
    """Read everything; the names of what was refused."""
    refused, named = [], []
    async with Client(setting.server) as client:
        for name, use in {
            "list": lambda: client.read_resource("shop://list"),
            "item": lambda: client.read_resource("shop://items/book"),
            "ask": lambda: client.get_prompt("ask", {"about": "book"}),
            "complete": lambda: client.complete(PromptReference(name="ask"), {"name": "about", "value": "b"}),
        }.items():
            try:
                await use()
            except MCPError as error:
                refused.append(name)
                named.append(error.error.data["stagekeeper/decision"])
    assert set(named) <= {event.subject for event in setting.decided}
    return refused


NAMES = ["resource:shop://list", "resource:shop://items/{item}", "prompt:ask", "completion"]


async def test_resources_prompts_and_completions_are_decided_and_recorded() -> None:
    setting = Setting()
    with_reads(setting)
    assert await use_reads(setting) == []
    assert setting.ran == ["list", "item book", "ask book", "complete"]
    assert [name for name, _, _ in setting.contracts] == NAMES
    assert setting.endings == [("succeeded", None)] * 4


async def test_resources_and_prompts_that_the_catalog_does_not_name_are_sensitive() -> None:
    setting = Setting(flags={"mode": "search_only"})
    with_reads(setting)
    assert await use_reads(setting) == ["list", "item", "ask"]
    assert setting.ran == ["complete"]
    assert [risk for _, _, risk in setting.contracts] == ["sensitive_read"] * 3 + ["search"]


async def test_resources_and_prompts_are_what_the_catalog_says() -> None:
    says = {name: {"risk_class": "scoped_read"} for name in NAMES[:3]}
    setting = Setting(flags={"mode": "search_only"}, catalog=catalog(**says))
    with_reads(setting)
    assert await use_reads(setting) == []


async def test_switched_off_is_switched_off_for_every_door() -> None:
    setting = Setting(flags={"denylist": True})
    with_reads(setting)
    assert await use_reads(setting) == ["list", "item", "ask", "complete"]
    assert setting.ran == []
    assert len(setting.decided) == 4


async def test_resources_and_prompts_that_nobody_has_are_refused_on_record() -> None:
    setting = Setting()
    async with Client(setting.server) as client:
        with pytest.raises(MCPError, match="decision"):
            await client.read_resource("shop://nothing")
        with pytest.raises(MCPError, match="decision"):
            await client.get_prompt("nothing")
    asked = [event.data.contract.requested_tool for event in setting.decided]
    assert asked == ["resource:shop://nothing", "prompt:nothing"]


async def test_invented_names_make_one_cell_and_no_more() -> None:
    setting = Setting()
    setting.tool("look", annotations=READ)
    names = [f"invented_{number}" for number in range(61)] + ["x" * 10_000, "a\x00b\n", "", "look "]
    async with Client(setting.server) as client:
        for name in names:
            result = await client.call_tool(name, {"item": name[:5]}, raise_on_error=False)
            assert result.is_error
    assert {contract[0] for contract in setting.contracts} == {"unknown_tool"}
    assert len(setting.decided) == len(names)
    assert {event.data.decision.result.reason for event in setting.decided} == {"unknown_tool"}
    asked = [event.data.contract.requested_tool for event in setting.decided]
    assert asked[:2] == ["invented_0", "invented_1"]
    assert asked[61:] == ["x" * 200, "a?b?", "(empty)", "look "]
    assert len(setting.router._calls._shared_calls._calls._kept) == 1  # noqa: SLF001 - memory is what this is about
    assert len(setting.middleware._actions._actions) == 0  # noqa: SLF001


async def test_the_fallback_of_a_tool_runs_reads_in_an_incident() -> None:
    fallback = ToolNotes(fallback=Fallback(mode=FallbackMode.SEARCH_ONLY))
    setting = Setting(flags={"mode": "fallback"}, notes={"look": fallback, "wipe": fallback})
    for name in ("look", "other"):
        setting.tool(name, annotations=READ)
    setting.tool("wipe")
    assert [(await setting.call(name, item="x")).is_error for name in ("look", "other", "wipe")] == [False, True, True]
    assert setting.ran == ["look"]
