"""Where one can be on the page. The address bar holds all of it, so that a place can be kept and passed on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, get_args
from urllib.parse import urlencode

from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from collections.abc import Mapping

Panel: TypeAlias = Literal["overview", "rejects", "quality"]


@dataclass(frozen=True)
class Place:
    """What the page shows.

    Attributes:
        panel: The view, unless a cell is open.
        cell: The cell that is open; None for none.
        environment: Only this environment; None for all.
        workflow: Only this workflow; None for all.
        state: Only recommendations with this verdict; None for all.
    """

    panel: Panel = "overview"
    cell: Cell | None = None
    environment: str | None = None
    workflow: str | None = None
    state: str | None = None

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Self:
        """Read query parameters; what makes no sense there means the overview."""
        panel: Panel = next((known for known in get_args(Panel) if known == parameters.get("panel")), "overview")
        named = [parameters.get(f"cell_{field}") for field in Cell._fields]
        cell = Cell(*(value for value in named if value is not None)) if None not in named else None
        return cls(
            panel, cell, parameters.get("environment"), parameters.get("workflow"), state=parameters.get("state")
        )

    def parameters(self) -> dict[str, str]:
        """The query parameters that lead here; what `of` reads."""
        parts: dict[str, str] = {}
        if self.environment is not None:
            parts["environment"] = self.environment
        if self.workflow is not None:
            parts["workflow"] = self.workflow
        if self.cell is not None:
            parts |= {f"cell_{field}": value for field, value in self.cell._asdict().items()}
        elif self.panel != "overview":
            parts["panel"] = self.panel
        if self.state is not None:
            parts["state"] = self.state
        return parts

    @property
    def address(self) -> str:
        """The query string that leads here, every value percent-encoded."""
        return "?" + urlencode(self.parameters())

    def covers(self, environment: str, workflow: str) -> bool:
        """Whether what belongs to them is shown here."""
        return self.environment in {None, environment} and self.workflow in {None, workflow}

    def at(self, cell: Cell) -> Self:
        """The same place with one cell open."""
        return replace(self, cell=cell, panel="overview")

    def on(self, panel: Panel) -> Self:
        """The same place with another panel and no cell open."""
        return replace(self, panel=panel, cell=None)

    def within(self, environment: str | None) -> Self:
        """The overview of one environment, or of all."""
        return replace(self, environment=environment, panel="overview", cell=None)

    def of_workflow(self, workflow: str | None) -> Self:
        """The overview of one workflow, or of all."""
        return replace(self, workflow=workflow, panel="overview", cell=None)

    def only(self, state: str | None) -> Self:
        """The overview with recommendations of one verdict, or of all."""
        return replace(self, state=state, panel="overview", cell=None)
