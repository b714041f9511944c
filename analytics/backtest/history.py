"""History run through a gate file: minute by minute of event time, as if the judge had looked at every minute."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analytics.judging.judging import judge, passing
from analytics.judging.split_check import counted_by_user, followed
from analytics.judging.user_windows import closed_through, fold_read, read_events
from analytics.lake.table_schemas import EVENTS, SIGNALS
from analytics.signals.cells import EPOCH, Folded
from analytics.verdicts.document import VerdictDocument
from analytics.verdicts.verdict import Latch
from producers.errors import UsageError
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from analytics.gates.gate_file import GateFile
    from analytics.judging.user_windows import Users
    from analytics.lake.tables import Lake
    from analytics.verdicts.ledger import LatchKey
    from analytics.verdicts.verdict import Verdict
    from producers.wire.receipt import Cell

MINUTE: Final = timedelta(minutes=1)
_SETTLE_EVERY: Final = 60


class NoHistoryError(UsageError):
    """There is nothing to run through a gate file."""


@dataclass(frozen=True)
class History:
    """What became known, and when, by event time.

    Attributes:
        increments: Rows of the table `signals`, by `last_event_at`.
        events: What users did, as `read_events` reads it, by `time`.
    """

    increments: pl.DataFrame
    events: pl.DataFrame

    @classmethod
    def of(cls, lake: Lake) -> History:
        """Everything in a lake.

        Raises:
            NoHistoryError: There is nothing in it.
            LakeError: It cannot be read.
        """
        increments = lake.scan(SIGNALS).collect().sort("last_event_at")
        if increments.is_empty():
            raise NoHistoryError(f"the lake at {lake.root} holds no signals yet, so there is no history to go through")
        return cls(increments, read_events(lake.scan(EVENTS)).collect().sort("time"))

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
    """A verdict that said something else, or said it for other reasons, than the one before it on the same cell.

    Attributes:
        at: The minute by whose end it was reached.
        verdict: The verdict.
    """

    at: datetime
    verdict: Verdict

    def document(self) -> dict[str, Any]:
        """The turn as a JSON object."""
        told = VerdictDocument.from_verdict(self.verdict).to_dict()
        return {
            "at": self.at.isoformat().replace("+00:00", "Z"),
            **{name: told[name] for name in ("epoch", "verdict", "to_stage", "summary", "reasons")},
        }


@dataclass
class _Run:
    """One gate file on its way through history."""

    history: History
    gates: GateFile
    folded: Folded = field(init=False)
    users: Users | None = None
    latches: dict[LatchKey, dict[VerdictName, Latch]] = field(default_factory=dict)
    seen: dict[Cell, tuple[object, ...]] = field(default_factory=dict)
    steps: int = 0

    def __post_init__(self) -> None:
        self.folded = Folded.of(self.history.increments.clear())

    def step(self, before: datetime | None, now: datetime) -> list[Verdict]:
        """Everything that became known after one moment and up to another, judged at the latter."""
        known = pl.col("last_event_at") <= now
        fresh = self.history.increments.filter(known if before is None else known & (pl.col("last_event_at") > before))
        increments = Folded.of(fresh)
        self.folded = self.folded.plus(increments)
        due = (
            self.folded.cells()
            if before is None
            else increments.cells() | passing(self.folded, self.gates, before, now)
        )
        if self._count_users(now):
            due = self.folded.cells()
        self.steps += 1
        if self.steps % _SETTLE_EVERY == 0 and not any(gate.compares for gate in self.gates.gates):
            self.folded = self.folded.settled(now, self.gates.horizon_s)
        if not due:
            return []
        verdicts = judge(
            self.folded,
            self.gates,
            watermark=now,
            lake_version=0,
            judged_at=now,
            cells=due,
            latches=self.latches,
            users=self.users,
        )
        return [verdict for verdict in verdicts if self._is_news(verdict)]

    def _count_users(self, now: datetime) -> bool:
        """Fold the user-windows anew where another one has closed, or an epoch is new."""
        if not self.gates.counts_users:
            return False
        split = counted_by_user(self.folded, self.gates)
        as_of, epochs = (
            closed_through(now, self.gates.user_window),
            followed(self.folded, self.folded.current(now), split),
        )
        known = self.users
        if known is not None and as_of <= known.as_of and known.covered.issuperset(epochs.iter_rows()):
            return False
        told = self.history.events.lazy().filter(pl.col("time") <= now).join(epochs.lazy(), on=EPOCH, how="semi")
        window_s = self.gates.user_window
        self.users = fold_read(told, version=0, as_of=as_of, window_s=window_s, epochs=epochs, split=split).users
        return True

    def _is_news(self, verdict: Verdict) -> bool:
        finding, cell = verdict.result, verdict.inputs.cell
        if finding.verdict in {VerdictName.PROMOTE, VerdictName.ROLL_BACK}:
            key = (cell, verdict.inputs.epoch, verdict.gate_sha256)
            latch = Latch(finding.verdict, finding.to_stage, verdict.verdict_id)
            self.latches.setdefault(key, {}).setdefault(finding.verdict, latch)
        if self.seen.get(cell) == verdict.change_key:
            return False
        self.seen[cell] = verdict.change_key
        return True


def run(
    history: History,
    gates: GateFile,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    every: timedelta = MINUTE,
) -> Iterator[Turn]:
    """Run history through a gate file.

    Args:
        history: What became known, and when.
        gates: The gate file.
        since: Where to begin to look; what was known by then is known at the first look.
        until: Where to end; the last minute of history unless given.
        every: Event time between two looks.

    Yields:
        Every turn, in the order of event time.
    """
    now, last = _end_of_minute(since or history.first), until or history.last
    going, before = _Run(history, gates), None
    while True:
        for verdict in going.step(before, now):
            yield Turn(now, verdict)
        if now >= last:
            return
        before, now = now, now + every


def _end_of_minute(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0) + MINUTE


def _moment(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise NoHistoryError("there is no history to go through")
    return value
