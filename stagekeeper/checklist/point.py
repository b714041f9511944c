"""One point of the checklist, and how it came out."""

from __future__ import annotations

from typing import NamedTuple

from stagekeeper.doctor.check_result import CheckState

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


class Point(NamedTuple):
    """One point."""

    number: int  # 1 to 10
    title: str  # what must hold
    state: CheckState  # whether it does; pass, fail or unknown
    evidence: str  # what that rests on, with numbers


def failed(number: int, evidence: str) -> Point:
    """A point that does not hold."""
    return Point(number, TITLES[number - 1], CheckState.FAIL, evidence)


def unknown(number: int, evidence: str) -> Point:
    """A point that nothing tells about."""
    return Point(number, TITLES[number - 1], CheckState.UNKNOWN, evidence)


def pass_or_fail(number: int, *, holds: bool, evidence: str) -> Point:
    """A point that holds or does not."""
    return Point(number, TITLES[number - 1], CheckState.PASS if holds else CheckState.FAIL, evidence)
