"""The chain of the ledger: every row carries the digest of the row before it, so that history can only grow.

A judge numbers the rows as it writes them. `row_sha256` is the SHA-256 of the row's other columns as canonical JSON
(RFC 8785), `previous_sha256` that of the row before. Retention takes out repetitions, and so leaves gaps among the
numbers; what is news is numbered apart (`news`) and never taken out, so that it leaves none.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import polars as pl

from analytics.lake.table_schemas import VERDICTS
from analytics.text import iso
from producers.boundary.canonical_json import canonical
from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from analytics.lake.tables import Lake

_GAPLESS: Final = timedelta(days=1)  # retention takes out nothing younger than two days, by its own clock


class AlteredHistoryError(StagekeeperError):
    """The lake's history is not the one that was written: a row was changed, cut off, put in or put back."""


class ChainEnd(NamedTuple):
    """The last row of the ledger, which stands for all before it."""

    sequence: int = 0  # its number; 0 where there is no row
    news: int = 0  # how many rows were news up to it
    sha256: str = "0" * 64  # its digest


def link(rows: Iterable[dict[str, Any]], end: ChainEnd) -> ChainEnd:
    """Chain rows of the ledger to its end, by setting their four columns for it; gives the new end."""
    for row in rows:
        news = end.news + row["changed"]
        row |= {"sequence": end.sequence + 1, "news": news, "previous_sha256": end.sha256}
        row["row_sha256"] = digest_of(row)
        end = ChainEnd(end.sequence + 1, news, row["row_sha256"])
    return end


def digest_of(row: Mapping[str, Any]) -> str:
    """SHA-256 of a row of the ledger without its own digest, in hexadecimal."""
    return hashlib.sha256(canonical({name: row[name] for name in row if name != "row_sha256"})).hexdigest()


def end_of(lake: Lake) -> ChainEnd:
    """The end of the ledger as it is now. Raises `LakeError`."""
    return end_of_rows(lake.scan(VERDICTS))


def end_of_rows(ledger: pl.LazyFrame) -> ChainEnd:
    """The end of the ledger, read from its rows."""
    last = (
        ledger.filter(pl.col("sequence") == pl.col("sequence").max()).select("sequence", "news", "row_sha256").collect()
    )
    return ChainEnd(*last.row(0)) if last.height else ChainEnd()


def verify(lake: Lake, verdict_ids: Collection[str]) -> tuple[ChainEnd, pl.DataFrame]:
    """Check that some rows of the ledger are as they were written, and linked to its end; gives the end, and the rows.

    Raises `AlteredHistoryError` where they are not, or where news is missing or put in, and `LakeError`.
    """
    ledger = lake.scan(VERDICTS)
    rests_on = ledger.filter(pl.col("verdict_id").is_in(list(verdict_ids)))
    numbers, rows = pl.collect_all([ledger.select("sequence", "news", "changed"), rests_on])
    _check_numbers(lake.root, numbers)
    for row in rows.iter_rows(named=True):
        if digest_of(row) != row["row_sha256"]:
            raise _altered(lake.root, f"row {row['sequence']:,} (verdict {row['verdict_id']}) is not what was written")
    if missing := set(verdict_ids) - set(rows["verdict_id"]):
        raise _altered(lake.root, f"it holds no verdict {', '.join(sorted(missing))} any more")
    if rows.is_empty():
        return end_of(lake), rows
    first: Any = rows["sequence"].min()
    links = (
        ledger.filter(pl.col("sequence").is_between(first, int(numbers["sequence"].max() or 0)))  # type: ignore[arg-type]
        .select("sequence", "news", "judged_at", "previous_sha256", "row_sha256")
        .sort("sequence")
        .collect()
    )
    _check_links(lake.root, links)
    return ChainEnd(*links.select("sequence", "news", "row_sha256").row(-1)), rows


def _check_numbers(root: str, numbers: pl.DataFrame) -> None:
    if numbers.is_empty():
        return
    if numbers["sequence"].null_count():
        raise _altered(root, "it holds rows that no judge wrote")
    if numbers["sequence"].n_unique() != numbers.height:
        raise _altered(root, "two rows have the same number")
    news, last = numbers.filter("changed")["news"], int(numbers["news"].max())  # type: ignore[arg-type]
    if news.len() != last or news.n_unique() != last:
        raise _altered(root, f"of {last:,} rows that were news, {news.len():,} are there")


def _check_links(root: str, links: pl.DataFrame) -> None:
    follows = pl.col("sequence") == pl.col("sequence").shift(1) + 1
    # Only what is older than this may have been taken out as a repetition.
    young = pl.col("judged_at").shift(1) > pl.col("judged_at").max() - _GAPLESS
    broken = links.with_columns(
        wrong=follows & (pl.col("previous_sha256") != pl.col("row_sha256").shift(1)), cut=~follows & young
    ).filter(pl.col("wrong") | pl.col("cut"))
    if broken.height:
        row = broken.row(0, named=True)
        what = "does not follow from the one before it" if row["wrong"] else "follows on rows that are gone"
        raise _altered(root, f"row {row['sequence']:,}, of {iso(row['judged_at'])}, {what}")


def _altered(root: str, what: str) -> AlteredHistoryError:
    return AlteredHistoryError(
        f"the ledger of the lake at {root} was altered: {what}. Nothing opens on it: find out who may write there, and "
        "restore the lake from a backup of one moment."
    )
