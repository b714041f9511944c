"""An MCP server behind the boundary, and a catalog for it."""

from __future__ import annotations

from typing import Any

from boundary_cases import Permit, Shelf, flag_evaluator
from fastmcp import Client, FastMCP

from producers.boundary.mcp import BoundaryMiddleware
from producers.boundary.router import Router
from producers.delivery.recorder import Recorder
from producers.importers.catalog import Catalog
from producers.wire.events import ActionDecided, ActionExecuted

READ = {"readOnlyHint": True}
WRITE = {"destructiveHint": False, "openWorldHint": False}


class Setting:
    """A server behind the boundary, what it ran, and what was recorded."""

    def __init__(self, server: FastMCP | None = None, *, authorizer: Any = None, **kept: Any) -> None:
        self.shelf = Shelf()
        self.ran: list[str] = []
        self.server = server or FastMCP("shop")
        self.router = Router(
            authorizer=authorizer or Permit(),
            flags=flag_evaluator(**kept.pop("flags", {})),
            recorder=Recorder(self.shelf, source="/mcp"),
            environment="production",
            agent="bot",
            reviews=kept.pop("reviews", None),
        )
        self.middleware = BoundaryMiddleware(
            self.router, workflow="shop", system="shop", environment="production", **kept
        )
        self.server.add_middleware(self.middleware)

    def tool(self, name: str, *, annotations: Any = None, version: str | None = None, says: str = "") -> None:
        def run(item: str) -> str:
            self.ran.append(says or name)
            return says or name

        self.server.tool(run, name=name, annotations=annotations, version=version)

    async def call(self, tool: str, /, version: str | None = None, **arguments: Any) -> Any:
        async with Client(self.server) as client:
            return await client.call_tool(tool, arguments, version=version, raise_on_error=False)

    @property
    def decided(self) -> list[ActionDecided]:
        return [event for event in self.shelf.events if isinstance(event, ActionDecided)]

    @property
    def contracts(self) -> list[tuple[str, str | None, str]]:
        made = [event.data.contract for event in self.decided]
        return [(contract.tool, contract.tool_version, contract.risk_class.value) for contract in made]

    @property
    def endings(self) -> list[tuple[str, str | None]]:
        executed = [event.data for event in self.shelf.events if isinstance(event, ActionExecuted)]
        return [(data.status.value, data.error_type) for data in executed]


def catalog(**tools: Any) -> Catalog:
    entries = {name: {"reversibility": "automatic", "system": "shop", **entry} for name, entry in tools.items()}
    return Catalog.model_validate(
        {"environment": "production", "workflow": "shop", "agent": "a", "stage": "draft_write", "tools": entries}
    )
