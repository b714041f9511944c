"""FastMCP middleware that puts a whole server behind the router. Needs the extra `mcp`."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from fastmcp.exceptions import DisabledError, NotFoundError, PromptError, ResourceError, ToolError, ValidationError
from fastmcp.prompts.base import InputRequiredPromptResult
from fastmcp.resources.base import InputRequiredResourceResult
from fastmcp.server.dependencies import get_access_token
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.server.providers.addressing import parse_hashed_backend_name
from fastmcp.tools.base import InputRequiredToolResult, ToolResult
from fastmcp.utilities.exceptions import is_timeout_error
from mcp import MCPError
from mcp_types import INVALID_PARAMS, INVALID_REQUEST
from pydantic import ValidationError as InvalidModelError

from producers.boundary.action import Action, Permit, acting, call_context
from producers.boundary.approvals import ReviewError, ReviewPendingError, ReviewRejectedError
from producers.boundary.canonical_json import ArgumentError, digest
from producers.boundary.endings import ArgumentsRefusedError, InputRequiredError
from producers.boundary.errors import RefusedError, ReviewRequiredError
from producers.boundary.mcp_actions import (
    McpActions,
    ToolNotes,
    UnknownComponentError,
    asked_version,
    in_version,
    requested_name,
    resolving,
    risk_of,
    running,
)
from producers.errors import StagekeeperError, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from fastmcp import FastMCP
    from fastmcp.prompts.base import PromptResult
    from fastmcp.resources.base import ResourceResult
    from fastmcp.tools.base import Tool
    from fastmcp.utilities.components import FastMCPComponent
    from fastmcp.utilities.versions import VersionSpec
    from mcp_types import CallToolRequestParams, GetPromptRequestParams, ReadResourceRequestParams

    from producers.boundary.router import Router
    from producers.importers.catalog import Catalog
    from producers.wire.receipt import Receipt

    Resolved = tuple[Action, FastMCPComponent | None]
    Perform = Callable[[Permit, Any], Awaitable[Any]]

__all__ = ["BoundaryMiddleware", "ToolNotes", "ToolReturnedError", "risk_of"]

_PENDING_SIZE = 10_000  # calls that wait for a person and are remembered, so that asking again resumes them
_ASKS = (InputRequiredToolResult, InputRequiredResourceResult, InputRequiredPromptResult)
_EXECUTION_TIMED_OUT = -32000  # what FastMCP says where a tool outlasts its `timeout=`


class _RefusalError(StagekeeperError):
    """A call that is not performed, as its client is to see it."""

    def __init__(self, text: str, decision_id: str | None, outcome: str) -> None:
        super().__init__(text)
        self.meta = {"stagekeeper/decision": decision_id, "stagekeeper/outcome": outcome}

    @classmethod
    def from_refused(cls, refusal: RefusedError) -> _RefusalError:
        return cls(str(refusal), refusal.receipt.decision_id, refusal.decision.result.outcome)


class BoundaryMiddleware(Middleware):
    """Decides every call of a server before it runs: of its tools, resources, prompts and completions.

    A refusal comes back as an error with the decision's id, in text and `meta` (or `data`). A call that waits for a
    person is resumed by being made again, unchanged, once that person has approved it. What a tool is, the catalog
    says; where it is silent, the tool's annotations, else the most cautious reading holds.
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
        who: Callable[[MiddlewareContext[Any]], Mapping[str, Any]] | None = None,
        wait_s: float = 0.0,  # how long a call that needs a person is held open before it comes back as an error
    ) -> None:
        self._router = router
        self._notes = dict(notes or {})
        self._actions = McpActions(
            workflow=workflow, system=system, environment=environment, catalog=catalog, notes=self._notes
        )
        self._who = who or _authenticated
        self._wait_s = wait_s
        self._registered: set[tuple[str, str]] = set()
        self._pending: OrderedDict[tuple[object, ...], Receipt] = OrderedDict()

    async def on_call_tool(
        self, context: MiddlewareContext[CallToolRequestParams], call_next: CallNext[CallToolRequestParams, ToolResult]
    ) -> ToolResult:
        """Put one call of a tool behind the router."""
        call, server = context.message, _server_of(context)

        async def resolve() -> Resolved:
            asked = asked_version(call)
            tool = in_version(await _find_tool(server, call.name, asked), "tool", call.name, asked)
            listed = tool if asked is None else await _find_tool(server, call.name, None)
            name = call.name if parse_hashed_backend_name(call.name) is None else tool.name
            action = self._actions.of_tool(name, tool, asked=asked is not None, listed=listed)
            return action, tool

        async def perform(permit: Permit, tool: Tool) -> ToolResult:
            arguments = dict(permit.arguments)
            if permit.constrained_to is None:
                with running(server, call.name, tool):
                    return await call_next(context.copy(message=call.model_copy(update={"arguments": arguments})))
            variant = self._notes[call.name].variants[permit.constrained_to]
            return await server.call_tool(variant, arguments, run_middleware=False)

        background = "a call that runs in the background would end after its record; call it in the foreground"
        fault = None if call.task is None else ("background_call", background)
        try:
            result: ToolResult = await self._decide(
                context, call.name, call.arguments or {}, resolve, perform, fault=fault
            )
        except _RefusalError as refusal:
            return ToolResult(content=str(refusal), meta=refusal.meta, is_error=True)
        return result

    async def on_read_resource(
        self,
        context: MiddlewareContext[ReadResourceRequestParams],
        call_next: CallNext[ReadResourceRequestParams, ResourceResult],
    ) -> ResourceResult:
        """Put one read of a resource behind the router."""
        await self.check_resource_access(context)
        call, server, uri = context.message, _server_of(context), str(context.message.uri)

        async def resolve() -> Resolved:
            asked = asked_version(call)
            resource = await server.get_resource(uri, asked)
            if resource is not None:
                listed = resource if asked is None else await server.get_resource(uri)
                component = in_version(resource, "resource", uri, asked)
                return self._actions.of_read(f"resource:{uri}", component, listed), component
            template = in_version(await server.get_resource_template(uri, asked), "resource", uri, asked)
            latest = template if asked is None else await server.get_resource_template(uri)
            name = f"resource:{template.uri_template}"
            return self._actions.of_read(name, template, latest), template

        async def perform(_permit: Permit, component: FastMCPComponent) -> ResourceResult:
            kind = "template" if hasattr(component, "uri_template") else "resource"
            with running(server, f"{kind}:{uri}", component):
                return await call_next(context)

        result: ResourceResult = await self._decide_or_raise(context, f"resource:{uri}", {"uri": uri}, resolve, perform)
        return result

    async def on_get_prompt(
        self,
        context: MiddlewareContext[GetPromptRequestParams],
        call_next: CallNext[GetPromptRequestParams, PromptResult],
    ) -> PromptResult:
        """Put the rendering of one prompt behind the router."""
        call, server, name = context.message, _server_of(context), f"prompt:{context.message.name}"

        async def resolve() -> Resolved:
            asked = asked_version(call)
            prompt = in_version(await server.get_prompt(call.name, asked), "prompt", call.name, asked)
            listed = prompt if asked is None else await server.get_prompt(call.name)
            return self._actions.of_read(name, prompt, listed), prompt

        async def perform(permit: Permit, prompt: object) -> PromptResult:
            arguments = call.arguments and dict(permit.arguments)
            with running(server, name, prompt):
                return await call_next(context.copy(message=call.model_copy(update={"arguments": arguments})))

        result: PromptResult = await self._decide_or_raise(context, name, call.arguments or {}, resolve, perform)
        return result

    async def on_request(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:  # noqa: ANN401
        """Put the completion of an argument behind the router; what else runs anything has a hook of its own."""
        if context.method != "completion/complete":
            return await call_next(context)
        message = context.message if isinstance(context.message, dict) else {}
        asked = {name: value for name, value in message.items() if name != "_meta"}

        async def resolve() -> Resolved:
            return self._actions.of_completion(), None

        async def perform(_permit: Permit, _nothing: object) -> Any:  # noqa: ANN401
            return await call_next(context)

        return await self._decide_or_raise(context, "completion", asked, resolve, perform)

    async def _decide_or_raise(self, *call: Any) -> Any:  # noqa: ANN401
        """As `_decide`, for what has no error as a result."""
        try:
            return await self._decide(*call)
        except _RefusalError as refusal:
            raise MCPError(code=INVALID_REQUEST, message=str(refusal), data=refusal.meta) from refusal

    async def _decide(
        self,
        context: MiddlewareContext[Any],
        name: str,
        arguments: Mapping[str, Any],
        resolve: Callable[[], Awaitable[Resolved]],
        perform: Perform,
        *,
        fault: tuple[str, str] | None = None,
    ) -> Any:  # noqa: ANN401
        with acting(**self._who(context)):
            try:
                with resolving():
                    action, component = await resolve()
            except UnknownComponentError as error:
                with acting(requested_tool=requested_name(name)):
                    denied = await self._router.deny_async(self._actions.unknown, error.reason, str(error))
                raise _RefusalError.from_refused(denied) from error
            fault = self._register(action) or fault
            if fault is not None:
                raise _RefusalError.from_refused(await self._router.deny_async(action, *fault))
            try:
                return await self._decided(action, dict(arguments), lambda permit: perform(permit, component))
            except RefusedError as refusal:
                raise _RefusalError.from_refused(refusal) from refusal
            except (ReviewError, UsageError) as error:
                raise _RefusalError(str(error), None, "not_decided") from error

    def _register(self, action: Action) -> tuple[str, str] | None:
        """Make an action known to the router, in the version that comes first; says why it cannot be."""
        key = (action.workflow, action.tool)
        if key not in self._registered:
            try:
                self._router.register(action)
            except UsageError as error:
                return "action_not_unique", str(error)
            self._registered.add(key)
        return None

    async def _decided(
        self, action: Action, arguments: dict[str, Any], perform: Callable[[Permit], Awaitable[Any]]
    ) -> Any:  # noqa: ANN401
        try:
            key = (action.workflow, action.tool, action.tool_version, digest(arguments), call_context())
        except ArgumentError:
            return await _run(self._router.attempt_async(action, **arguments), perform)  # refused there, on record
        receipt = self._pending.get(key)
        if receipt is not None:
            try:
                return await self._redeemed(key, receipt, action, arguments, perform)
            except ReviewPendingError as pending:
                text = f"{pending} [decision {receipt.decision_id}]"
                raise _RefusalError(text, receipt.decision_id, "queue_for_review") from pending
            except ReviewRejectedError as rejection:
                self._pending.pop(key, None)
                text = f"{rejection} [decision {receipt.decision_id}]"
                raise _RefusalError(text, receipt.decision_id, "rejected") from rejection
            except (ReviewError, RefusedError):
                self._pending.pop(key, None)  # it does not hold any more: the call is decided anew
        try:
            return await _run(self._router.attempt_async(action, **arguments), perform)
        except ReviewRequiredError as queued:
            self._pending[key] = queued.receipt
            if len(self._pending) > _PENDING_SIZE:
                self._pending.popitem(last=False)
            if self._wait_s <= 0:
                raise
            try:
                await self._router.await_review_async(queued.receipt, self._wait_s)
            except ReviewPendingError:
                raise queued from None
            return await self._redeemed(key, queued.receipt, action, arguments, perform)

    async def _redeemed(
        self,
        key: tuple[object, ...],
        receipt: Receipt,
        action: Action,
        arguments: dict[str, Any],
        perform: Callable[[Permit], Awaitable[Any]],
    ) -> Any:  # noqa: ANN401
        result = await _run(self._router.attempt_approved_async(receipt, action, **arguments), perform)
        if not isinstance(result, _ASKS):  # whose answer comes with the same call
            self._pending.pop(key, None)
        return result


class ToolReturnedError(StagekeeperError):
    """The tool ran and returned an error: the class under which the failure is recorded."""

    def __init__(self, result: ToolResult) -> None:
        super().__init__("the tool returned an error")
        self.result = result


class ToolAskedError(InputRequiredError):
    """The tool asked its client for more input: the class under which that is recorded."""

    def __init__(self, result: object) -> None:
        super().__init__("the tool asked for more input")
        self.result = result


class ToolTimeoutError(TimeoutError):
    """The tool, or what it called, ran out of time: the class under which that is recorded."""


async def _run(block: AbstractAsyncContextManager[Permit], perform: Callable[[Permit], Awaitable[Any]]) -> Any:  # noqa: ANN401
    """Run within a decided block, so that the record has the failure by the class of its cause."""
    failure: Exception | None = None
    recorded: Exception | None = None
    cause: BaseException | None = None
    try:
        async with block as permit:
            try:
                result = await perform(permit)
            except Exception as error:  # noqa: BLE001 - it is raised again below
                failure, cause, recorded = error, error.__cause__, _as_recorded(error)
                raise recorded from None
            _require_result(result)
    except (ToolReturnedError, ToolAskedError) as returned:
        result = returned.result
    except Exception as error:
        if failure is not None and error is recorded:
            raise failure from cause
        raise
    if isinstance(result, ToolResult):
        # By this whoever sees the consequences can report them.
        result.meta = {**(result.meta or {}), "stagekeeper/decision": permit.decision_id}
    return result


def _require_result(result: object) -> None:
    if isinstance(result, _ASKS):
        raise ToolAskedError(result)
    if isinstance(result, ToolResult) and result.is_error:
        raise ToolReturnedError(result)


def _as_recorded(error: Exception) -> Exception:
    """What an error of FastMCP's stands for."""
    cause = error.__cause__
    if isinstance(error, ValidationError) and isinstance(cause, InvalidModelError):
        return ArgumentsRefusedError("the arguments are not those of the tool")
    if isinstance(error, NotFoundError | DisabledError):
        return ArgumentsRefusedError("it is gone since it was decided")
    if isinstance(error, ToolError | ResourceError | PromptError) and isinstance(cause, Exception):
        error = cause
    if isinstance(error, MCPError) and error.error.code == INVALID_PARAMS:
        return ArgumentsRefusedError(str(error))
    if is_timeout_error(error) or (
        isinstance(error, MCPError) and error.error.code == _EXECUTION_TIMED_OUT and "timed out" in str(error)
    ):
        return ToolTimeoutError(str(error))
    return error


def _server_of(context: MiddlewareContext[Any]) -> FastMCP:
    if context.fastmcp_context is None:
        raise ToolError("this call has no server context, and cannot be decided")
    return context.fastmcp_context.fastmcp


async def _find_tool(server: FastMCP, name: str, version: VersionSpec | None) -> Tool | None:
    """The tool that the server would run."""
    tool = await server.get_tool(name, version)
    address = parse_hashed_backend_name(name) if tool is None else None
    return tool if address is None else await server.get_tool_by_hash(*address)


def _authenticated(_context: MiddlewareContext[Any]) -> Mapping[str, Any]:
    token = get_access_token()
    return {} if token is None else {"user": token.client_id}
