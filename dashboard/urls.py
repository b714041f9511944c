"""Locations on the page. The address bar holds all of a location, so that it can be bookmarked and passed on."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, get_args
from urllib.parse import parse_qsl, urlencode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from producers.boundary.stage_store import ActionName
    from producers.wire.receipt import Cell

PageName: TypeAlias = Literal[
    "overview", "recommendations", "reviews", "policy", "audit", "data-quality", "what-if", "action"
]


@dataclass(frozen=True)
class PageLocation:
    """What the page shows; None for all."""

    page: PageName = "overview"
    environment: str | None = None
    workflow: str | None = None
    tool: str | None = None
    stage: str | None = None  # of an action, where it is not the one that it has now
    cohort: str | None = None
    verdict: str | None = None
    risk: str | None = None
    owner: str | None = None
    search: str | None = None
    show: str | None = None  # which part of a list
    item: str | None = None  # the one that is open

    @classmethod
    def from_parameters(cls, page: PageName, parameters: Mapping[str, str]) -> Self:
        """Read query parameters; others than ours are left aside."""
        names = {field.name for field in fields(cls)} - {"page"}
        return cls(page, **{name: value for name, value in parameters.items() if name in names})

    @classmethod
    def from_address(cls, address: str) -> Self:
        """Read an address as `address` writes it; one of no page of ours leads to the overview."""
        path, _, query = address.removeprefix("./").partition("?")
        page: PageName = next((name for name in get_args(PageName) if name == path), "overview")
        return cls.from_parameters(page, dict(parse_qsl(query, keep_blank_values=True)))

    def parameters(self) -> dict[str, str]:
        """The query parameters that lead here."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "page"}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def address(self) -> str:
        """The address of this place, relative to every page of ours, every value percent-encoded."""
        path = "" if self.page == "overview" else self.page
        query = urlencode(self.parameters())
        return f"./{path}?{query}" if query else f"./{path}"

    def covers(self, environment: str, workflow: str) -> bool:
        """Whether what belongs to them is shown here."""
        return self.environment in {None, environment} and self.workflow in {None, workflow}

    def with_values(self, **values: str | None) -> Self:
        """The same page with other values."""
        return replace(self, **values)  # type: ignore[arg-type] # every value is a string or None

    def at(self, page: PageName, **values: str | None) -> PageLocation:
        """Another page of the same environment."""
        return PageLocation(page, environment=self.environment, **values)

    def of_cell(self, cell: Cell) -> PageLocation:
        """The page of the action that a cell belongs to, at that stage."""
        cohort = None if cell.cohort == "all" else cell.cohort
        return PageLocation("action", cell.environment, cell.workflow, cell.tool, cell.stage, cohort)

    def of_action(self, action: ActionName) -> PageLocation:
        """The page of an action."""
        return PageLocation("action", *action)


def page_address(page: str, cell: Cell) -> str:
    """The whole address at which a page shows the action of a cell."""
    return f"{page.rstrip('/')}/{PageLocation().of_cell(cell).address.removeprefix('./')}"
