"""The queue of reviews in the order in which a person should take it, and how reviewing goes."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dashboard.data.people_log import SettledReview
    from producers.boundary.approvals import Review

HASTY_MS: Final = 5_000.0
"""Below this wait nobody can have read what was asked: a sign, and no blame."""
_ENOUGH: Final = 20  # words before anybody says that an action is always approved


def in_order(reviews: Iterable[Review]) -> list[Review]:
    """The riskiest first, then what waits longest."""
    return sorted(reviews, key=lambda one: (-one.queued.contract.risk_class.rank, one.queued.queued_at))


def shape(review: Review) -> tuple[str, ...]:
    """What two queued actions have in common where one reason can be given for both: all but arguments and user."""
    queued = review.queued
    contract = queued.contract
    return (
        contract.target.environment,
        contract.workflow,
        contract.tool,
        contract.actor.agent,
        contract.risk_class.value,
        contract.reversibility.value,
        queued.rule,
        queued.consequence or "",
        ",".join(sorted(queued.arguments)),
    )


@dataclass(frozen=True, slots=True)
class ReviewerLoad:
    """What one reviewer did."""

    reviewer: str
    decided: int
    approved: int
    median_wait_ms: float | None
    hasty: int  # settled within `HASTY_MS` of being queued


def loads(words: Iterable[SettledReview]) -> list[ReviewerLoad]:
    """What each reviewer did, the busiest first."""
    by_reviewer: dict[str, list[SettledReview]] = defaultdict(list)
    for word in words:
        by_reviewer[word.data.reviewer].append(word)
    rows = []
    for reviewer, said in by_reviewer.items():
        waits = [word.data.wait_ms for word in said if word.data.wait_ms is not None]
        approved = sum(word.data.resolution == "approved" for word in said)
        median = statistics.median(waits) if waits else None
        rows.append(ReviewerLoad(reviewer, len(said), approved, median, sum(wait < HASTY_MS for wait in waits)))
    return sorted(rows, key=lambda row: (-row.decided, row.reviewer))


def always_approved(words: Iterable[SettledReview]) -> list[tuple[str, int]]:
    """Actions of which every one of many reviews was an approval: candidates for a higher stage."""
    by_action: dict[str, list[bool]] = defaultdict(list)
    for word in words:
        by_action[f"{word.workflow} / {word.tool}"].append(word.data.resolution == "approved")
    found = [(action, len(said)) for action, said in by_action.items() if len(said) >= _ENOUGH and all(said)]
    return sorted(found, key=lambda one: -one[1])
