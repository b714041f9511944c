"""The middleware with a real server and a client in the same process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import Permit, Shelf, flag_evaluator
from fastmcp import Client, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.tools.base import ToolResult
from mcp_types import ToolAnnotations

from producers.boundary.authorization import AuthorizationFile, FileAuthorizer
from producers.boundary.mcp import BoundaryMiddleware, ToolNotes, risk_of
from producers.boundary.review_store import ReviewStore
from producers.boundary.router import Router
from producers.delivery.recorder import Recorder
from producers.importers.catalog import Catalog
from producers.wire.events import ActionDecided, ActionExecuted, Resolution

if TYPE_CHECKING:
    from pathlib import Path

RAN: list[str] = []


def shop(shelf: Shelf, *, authorizer: Any = None, reviews: ReviewStore | None = None, **middleware: Any) -> FastMCP:
    flags = middleware.pop("flags", {})
    router = Router(
        authorizer=authorizer or Permit(),
        flags=flag_evaluator(**flags),
        recorder=Recorder(shelf, source="/mcp"),
        environment="production",
        agent="bot",
        reviews=reviews,
    )
    server = FastMCP("shop")

    @server.tool(annotations={"readOnlyHint": True})
    def look(item: str) -> str:
        RAN.append(f"look {item}")
        return f"saw {item}"

    @server.tool(annotations={"destructiveHint": False, "idempotentHint": True, "openWorldHint": False})
    def note(item: str) -> str:
        RAN.append(f"note {item}")
        return f"noted {item}"

    @server.tool
    def wipe(item: str) -> str:
        RAN.append(f"wipe {item}")
        return f"wiped {item}"

    @server.tool(annotations={"readOnlyHint": True})
    def broken(kind: str) -> ToolResult:
        if kind == "raises":
            raise KeyError("x")
        return ToolResult(content="no such thing", is_error=True)

    server.add_middleware(
        BoundaryMiddleware(router, workflow="shop", system="shop", environment="production", **middleware)
    )
    RAN.clear()
    return server


async def call(server: FastMCP, tool: str, **arguments: Any) -> Any:
    async with Client(server) as client:
        return await client.call_tool(tool, arguments, raise_on_error=False)


def decided(shelf: Shelf) -> list[ActionDecided]:
    return [event for event in shelf.events if isinstance(event, ActionDecided)]


@pytest.mark.parametrize(
    ("hints", "risk", "reversibility"),
    [
        (None, "irreversible", "none"),
        ({}, "irreversible", "none"),
        ({"readOnlyHint": True}, "scoped_read", "automatic"),
        ({"destructiveHint": True, "idempotentHint": True}, "irreversible", "none"),
        ({"idempotentHint": True}, "irreversible", "none"),
        ({"destructiveHint": False}, "external_effect", "expensive"),
        ({"destructiveHint": False, "idempotentHint": True}, "external_effect", "manual"),
        ({"destructiveHint": False, "openWorldHint": False}, "reversible_write", "expensive"),
    ],
)
def test_hints_are_read_with_the_most_caution_that_the_protocol_allows(
    hints: Any, risk: str, reversibility: str
) -> None:
    said = risk_of(None if hints is None else ToolAnnotations.model_validate(hints))
    assert said == (risk, reversibility)


async def test_a_permitted_tool_runs_and_both_events_are_recorded() -> None:
    shelf = Shelf()
    result = await call(shop(shelf), "look", item="book")
    assert not result.is_error
    assert result.data == "saw book"
    (asked,) = decided(shelf)
    assert (asked.data.contract.tool, asked.data.contract.risk_class) == ("look", "scoped_read")
    assert asked.data.contract.actor.agent == "bot"
    assert isinstance(shelf.events[1], ActionExecuted)
    assert result.meta is not None
    assert result.meta["stagekeeper/decision"] == asked.subject, "by this its consequences are reported"


async def test_a_denied_tool_does_not_run_and_the_error_names_the_decision() -> None:
    shelf = Shelf()
    result = await call(shop(shelf, flags={"denylist": True}), "wipe", item="book")
    assert result.is_error
    assert RAN == []
    (asked,) = decided(shelf)
    assert asked.subject in result.content[0].text
    assert "on_denylist" in result.content[0].text
    assert result.meta["stagekeeper/decision"] == asked.subject


async def test_a_tool_that_the_server_does_not_have_is_decided_too() -> None:
    shelf = Shelf()
    nobody = FileAuthorizer(AuthorizationFile(version=1, rules=()), "0" * 64)
    result = await call(shop(shelf, authorizer=nobody), "no_such_tool")
    assert result.is_error
    assert "not_authorized" in result.content[0].text


async def test_a_constrained_tool_runs_its_variant_and_no_other() -> None:
    shelf = Shelf()
    notes = {"wipe": ToolNotes(variants={"draft": "note"})}
    result = await call(shop(shelf, flags={"mode": "draft_write"}, notes=notes), "wipe", item="book")
    assert result.data == "noted book"
    assert RAN == ["note book"]
    (asked,) = decided(shelf)
    assert asked.data.decision.result.model_dump()["mode"] == "draft"


async def test_the_catalog_speaks_before_the_annotations() -> None:
    shelf = Shelf()
    catalog = Catalog.model_validate(
        {
            "environment": "production",
            "workflow": "cataloged",
            "agent": "a",
            "stage": "draft_write",
            "tools": {"look": {"risk_class": "sensitive_read", "reversibility": "automatic", "system": "vault"}},
        }
    )
    result = await call(shop(shelf, flags={"mode": "search_only"}, catalog=catalog), "look", item="book")
    assert result.is_error
    contract = decided(shelf)[0].data.contract
    assert (contract.risk_class, contract.workflow, contract.target.system) == ("sensitive_read", "cataloged", "vault")


async def test_a_call_that_was_approved_runs_when_it_is_made_again_unchanged(tmp_path: Path) -> None:
    shelf, store = Shelf(), ReviewStore(tmp_path / "reviews.db")
    server = shop(shelf, reviews=store, flags={"approval": True})
    first = await call(server, "wipe", item="book")
    assert first.is_error
    (waiting,) = store.waiting()
    assert waiting.queued.decision_id in first.content[0].text
    again = await call(server, "wipe", item="book")
    assert "still waits" in again.content[0].text
    assert len(decided(shelf)) == 1, "asking again is no new decision"
    store.resolve(waiting.queued.decision_id, Resolution.APPROVED, reviewer="ada", rationale="yes")
    assert (await call(server, "wipe", item="pen")).is_error, "another argument is another action"
    assert (await call(server, "wipe", item="book")).data == "wiped book"
    assert RAN == ["wipe book"]
    assert (await call(server, "wipe", item="book")).is_error, "an approval holds once"
    assert RAN == ["wipe book"]


async def test_a_reviewer_sees_the_notes_on_a_tool_and_no_redacted_argument(tmp_path: Path) -> None:
    store = ReviewStore(tmp_path / "reviews.db")
    notes = {"wipe": ToolNotes(redact=frozenset({"item"}), consequence="it is gone")}
    await call(shop(Shelf(), reviews=store, flags={"approval": True}, notes=notes), "wipe", item="the diary")
    (waiting,) = store.waiting()
    assert (waiting.queued.arguments, waiting.queued.consequence) == ({"item": "[redacted]"}, "it is gone")


async def test_a_rejection_comes_back_with_its_reason(tmp_path: Path) -> None:
    store = ReviewStore(tmp_path / "reviews.db")
    server = shop(Shelf(), reviews=store, flags={"approval": True})
    await call(server, "wipe", item="book")
    (waiting,) = store.waiting()
    store.resolve(waiting.queued.decision_id, Resolution.REJECTED, reviewer="ada", rationale="wrong shelf")
    result = await call(server, "wipe", item="book")
    assert "wrong shelf" in result.content[0].text
    assert result.meta["stagekeeper/outcome"] == "rejected"


async def test_a_call_can_be_held_open_until_a_person_has_spoken(tmp_path: Path) -> None:
    store = ReviewStore(tmp_path / "reviews.db")

    class Quick(ReviewStore):
        def submit(self, queued: Any) -> None:
            super().submit(queued)
            store.resolve(queued.decision_id, Resolution.APPROVED, reviewer="ada", rationale="yes")

    server = shop(Shelf(), reviews=Quick(tmp_path / "reviews.db"), flags={"approval": True}, wait_s=20)
    assert (await call(server, "wipe", item="book")).data == "wiped book"


@pytest.mark.parametrize(("kind", "error_type"), [("raises", "KeyError"), ("returns", "ToolReturnedError")])
async def test_a_tool_that_fails_is_recorded_by_the_class_of_its_failure(kind: str, error_type: str) -> None:
    shelf = Shelf()
    result = await call(shop(shelf), "broken", kind=kind)
    assert result.is_error
    executed = shelf.events[-1]
    assert isinstance(executed, ActionExecuted)
    assert (executed.data.status, executed.data.error_type) == ("failed", error_type)


async def test_who_acts_is_what_the_server_says() -> None:
    shelf = Shelf()
    server = shop(shelf, who=lambda _context: {"account": "acct-1", "user": "u-1"})
    await call(server, "look", item="book")
    assert decided(shelf)[0].data.contract.actor.account == "acct-1"


async def test_arguments_named_like_ours_are_only_arguments() -> None:
    shelf = Shelf()
    server = shop(shelf)

    @server.tool(annotations={"readOnlyHint": True})
    def odd(action: str, receipt: str, approved: str) -> str:
        return action + receipt + approved

    assert (await call(server, "odd", action="a", receipt="b", approved="c")).data == "abc"


async def test_a_call_without_the_server_cannot_pass() -> None:
    middleware = BoundaryMiddleware(None, workflow="w", system="s", environment="e")  # type: ignore[arg-type]
    with pytest.raises(ToolError, match="no server context"):
        await middleware.on_call_tool(type("C", (), {"message": None, "fastmcp_context": None})(), None)  # type: ignore[arg-type]
