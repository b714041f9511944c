"""One point of the checklist, and how it came out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stagekeeper.doctor.check_result import CheckState

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    state: CheckState
    evidence: str  # what the state rests on, with numbers


def failed(number: int, evidence: str) -> Point:
    """A point that does not hold."""
    return Point(number, TITLES[number - 1], CheckState.FAIL, evidence)


def unknown(number: int, evidence: str) -> Point:
    """A point that nothing tells about."""
    return Point(number, TITLES[number - 1], CheckState.UNKNOWN, evidence)


def passed(number: int, evidence: str) -> Point:
    """A point that holds."""
    return Point(number, TITLES[number - 1], CheckState.PASS, evidence)


def pass_unless(number: int, faults: Sequence[str], evidence: str) -> Point:
    """A point that holds where there are no faults."""
    return failed(number, "; ".join(faults)) if faults else passed(number, evidence)
