"""What needs a person, most urgent first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from analytics.enactment.enactments import Life
from dashboard import labels
from dashboard.data.deciding import deciding_signal
from producers.wire.contract import RiskClass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from analytics.backtest.recommendation_outcomes import Followed
    from analytics.verdicts.document import VerdictDocument
    from dashboard.urls import PageLocation
    from producers.boundary.approvals import Review
    from producers.wire.receipt import Cell

NeedKind: TypeAlias = Literal["late", "ROLL_BACK", "INVALID", "waits", "PROMOTE"]

ORDER: Final[tuple[NeedKind, ...]] = ("late", "ROLL_BACK", "INVALID", "waits", "PROMOTE")
WORDS: Final[dict[NeedKind, str]] = {
    "late": "Not in force",
    "ROLL_BACK": "Roll back",
    "INVALID": "Evidence at risk",
    "waits": "Review",
    "PROMOTE": "Promote",
}
_IDLE: Final = frozenset({"no_gate", "stale_evidence"})  # an action that nobody asks for, or that no gate is about


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that needs a person."""

    kind: NeedKind
    what: str  # the action, or what the queue holds
    text: str
    since: datetime
    leads_to: PageLocation

    @property
    def place(self) -> tuple[int, datetime]:
        """Its place in the list: by kind, then by age."""
        return ORDER.index(self.kind), self.since


def needs(
    followed: Iterable[Followed],
    verdicts: Mapping[Cell, VerdictDocument],
    reviews: list[Review],
    location: PageLocation,
) -> list[Need]:
    """Everything that needs a person in the environment of a location, most urgent first."""
    found = [
        *_changes(followed, verdicts, location),
        *(_at_risk(verdict, location) for verdict in verdicts.values() if _is_at_risk(verdict)),
        *_reviews(reviews, location),
    ]
    return sorted((need for need in found if need is not None), key=lambda need: need.place)


def _changes(
    followed: Iterable[Followed], verdicts: Mapping[Cell, VerdictDocument], location: PageLocation
) -> Iterable[Need]:
    for one in followed:
        said = one.recommendation
        environment, workflow, tool, stage, _ = said.cell
        if location.environment not in {None, environment}:
            continue
        leads_to = location.at("recommendations", item=said.verdict_id)
        name, to = f"{workflow} / {tool}", labels.stage_name(said.to_stage).lower()
        if one.life is Life.NOT_IN_FORCE and one.enactment is not None:
            sources = ", ".join(one.enactment.last.sources)
            text = f"Changed to {to}. {sources} still decides by the old rules."
            yield Need("late", name, text, one.enactment.last.at, leads_to)
        elif one.life is Life.OPEN:
            verdict = next((known for cell, known in verdicts.items() if tuple(cell) == said.cell), None)
            kind: NeedKind = "ROLL_BACK" if said.verdict == "ROLL_BACK" else "PROMOTE"
            move = f"{labels.stage_name(stage)} → {to}."
            yield Need(kind, name, f"{_why(verdict)} {move}".strip(), said.at, leads_to)


def _why(verdict: VerdictDocument | None) -> str:
    if verdict is None or verdict.verdict not in {"ROLL_BACK", "PROMOTE"}:
        return ""
    if verdict.verdict == "PROMOTE":
        shown = [part for part in verdict.signals if part.state == "pass"]
        actions = "" if verdict.exposure is None else f" over {labels.plural(verdict.exposure.actions, 'action')}"
        return f"{labels.plural(len(shown), 'signal')} shown safe{actions}."
    deciding = deciding_signal(verdict)
    return f"{deciding.name} {deciding.value} {deciding.by}, {deciding.note}.".replace("  ", " ")


def _is_at_risk(verdict: VerdictDocument) -> bool:
    return verdict.verdict == "INVALID" and not {reason.code for reason in verdict.reasons} <= _IDLE


def _at_risk(verdict: VerdictDocument, location: PageLocation) -> Need | None:
    if location.environment not in {None, verdict.environment}:
        return None
    text = verdict.reasons[0].message if verdict.reasons else verdict.summary
    name = f"{verdict.workflow} / {verdict.tool}"
    return Need("INVALID", name, labels.because(text), verdict.judged_at, location.of_cell(verdict.cell))


def _reviews(reviews: list[Review], location: PageLocation) -> Iterable[Need]:
    mine = [one for one in reviews if location.environment in {None, one.queued.contract.target.environment}]
    if not mine:
        return
    riskiest = max(mine, key=lambda one: one.queued.contract.risk_class.rank).queued.contract
    risk = RiskClass(riskiest.risk_class).value.replace("_", " ")
    tools = {one.queued.contract.tool for one in mine}
    oldest = min(one.queued.queued_at for one in mine)
    text = f"Riskiest: {risk}, {riskiest.workflow} / {riskiest.tool}. What nobody answers in time does not run."
    what = f"{labels.plural(len(mine), 'action')}, {labels.plural(len(tools), 'tool')}"
    yield Need("waits", what, text, oldest, location.at("reviews"))
