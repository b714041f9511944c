"""Locations on the page. The address bar holds all of a location, so that it can be bookmarked and passed on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, get_args
from urllib.parse import urlencode

from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from collections.abc import Mapping

View: TypeAlias = Literal["overview", "rejects", "quality"]


@dataclass(frozen=True)
class PageLocation:
    """What the page shows."""

    view: View = "overview"  # unless a cell is open
    cell: Cell | None = None  # the one that is open
    environment: str | None = None  # None for all
    workflow: str | None = None  # None for all
    verdict: str | None = None  # only recommendations with this verdict; None for all

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> Self:
        """Read query parameters; what makes no sense there means the overview."""
        view: View = next((name for name in get_args(View) if name == parameters.get("panel")), "overview")
        names = [parameters.get(f"cell_{field}") for field in Cell._fields]
        cell = Cell(*(name for name in names if name is not None)) if None not in names else None
        return cls(view, cell, parameters.get("environment"), parameters.get("workflow"), parameters.get("state"))

    def parameters(self) -> dict[str, str]:
        """The query parameters that lead here."""
        parts = {"environment": self.environment, "workflow": self.workflow, "state": self.verdict}
        if self.cell is not None:
            parts |= {f"cell_{field}": value for field, value in self.cell._asdict().items()}
        elif self.view != "overview":
            parts["panel"] = self.view
        return {name: value for name, value in parts.items() if value is not None}

    @property
    def address(self) -> str:
        """The query string that leads here, every value percent-encoded."""
        return "?" + urlencode(self.parameters())

    def covers(self, environment: str, workflow: str) -> bool:
        """Whether what belongs to them is shown here."""
        return self.environment in {None, environment} and self.workflow in {None, workflow}

    def with_cell(self, cell: Cell) -> Self:
        """The same location with one cell open."""
        return replace(self, cell=cell, view="overview")

    def with_view(self, view: View) -> Self:
        """The same location with another view and no cell open."""
        return replace(self, view=view, cell=None)

    def with_environment(self, environment: str | None) -> Self:
        """The overview of one environment, or of all."""
        return replace(self, environment=environment, view="overview", cell=None)

    def with_workflow(self, workflow: str | None) -> Self:
        """The overview of one workflow, or of all."""
        return replace(self, workflow=workflow, view="overview", cell=None)

    def with_verdict(self, verdict: str | None) -> Self:
        """The overview with recommendations of one verdict, or of all."""
        return replace(self, verdict=verdict, view="overview", cell=None)


def page_address(page: str, cell: Cell) -> str:
    """The whole address at which a page shows a cell."""
    return page + PageLocation(cell=cell).address
