"""Which actions, stages and cohorts a gate is for."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

from pydantic import field_validator

from analytics.gates.gate_signal import Part, known_word, refusal
from producers.wire.contract import RiskClass
from producers.wire.model import Name  # noqa: TC001 - pydantic reads annotations at run time
from producers.wire.stage import LADDER

_GLOB: Final = frozenset("*?[")


class Match(Part):
    """Which actions a gate is for, and of them which cells; shell-style patterns, upper and lower case told apart."""

    environment: Name = "*"
    workflow: Name = "*"
    tool: Name = "*"
    risk_class: Name = "*"
    stage: Name = "*"
    """At which stages it judges; where another gate holds at the other stages, a segment has limits of its own."""
    cohort: Name = "*"
    """Which cohorts it judges."""

    @field_validator("risk_class")
    @classmethod
    def _risk_class_is_known(cls, stated: str) -> str:
        if not _GLOB & set(stated):
            known_word(stated, "risk class", [risk_class.value for risk_class in RiskClass])
        return stated

    @field_validator("stage")
    @classmethod
    def _stage_is_known(cls, stated: str) -> str:
        if not _GLOB & set(stated):
            known_word(stated, "stage", list(LADDER))
        elif not any(fnmatchcase(stage, stated) for stage in LADDER):
            raise refusal(f"no stage is like `{stated}`; the stages are {', '.join(LADDER)}")
        return stated

    def covers(
        self,
        environment: str,
        workflow: str,
        tool: str,
        risk_class: str | None,
        *,
        stage: str | None,
        cohort: str | None,
    ) -> bool:
        """Whether a cell matches; what is unknown matches only `*`."""
        named = ((risk_class, self.risk_class), (stage, self.stage), (cohort, self.cohort))
        return self.may_cover(environment, workflow, tool) and all(
            pattern == "*" if value is None else fnmatchcase(value, pattern) for value, pattern in named
        )

    def may_cover(self, environment: str, workflow: str, tool: str) -> bool:
        """Whether an action matches in some risk class, stage and cohort."""
        named = ((environment, self.environment), (workflow, self.workflow), (tool, self.tool))
        return all(fnmatchcase(value, pattern) for value, pattern in named)

    @property
    def specificity(self) -> tuple[int, int]:
        """How many fields are named exactly, and how many by a pattern other than `*`."""
        patterns = (self.environment, self.workflow, self.tool, self.risk_class, self.stage, self.cohort)
        exact = sum(not _GLOB & set(pattern) for pattern in patterns)
        return exact, len(patterns) - exact - patterns.count("*")
