"""One point of the checklist, and what was found."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """What was found; unknown is never a pass."""

    PASS = "pass"  # noqa: S105 - the word, not a secret
    FAIL = "fail"
    UNKNOWN = "unknown"


class Point(NamedTuple):
    """One point.

    Attributes:
        number: 1 to 10.
        title: What must hold.
        state: Whether it does.
        evidence: What that rests on, with numbers.
    """

    number: int
    title: str
    state: State
    evidence: str


TITLES = (
    "the contract is complete",
    "the default state is safe",
    "it is decided on the server side",
    "all five outcomes are possible",
    "authorization caps it",
    "review is for consequential actions, and has context",
    "the audit has decision and result",
    "one action can be disabled alone",
    "rollout signals flow",
    "temporary flags are owned and dated",
)


def found(number: int, state: State, evidence: str) -> Point:
    """A point with its title."""
    return Point(number, TITLES[number - 1], state, evidence)


def passed(number: int, *, holds: bool, evidence: str) -> Point:
    """A point that holds or does not."""
    return found(number, State.PASS if holds else State.FAIL, evidence)
