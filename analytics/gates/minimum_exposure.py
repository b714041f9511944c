"""What must have been seen of an epoch before anything is promoted."""

from __future__ import annotations

import difflib
import math
from typing import Annotated
from zoneinfo import available_timezones

from pydantic import Field, field_validator

from analytics.gates.gate_signal import Part, refusal
from producers.wire.model import Name  # noqa: TC001 - pydantic reads annotations at run time


class MinimumExposure(Part):
    """What must have been seen before anything is promoted. It never holds up a rollback."""

    actions: Annotated[int, Field(ge=0)] = 0
    """Decisions in the cell's current epoch."""
    users: Annotated[int, Field(ge=0)] = 0
    """Different users among them, in closed user-windows."""
    days: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    """Different days with decisions; part of a day counts as a whole one."""
    weekdays: bool = False
    """Whether there must be decisions on each of the seven days of the week."""
    hours: Annotated[int, Field(ge=0, le=24)] = 0
    """Different hours of the day with decisions."""
    timezone: Name = "UTC"
    """Whose days and hours these are, by its name in the IANA database."""

    @field_validator("days")
    @classmethod
    def _days_are_whole(cls, days: float) -> int:
        return math.ceil(days)

    @field_validator("timezone")
    @classmethod
    def _timezone_is_known(cls, stated: str) -> str:
        if stated not in (names := available_timezones()):
            near = difflib.get_close_matches(stated, names, n=1)
            raise refusal(f"unknown time zone `{stated}`: did you mean `{near[0] if near else 'Europe/Berlin'}`?")
        return stated

    @property
    def covers_time(self) -> bool:
        """Whether days, or hours of the day, are asked for."""
        return bool(self.days or self.weekdays or self.hours)

    @property
    def all_weekdays(self) -> int:
        """How many days of the week are asked for."""
        return 7 if self.weekdays else 0

    @property
    def least_s(self) -> float:
        """Seconds from the beginning of the first of the days or hours to that of the last."""
        days = max(self.days, self.all_weekdays)
        return max((days - 1) * 86_400.0, (self.hours - 1) * 3_600.0, 0.0)
