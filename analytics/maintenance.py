"""Table maintenance: fold small files, roll old minutes up, take out old rows, delete files that nobody needs.

One process at a time does it, under the lease `maintenance`. Each commit is right by itself: whoever dies in the middle
leaves a lake that says the same as before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analytics.gates import gate_store
from analytics.gates.gate_file import GateFile
from analytics.lake.errors import READ_FAILURES, FencedError
from analytics.lake.log_files import LOG_KEPT, keep_tombstones_short, trim_log
from analytics.lake.retention import LEAST, Rule, retain
from analytics.lake.rollup import RollUp
from analytics.lake.storage import TOMBSTONES_KEPT, unreadable
from analytics.lake.table_schemas import (
    DROPPED,
    ENACTMENTS,
    EVENTS,
    JUDGE_HEARTBEATS,
    QUALITY,
    REJECTS,
    SIGNALS,
    SIGNOFFS,
    TABLES,
    VERDICTS,
)
from analytics.lake.vacuum import MARGIN, vacuum
from analytics.signals.cells import ACTION, CELL, EPOCH
from analytics.verdicts import ledger
from analytics.verdicts.verdict import REASSESSED
from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from analytics.lake.tables import Fence, Lake

REPLAY: Final = timedelta(days=90)  # a verdict can be reached again for so long at most: the tables' logs end there
COMPACT_FILES: Final = 32  # small files of one size that are worth compacting
_HEARTBEATS_KEPT: Final = timedelta(days=7)  # only the newest counts; earlier ones tell how the judge was at work

_UNREADABLE: Final[tuple[type[BaseException], ...]] = (StagekeeperError, *READ_FAILURES)

# By which column the age of a row is told.
_AGES: Final[Mapping[str, str]] = {
    EVENTS: "ingested_at",
    SIGNALS: "last_event_at",
    REJECTS: "rejected_at",
    DROPPED: "dropped_at",
    QUALITY: "run_at",
    VERDICTS: "judged_at",
    JUDGE_HEARTBEATS: "judged_at",
}


@dataclass(frozen=True)
class RetentionPolicy:
    """What is kept for how long."""

    roll_up_after: timedelta | None = timedelta(days=2)  # age from which minutes are rolled up; None never does
    # For ever where not named. Of `signals` only epochs that are over go, and of `verdicts` only repetitions.
    keep: Mapping[str, timedelta] = field(
        default_factory=lambda: {
            EVENTS: timedelta(days=400),
            REJECTS: timedelta(days=90),
            DROPPED: timedelta(days=400),
            QUALITY: timedelta(days=400),
        }
    )
    replay: timedelta = REPLAY  # how long a verdict can be reached again, at most `REPLAY`
    grace: timedelta = timedelta(minutes=30)  # how long files stay that only an earlier version consists of
    margin: timedelta = MARGIN  # what clocks may be apart

    def kept(self, table: str) -> timedelta | None:
        """For how long every row of a table is kept at least; None: for ever."""
        age = self.keep.get(table)
        return None if age is None else max(age, LEAST)


@dataclass(frozen=True)
class Step:
    """What was done to one table, or would be done."""

    table: str
    what: str  # `configure`, `roll_up`, `retain` or `vacuum`
    rows: int = 0  # rows that there are fewer
    files: int = 0  # files that went, or were rewritten
    size: int = 0  # bytes that were deleted
    note: str = ""  # what else is to be said; for a step that could not be done, why
    failed: bool = False  # whether it could not be done

    def to_dict(self) -> dict[str, Any]:
        """The step as a JSON object."""
        keys = {"what": "step", "size": "bytes"}
        return {keys.get(name, name): value for name, value in asdict(self).items()}


def compact(lake: Lake, *, fence: Fence | None = None) -> None:
    """Compact the small files of all tables; worth doing often. Raises as `Lake.compact`."""
    for table in TABLES:
        lake.compact(table, at_least=COMPACT_FILES, fence=fence)


@dataclass(frozen=True)
class Maintenance:
    """Roll-up, retention and vacuum of a lake: the slow part, now and then."""

    lake: Lake  # nobody else may use this handle meanwhile
    policy: RetentionPolicy
    gate_file: Path  # the gate file in force: what it needs minutes of is not rolled up
    fence: Fence | None = None  # proof of the lease, where more than one process might do this
    dry_run: bool = False  # change nothing; say what would be done

    def run(self, now: datetime) -> list[Step]:
        """Do everything that is due; a step that fails is reported, and the others are done.

        Raises `FencedError` where somebody else holds the lease; what was done before is right.
        """
        return list(self._steps(now))

    def _steps(self, now: datetime) -> Iterator[Step]:
        if self.policy.roll_up_after is not None:
            yield self._try(SIGNALS, "roll_up", partial(self._roll_up, now, self.policy.roll_up_after))
        for table, age in {JUDGE_HEARTBEATS: _HEARTBEATS_KEPT, **self.policy.keep}.items():
            yield self._try(table, "retain", partial(self._retain, table, now, age))
        if not self.dry_run:
            steps = (self._try(table, "configure", partial(self._configure, table)) for table in TABLES)
            yield from (step for step in steps if step.failed or step.note)
        try:
            needed = self._needed(now)
        except _UNREADABLE as error:
            # Without the ledger nobody knows what is needed.
            yield Step(VERDICTS, "vacuum", note=f"nothing is deleted: the ledger cannot be read: {error}", failed=True)
            return
        for table in TABLES:
            yield self._try(table, "vacuum", partial(self._vacuum, table, now, needed))

    def clean(self, now: datetime, tables: Collection[str]) -> Iterator[Step]:
        """Vacuum those of some tables of which no verdict names an earlier version; the others wait for `run`.

        Worth doing often where much is committed. Raises `FencedError` where somebody else holds the lease, and
        `LakeError` where the ledger cannot be read.
        """
        for table in tables:
            if not self._may_be_named(table, now):
                yield self._try(table, "vacuum", partial(self._vacuum, table, now, {}))

    def _may_be_named(self, table: str, now: datetime) -> bool:
        """Whether a promised verdict, or one that is being reached, may name an earlier version of a table."""
        if table not in {SIGNALS, EVENTS} or self.lake.version(VERDICTS) == 0:
            return False
        if table == SIGNALS:
            return True
        try:
            in_force = GateFile.load(self.gate_file).counts_users
        except StagekeeperError:
            in_force = True  # who judges may read another one
        return in_force or bool(self._counting_users(now))

    def _counting_users(self, now: datetime) -> list[str]:
        """The gate files of promised verdicts that count by user, or of which nobody knows it any more, by digest."""
        used = self._promised(now).select(pl.col("gate_sha256").unique()).collect()["gate_sha256"]
        return [digest for digest in used if self._counts_users(digest)]

    def _counts_users(self, digest: str) -> bool:
        try:
            return gate_store.load(self.lake, digest).counts_users
        except StagekeeperError:
            return True

    def _promised(self, now: datetime) -> pl.LazyFrame:
        since = now - min(self.policy.replay, REPLAY)
        return self.lake.scan(VERDICTS).filter(pl.col("judged_at") >= since)

    def _configure(self, table: str) -> Step:
        changed = keep_tombstones_short(self.lake, table)
        return Step(table, "configure", note="checkpoints forget what was taken out" if changed else "")

    def _try(self, table: str, what: str, work: Callable[[], Step]) -> Step:
        try:
            return work()
        except FencedError:
            raise
        except StagekeeperError as error:
            return Step(table, what, note=str(error), failed=True)
        except READ_FAILURES as error:
            return Step(table, what, note=str(unreadable(self.lake.root, error)), failed=True)

    def _roll_up(self, now: datetime, after: timedelta) -> Step:
        gates = GateFile.load(self.gate_file)
        newest = self.lake.scan(SIGNALS).select(pl.col("last_event_at").max()).collect().item()
        if newest is None:
            return Step(SIGNALS, "roll_up")
        # By the judge's clock, where there is a judge: what is overdue by it is, and nothing else.
        watermark = min(ledger.newest_watermark(self.lake) or newest, now)
        before = watermark - max(after, timedelta(seconds=gates.unrolled_s))
        compared = [gate.match for gate in gates.gates if gate.compares]
        actions = self.lake.scan(SIGNALS).select(ACTION).unique().collect().iter_rows() if compared else iter(())
        spared = {action for action in actions if any(match.may_cover(*action) for match in compared)}
        roll = RollUp(self.lake, before=before, spared=spared)
        had, left = roll.run(fence=self.fence, dry_run=self.dry_run)
        note = f"minutes before {before:%Y-%m-%d %H}:00"
        if spared:
            note += f"; {len(spared)} action{'s' * (len(spared) > 1)} whose minutes are compared stay as they are"
        return Step(SIGNALS, "roll_up", rows=had - left, note=note)

    def _retain(self, table: str, now: datetime, age: timedelta) -> Step:
        before = now - max(age, LEAST)
        but = None
        if table == SIGNALS:
            but = ~self._gone(before)
        elif table == VERDICTS:
            before = min(before, now - self.policy.replay)
            but = pl.col("changed") | pl.col("verdict_id").is_in(sorted(self._lasting()))
            but |= pl.col("verdict_id").str.starts_with(REASSESSED)
        rule = Rule(table, _AGES[table], before, but)
        taken = retain(self.lake, rule, fence=self.fence, dry_run=self.dry_run)
        return Step(table, "retain", taken.rows, taken.files + taken.rewritten, note=f"older than {before:%Y-%m-%d}")

    def _gone(self, before: datetime) -> pl.Expr:
        """The epochs that are over, and of which nothing was heard since."""
        epochs = (
            self.lake.scan(SIGNALS)
            .group_by(EPOCH)
            .agg(pl.col("last_event_at").max(), pl.col("bucket").max().alias("last_bucket"))
            .with_columns((pl.col("last_bucket") == pl.col("last_bucket").max().over(CELL)).alias("newest"))
            .filter((pl.col("last_event_at") < before) & ~pl.col("newest"))
            .select(EPOCH)
            .collect()
        )
        return pl.struct(EPOCH).is_in(epochs.to_dicts()) if epochs.height else pl.col(EPOCH[0]).is_null()

    def _lasting(self) -> set[str]:
        """Verdicts that later ones rest on: the last of each epoch, what had crossed, was signed off or carried out."""
        verdicts = self.lake.scan(VERDICTS).sort("judged_at", "lake_version")
        lasting = set(verdicts.group_by(EPOCH).agg(pl.col("verdict_id").last()).collect()["verdict_id"])
        crossed: Iterable[Mapping[Any, Any]] = ledger.latches(self.lake).values()
        lasting |= {latch.verdict_id for kinds in crossed for latch in kinds.values()}
        about = self.lake.scan(SIGNOFFS).select(pl.col("payload").str.extract_all(r'"[^"]+"').explode()).collect()
        enacted = self.lake.scan(ENACTMENTS).select(pl.col("payload").str.json_path_match("$.verdict_id")).collect()
        lasting |= {quoted.strip('"') for quoted in about["payload"].drop_nulls()}
        return lasting | set(enacted["payload"].drop_nulls())

    def _needed(self, now: datetime) -> dict[str, int]:
        """The oldest version of each table that a verdict within its promise names."""
        promised = self._promised(now)
        judged_at = pl.col("judged_at")
        oldest = promised.select(pl.col("lake_version").min()).collect().item()
        if oldest is None:
            return {}
        needed = {SIGNALS: oldest}
        # Versions rise with time, so the first day in which users were counted has the oldest of the events.
        promised = promised.filter(pl.col("gate_sha256").is_in(self._counting_users(now)))
        version = pl.col("payload").str.json_path_match("$.exposure.events_version").cast(pl.Int64)
        first, last = promised.select(judged_at.min().alias("first"), judged_at.max()).collect().row(0)
        day = first
        while day is not None and day <= last:
            of_day = promised.filter(judged_at.is_between(day, day + timedelta(days=1)))
            if (counted := of_day.select(version.min()).collect().item()) is not None:
                return needed | {EVENTS: counted}
            day += timedelta(days=1)
        return needed

    def _vacuum(self, table: str, now: datetime, needed: Mapping[str, int]) -> Step:
        unused_since = now.astimezone(UTC) - max(self.policy.grace, self.policy.margin)
        margin, oldest = self.policy.margin, needed.get(table)
        gone = vacuum(self.lake, table, unused_since=unused_since, needed=oldest, margin=margin, dry_run=self.dry_run)
        # What was taken out is known from the last checkpoint for a while, and longer only from the commits.
        age = LOG_KEPT if self.policy.grace < TOMBSTONES_KEPT else self.policy.grace
        unread_since = now.astimezone(UTC) - age
        shorter = trim_log(self.lake, table, unused_since=unread_since, needed=oldest, dry_run=self.dry_run)
        note = f"readable from version {gone.oldest_version}, {shorter:,} log files fewer"
        return Step(table, "vacuum", files=gone.files, size=gone.size, note=note)
