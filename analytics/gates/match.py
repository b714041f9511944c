"""Which actions a gate is for."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

from pydantic import field_validator

from analytics.gates.gate_signal import Part, known_word
from producers.wire.contract import RiskClass
from producers.wire.model import Name  # noqa: TC001 - pydantic reads annotations at run time

_GLOB: Final = frozenset("*?[")


class Match(Part):
    """Which actions a gate is for; shell-style patterns, upper and lower case told apart."""

    environment: Name = "*"
    workflow: Name = "*"
    tool: Name = "*"
    risk_class: Name = "*"

    @field_validator("risk_class")
    @classmethod
    def _risk_class_is_known(cls, stated: str) -> str:
        if not _GLOB & set(stated):
            known_word(stated, "risk class", [risk_class.value for risk_class in RiskClass])
        return stated

    def covers(self, environment: str, workflow: str, tool: str, risk_class: str | None) -> bool:
        """Whether an action matches; an unknown risk class matches only `*`."""
        named = self.risk_class == "*" if risk_class is None else fnmatchcase(risk_class, self.risk_class)
        return named and self.may_cover(environment, workflow, tool)

    def may_cover(self, environment: str, workflow: str, tool: str) -> bool:
        """Whether an action matches in some risk class."""
        named = ((environment, self.environment), (workflow, self.workflow), (tool, self.tool))
        return all(fnmatchcase(value, pattern) for value, pattern in named)

    @property
    def specificity(self) -> tuple[int, int]:
        """How many fields are named exactly, and how many by a pattern other than `*`."""
        patterns = (self.environment, self.workflow, self.tool, self.risk_class)
        exact = sum(not _GLOB & set(pattern) for pattern in patterns)
        return exact, len(patterns) - exact - patterns.count("*")
