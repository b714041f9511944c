"""Roll old minutes of `signals` up to hours: fewer rows, the same sums.

A rolled row stands for the minutes of one hour of an epoch. Its bucket is the last of them plus one microsecond, by
which it can be told from a minute (`is_rolled`), and sorts where it belongs. What comes out the same afterwards:

- Every sum over an epoch and an hour of buckets, of every counter and histogram bin, and the newest event in it.
- The first and the last minute of an epoch: these two are never rolled.
- Missing executions, counted minute by minute and never below zero: a minute that adds nothing to them (as many
  executions came as were expected) gives its `expected` and `executed` to the hour; of any other minute, these two
  counters stay in a row of their own.
- What was known when, to the hour: rows whose newest event lies in different hours are not added up.

Each law is linear in the rows, so any of them may be rolled, in any number of rounds. What needs single minutes for
another reason (a maturity, the detector's window, a baseline in the same minutes) is kept out by whoever chooses.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.lake.errors import LakeError
from analytics.lake.rewrite import Rewriter, StoredFile, chunks
from analytics.lake.table_schemas import COLUMNS, SIGNALS
from analytics.signals.cells import ACTION, EPOCH, MINUTE_US
from analytics.signals.definitions import COUNTERS, HISTOGRAMS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from analytics.lake.tables import Fence, Lake

_ROLLED: Final = timedelta(microseconds=1)
_MINUTE_BY_MINUTE: Final = ("expected", "executed")
_WORTH: Final = 0.25  # share of a file's rows that must go before it is rewritten
_ROWS_AT_ONCE: Final = 1_500_000  # rows that are in memory at once, about
_LIGHT: Final = (*EPOCH, "bucket", "last_event_at", "last_ingested_at", *_MINUTE_BY_MINUTE)


def is_rolled(bucket: str = "bucket") -> pl.Expr:
    """Whether a row of `signals` stands for an hour."""
    return pl.col(bucket).dt.epoch("us") % MINUTE_US != 0


def roll(minutes: pl.DataFrame) -> pl.DataFrame:
    """Sum rows of minutes, none of them rolled yet, to the rows of hours that take their place."""
    uneven = (pl.col("expected").sum() != pl.col("executed").sum()).over(*EPOCH, "bucket")
    last = pl.col("bucket").max().over(*EPOCH, pl.col("bucket").dt.truncate("1h"))
    marked = minutes.with_columns(uneven.alias("uneven"), (last + _ROLLED).alias("hour"))
    rest = [name for name in COUNTERS if name not in _MINUTE_BY_MINUTE]
    to_hours = marked.with_columns(
        pl.col("hour").alias("bucket"),
        *(pl.when("uneven").then(0).otherwise(pl.col(name)).alias(name) for name in _MINUTE_BY_MINUTE),
    )
    lists = [f"{name}_{part}" for name in HISTOGRAMS for part in ("bins", "counts")]
    nothing = (pl.lit([], dtype=COLUMNS[SIGNALS][name]).alias(name) for name in lists)
    zeros = (pl.lit(0, dtype=pl.Int64).alias(name) for name in rest)
    stay = marked.filter("uneven", pl.any_horizontal(pl.col(_MINUTE_BY_MINUTE) != 0)).with_columns(*zeros, *nothing)
    return _summed(pl.concat([to_hours, stay]).drop("uneven", "hour"))


def _summed(rows: pl.DataFrame) -> pl.DataFrame:
    key = [*EPOCH, "bucket", "known"]
    rows = rows.with_columns(pl.col("last_event_at").dt.truncate("1h").alias("known"))
    summed = rows.group_by(key).agg(
        pl.col("risk_rank", "last_event_at", "last_ingested_at").max(), pl.col(*COUNTERS).sum()
    )
    for name in HISTOGRAMS:
        bins, counts = f"{name}_bins", f"{name}_counts"
        merged = (
            rows.filter(pl.col(bins).list.len() > 0)
            .select(*key, bins, counts)
            .explode(bins, counts)
            .group_by(*key, bins)
            .agg(pl.col(counts).sum())
            .sort(bins)
            .group_by(key, maintain_order=True)
            .agg(bins, counts)
        )
        summed = summed.join(merged, on=key, how="left").with_columns(pl.col(bins, counts).fill_null([]))
    columns = (pl.col(name).cast(kind) for name, kind in COLUMNS[SIGNALS].items())
    return summed.select(columns).sort(*EPOCH, "bucket", "last_event_at")


class RollUp:
    """Rolls minutes of `signals` that nobody needs any more: of hours that were over, and known, `before` a moment.

    Of the actions (environment, workflow, tool) that are `spared`, every minute stays.
    """

    def __init__(self, lake: Lake, *, before: datetime, spared: Collection[tuple[str, ...]] = ()) -> None:
        self._lake = lake
        self._before = before.replace(minute=0, second=0, microsecond=0)
        self._spared = [dict(zip(ACTION, action, strict=True)) for action in spared]

    def run(self, *, fence: Fence | None = None, dry_run: bool = False) -> tuple[int, int]:
        """Roll where it is worth it, commit by commit; gives rows before and after, in the files that were rewritten.

        Raises `FencedError` where somebody else holds the lease, else `LakeError`; what was committed before is
        right.
        """
        rewriter = self._lake.rewriter(SIGNALS, fence=fence)
        ends = self._ends()
        worth = self._worth(rewriter, ends)
        before = after = 0
        for chunk in _chunks(file for file in rewriter.files() if file.path in worth):
            rows = self.read(rewriter, chunk, tuple(COLUMNS[SIGNALS]))
            eligible = self._eligible(rows, ends)
            rolled = pl.concat([rows.filter(~eligible), roll(rows.filter(eligible))])
            if not dry_run:
                if not rewriter.replace(chunk, rolled):
                    break  # somebody else rewrites files; the next round goes on
                rewriter = rewriter.refreshed()
            before, after = before + rows.height, after + rolled.height
        return before, after

    def _ends(self) -> pl.DataFrame:
        """The first and the last minute of every epoch."""
        epochs = self._lake.scan(SIGNALS).group_by(EPOCH)
        return epochs.agg(pl.col("bucket").min().alias("first"), pl.col("bucket").max().alias("last")).collect()

    def _worth(self, rewriter: Rewriter, ends: pl.DataFrame) -> set[str]:
        """The files of which enough rows would go."""
        worth = set()
        hour, known = (pl.col(name).dt.truncate("1h") for name in ("bucket", "last_event_at"))
        buckets = ((file, file.least.get("bucket")) for file in rewriter.files())
        for chunk in _chunks(file for file, oldest in buckets if oldest is None or oldest < self._before):
            rows = self.read(rewriter, chunk, _LIGHT, path=True)
            uneven = (pl.col("expected").sum() != pl.col("executed").sum()).over("path", *EPOCH, "bucket")
            left = (
                rows.filter(self._eligible(rows, ends))
                .with_columns(hour=hour, known=known, uneven=uneven)
                .group_by("path")
                .agg(
                    pl.len().alias("candidates"),
                    pl.struct(*EPOCH, "hour", "known").n_unique().alias("hours"),
                    pl.struct(*EPOCH, "bucket", "known").filter("uneven").n_unique().alias("minutes"),
                )
            )
            by_uri = {rewriter.uri(file): file for file in chunk}
            for row in left.iter_rows(named=True):
                file = by_uri[row["path"]]
                if row["candidates"] - row["hours"] - row["minutes"] >= _WORTH * file.rows:
                    worth.add(file.path)
        return worth

    def read(
        self, rewriter: Rewriter, files: Sequence[StoredFile], columns: Sequence[str], *, path: bool = False
    ) -> pl.DataFrame:
        """Columns of some files, and where a row lies if asked for; raises `LakeError` where a file cannot be read."""
        uris, options = [rewriter.uri(file) for file in files], self._lake.options
        name = "path" if path else None
        try:
            rows = pl.scan_parquet(
                uris, glob=False, hive_partitioning=False, include_file_paths=name, storage_options=options
            )
            return rows.select(*columns, *filter(None, [name])).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise LakeError(f"signals: old minutes cannot be read: {error}. The table is as it was.") from error

    def _eligible(self, rows: pl.DataFrame, ends: pl.DataFrame) -> pl.Series:
        at_end = rows.select(*EPOCH, "bucket").join(ends, on=EPOCH, how="left", maintain_order="left")
        old = (pl.col("bucket") < self._before) & (pl.col("last_event_at") < self._before) & ~is_rolled()
        # What was read lately may still be waited for, by which its minutes must be told.
        old &= (pl.col("last_ingested_at") < self._before).fill_null(value=True)
        if self._spared:
            old &= ~pl.struct(ACTION).is_in(self._spared)
        inner = at_end.select((pl.col("bucket") > pl.col("first")) & (pl.col("bucket") < pl.col("last"))).to_series()
        return rows.select(old).to_series() & inner.fill_null(value=False)


def _chunks(files: Iterable[StoredFile]) -> Iterator[list[StoredFile]]:
    return chunks(list(files), _ROWS_AT_ONCE, lambda file: file.rows)
