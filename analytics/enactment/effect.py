"""Proof of effect: whether the decisions that followed a change of stage show that every source decides by it.

No two clocks are compared to prove it: of each source the newest decision counts, by the source's own clock. To say
that a source is late takes its clock and that of the worker that stored the decision: one that is ahead accuses nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.enactment.enactments import EnactmentPhase
from analytics.lake.table_schemas import EVENTS
from analytics.signals.cells import ACTION, EPOCH, rows_of
from producers.wire.events import ActionDecided, VerdictName, type_of
from producers.wire.receipt import Receipt, ReceiptError
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Collection

    from analytics.enactment.enactments import Enactment, EnactmentStep
    from analytics.lake.tables import Lake
    from analytics.signals.cells import EpochKey

WINDOW: Final = timedelta(minutes=15)
"""How long before a change a source has decided the action to be waited for, and how long it may then be silent."""

_DECIDED: Final = pl.col("type") == type_of(ActionDecided)


@dataclass(frozen=True, slots=True)
class Effect:
    """What the decisions show about one change."""

    heard: tuple[str, ...] = ()  # sources that decide by the new stage
    waiting: tuple[str, ...] = ()  # sources that have not decided since, and are not late yet
    late: tuple[str, ...] = ()  # sources that decide by the old stage after the deadline
    silent: tuple[str, ...] = ()  # routers that told what they decide by until a while ago: not waited for
    began_at: datetime | None = None  # when the last of those heard began to

    @property
    def is_in_force(self) -> bool:
        """Whether all sources decide by the new stage, and there is at least one."""
        return bool(self.heard) and not self.waiting and not self.late


@dataclass(frozen=True, slots=True)
class Holding:
    """What an instance of a router told last of the rules that it decides by; a source may have several."""

    source: str
    obeys: bool | None  # whether a change is among them; None where they are not known here
    since: datetime  # when they came into force there, by its clock
    told_at: datetime  # by its clock
    heard_at: datetime  # by ours
    is_silent: bool = False  # whether it should have told again by now

    @property
    def doubt(self) -> tuple[int, datetime]:
        """Of a source the instance of most doubt counts: old rules before unknown ones, and these before new ones."""
        return {True: 0, None: 1, False: 2}[self.obeys], self.since if self.obeys else self.told_at


def decisions_around(lake: Lake, changes: Collection[EnactmentStep]) -> pl.DataFrame:
    """The decisions on actions since shortly before the first was changed: action, `source`, `user`, `stage`, and when.

    Raises `LakeError`.
    """
    since = min(change.at for change in changes) - WINDOW
    rows = lake.scan(EVENTS).filter(_DECIDED, pl.col("decided_at") >= since)
    rows = rows_of(rows, ACTION, [change.action for change in changes])
    return rows.select(*ACTION, "source", "user", "stage", "decided_at", "ingested_at").collect()


def effect_of(
    decisions: pl.DataFrame,
    change: EnactmentStep,
    *,
    now: datetime,
    deadline: timedelta,
    holdings: Collection[Holding] = (),
) -> Effect:
    """What decisions (as `decisions_around` gives them) and what routers told show about an applied change.

    Of the two the newer counts, by the source's clock: a decision that was made after new rules came into force there
    shows more than that they did.
    """
    decisions = decisions.filter(
        pl.col("decided_at") >= change.at - WINDOW,
        *(pl.col(name) == value for name, value in zip(ACTION, change.action, strict=True)),
    )
    shown: dict[_Shown, list[str]] = {state: [] for state in _Shown}
    began_at = change.at
    conforming = _conforming(change)
    if change.mode_before is None:
        # More than the action decided: who had the new stage already shows nothing, nor does it without a name.
        is_new = pl.col("stage").is_in(list(conforming))
        moved = decisions.filter(~is_new)["user"].drop_nulls()
        decisions = decisions.filter(~is_new | pl.col("user").is_in(moved.implode()))
    told = {holding.source: holding for holding in sorted(holdings, key=lambda one: one.doubt)}
    by_source = decisions.sort("decided_at", "ingested_at").partition_by("source", as_dict=True)
    for source in sorted({*told, *(str(name) for (name,) in by_source)}):
        own, holding = by_source.get((source,)), told.get(source)
        state, began = _Shown.NOTHING, None
        if own is not None:
            state, began = _shown_by_decisions(own, change, conforming, now=now, late_from=change.at + deadline)
        if holding is not None and _counts(holding, state, own):
            state, began = _shown_by_status(holding, late_from=change.at + deadline)
        shown[state].append(source)
        began_at = max(began_at, began or began_at)
    heard, waiting, late, silent = (
        tuple(shown[state]) for state in (_Shown.OBEYS, _Shown.WAITS, _Shown.IS_LATE, _Shown.IS_SILENT)
    )
    return Effect(heard, waiting, late, silent, began_at if heard else None)


class _Shown(Enum):
    """What is shown of one source."""

    OBEYS = auto()
    WAITS = auto()
    IS_LATE = auto()
    IS_SILENT = auto()
    NOTHING = auto()


_Seen = tuple[_Shown, datetime | None]  # with the moment from which it obeys


def _shown_by_decisions(
    own: pl.DataFrame, change: EnactmentStep, conforming: frozenset[str], *, now: datetime, late_from: datetime
) -> _Seen:
    newest = own.row(-1, named=True)
    decided_at, stored_at = newest["decided_at"], newest["ingested_at"]
    if newest["stage"] in conforming:
        obeys = max(decided_at, stored_at) >= change.at
        return (_Shown.OBEYS, _began(own, conforming)) if obeys else (_Shown.NOTHING, None)
    if decided_at < now - WINDOW:
        return _Shown.NOTHING, None  # it decides nothing any more
    return (_Shown.IS_LATE if min(decided_at, stored_at) > late_from else _Shown.WAITS), None


def _counts(holding: Holding, state: _Shown, own: pl.DataFrame | None) -> bool:
    """Whether what a router told says more than its decisions, which show a state."""
    if own is None or state is _Shown.NOTHING:
        return True
    if holding.obeys is None and not holding.is_silent:
        return False
    newest = own.row(-1, named=True)["decided_at"]
    return bool(newest <= (holding.since if holding.obeys else holding.told_at))


def _shown_by_status(holding: Holding, *, late_from: datetime) -> _Seen:
    if holding.is_silent:
        return _Shown.IS_SILENT, None
    if holding.obeys is None:
        return _Shown.NOTHING, None
    if holding.obeys:
        return _Shown.OBEYS, holding.since
    return (_Shown.IS_LATE if min(holding.told_at, holding.heard_at) > late_from else _Shown.WAITS), None


def next_step(one: Enactment, effect: Effect, now: datetime) -> EnactmentStep | None:
    """The step that a change takes by its effect; None where there is nothing new to say."""
    applied = one.applied
    if applied is None:
        return None
    if effect.is_in_force:
        more = {"sources": effect.heard, "silent": effect.silent, "in_force_at": effect.began_at}
        return applied.followed_by(EnactmentPhase.IN_FORCE, at=now, **more)
    if effect.late and (one.phase is EnactmentPhase.APPLIED or one.last.sources != effect.late):
        return applied.followed_by(EnactmentPhase.NOT_IN_FORCE, at=now, sources=effect.late)
    return None


def time_to_safe_s(lake: Lake, rollback: EnactmentStep) -> float | None:
    """Seconds from the newest event that the verdict knew when it crossed, to the first decision at the lower stage.

    None while there is no such decision. Raises `LakeError`.
    """
    if rollback.watermark is None:
        return None
    safe = decisions_around(lake, [rollback]).filter(
        pl.col("stage").is_in(list(_conforming(rollback))), pl.col("decided_at") >= rollback.watermark
    )
    first = safe["decided_at"].min()
    return round((first - rollback.watermark).total_seconds(), 3) if isinstance(first, datetime) else None


@dataclass(frozen=True, slots=True)
class NewestDecision:
    """The newest decision of a cell's epoch."""

    at: datetime
    attempt: int | None  # that it names; None where its receipt cannot be read


def newest_decisions(lake: Lake, epochs: Collection[EpochKey]) -> dict[EpochKey, NewestDecision]:
    """The newest decision of each of some epochs of cells, but of those that decided nothing. Raises `LakeError`."""
    if not epochs:
        return {}
    decided = rows_of(lake.scan(EVENTS).filter(_DECIDED), EPOCH, epochs)
    newest = decided.select(*EPOCH, "decided_at", "id").sort("decided_at").group_by(EPOCH).last().collect()
    token = pl.col("value").cast(pl.String).str.json_path_match("$.data.receipt")
    named = lake.scan(EVENTS).filter(_DECIDED, pl.col("id").is_in(newest["id"].implode())).select("id", token)
    tokens = dict(named.collect().iter_rows())
    return {
        tuple(epoch): NewestDecision(decided_at, _attempt_in(tokens.get(event_id)))
        for *epoch, decided_at, event_id in newest.iter_rows()
    }


def _attempt_in(token: str | None) -> int | None:
    try:
        # Its signature was checked before it was stored.
        return None if token is None else Receipt.from_token(token).attempt
    except ReceiptError:
        return None


def _conforming(change: EnactmentStep) -> frozenset[str]:
    """The stages by which a source obeys a change: a rollback also where something takes it lower still."""
    if change.verdict is VerdictName.PROMOTE:
        return frozenset({change.to_stage})
    return frozenset(stage.value for stage in Stage if stage.rank <= Stage(change.to_stage).rank)


def _began(own: pl.DataFrame, conforming: frozenset[str]) -> datetime:
    """When the newest unbroken run of decisions by the new stage began."""
    obeys = own["stage"].is_in(list(conforming)).to_list()
    first = len(obeys) - 1
    while first and obeys[first - 1]:
        first -= 1
    began: datetime = own["decided_at"][first]
    return began
