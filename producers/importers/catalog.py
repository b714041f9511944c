"""Catalog of an agent's tools: their systems, risk classes and stages, which a transcript does not say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, Field

from producers.errors import UsageError
from producers.strict_yaml import read_yaml
from producers.wire.contract import ActionContract, Actor, Reversibility, RiskClass, Target
from producers.wire.model import Name, Text, WireModel
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class UnknownToolsError(UsageError):
    """The transcript uses tools that the catalog does not describe."""


def _executing_stage(stage: Stage) -> Stage:
    if stage is Stage.OBSERVE_ONLY:
        raise ValueError("recorded calls did run, and nothing runs at observe_only; choose the stage they ran at")
    return stage


_ExecutingStage = Annotated[Stage, AfterValidator(_executing_stage)]


class CatalogTool(WireModel):
    """One tool."""

    risk_class: RiskClass
    reversibility: Reversibility
    system: Name
    """The system that the tool reads or changes."""
    workflow: Name | None = None
    """Unset: the catalog's workflow."""
    stage: _ExecutingStage | None = None
    """Unset: the catalog's stage."""
    tool_version: Name | None = None
    intent: Text = "not recorded"
    """What the tool is used for; a transcript does not say it in a form that may leave its owner."""


class Catalog(WireModel):
    """A catalog file (YAML)."""

    environment: Name
    workflow: Name
    """The workflow of every tool that does not name its own."""
    agent: Name
    model: Name | None = None
    prompt_version: Name | None = None
    stage: _ExecutingStage
    """The stage of every tool that does not name its own."""
    tools: dict[str, CatalogTool] = Field(min_length=1)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a catalog; `ConfigurationFileError` says where it is not one, and suggests."""
        return read_yaml(path, cls)

    def stage_of(self, tool: str) -> Stage:
        """The stage that a tool's calls are counted at."""
        return self.tools[tool].stage or self.stage

    def contract(
        self,
        tool: str,
        *,
        conversation: str | None = None,
        tool_call: str | None = None,
        arguments_sha256: str | None = None,
    ) -> ActionContract:
        """The contract of one recorded call of a tool that the catalog knows."""
        entry = self.tools[tool]
        return ActionContract(
            actor=Actor(agent=self.agent, model=self.model, prompt_version=self.prompt_version),
            intent=entry.intent,
            target=Target(environment=self.environment, system=entry.system),
            tool=tool,
            tool_version=entry.tool_version,
            workflow=entry.workflow or self.workflow,
            risk_class=entry.risk_class,
            reversibility=entry.reversibility,
            arguments_sha256=arguments_sha256,
            conversation=conversation,
            tool_call=tool_call,
        )

    def require(self, tools: Iterable[str]) -> None:
        """Make sure that every tool is described; else `UnknownToolsError` with a stanza for each, to be judged."""
        missing = sorted(set(tools) - set(self.tools))
        if missing:
            stanzas = "\n".join(
                f"  {tool}: {{risk_class: scoped_read, reversibility: manual, system: unknown}}" for tool in missing
            )
            raise UnknownToolsError(
                f"the catalog lacks {len(missing)} of the transcript's tools: {', '.join(missing)}. Add them under "
                f"`tools:` and correct their classes, or leave them out with --skip-unknown.\n{stanzas}"
            )
