"""The recommendations as they are listed: each with what became of it, and whether the list as a whole believes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from analytics.backtest.recommendation_outcomes import Followed, recommendations
from analytics.verdicts.ledger import latest_verdicts
from analytics.verdicts.list_marks import ListMarks

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.lake.tables import Lake
    from analytics.verdicts.document import VerdictDocument

_WAITING: Final = frozenset({"open", "not in force"})  # lives that ask for somebody


class ListedRecommendation(NamedTuple):
    """One recommendation in a list."""

    followed: Followed
    mark: str | None  # what the list believes of its verdict; None where it does not, or that was superseded
    verdict: VerdictDocument | None  # the cell's latest, unless it was superseded
    marks: ListMarks  # of the whole list

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            **self.followed.to_dict(),
            "mark": self.mark,
            "false_discovery_rate": self.marks.false_discovery_rate,
            "unit": None if self.verdict is None else self.verdict.unit,
        }


def list_recommendations(lake: Lake, *, now: datetime, show_all: bool) -> tuple[list[ListedRecommendation], ListMarks]:
    """Those that ask for somebody, or all of them, oldest first, and the list's marks. Raises `LakeError`."""
    listed = [one for one in recommendations(lake, now=now) if show_all or one.life in _WAITING]
    latest = {(tuple(document.cell), document.epoch): document for document in latest_verdicts(lake)}
    marks = ListMarks.of_documents(latest.values())
    kinds = marks.kinds
    shown = []
    for one in listed:
        # What was superseded was marked, or not, in a list that nobody sees any more.
        key = (one.recommendation.cell, one.recommendation.epoch)
        document = latest.get(key) if one.life != "superseded" else None
        mark = None if document is None else kinds.get(document.verdict_id)
        shown.append(ListedRecommendation(one, mark, document, marks))
    return shown, marks
