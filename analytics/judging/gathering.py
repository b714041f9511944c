"""Closed user-windows kept up from fold to fold: only what has closed, or changed by something late, is read.

`users.fold_users` reads every event of an epoch; whoever reaches a verdict again does that. A judge that did it each
time a window closes would read all history every hour. Here what was folded stays as it is, and a fold reads

* the windows that have closed since the fold before,
* the windows for which any event was stored since then, whole: an outcome that comes late changes its user's window,
* everything of epochs that are new, or of which something came for a window that is no longer held by itself.

Windows that are older than everything that asks for single ones (the longest maturity, the detector's lookback) are
held as one. So memory is bounded by how many kinds of windows there are, and by users, of whom sixteen bytes each are
kept. Where events were taken out of the table, or the gate file asks for older windows, everything is folded anew. The
outcome equals that of a whole fold at the same version; tests/property/test_gathering_laws.py holds them equal.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.judging.user_windows import COUNTED_BY_USER, Users, closes_at, fold_read, read_events
from analytics.lake.errors import LakeError
from analytics.lake.table_schemas import EVENTS
from analytics.signals.cells import EPOCH

if TYPE_CHECKING:
    from analytics.lake.tables import Lake
    from analytics.signals.cells import EpochKey

LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""When all windows closed that are held as one."""

_WINDOW: Final = (*EPOCH, "closed_at")


class Gathering:
    """The closed user-windows of a lake.

    Args:
        lake: The lake, for the table `events`.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._users: Users | None = None
        self._split = pl.DataFrame()
        self._stored = 0
        self._since = LONG_AGO
        self._people = pl.DataFrame()
        self._unnamed = pl.DataFrame()

    @property
    def as_of(self) -> datetime | None:
        """End of the newest closed window that was folded; None before the first fold."""
        return None if self._users is None else self._users.as_of

    def fold(
        self,
        *,
        as_of: datetime,
        window_s: float,
        kept_s: float,
        epochs: pl.DataFrame,
        split: pl.DataFrame,
        version: int | None = None,
    ) -> Users:
        """Fold what is new; the same as `fold_users` with the same arguments.

        Args:
            as_of: End of the newest closed window; never before that of the last fold.
            window_s: Length of a window, seconds.
            kept_s: For how long windows are asked for one by one, seconds.
            epochs: A frame with the columns of `EPOCH`; only these are folded.
            split: A frame with the columns of `ACTION`: the actions whose users are split.
            version: Version of the table `events`; the newest unless given.

        Raises:
            LakeError: The lake cannot be read.
        """
        at = self._lake.version(EVENTS) if version is None else version
        wanted = epochs.select(EPOCH).unique()
        stored = int(self._lake.scan(EVENTS, version=at).select(pl.len()).collect().item())
        known, since = self._users, as_of - timedelta(seconds=kept_s)
        if (
            known is None
            or known.window_s != window_s
            or known.events_version > at
            or as_of < known.as_of
            or self._since > max(since, LONG_AGO)
            or not self._split.equals(split)
        ):
            users = self._anew(at, as_of, window_s, wanted, split)
        else:
            users = self._further(known, at, as_of, wanted, split, stored=stored)
        self._stored, self._split = stored, split
        self._users = self._merged(users, since)
        return self._users

    def _anew(self, at: int, as_of: datetime, window_s: float, wanted: pl.DataFrame, split: pl.DataFrame) -> Users:
        """Everything, read from the beginning."""
        users, people, unnamed = self._read(at, as_of, window_s, wanted, split, windows=None)
        self._people, self._unnamed, self._since = people, unnamed, LONG_AGO
        return users

    def _further(
        self, known: Users, at: int, as_of: datetime, wanted: pl.DataFrame, split: pl.DataFrame, *, stored: int
    ) -> Users:
        """What is new since the fold before, on top of what is known."""
        window_s = known.window_s
        fresh = self._fresh(known.events_version, at)
        if fresh is None or self._stored + fresh.height != stored:
            # Events were taken out: what they added must not stay.
            return self._anew(at, as_of, window_s, wanted, split)
        touched = (
            fresh.filter(pl.col("decided_at").is_not_null())
            .select(*EPOCH, closes_at(window_s).alias("closed_at"))
            .unique()
            .join(wanted, on=EPOCH, how="semi")
        )
        covered = _frame(known.covered)
        beyond = touched.filter(pl.col("closed_at") <= self._since).select(EPOCH)
        anew = pl.concat([wanted.join(covered, on=EPOCH, how="anti"), beyond.join(covered, on=EPOCH, how="semi")])
        anew, going = anew.unique(), wanted.join(anew, on=EPOCH, how="anti")
        every = timedelta(seconds=window_s)
        closed = {known.as_of + every * step for step in range(1, round((as_of - known.as_of) / every) + 1)}
        late = touched.join(going, on=EPOCH, how="semi").filter(pl.col("closed_at") <= known.as_of)["closed_at"]
        windows = sorted(closed | set(late))
        again, people, unnamed = self._read(at, as_of, window_s, going, split, windows=windows)
        whole, more_people, more_unnamed = self._read(at, as_of, window_s, anew, split, windows=None)

        def kept(table: pl.DataFrame) -> pl.DataFrame:
            """What stays of a table: epochs that go on, without the windows that were read again."""
            left = table.join(going, on=EPOCH, how="semi")
            return left.filter(~pl.col("closed_at").is_in(windows)) if "closed_at" in left.columns else left

        self._people = pl.concat([kept(self._people), people, more_people]).unique()
        self._unnamed = pl.concat([kept(self._unnamed), unnamed, more_unnamed])
        return replace(
            known,
            events_version=at,
            as_of=as_of,
            covered=frozenset(wanted.iter_rows()),
            named=frozenset((known.named & set(going.iter_rows())) | again.named | whole.named),
            rows=pl.concat([kept(known.rows), again.rows, whole.rows]),
            assigned=pl.concat([kept(known.assigned), again.assigned, whole.assigned]),
        )

    def _fresh(self, after: int, through: int) -> pl.DataFrame | None:
        """Which windows events were stored for between two versions; None where the log does not reach back."""
        try:
            return self._lake.increments(EVENTS, after=after, through=through, columns=[*EPOCH, "decided_at"])
        except LakeError:
            return None

    def _read(
        self,
        at: int,
        as_of: datetime,
        window_s: float,
        epochs: pl.DataFrame,
        split: pl.DataFrame,
        *,
        windows: list[datetime] | None,
    ) -> tuple[Users, pl.DataFrame, pl.DataFrame]:
        """Fold some windows of some epochs (all where None are given), with who was in them and who was not named."""
        events = self._lake.scan(EVENTS, version=at)
        if epochs.is_empty():
            events = events.head(0)
        elif windows is not None:
            # Windows that are still open tell which epochs name users at all.
            spans = [pl.col("decided_at") >= as_of]
            spans += [
                (pl.col("decided_at") >= first) & (pl.col("decided_at") < last)
                for first, last in _spans(windows, timedelta(seconds=window_s))
            ]
            events = events.filter(pl.any_horizontal(spans))
        read = read_events(events.join(epochs.lazy(), on=EPOCH, how="semi"))
        folded = fold_read(read, version=at, as_of=as_of, window_s=window_s, epochs=epochs, split=split)
        return folded.users, folded.people, folded.unnamed

    def _merged(self, users: Users, since: datetime) -> Users:
        """With everything that closed up to a moment held as one window."""
        self._since = max(self._since, since)
        old = pl.col("closed_at") <= self._since
        label = pl.when(old).then(pl.lit(LONG_AGO)).otherwise("closed_at").alias("closed_at")
        rows = users.rows.with_columns(label).group_by(*_WINDOW, *COUNTED_BY_USER).agg(pl.col("count").sum())
        self._unnamed = self._unnamed.with_columns(label).group_by(_WINDOW).agg(pl.col("decisions").sum())
        return replace(
            users,
            people=_by_epoch(self._people.group_by(EPOCH).agg(pl.len())),
            unnamed=_by_epoch(self._unnamed.group_by(EPOCH).agg(pl.col("decisions").sum())),
            rows=rows,
        )


def _spans(windows: list[datetime], every: timedelta) -> list[tuple[datetime, datetime]]:
    """When the decisions of some windows were made: adjoining windows as one span."""
    spans: list[tuple[datetime, datetime]] = []
    for closed in windows:
        if spans and spans[-1][1] == closed - every:
            spans[-1] = (spans[-1][0], closed)
        else:
            spans.append((closed - every, closed))
    return spans


def _frame(keys: frozenset[EpochKey]) -> pl.DataFrame:
    return pl.DataFrame(list(keys), schema=dict.fromkeys(EPOCH, pl.String), orient="row")


def _by_epoch(counted: pl.DataFrame) -> dict[EpochKey, int]:
    return {row[: len(EPOCH)]: int(row[-1]) for row in counted.iter_rows()}
