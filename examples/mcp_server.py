"""A bookshop's tools as an MCP server, every one of them behind the boundary.

`python examples/mcp_server.py` serves over stdio, for a client that starts it; with a port, as in
`python examples/mcp_server.py 8000`, it serves over HTTP on http://127.0.0.1:8000/mcp.
"""

# ruff: noqa: INP001 - an example is a script
from __future__ import annotations

import argparse
from pathlib import Path

from fastmcp import FastMCP

import stagekeeper as sk
from producers.boundary.mcp import BoundaryMiddleware, ToolNotes

here = Path(__file__).parent
server = FastMCP("bookshop")


@server.tool(annotations={"readOnlyHint": True})
def get_order(order: str) -> str:
    """Look an order up."""
    return f"order {order}: one book, 12 euros"


@server.tool(annotations={"destructiveHint": False})
def issue_refund(order: str, euros: int) -> str:
    """Pay a customer back."""
    return f"refunded {euros} euros for {order}"


@server.tool(annotations={"destructiveHint": False, "idempotentHint": True, "openWorldHint": False})
def draft_refund(order: str, euros: int) -> str:
    """Write a refund down for a colleague to send."""
    return f"drafted {euros} euros for {order}"


@server.tool
def delete_customer(customer: str) -> str:
    """Delete a customer with all orders; it has no annotations, and so the most cautious reading."""
    return f"deleted {customer}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int, nargs="?", help="serve over HTTP on this port; over stdio without one")
    port = parser.parse_args().port
    with sk.open_router(
        source="/mcp/bookshop",
        environment="production",
        agent="support-bot",
        authorization=here / "authorization.yaml",
        flags=here / "flags.json",
    ) as router:
        server.add_middleware(
            BoundaryMiddleware(
                router,
                workflow="refunds",
                system="billing",
                environment="production",
                notes={"issue_refund": ToolNotes(variants={"draft": "draft_refund"}, consequence="money leaves us")},
            )
        )
        if port is not None:
            server.run(transport="http", port=port, show_banner=False)
        else:
            server.run(show_banner=False)
