"""What a gate compares its cells with, and how traffic is split between arms."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Annotated, Final, Literal, Self

from pydantic import AwareDatetime, Field, field_validator, model_validator

from analytics.gates.gate_signal import CountBy, Part, known_word, refusal
from producers.wire.model import Name  # noqa: TC001 - pydantic reads annotations at run time
from producers.wire.stage import LADDER

_SHARES_ERR: Final = 1e-9


class Baseline(Part):
    """What the signals that state a `ratio` are compared with."""

    kind: Literal["none", "concurrent", "historic"] = "none"
    """`concurrent` compares minute by minute with actions held back at the same time; `historic` with earlier actions,
    block by block, which is not concurrent: anything else that changed counts as this stage's doing."""
    cohort: Name | None = None
    """The cohort that is held back, at any stage; where none is named, the same cohort at the stage directly below."""


class Split(Part):
    """How traffic is split between arms. Where it is not, nothing that compares them can be believed: no promotion."""

    by: Literal["cohort", "stage"] = "cohort"
    """What tells the arms apart: the cohort, or the stage (one action at two stages at once, by a percentage)."""
    shares: Annotated[
        dict[Name, Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]], Field(min_length=2, max_length=10)
    ]
    """The declared share of each arm; together they are 1."""
    unit: CountBy | None = None
    """What is assigned to an arm: `user` where a user keeps it, `action` where every action is drawn anew; the gate's
    unless stated."""
    since: AwareDatetime | None = None
    """From when on the shares are as declared, where an epoch began under others; with its offset from UTC."""

    @model_validator(mode="after")
    def _shares_are_of_everything(self) -> Self:
        total = math.fsum(self.shares.values())
        if abs(total - 1.0) > _SHARES_ERR:
            raise refusal(f"the shares must add up to 1, and add up to {total:.9g}")
        if self.by == "stage":
            for name in self.shares:
                known_word(name, "stage", [stage.value for stage in LADDER])
        return self

    @field_validator("since")
    @classmethod
    def _since_is_utc(cls, since: datetime | None) -> datetime | None:
        return None if since is None else since.astimezone(UTC)
