"""The fold of closed user-windows from the events of the lake, kept up from fold to fold.

The counters of a cell do not know whose actions they count, so the windows are taken from the events themselves: every
outcome is given to the decision it is about, and by it to the user that the decision's contract names. A decision that
names no user is an observation of its own, as if actions were independent.

The first fold reads every event of the epochs. A later fold reads

* the windows that have closed since the fold before,
* the windows for which any event was stored since then, whole: an outcome that comes late changes its user's window,
  and who was heavy in the one after it,
* everything of epochs that are new, or of which something came for a window that is no longer held by itself.

Windows that are older than everything that asks for single ones (the longest maturity, the detector) are held in spans
of 24 for 28 days, and as one afterwards. So memory is bounded by how many kinds of windows there are, and by users, at
sixteen bytes each. Where events were taken out of the table, or the gate file asks for older windows, everything is
folded anew.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.judging.heavy_users import blocks_of, heavy_after
from analytics.judging.user_decisions import closes_at, decisions_of, users_of
from analytics.judging.user_windows import (
    DUE,
    FAILED,
    FIRST_ACTIONS,
    IN_WINDOWS,
    LONG_AGO,
    WINDOW,
    ClosedWindows,
    OpenWindows,
    day_before,
    forgotten_by,
    in_spans,
    known_of,
    singly_since,
)
from analytics.signals.cells import ACTION, EPOCH, EpochKey, epoch_frame

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.judging.event_source import EventSource

_PERSON: Final = (*EPOCH, "who_1", "who_2")


class UserWindowFold:
    """The closed user-windows of a source of events, kept up from fold to fold."""

    def __init__(self, source: EventSource) -> None:
        self._source = source
        self._windows: ClosedWindows | None = None
        self._split = self._single = pl.DataFrame()
        self._amounts: tuple[str, ...] = ()
        self._deadline_s = 0.0
        self._stored = 0
        self._since = LONG_AGO
        # One row an epoch and user of its closed windows: `EPOCH`, two hashes of who it was, and when the first closed.
        self._people = pl.DataFrame()
        self._unnamed = pl.DataFrame()  # `EPOCH`, `closed_at`, and the `decisions` that named no user

    def fold(
        self,
        *,
        as_of: datetime,
        window_s: float,
        kept_s: float,
        epochs: pl.DataFrame,
        split: pl.DataFrame | None = None,
        amounts: tuple[str, ...] = (),
        deadline_s: float = 0.0,
        single: pl.DataFrame | None = None,
        version: int | None = None,
    ) -> ClosedWindows:
        """Fold what is new of some epochs, up to a version of the events; the first fold is the whole.

        `as_of` is the end of the newest closed window (`closed_through`), and `kept_s` for how long windows are asked
        for one by one. `split` names the actions whose users are split, by the columns of `ACTION`, and `single` those
        of which no windows are held as one. `amounts` are the measures of latency and cost that are counted, and
        `deadline_s` says when an execution that did not come is overdue.

        Raises:
            LakeError: The events cannot be read.
        """
        at = self._source.version() if version is None else version
        split = epochs.select(ACTION).clear() if split is None else split
        single = epochs.select(ACTION).clear() if single is None else single
        epochs = epochs.select(EPOCH).unique()
        since = singly_since(as_of, window_s, kept_s)
        stored = int(self._source.scan(at).select(pl.len()).collect().item())
        last = self._windows
        if (
            last is None
            or last.window_s != window_s
            or last.events_version > at
            or as_of < last.as_of
            or self._since > max(since, LONG_AGO)
            or not self._split.equals(split)
            or not self._single.equals(single)
            or (self._amounts, last.deadline_s) != (amounts, deadline_s)
        ):
            self._amounts, self._single, self._deadline_s = amounts, single, deadline_s
            windows = self._anew(at, as_of, window_s, epochs, split)
        else:
            windows = self._further(last, at, as_of, epochs, split, stored=stored)
        self._stored, self._split = stored, split
        self._windows = self._merged(windows, since)
        return self._windows

    def open_windows(self, windows: ClosedWindows, epochs: pl.DataFrame, *, version: int | None = None) -> OpenWindows:
        """What is known of the windows after the closed ones; raises `LakeError` where the events cannot be read."""
        at, every = self._source.version() if version is None else version, timedelta(seconds=windows.window_s)
        events = self._source.scan(at).filter(pl.col("decided_at") >= windows.as_of)
        decisions = decisions_of(
            events.join(epochs.select(EPOCH).unique().lazy(), on=EPOCH, how="semi"), windows.window_s
        )
        counts = users_of(decisions, ()).group_by(EPOCH).agg(pl.col(FIRST_ACTIONS).sum(), DUE.sum().alias("due"))
        heavy = windows.heavy.lazy().with_columns(pl.lit(windows.as_of + every).alias("closed_at"))
        counted, blocks = pl.collect_all([counts, blocks_of(decisions, heavy)])
        return OpenWindows(at, counted, blocks.drop("closed_at"))

    def _anew(
        self, at: int, as_of: datetime, window_s: float, epochs: pl.DataFrame, split: pl.DataFrame
    ) -> ClosedWindows:
        windows, self._people, self._unnamed = self._read(at, as_of, window_s, epochs, split, closed=None)
        self._since = LONG_AGO
        return windows

    def _further(
        self, last: ClosedWindows, at: int, as_of: datetime, epochs: pl.DataFrame, split: pl.DataFrame, *, stored: int
    ) -> ClosedWindows:
        """What is new since the fold before, on top of what was folded."""
        window_s = last.window_s
        fresh = self._source.increments(last.events_version, at)
        if fresh is None or self._stored + fresh.height != stored:
            # Events were taken out: what they added must not stay.
            return self._anew(at, as_of, window_s, epochs, split)
        touched = (
            fresh.filter(pl.col("decided_at").is_not_null())
            .select(*EPOCH, closes_at(window_s).alias("closed_at"))
            .unique()
            .join(epochs, on=EPOCH, how="semi")
        )
        covered = epoch_frame(last.covered)
        beyond = touched.filter(pl.col("closed_at") <= self._since).select(EPOCH)
        anew = pl.concat([epochs.join(covered, on=EPOCH, how="anti"), beyond.join(covered, on=EPOCH, how="semi")])
        anew = anew.unique()
        going = epochs.join(anew, on=EPOCH, how="anti")
        every = timedelta(seconds=window_s)
        closed = {last.as_of + every * step for step in range(1, round((as_of - last.as_of) / every) + 1)}
        late = set(touched.join(going, on=EPOCH, how="semi").filter(pl.col("closed_at") <= last.as_of)["closed_at"])
        # Who was heavy in a window decides about the one after it.
        again_closed = sorted(closed | late | {end + every for end in late if end + every <= as_of})
        again, people, unnamed = self._read(at, as_of, window_s, going, split, closed=again_closed)
        # A decision that comes late may be its user's first: the window that was it until now is one no longer.
        if moved := self._no_longer_first(people) - set(again_closed):
            again_closed = sorted(moved.union(again_closed))
            again, people, unnamed = self._read(at, as_of, window_s, going, split, closed=again_closed)
        whole, more_people, more_unnamed = self._read(at, as_of, window_s, anew, split, closed=None)

        def unchanged(table: pl.DataFrame) -> pl.DataFrame:
            left = table.join(going, on=EPOCH, how="semi")
            return left.filter(~pl.col("closed_at").is_in(again_closed)) if "closed_at" in left.columns else left

        self._people = _first_of(pl.concat([unchanged(self._people), people, more_people]))
        self._unnamed = pl.concat([unchanged(self._unnamed), unnamed, more_unnamed])
        return replace(
            last,
            events_version=at,
            as_of=as_of,
            covered=frozenset(epochs.iter_rows()),
            named=frozenset((last.named & set(going.iter_rows())) | again.named | whole.named),
            rows=pl.concat([unchanged(last.rows), again.rows, whole.rows]),
            assigned=pl.concat([unchanged(last.assigned), again.assigned, whole.assigned]),
            blocks=pl.concat([unchanged(last.blocks), again.blocks, whole.blocks]),
            heavy=pl.concat([again.heavy if as_of in again_closed else unchanged(last.heavy), whole.heavy]),
            by_hour=pl.concat([unchanged(last.by_hour), again.by_hour, whole.by_hour]),
        )

    def _read(
        self,
        at: int,
        as_of: datetime,
        window_s: float,
        epochs: pl.DataFrame,
        split: pl.DataFrame,
        *,
        closed: list[datetime] | None,
    ) -> tuple[ClosedWindows, pl.DataFrame, pl.DataFrame]:
        """Fold some windows of some epochs, all where None are given; with the people and the unnamed decisions."""
        events, every = self._source.scan(at), timedelta(seconds=window_s)
        if epochs.is_empty():
            events = events.head(0)
        elif closed is not None:
            # Windows that are still open tell which epochs name users at all.
            spans = [pl.col("decided_at") >= as_of]
            spans += [
                (pl.col("decided_at") >= first) & (pl.col("decided_at") < last)
                for first, last in _spans(sorted({*closed, *(end - every for end in closed)}), every)
            ]
            events = events.filter(pl.any_horizontal(spans))
        chosen = events.join(epochs.lazy(), on=EPOCH, how="semi")
        decisions = decisions_of(chosen, window_s, self._amounts, self._deadline_s)
        lazily = users_of(decisions, self._amounts)
        heavy = heavy_after(lazily, every)
        marked = lazily.join(heavy.with_columns(heavy=1), on=[*WINDOW, "who"], how="left")
        every_user, next_heavy, blocks = pl.collect_all(
            [marked.with_columns(pl.col("heavy").fill_null(0)), heavy, blocks_of(decisions, heavy)]
        )
        wanted = pl.col("closed_at") <= as_of if closed is None else pl.col("closed_at").is_in(closed)
        hashed = (pl.col("who").hash(seed).alias(f"who_{seed}") for seed in (1, 2))
        by_user = every_user.filter(wanted).with_columns(hashed)
        people = _first_of(by_user.filter(~pl.col("unnamed")).select(*_PERSON, first_closed_at="closed_at"))
        before = people if closed is None or self._people.is_empty() else _first_of(pl.concat([people, self._people]))
        by_user = by_user.join(before, on=_PERSON, how="left").with_columns(
            (pl.col("unnamed") | (pl.col("closed_at") == pl.col("first_closed_at"))).cast(pl.Int64).alias("is_first")
        )
        unnamed = by_user.filter("unnamed").group_by(WINDOW).agg(pl.col("decisions").sum())
        assigned = by_user.filter(pl.col("first_at").is_not_null()).select(*WINDOW, "who", "first_at")
        # Who it was is of no further use for signals: only how many windows were alike is kept.
        rows = by_user.group_by(*WINDOW, *self._in_windows).agg(pl.len().cast(pl.Int64).alias("count"))
        windows = ClosedWindows(
            at,
            as_of,
            window_s,
            frozenset(epochs.iter_rows()),
            {},
            {},
            frozenset(every_user.filter(~pl.col("unnamed")).select(EPOCH).unique().iter_rows()),
            rows,
            assigned.join(split, on=ACTION, how="semi"),
            blocks.filter(wanted),
            next_heavy.filter(pl.col("closed_at") == as_of + every).drop("closed_at"),
            _by_hour(by_user, every),
            self._deadline_s,
        )
        return windows, people, unnamed

    @property
    def _in_windows(self) -> tuple[str, ...]:
        return (*IN_WINDOWS, *self._amounts, *dict.fromkeys(map(known_of, self._amounts)))

    def _as_one(self, windows: ClosedWindows, old: pl.Expr) -> pl.DataFrame:
        """The rows with windows that are old held in spans, or as one, unless an execution of them became due later."""
        due_at = pl.col("closed_at") + pl.col("due_later") * timedelta(seconds=windows.window_s)
        old &= due_at <= self._since
        long_ago = pl.col("closed_at") <= forgotten_by(self._since)
        span = pl.when(long_ago).then(pl.lit(LONG_AGO)).otherwise(in_spans(self._since, windows.window_s))
        label = pl.when(old).then(span).otherwise("closed_at").alias("closed_at")
        later = pl.when(old).then(0).otherwise("due_later").alias("due_later")
        key = (*WINDOW, *self._in_windows)
        apart = windows.rows.join(self._single, on=ACTION, how="semi").select(*key, "count")
        rows = windows.rows.join(self._single, on=ACTION, how="anti").with_columns(label, later)
        return pl.concat([apart, rows.group_by(key).agg(pl.col("count").sum())])

    def _no_longer_first(self, people: pl.DataFrame) -> set[datetime]:
        """When the windows closed that were the first of people who turn out to have been there before."""
        if self._people.is_empty() or people.is_empty():
            return set()
        both = people.join(self._people, on=_PERSON, suffix="_known")
        moved = both.filter(pl.col("first_closed_at") < pl.col("first_closed_at_known"))
        return set(moved["first_closed_at_known"])

    def _merged(self, windows: ClosedWindows, since: datetime) -> ClosedWindows:
        """With what closed up to a moment held in spans, what is older as one window, and users counted."""
        self._since = max(self._since, since)
        old = pl.col("closed_at") <= forgotten_by(self._since)
        label = pl.when(old).then(pl.lit(LONG_AGO)).otherwise(in_spans(self._since, windows.window_s))
        label = label.alias("closed_at")
        rows = self._as_one(windows, old=pl.col("closed_at") <= self._since)
        alike = pl.exclude("count")
        blocks = windows.blocks.with_columns(label).group_by(alike).agg(pl.col("count").sum())
        # Of the course in time only the newest day is told from all before it.
        past = pl.col("closed_at") <= min(self._since, day_before(windows.as_of))
        long_ago = pl.when(past).then(pl.lit(LONG_AGO)).otherwise("closed_at").alias("closed_at")
        by_hour = (
            windows.by_hour.with_columns(long_ago).group_by(*WINDOW, "hour").agg(pl.col("windows", "failed").sum())
        )
        self._unnamed = self._unnamed.with_columns(label).group_by(WINDOW).agg(pl.col("decisions").sum())
        return replace(
            windows,
            people=_by_epoch(self._people.group_by(EPOCH).agg(pl.len())),
            unnamed=_by_epoch(self._unnamed.group_by(EPOCH).agg(pl.col("decisions").sum())),
            rows=rows,
            blocks=blocks,
            by_hour=by_hour,
        )


def _first_of(people: pl.DataFrame) -> pl.DataFrame:
    """One row an epoch and person, with the first of the closed windows in which they were seen."""
    return people.group_by(_PERSON).agg(pl.col("first_closed_at").min())


def _by_hour(by_user: pl.DataFrame, every: timedelta) -> pl.DataFrame:
    """The windows in which anything was due, and those of them with a failure, by the hour in which they opened."""
    failed = (pl.sum_horizontal(FAILED) > 0).cast(pl.Int64)
    return (
        by_user.filter(DUE > 0)
        .group_by(*WINDOW, (pl.col("closed_at") - every).dt.hour().alias("hour"))
        .agg(pl.len().cast(pl.Int64).alias("windows"), failed.sum().alias("failed"))
    )


def _spans(closed: list[datetime], every: timedelta) -> list[tuple[datetime, datetime]]:
    """When the decisions of some windows were made: adjoining windows as one span."""
    spans: list[tuple[datetime, datetime]] = []
    for end in closed:
        if spans and spans[-1][1] == end - every:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((end - every, end))
    return spans


def _by_epoch(counted: pl.DataFrame) -> dict[EpochKey, int]:
    return {row[: len(EPOCH)]: int(row[-1]) for row in counted.iter_rows()}
