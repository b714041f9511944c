"""The actions as rows: where each stands, where it was, and which verdict speaks for it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from dashboard.components.symbols import URGENCY
from producers.boundary.stage_store import ActionName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analytics.report import CellSignals
    from analytics.verdicts.document import VerdictDocument
    from dashboard.data.reader import LakeSnapshot
    from dashboard.urls import PageLocation

ALIVE: Final = timedelta(minutes=15)
"""How far behind the newest decision of an action a stage of it may be, and still be one that it has."""


@dataclass(frozen=True)
class ActionRow:
    """One action, or one cohort of it."""

    action: ActionName
    cohort: str
    alive: tuple[CellSignals, ...]  # the stages that it has now, the most urgent verdict first; at least one
    former: tuple[CellSignals, ...]  # stages that it had
    verdict: VerdictDocument | None  # on the first of those alive

    @property
    def state(self) -> str:
        """The verdict in one word; `NONE` where there is none."""
        return "NONE" if self.verdict is None else self.verdict.verdict.value

    @property
    def risk(self) -> str | None:
        """The highest risk class that was seen."""
        return next((cell.risk_class for cell in self.alive if cell.risk_class is not None), None)

    @property
    def owner(self) -> str | None:
        """Who answers for the gate."""
        return None if self.verdict is None else self.verdict.owner

    def matches(self, location: PageLocation) -> bool:
        """Whether it is among those that a location shows, whatever the verdict."""
        words = " ".join((*self.action, self.cohort, self.owner or "")).casefold()
        return (
            location.covers(self.action.environment, self.action.workflow)
            and location.risk in {None, self.risk}
            and location.owner in {None, self.owner}
            and all(word in words for word in (location.search or "").casefold().split())
        )


def action_rows(snapshot: LakeSnapshot) -> list[ActionRow]:
    """A row for each action and cohort that was counted, the most urgent first, then by name."""
    cells: dict[tuple[ActionName, str], list[CellSignals]] = defaultdict(list)
    for signals in snapshot.signals.values():
        cells[ActionName(signals.environment, signals.workflow, signals.tool), signals.cohort].append(signals)
    rows = [_row(snapshot, action, cohort, several) for (action, cohort), several in cells.items()]
    return sorted(rows, key=lambda row: (urgency(row.verdict), row.action, row.cohort))


def urgency(verdict: VerdictDocument | None) -> int:
    """The place of a verdict among those that a person should look at; 0 comes first."""
    return len(URGENCY) if verdict is None else URGENCY.index(verdict.verdict)


def _row(snapshot: LakeSnapshot, action: ActionName, cohort: str, cells: Sequence[CellSignals]) -> ActionRow:
    newest = max(cell.last_decided_at for cell in cells)
    alive = [cell for cell in cells if newest - cell.last_decided_at <= ALIVE]
    alive.sort(key=lambda cell: (urgency(snapshot.verdicts.get(cell.cell)), newest - cell.last_decided_at))
    former = tuple(cell for cell in cells if cell not in alive)
    return ActionRow(action, cohort, tuple(alive), former, snapshot.verdicts.get(alive[0].cell))
