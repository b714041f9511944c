"""What a call to an MCP server is decided as: its name, its version and its risk; and that just that runs."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fastmcp.server.transforms import Transform
from fastmcp.utilities.versions import VersionSpec

from producers.boundary.action import Action, as_name, as_text
from producers.errors import UsageError
from producers.wire.contract import UNKNOWN_TOOL, Fallback, Reversibility, RiskClass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fastmcp import FastMCP
    from fastmcp.prompts.base import Prompt
    from fastmcp.resources.base import Resource
    from fastmcp.resources.template import ResourceTemplate
    from fastmcp.server.transforms import GetPromptNext, GetResourceNext, GetResourceTemplateNext, GetToolNext
    from fastmcp.tools.base import Tool
    from fastmcp.utilities.components import FastMCPComponent
    from mcp_types import ToolAnnotations

    from producers.importers.catalog import Catalog

LOG = logging.getLogger(__name__)

Risk = tuple[RiskClass, Reversibility]

_LIMIT: Final = 10_000  # names and versions that are known apart; whatever comes later is unknown
_READ: Final[Risk] = (
    RiskClass.SENSITIVE_READ,
    Reversibility.AUTOMATIC,
)  # resources and prompts the catalog is silent on

Component = TypeVar("Component", bound="FastMCPComponent")


class UnknownComponentError(UsageError):
    """The server has no such tool, resource or prompt, or not in the version that was asked for."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason  # the code under which the refusal is recorded


@dataclass(frozen=True)
class ToolNotes:
    """Settings of one tool, beside what the catalog says of it."""

    # The server's tool that runs in its place with the same arguments, by constraint (`draft`, `search_only`)
    variants: Mapping[str, str] = field(default_factory=dict)
    redact: frozenset[str] = frozenset()  # names of arguments that are never stored
    consequence: str | None = None  # what happens when it runs, for a reviewer
    fallback: Fallback = field(default_factory=Fallback)  # what happens while the mode is `fallback`


def risk_of(annotations: ToolAnnotations | None) -> Risk:
    """Risk by a tool's annotations; where they are silent, the worst that the protocol lets them mean."""
    if annotations is None:
        return RiskClass.IRREVERSIBLE, Reversibility.NONE
    if annotations.read_only_hint:
        return RiskClass.SCOPED_READ, Reversibility.AUTOMATIC
    if annotations.destructive_hint is not False:
        return RiskClass.IRREVERSIBLE, Reversibility.NONE
    risk = RiskClass.REVERSIBLE_WRITE if annotations.open_world_hint is False else RiskClass.EXTERNAL_EFFECT
    return risk, Reversibility.MANUAL if annotations.idempotent_hint else Reversibility.EXPENSIVE


def _worse(one: Risk, other: Risk) -> Risk:
    order = list(Reversibility)
    return max(one[0], other[0], key=lambda risk: risk.rank), max(one[1], other[1], key=order.index)


class McpActions:
    """The actions of one server: each tool, resource, resource template and prompt that it has, and one for all others.

    What the catalog says holds for the version that it names, else for the one that the server lists; another version
    is read as the worse of the catalog and its own annotations. Annotations cannot become milder while this lives.
    """

    def __init__(
        self,
        *,
        workflow: str,  # of what the catalog does not know
        system: str,  # of that, too
        environment: str,
        catalog: Catalog | None,
        notes: Mapping[str, ToolNotes],
    ) -> None:
        self._workflow = workflow
        self._system = system
        self._environment = environment
        self._catalog = catalog
        self._notes = notes
        self._worst: dict[tuple[str, str | None, bool], Risk] = {}
        self._actions: dict[tuple[str, str | None, Risk], Action] = {}
        self.unknown = self._make(UNKNOWN_TOOL, None, (RiskClass.IRREVERSIBLE, Reversibility.NONE), None)

    def of_tool(self, name: str, tool: Tool, *, asked: bool, listed: FastMCPComponent | None) -> Action:
        """A tool as it was resolved, in a version that was `asked` for or else the one that is `listed`."""
        annotated = self._annotated(name, tool.version, risk_of(tool.annotations), asked=asked)
        return self._get(name, tool, annotated, listed)

    def of_read(self, name: str, component: FastMCPComponent, listed: FastMCPComponent | None) -> Action:
        """A resource, a template or a prompt, by its name in the catalog: `resource:<uri>`, `prompt:<name>`."""
        return self._get(name, component, _READ, listed)

    def of_completion(self) -> Action:
        """The completion of an argument, `completion` in the catalog."""
        return self._get("completion", None, (RiskClass.SEARCH, Reversibility.AUTOMATIC), None)

    def _get(
        self, name: str, component: FastMCPComponent | None, risk: Risk, listed: FastMCPComponent | None
    ) -> Action:
        version = component.version if component is not None else None
        entry = self._catalog.tools.get(name) if self._catalog is not None else None
        if entry is not None:
            by_catalog = (entry.risk_class, entry.reversibility)
            spoken_of = version is None or version == (
                entry.tool_version or (listed.version if listed is not None else None)
            )
            risk = by_catalog if spoken_of else _worse(by_catalog, risk)
            version = version or entry.tool_version
        key = (name, version, risk)
        action = self._actions.get(key)
        if action is None:
            if len(self._actions) >= _LIMIT:
                raise _too_many(name)
            try:
                action = self._make(name, version, risk, getattr(component, "description", None))
            except UsageError as error:
                raise UnknownComponentError("unknown_tool", str(error)) from error
            self._actions[key] = action
        return action

    def _annotated(self, name: str, version: str | None, risk: Risk, *, asked: bool) -> Risk:
        """The risk by annotations, as far as it is not milder than it ever was."""
        keys = [(name, version, True), *([] if asked else [(name, None, False)])]
        worst = risk
        for key in keys:
            known = self._worst.get(key)
            if known is None and len(self._worst) >= _LIMIT:
                raise _too_many(name)
            self._worst[key] = risk if known is None else _worse(known, risk)
            worst = _worse(worst, self._worst[key])
        if worst != risk:
            LOG.warning(
                "the annotations of %s say less than they did; it stays %s, %s. What it is now, the catalog can say",
                name[:200],
                *worst,
            )
        return worst

    def _make(self, name: str, version: str | None, risk: Risk, description: str | None) -> Action:
        entry = self._catalog.tools.get(name) if self._catalog is not None else None
        notes = self._notes.get(name, ToolNotes())
        workflow = entry.workflow if entry else None
        if workflow is None:
            workflow = self._catalog.workflow if entry and self._catalog else self._workflow
        return Action(
            tool=name,
            workflow=workflow,
            system=entry.system if entry else self._system,
            environment=self._environment,
            risk_class=risk[0],
            reversibility=risk[1],
            run=_only_by_the_server,
            variants=dict.fromkeys(notes.variants, _only_by_the_server),
            tool_version=version,
            redact=notes.redact,
            fallback=notes.fallback,
            consequence=notes.consequence or (as_text(description) if description else None),
        )


def _too_many(name: str) -> UnknownComponentError:
    return UnknownComponentError("unknown_tool", f"{name} is one of too many tools to be told apart")


def in_version(component: Component | None, kind: str, name: str, asked: VersionSpec | None) -> Component:
    """A component that was found; where a version was asked for, it must be one that has a version.

    One that has none may stand for a server behind this one, which would run the version that was asked for.
    """
    if component is None:
        raise UnknownComponentError("unknown_tool", f"this server has no {kind} {name[:200]!r} as it was asked for")
    if asked is not None and component.version is None:
        raise UnknownComponentError("unknown_version", f"the {kind} {name[:200]!r} has no versions to choose from")
    return component


def asked_version(message: Any) -> VersionSpec | None:  # noqa: ANN401 - the parameters of a request
    """The version that the client asked for."""
    fastmcp = (message.meta or {}).get("fastmcp")
    version = fastmcp.get("version") if isinstance(fastmcp, dict) else None
    if isinstance(version, dict):
        return VersionSpec(gte=version.get("gte"), lt=version.get("lt"), eq=version.get("eq"))
    return VersionSpec(eq=version) if isinstance(version, str) and version else None


def requested_name(name: str) -> str:
    """The name that was asked for, as an event can hold it."""
    return as_name(name) or "(empty)"


_DECIDED: ContextVar[tuple[str, object] | None] = ContextVar("stagekeeper-decided-component", default=None)


@contextmanager
def running(server: FastMCP, name: str, component: object) -> Iterator[None]:
    """Have the server run the very component that was decided, whatever comes under its name meanwhile."""
    if not any(isinstance(transform, _Decided) for transform in server.transforms):
        server.add_transform(_Decided())
    token = _DECIDED.set((name, component))
    try:
        yield
    finally:
        _DECIDED.reset(token)


@contextmanager
def resolving() -> Iterator[None]:
    """Look components up by name, also within the run of one that was decided."""
    token = _DECIDED.set(None)
    try:
        yield
    finally:
        _DECIDED.reset(token)


class _Decided(Transform):
    """Answers a look-up by name with what was decided, where something is being run."""

    async def get_tool(self, name: str, call_next: GetToolNext, *, version: VersionSpec | None = None) -> Tool | None:
        decided: Any = _decided(name)
        return decided or await call_next(name, version=version)

    async def get_resource(
        self, uri: str, call_next: GetResourceNext, *, version: VersionSpec | None = None
    ) -> Resource | None:
        if _decided(f"template:{uri}") is not None:
            return None  # a resource that came meanwhile does not take the template's place
        decided: Any = _decided(f"resource:{uri}")
        return decided or await call_next(uri, version=version)

    async def get_resource_template(
        self, uri: str, call_next: GetResourceTemplateNext, *, version: VersionSpec | None = None
    ) -> ResourceTemplate | None:
        decided: Any = _decided(f"template:{uri}")
        return decided or await call_next(uri, version=version)

    async def get_prompt(
        self, name: str, call_next: GetPromptNext, *, version: VersionSpec | None = None
    ) -> Prompt | None:
        decided: Any = _decided(f"prompt:{name}")
        return decided or await call_next(name, version=version)


def _decided(name: str) -> object | None:
    decided = _DECIDED.get()
    return decided[1] if decided is not None and decided[0] == name else None


def _only_by_the_server(**_arguments: Any) -> None:  # noqa: ANN401 - a tool's arguments
    raise UsageError("a tool of an MCP server runs by its server only; call it again there to resume it")
