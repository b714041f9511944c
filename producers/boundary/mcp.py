"""FastMCP middleware that puts every tool of a server behind the router. Needs the extra `mcp`."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastmcp.exceptions import ToolError
from fastmcp.server.dependencies import get_access_token
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.tools.base import Tool, ToolResult

from producers.boundary.action import Action, Permit, acting, call_context
from producers.boundary.approvals import ReviewError, ReviewPendingError, ReviewRejectedError
from producers.boundary.canonical_json import ArgumentError, digest
from producers.boundary.errors import RefusedError, ReviewRequiredError
from producers.errors import StagekeeperError, UsageError
from producers.wire.contract import Reversibility, RiskClass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from mcp_types import CallToolRequestParams, ToolAnnotations

    from producers.boundary.router import Router
    from producers.importers.catalog import Catalog
    from producers.wire.receipt import Receipt

_PENDING_SIZE = 10_000  # calls that wait for a person and are remembered, so that asking again resumes them


def risk_of(annotations: ToolAnnotations | None) -> tuple[RiskClass, Reversibility]:
    """Risk by a tool's annotations; where they are silent, the worst that the protocol lets them mean."""
    if annotations is None:
        return RiskClass.IRREVERSIBLE, Reversibility.NONE
    if annotations.read_only_hint:
        return RiskClass.SCOPED_READ, Reversibility.AUTOMATIC
    if annotations.destructive_hint is not False:
        return RiskClass.IRREVERSIBLE, Reversibility.NONE
    risk = RiskClass.REVERSIBLE_WRITE if annotations.open_world_hint is False else RiskClass.EXTERNAL_EFFECT
    return risk, Reversibility.MANUAL if annotations.idempotent_hint else Reversibility.EXPENSIVE


@dataclass(frozen=True)
class ToolNotes:
    """Settings of one tool, beside what the catalog says of it."""

    # The server's tool that runs in its place with the same arguments, by constraint (`draft`, `search_only`)
    variants: Mapping[str, str] = field(default_factory=dict)
    redact: frozenset[str] = frozenset()  # names of arguments that are never stored
    consequence: str | None = None  # what happens when it runs, for a reviewer


class BoundaryMiddleware(Middleware):
    """Decides every tool call of a server before the tool runs, enforces the decision, and records both.

    A refusal comes back as a tool error with the decision's id, in text and `meta`. A call that waits for a person is
    resumed by being made again, unchanged, once that person has approved it. What a tool is, the catalog says; where it
    is silent, the tool's annotations, else the most cautious reading holds.
    """

    def __init__(
        self,
        router: Router,
        *,
        workflow: str,  # of tools that the catalog does not know
        system: str,  # of these, too
        environment: str,
        catalog: Catalog | None = None,
        notes: Mapping[str, ToolNotes] | None = None,
        # Says who acts, in the words of `acting`, by what the server has verified; by default the authenticated client
        who: Callable[[MiddlewareContext[CallToolRequestParams]], Mapping[str, Any]] | None = None,
        wait_s: float = 0.0,  # how long a call that needs a person is held open before it comes back as an error
    ) -> None:
        self._router = router
        self._catalog = catalog
        self._workflow = workflow
        self._system = system
        self._environment = environment
        self._notes = dict(notes or {})
        self._who = who or _authenticated
        self._wait_s = wait_s
        self._actions: dict[tuple[object, ...], Action] = {}
        self._pending: OrderedDict[tuple[object, ...], Receipt] = OrderedDict()

    async def on_call_tool(
        self, context: MiddlewareContext[CallToolRequestParams], call_next: CallNext[CallToolRequestParams, ToolResult]
    ) -> ToolResult:
        """Put one call behind the router."""
        call = context.message
        if context.fastmcp_context is None:
            raise ToolError("this call has no server context, and cannot be decided")
        if call.task is not None:
            raise ToolError("a call that runs in the background would end after its record; call it in the foreground")
        server = context.fastmcp_context.fastmcp
        # A tool that is not listed (there is none, or it is addressed in another way) is decided like any other.
        action = self._action(call.name, await server.get_tool(call.name))
        arguments = dict(call.arguments or {})

        async def perform(permit: Permit) -> ToolResult:
            if permit.constrained_to is None:
                return await call_next(context)
            variant = self._notes[call.name].variants[permit.constrained_to]
            return await server.call_tool(variant, arguments, run_middleware=False)

        with acting(**self._who(context)):
            try:
                return await self._decided(action, arguments, perform)
            except RefusedError as refusal:
                return _refused(str(refusal), refusal.receipt.decision_id, refusal.decision.result.outcome)
            except (ReviewError, ArgumentError, UsageError) as error:
                return _refused(str(error), None, "not_decided")

    async def _decided(self, action: Action, arguments: dict[str, Any], perform: Callable[[Permit], Any]) -> ToolResult:
        key = (action.workflow, action.tool, digest(arguments), call_context())
        receipt = self._pending.get(key)
        if receipt is not None:
            try:
                result = await _run(self._router.attempt_approved_async(receipt, action, **arguments), perform)
            except ReviewPendingError as pending:
                return _refused(f"{pending} [decision {receipt.decision_id}]", receipt.decision_id, "queue_for_review")
            except ReviewRejectedError as rejection:
                self._pending.pop(key, None)
                return _refused(f"{rejection} [decision {receipt.decision_id}]", receipt.decision_id, "rejected")
            except (ReviewError, RefusedError):
                self._pending.pop(key, None)  # it does not hold any more: the call is decided anew
            else:
                self._pending.pop(key, None)
                return result
        try:
            return await _run(self._router.attempt_async(action, **arguments), perform)
        except ReviewRequiredError as queued:
            self._pending[key] = queued.receipt
            if len(self._pending) > _PENDING_SIZE:
                self._pending.popitem(last=False)
            if self._wait_s <= 0:
                raise
            return await self._after_review(key, queued, action, arguments, perform)

    async def _after_review(
        self,
        key: tuple[object, ...],
        queued: ReviewRequiredError,
        action: Action,
        arguments: dict[str, Any],
        perform: Callable[[Permit], Any],
    ) -> ToolResult:
        try:
            await self._router.await_review_async(queued.receipt, self._wait_s)
        except ReviewPendingError:
            raise queued from None
        self._pending.pop(key, None)
        return await _run(self._router.attempt_approved_async(queued.receipt, action, **arguments), perform)

    def _action(self, name: str, tool: Tool | None) -> Action:
        annotations = tool.annotations if tool is not None else None
        version = tool.version if tool is not None else None
        hints = annotations.model_dump_json() if annotations is not None else None
        action = self._actions.get((name, version, hints))
        if action is not None:
            return action
        entry = self._catalog.tools.get(name) if self._catalog is not None else None
        notes = self._notes.get(name, ToolNotes())
        risk_class, reversibility = (entry.risk_class, entry.reversibility) if entry else risk_of(annotations)
        workflow = entry.workflow if entry else None
        if workflow is None:
            workflow = self._catalog.workflow if entry and self._catalog else self._workflow
        action = Action(
            tool=name,
            workflow=workflow,
            system=entry.system if entry else self._system,
            environment=self._environment,
            risk_class=risk_class,
            reversibility=reversibility,
            run=_only_by_the_server,
            variants=dict.fromkeys(notes.variants, _only_by_the_server),
            tool_version=(entry.tool_version if entry else None) or version,
            redact=notes.redact,
            consequence=notes.consequence
            or (tool.description[:4000] if tool is not None and tool.description else None),
        )
        self._actions[name, version, hints] = self._router.register(action)
        return action


class ToolReturnedError(StagekeeperError):
    """The tool ran and returned an error: the class under which the failure is recorded."""

    def __init__(self, result: ToolResult) -> None:
        super().__init__("the tool returned an error")
        self.result = result


async def _run(block: AbstractAsyncContextManager[Permit], perform: Callable[[Permit], Any]) -> ToolResult:
    """Run the tool within a decided block, so that the record has its failure by the class of its cause."""
    failure: ToolError | None = None
    try:
        async with block as permit:
            try:
                result: ToolResult = await perform(permit)
            except ToolError as error:
                failure = error
                raise (error.__cause__ or error) from None
            _require_success(result)
    except ToolReturnedError as returned:
        return returned.result
    except Exception as error:
        if failure is not None and (error is failure or error is failure.__cause__):
            raise failure from failure.__cause__
        raise
    return result


def _require_success(result: ToolResult) -> None:
    if result.is_error:
        raise ToolReturnedError(result)


def _refused(text: str, decision_id: str | None, outcome: str) -> ToolResult:
    return ToolResult(
        content=text, meta={"stagekeeper/decision": decision_id, "stagekeeper/outcome": outcome}, is_error=True
    )


def _authenticated(_context: MiddlewareContext[CallToolRequestParams]) -> Mapping[str, Any]:
    token = get_access_token()
    return {} if token is None else {"user": token.client_id}


def _only_by_the_server(**_arguments: Any) -> None:  # noqa: ANN401 - a tool's arguments
    raise UsageError("a tool of an MCP server runs by its server only; call it again there to resume it")
