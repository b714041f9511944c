"""Retention: take out rows that need not be kept any longer, as whole files, or once that is worth a rewrite."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.lake.errors import LakeError

if TYPE_CHECKING:
    from analytics.lake.rewrite import Rewriter, StoredFile
    from analytics.lake.tables import Fence, Lake

LEAST: Final = timedelta(days=2)  # nothing younger is taken out: repeats are told by it, and a restart begins with it
_SLACK: Final = timedelta(days=1)  # how much longer an old row may stay because its file holds younger ones too


@dataclass(frozen=True)
class Rule:
    """What of a table may go."""

    table: str
    by: str  # the column that a row's age is told by
    before: datetime  # rows from then on stay
    but: pl.Expr | None = None  # rows that stay whatever their age; None spares none

    @property
    def doomed(self) -> pl.Expr:
        """The rows that may go."""
        old = pl.col(self.by) < self.before
        return old if self.but is None else old & ~self.but

    @property
    def columns(self) -> list[str]:
        """The columns that it takes to tell."""
        return sorted({self.by, *(() if self.but is None else self.but.meta.root_names())})


@dataclass(frozen=True)
class Taken:
    """What a rule took out, or would take out."""

    rows: int = 0
    files: int = 0  # files that went as a whole
    rewritten: int = 0  # files of which younger rows stayed


def retain(lake: Lake, rule: Rule, *, fence: Fence | None = None, dry_run: bool = False) -> Taken:
    """Take out what a rule lets go, under the lease `maintenance`; a dry run only counts it.

    Raises `FencedError` where somebody else holds the lease, else `LakeError`; what was committed before is right.
    """
    rewriter = lake.rewriter(rule.table, fence=fence)
    whole, parts, rows = [], [], 0
    for file in rewriter.files():
        oldest = file.least.get(rule.by)
        if oldest is not None and oldest >= rule.before:
            continue
        doomed, left, first = _count(lake, rewriter, file, rule)
        if doomed and not left:
            whole.append(file)
        elif doomed and first is not None and first < rule.before - _SLACK:
            parts.append(file)
        else:
            continue
        rows += doomed
    taken = Taken(rows, len(whole), len(parts))
    if dry_run:
        return taken
    if whole:
        if not rewriter.remove(whole):
            return Taken()
        rewriter = rewriter.refreshed()
    for done, file in enumerate(parts):
        if not rewriter.rewrite([file], lambda some: some.filter(~rule.doomed)):
            return Taken(rows, len(whole), done)  # somebody else rewrites files; the next round goes on
        rewriter = rewriter.refreshed()
    return taken


def _count(lake: Lake, rewriter: Rewriter, file: StoredFile, rule: Rule) -> tuple[int, int, datetime | None]:
    """Rows of a file that may go, rows that stay, and the oldest that may go."""
    newest = file.most.get(rule.by)
    if rule.but is None and newest is not None and newest < rule.before:
        return file.rows, 0, file.least.get(rule.by)
    first_doomed = pl.col(rule.by).filter(rule.doomed).min().alias("first")
    try:
        rows = pl.scan_parquet(
            rewriter.uri(file), glob=False, hive_partitioning=False, storage_options=lake.options
        ).select(*rule.columns)
        counts = rows.select(rule.doomed.sum().alias("doomed"), pl.len().alias("height"), first_doomed)
        doomed, height, first = counts.collect().row(0)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise LakeError(f"{rule.table}: {file.path} cannot be read: {error}. The table is as it was.") from error
    return doomed, height - doomed, first
