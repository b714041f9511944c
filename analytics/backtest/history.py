"""History run through a gate file by the judge itself, over a clock of event time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analytics.judging.judge_state import JudgeState, PastVerdicts
from analytics.judging.regression import watched_counters
from analytics.judging.user_windows import READ_OF_EVENTS
from analytics.lake.table_schemas import EVENTS, SIGNALS
from analytics.signals.cells import EPOCH
from analytics.text import iso
from analytics.verdicts.document import VerdictDocument
from producers.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from analytics.gates.gate_file import GateFile
    from analytics.lake.tables import Lake
    from analytics.verdicts.verdict import Verdict

MINUTE: Final = timedelta(minutes=1)


class NoHistoryError(UsageError):
    """There is nothing to run through a gate file."""


@dataclass(frozen=True)
class History:
    """What became known, and when, by event time."""

    increments: pl.DataFrame  # rows of the table `signals`, by `last_event_at`
    events: pl.DataFrame  # rows of the table `events`, by `time`

    @classmethod
    def from_rows(cls, increments: pl.DataFrame, events: pl.LazyFrame) -> History:
        """Sort rows of the tables `signals` and `events` by when they became known: as if all had been read at once."""
        increments = increments.with_columns(last_ingested_at=pl.lit(None, dtype=increments.schema["last_event_at"]))
        events = events.select(READ_OF_EVENTS).with_columns(ingested_at="time")
        return cls(increments.sort("last_event_at"), events.collect().sort("time"))

    @classmethod
    def from_lake(cls, lake: Lake) -> History:
        """Everything in a lake. Raises `NoHistoryError` where there is nothing, `LakeError` where it cannot be read."""
        increments = lake.scan(SIGNALS).collect()
        if increments.is_empty():
            raise NoHistoryError(f"the lake at {lake.root} holds no signals yet, so there is no history to go through")
        return cls.from_rows(increments, lake.scan(EVENTS))

    @property
    def first(self) -> datetime:
        """The first moment at which anything was known."""
        return _moment(self.increments["last_event_at"].min())

    @property
    def last(self) -> datetime:
        """The last moment at which anything became known."""
        return _moment(self.increments["last_event_at"].max())


@dataclass(frozen=True, slots=True)
class Turn:
    """A verdict that said something else, or said it for other reasons, than the one before it on the same cell."""

    at: datetime  # the minute by whose end it was reached
    verdict: Verdict  # the verdict

    def to_dict(self) -> dict[str, Any]:
        """The turn as a JSON object."""
        document = VerdictDocument.from_verdict(self.verdict).to_dict()
        names = ("epoch", "verdict", "to_stage", "summary", "reasons")
        return {"at": iso(self.at), **{name: document[name] for name in names}}


class _KnownEvents:
    """The events of history up to a moment; a version is how many were known."""

    def __init__(self, events: pl.DataFrame) -> None:
        self._events = events
        self._known = 0

    def follow(self, now: datetime) -> None:
        self._known = int(self._events["time"].search_sorted(now, side="right"))

    def version(self) -> int:
        return self._known

    def scan(self, version: int) -> pl.LazyFrame:
        return self._events.head(version).lazy()

    def increments(self, after: int, through: int) -> pl.DataFrame:
        return self._events[after:through].select(*EPOCH, "decided_at")


def run(
    history: History,
    gates: GateFile,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    every: timedelta = MINUTE,
) -> Iterator[Turn]:
    """Run history through a gate file: every turn, in the order of event time.

    What was known before `since` is known at the first look; both ends are those of history unless given.
    """
    now, last = (since or history.first).replace(second=0, microsecond=0) + MINUTE, until or history.last
    events = _KnownEvents(history.events)
    state = JudgeState(PastVerdicts(), events, watched_counters(gates), writes_all=True)
    known_at, done = history.increments["last_event_at"], 0
    while True:
        through = int(known_at.search_sorted(now, side="right"))
        events.follow(now)
        increment = state.add(history.increments[done:through]) if through > done else None
        state.advance(gates, increment, now)
        for verdict in state.look(gates, now, 0, lambda *_: None).news:
            yield Turn(now, verdict)
        if now >= last:
            return
        now, done = now + every, through


def _moment(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise NoHistoryError("there is no history to go through")
    return value
