"""Moments that people and programs give, as the lake can compare them."""

from __future__ import annotations

from datetime import UTC, datetime

from producers.errors import UsageError


class UnusableMomentError(UsageError):
    """A moment without a zone, or one that UTC has no date for."""


def in_utc(moment: datetime) -> datetime:
    """The same moment in UTC. Raises `UnusableMomentError`."""
    if moment.tzinfo is None:
        raise UnusableMomentError(f"{moment} has no time zone; write for example 2026-03-14T12:00:00Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise UnusableMomentError(
            f"{moment} cannot be counted in UTC, which begins with the year 1 and ends with 9999; give one between"
        ) from None
