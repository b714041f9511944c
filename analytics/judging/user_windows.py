"""What single users did: closed user-windows, folded from the events of the lake.

The counters of a cell do not know whose actions they count, so the windows are taken from the events themselves: every
outcome is given to the decision it is about, and by it to the user that the decision's contract names. A decision that
names no user is an observation of its own, as if actions were independent; how many those are stands in every verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl

from analytics.lake.table_schemas import EVENTS
from analytics.signals.cells import ACTION, EPOCH
from analytics.signals.definitions import RATES
from analytics.signals.event_kinds import EventKind, kinds_moving

if TYPE_CHECKING:
    from collections.abc import Mapping

    from analytics.lake.tables import Lake
    from analytics.signals.cells import EpochKey

_EPOCH_START: Final = datetime(1970, 1, 1, tzinfo=UTC)

BY_USER: Final[tuple[str, ...]] = tuple(name for name in RATES if name != "missing_outcome")
"""Rates that can be counted by user."""
COUNTED_BY_USER: Final = tuple(
    dict.fromkeys(name for rate in BY_USER for name in (*RATES[rate].trials, *RATES[rate].failures))
)
"""Counters of a user-window."""


@dataclass(frozen=True, slots=True)
class Observed:
    """User-windows of one signal in one epoch: how many had m trials and y failures. Sorted, of equal length.

    Attributes:
        trials: m, at least 1.
        failures: y, at most m.
        count: User-windows with that m and y.
    """

    trials: tuple[int, ...]
    failures: tuple[int, ...]
    count: tuple[int, ...]

    @property
    def windows(self) -> int:
        """User-windows in all."""
        return sum(self.count)

    @property
    def value(self) -> float | None:
        """The failed share of the average user-window; None without any."""
        shares = (n * (y / m) for m, y, n in zip(self.trials, self.failures, self.count, strict=True))
        return sum(shares) / self.windows if self.count else None


@dataclass(frozen=True, slots=True)
class Users:
    """How far user-windows were folded, and what is in them.

    Attributes:
        events_version: Version of the table `events`.
        as_of: End of the newest closed window.
        window_s: Length of a window, seconds.
        covered: The epochs that were looked at.
        people: Different users of each epoch in closed windows.
        unnamed: Decisions of each epoch in closed windows that name no user.
        named: Epochs of which any decision names a user, in a closed window or not.
        rows: One row an epoch, closed window and user: `EPOCH`, `closed_at`, and the counters.
        assigned: Of the actions whose users are split, one row an epoch, closed window and user: `EPOCH`, `closed_at`,
            `who`, and the moment `first_at` of the user's first decision there.
    """

    events_version: int
    as_of: datetime
    window_s: float
    covered: frozenset[EpochKey]
    people: Mapping[EpochKey, int]
    unnamed: Mapping[EpochKey, int]
    named: frozenset[EpochKey]
    rows: pl.DataFrame
    assigned: pl.DataFrame

    def observed(self, signal: str, *, maturity_s: float = 0.0) -> dict[EpochKey, Observed]:
        """The table (m, y) of a signal in every epoch.

        Args:
            signal: One of `BY_USER`.
            maturity_s: Count only windows that have been closed for this long.
        """
        tabled = self.tabled(signal, maturity_s=maturity_s).group_by(EPOCH, maintain_order=True).agg("m", "y", "count")
        return {
            row[: len(EPOCH)]: Observed(tuple(row[-3]), tuple(row[-2]), tuple(row[-1])) for row in tabled.iter_rows()
        }

    def tabled(self, signal: str, *, maturity_s: float = 0.0) -> pl.DataFrame:
        """The same as one table: `EPOCH`, `m`, `y` and `count`, by m and y."""
        return (
            self._windows(signal, pl.col("closed_at") + timedelta(seconds=maturity_s) <= self.as_of)
            .group_by(*EPOCH, "m", "y")
            .agg(pl.col("count").sum())
            .sort("m", "y")
            .collect()
        )

    def batches(self, signal: str, *, since: datetime) -> pl.DataFrame:
        """The windows of a signal, batch by batch: those that closed together are one.

        Args:
            signal: One of `BY_USER`.
            since: Leave out windows that had closed by then.

        Returns:
            `EPOCH`, `closed_at`, `m` trials, `y` failures and how many windows (`count`) are alike, in that order.
        """
        closed = (pl.col("closed_at") > since) & (pl.col("closed_at") <= self.as_of)
        key = [*EPOCH, "closed_at", "m", "y"]
        return self._windows(signal, closed).group_by(key).agg(pl.col("count").sum()).sort(key).collect()

    def _windows(self, signal: str, closed: pl.Expr) -> pl.LazyFrame:
        """The chosen windows that have trials of a signal: `EPOCH`, `closed_at`, m, y and how many are alike."""
        rate = RATES[signal]
        return (
            self.rows.lazy()
            .filter(closed)
            .select(
                *EPOCH,
                "closed_at",
                pl.sum_horizontal(rate.trials).alias("m"),
                pl.sum_horizontal(rate.failures).alias("y"),
                "count",
            )
            .filter(pl.col("m") > 0)
            .with_columns(pl.min_horizontal("m", "y").alias("y"))
        )


class Read(NamedTuple):
    """What was folded, with what it takes to fold further.

    Attributes:
        users: The fold.
        people: One row an epoch and user of its closed windows: `EPOCH`, and two hashes of who it was.
        unnamed: `EPOCH`, `closed_at`, and the `decisions` that named no user.
    """

    users: Users
    people: pl.DataFrame
    unnamed: pl.DataFrame


def closed_through(watermark: datetime, window_s: float) -> datetime:
    """The end of the newest window that is closed."""
    whole = (watermark - _EPOCH_START) // timedelta(seconds=window_s)
    return _EPOCH_START + whole * timedelta(seconds=window_s)


def fold_users(
    lake: Lake,
    *,
    as_of: datetime,
    window_s: float,
    epochs: pl.DataFrame,
    version: int | None = None,
    split: pl.DataFrame | None = None,
) -> Users:
    """Fold the closed user-windows of a lake.

    Args:
        lake: The lake.
        as_of: End of the newest closed window; see `closed_through`.
        window_s: Length of a window, seconds; windows are counted from 1970 on.
        epochs: A frame with the columns of `EPOCH`; only these are folded.
        version: Version of the table `events`; the newest unless given.
        split: A frame with the columns of `ACTION`: the actions whose users are split.

    Raises:
        LakeError: The lake cannot be read, or has no such version.
    """
    known = lake.version(EVENTS) if version is None else version
    wanted = epochs.select(EPOCH).unique()
    read = read_events(lake.scan(EVENTS, version=known).join(wanted.lazy(), on=EPOCH, how="semi"))
    return fold_read(read, version=known, as_of=as_of, window_s=window_s, epochs=wanted, split=split).users


def read_events(events: pl.LazyFrame) -> pl.LazyFrame:
    """Counters of each countable row of the table `events`: a 1 in every counter that its kind moves."""
    return events.filter(pl.col("decided_at").is_not_null() & (pl.col("kind") != EventKind.UNCOUNTED)).select(
        *EPOCH,
        "subject",
        "decided_at",
        "time",
        "user",
        *(pl.col("kind").is_in(kinds_moving(name)).cast(pl.Int64).alias(name) for name in COUNTED_BY_USER),
    )


def fold_read(
    read: pl.LazyFrame,
    *,
    version: int,
    as_of: datetime,
    window_s: float,
    epochs: pl.DataFrame,
    split: pl.DataFrame | None = None,
) -> Read:
    """Fold the closed user-windows of events that were read already; arguments as in `fold_users`."""
    # Window by window, so that some can be folded without the others. All events of a decision carry its moment.
    by_decision = (
        read.with_columns(closes_at(window_s).alias("closed_at"))
        .group_by(*EPOCH, "closed_at", "subject")
        .agg(pl.col("user").drop_nulls().first(), pl.col("decided_at").min(), pl.col(COUNTED_BY_USER).sum())
    )
    # A decision without a user must not share a window with another: its own id stands for the user.
    who = pl.when(pl.col("user").is_null()).then(pl.concat_str(pl.lit("\0"), "subject")).otherwise("user")
    every_user = (
        by_decision.with_columns(who.alias("who"))
        .group_by(*EPOCH, "closed_at", "who")
        .agg(
            pl.col(COUNTED_BY_USER).sum(),
            pl.col("user").is_null().any().alias("unnamed"),
            pl.col("decided_at").filter(pl.col("decisions") > 0).min().alias("first_at"),
        )
        .collect()
    )
    by_user = every_user.filter(pl.col("closed_at") <= as_of)
    hashed = (pl.col("who").hash(seed).alias(f"who_{seed}") for seed in (1, 2))
    people = by_user.filter(~pl.col("unnamed")).select(*EPOCH, *hashed).unique()
    unnamed = by_user.filter("unnamed").group_by(*EPOCH, "closed_at").agg(pl.col("decisions").sum())
    kept = by_user.filter(pl.col("first_at").is_not_null()).select(*EPOCH, "closed_at", "who", "first_at")
    assigned = kept.clear() if split is None else kept.join(split, on=ACTION, how="semi")
    # Who it was is of no further use for signals: only how many windows were alike is kept.
    rows = by_user.group_by(*EPOCH, "closed_at", *COUNTED_BY_USER).agg(pl.len().cast(pl.Int64).alias("count"))
    users = Users(
        version,
        as_of,
        window_s,
        frozenset(epochs.select(EPOCH).iter_rows()),
        _by_epoch(people.group_by(EPOCH).agg(pl.len())),
        _by_epoch(unnamed.group_by(EPOCH).agg(pl.col("decisions").sum())),
        frozenset(every_user.filter(~pl.col("unnamed")).select(EPOCH).unique().iter_rows()),
        rows,
        assigned,
    )
    return Read(users, people, unnamed)


def closes_at(window_s: float) -> pl.Expr:
    """The end of the window that a decision lies in."""
    every_us = round(window_s * 1_000_000)
    return ((pl.col("decided_at").dt.epoch("us") // every_us + 1) * every_us).cast(pl.Datetime("us", "UTC"))


def _by_epoch(counted: pl.DataFrame) -> dict[EpochKey, int]:
    return {row[: len(EPOCH)]: int(row[-1]) for row in counted.iter_rows()}
