"""Durations on the command line: 45s, 10m, 2h, 1d."""

from __future__ import annotations

import re
from datetime import timedelta

import click

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Duration(click.ParamType):
    """A number and its unit, read as a `timedelta`."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read `45s`, `10m`, `2h` or `1d`."""
        if isinstance(value, timedelta):
            return value
        read = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", str(value).strip())
        if read is None:
            self.fail(f"{value!r} is not a duration; write for example 45s, 10m, 2h or 1d", param, ctx)
        return timedelta(**{_UNITS[read[2]]: float(read[1])})
