"""Changes in the lives of recommendations, each with a name of its own that is the same whoever finds it, and when.

What is told to people is derived from the lake and not from what a process saw happen: nobody who was away misses one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analytics.backtest.recommendation_outcomes import FOLLOWED_FOR, Followed, SignOffs, followed, signoffs, turns
from analytics.enactment.enactments import Enactment, EnactmentPhase, Life, enactments
from analytics.enactment.mode_changes import mode_changes
from analytics.lake.errors import ForgottenError
from analytics.lake.storage import reading
from analytics.lake.table_schemas import ENACTMENTS, SIGNOFFS, VERDICTS
from analytics.signals.cells import CELL
from analytics.verdicts.document import VerdictDocument

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from datetime import datetime

    from analytics.backtest.recommendation_outcomes import Recommendation
    from analytics.enactment.enactments import EnactmentStep
    from analytics.enactment.mode_changes import ModeChange
    from analytics.lake.tables import Lake

TOLD_FOR: Final = timedelta(days=14)
"""How long after a change somebody may still have to be told of it."""

_EXPIRY_EVERY: Final = timedelta(minutes=1)  # how often it is looked whether something has expired
_OVERLAP: Final = timedelta(minutes=10)  # between two reads of policy changes: workers' clocks may be apart
_COLUMNS: Final = [*CELL, "epoch", "verdict", "to_stage", "judged_at", "verdict_id", "changed", "payload"]


@dataclass(frozen=True, slots=True)
class LifeChange:
    """That a recommendation has come to another stage of its life."""

    recommendation: Recommendation
    life: Life
    at: datetime
    step: EnactmentStep | None = None  # of the change of a stage that it tells of

    @property
    def change_id(self) -> str:
        """The same for the same change for ever: by the recommendation, the life, and of what repeats the moment."""
        once = "" if self.step is not None else self.at.isoformat()
        name = f"life/{self.recommendation.verdict_id}/{self.life}/{once}"
        return f"msg_{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def life_changes(one: Followed) -> Iterator[LifeChange]:
    """Every change in the life of a recommendation so far, oldest first."""
    said = one.recommendation
    steps = () if one.enactment is None else one.enactment.steps
    for since, until in said.called_for:
        yield LifeChange(said, Life.OPEN, since)
        if until is not None and (since, until) != said.called_for[-1]:
            yield LifeChange(said, Life.SUPERSEDED, until)
    if one.answer is Life.OPEN:
        if one.life is Life.EXPIRED:
            yield LifeChange(said, Life.EXPIRED, said.called_for[-1][0] + FOLLOWED_FOR)
    elif one.answer is not Life.SUPERSEDED or not any(step.phase is not EnactmentPhase.INTENDED for step in steps):
        # That the verdict speaks of the next stage, once the action is there, is no news.
        yield LifeChange(said, one.answer, one.answered_at)
    for step in steps:
        if step.phase is not EnactmentPhase.INTENDED:
            yield LifeChange(said, Life[step.phase.name], step.at, step)


class LifeFeed:
    """Follows the lives of a lake's recommendations. One thread at a time may use it, on a handle of its own."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._versions = dict.fromkeys((VERDICTS, SIGNOFFS, ENACTMENTS), -1)
        self._turns: list[dict[str, Any]] = []
        self._words: SignOffs = {}
        self._changes: list[Enactment] = []
        self._moves: dict[tuple[object, ...], ModeChange] = {}
        self._moves_read_at: datetime | None = None
        self._documents: dict[str, VerdictDocument] = {}
        self._told: list[LifeChange] = []
        self._told_at: datetime | None = None

    def read(self, now: datetime) -> list[LifeChange]:
        """The changes of the last `TOLD_FOR`, oldest first. Raises `LakeError`."""
        with reading(self._lake.root):
            has_news = self._follow(now)
        if has_news or self._told_at is None or now - self._told_at >= _EXPIRY_EVERY:
            lives = followed(self._turns, list(self._moves.values()), self._words, self._changes, now=now)
            recent = [change for one in lives for change in life_changes(one) if now - change.at <= TOLD_FOR]
            self._told, self._told_at = sorted(recent, key=lambda change: change.at), now
        return self._told

    def documents(self, changes: Iterable[LifeChange]) -> dict[str, VerdictDocument]:
        """The verdicts that crossed first, by id, of those that the ledger still has. Raises `LakeError`."""
        wanted = {change.recommendation.verdict_id for change in changes}
        self._documents = {name: document for name, document in self._documents.items() if name in wanted}
        if missing := wanted - self._documents.keys():
            self._documents |= _documents(self._lake, missing)
        return self._documents

    def _follow(self, now: datetime) -> bool:
        """Take in what the lake has gained, and tell whether anything of it can change a life."""
        has_news = False
        if (version := self._lake.version(VERDICTS)) != self._versions[VERDICTS]:
            before, self._turns = self._turns, sorted(self._new_turns(version), key=lambda row: row["judged_at"])
            has_news = len(self._turns) != len(before)
            self._versions[VERDICTS] = version
        if (version := self._lake.version(SIGNOFFS)) != self._versions[SIGNOFFS]:
            self._words = signoffs(self._lake)
            self._versions[SIGNOFFS], has_news = version, True
        if (version := self._lake.version(ENACTMENTS)) != self._versions[ENACTMENTS]:
            self._changes = list(enactments(self._lake).values())
            self._versions[ENACTMENTS], has_news = version, True
        since = (self._moves_read_at or now - TOLD_FOR) - _OVERLAP
        for move in mode_changes(self._lake, stored_since=since):
            key = (move.at, move.source, move.data.environment, move.data.workflow, move.data.tool, move.data.after)
            has_news |= key not in self._moves
            self._moves[key] = move
        self._moves_read_at = now
        return has_news

    def _new_turns(self, version: int) -> list[dict[str, Any]]:
        if (after := self._versions[VERDICTS]) >= 0:
            try:
                rows = self._lake.increments(VERDICTS, after=after, through=version, columns=_COLUMNS)
                return [*self._turns, *turns(rows.lazy())]
            except ForgottenError:
                pass  # the table is read whole
        return turns(self._lake.scan(VERDICTS))


def _documents(lake: Lake, verdict_ids: Collection[str]) -> dict[str, VerdictDocument]:
    with reading(lake.root):
        rows = lake.scan(VERDICTS).filter(pl.col("verdict_id").is_in(sorted(verdict_ids)))
        payloads = rows.select("verdict_id", "payload").unique("verdict_id").collect()
    return {name: VerdictDocument.from_json(payload) for name, payload in payloads.iter_rows()}
