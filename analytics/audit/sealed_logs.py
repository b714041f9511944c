"""The transparency logs of a lake: which rows are their entries, in which order, and as which bytes.

- A log for each partition of Kafka: the rows of `events`, in the order of their offsets.
- A log of the ledger: the rows of `verdicts` that were news, in the order of their numbers. Repetitions, which
  retention may take out, are in no log.
- A log each of what people signed off and of what was enacted: the rows as they were appended.

An entry holds the whole row, so that no column can be changed unseen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl

from analytics.lake.commits import SourcePartition
from analytics.lake.table_schemas import COLUMNS, ENACTMENTS, EVENTS, SIGNOFFS, VERDICTS
from producers.boundary.canonical_json import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARTITION: Final = SourcePartition._fields
_EVENTS_V1: Final = "stagekeeper/events/v1/"
_OTHERS: Final = {table: f"stagekeeper/{table}/v1" for table in (VERDICTS, SIGNOFFS, ENACTMENTS)}
SEALED: Final = (EVENTS, *_OTHERS)
"""The tables that have logs."""
NUMBERLESS: Final = (SIGNOFFS, ENACTMENTS)
"""Those of them whose rows have no number of their own: their entries are numbered from 1 as they are sealed."""

# What an entry of a partition states before the bytes of the event. Another list is another version of the log.
_STATED: Final = (
    "offset", "id", "type", "source", "time", "subject", "environment", "workflow", "tool", "stage", "cohort", "epoch",
    "decided_at", "broker_at", "ingested_at", "kind", "user", "latency_us", "cost_microusd",
    "incarnation", "sequence",
)  # fmt: skip


class Entries(NamedTuple):
    """Entries of one log, in its order."""

    log: str
    positions: list[int]  # where each stands in its source: its offset, or its number among the rows
    data: list[bytes]


def table_of(log: str) -> str | None:
    """The table whose rows a log has; None where this version knows no such log."""
    return EVENTS if log.startswith(_EVENTS_V1) else next((table for table in _OTHERS if _OTHERS[table] == log), None)


def own_log(table: str) -> str:
    """The log that all rows of a table are in; of `events`, which has several, a name that none of them has."""
    return _OTHERS.get(table, _EVENTS_V1)


def rows_of(log: str) -> pl.Expr:
    """Which rows of its table belong to a log."""
    if table_of(log) == EVENTS:
        return partition_log() == log
    return pl.col("changed") if log == own_log(VERDICTS) else pl.lit(value=True)


def entries(table: str, rows: pl.DataFrame) -> Iterator[Entries]:
    """The entries that rows of a table make, by log."""
    if table == EVENTS:
        stated = pl.concat_str([*map(_stated, _STATED), pl.lit("")], separator=",").cast(pl.Binary)
        made = rows.select("offset", stated.alias("stated"), "value", partition_log().alias("log")).sort(
            "log", "offset"
        )
        for log, first, count in (
            made.select(pl.col("log").rle().struct.unnest())
            .select("value", pl.col("len").cum_sum() - pl.col("len"), pl.col("len").alias("count"))
            .iter_rows()
        ):
            own = made.slice(first, count)
            data = [
                header + value for header, value in zip(own["stated"].to_list(), own["value"].to_list(), strict=True)
            ]
            yield Entries(log, own["offset"].to_list(), data)
        return
    if table == VERDICTS:
        rows = rows.filter("changed").sort("news")
    if rows.height:
        numbers = rows["news"].to_list() if table == VERDICTS else list(range(1, rows.height + 1))
        dicts = rows.select(COLUMNS[table].names()).iter_rows(named=True)
        yield Entries(_OTHERS[table], numbers, list(map(canonical, dicts)))


def partition_log() -> pl.Expr:
    """The log that a row of `events` belongs to."""
    log_id, topic, partition = (pl.col(name).cast(pl.String) for name in _PARTITION)
    return pl.concat_str(pl.lit(_EVENTS_V1), log_id, pl.lit("/"), topic, pl.lit("/"), partition)


def _stated(name: str) -> pl.Expr:
    """A number in decimal, a moment in microseconds, text with its length in bytes before it, and `-` for null."""
    kind, value = COLUMNS[EVENTS][name], pl.col(name)
    if kind == pl.String:
        # So that nothing can move from one column into the next.
        text = pl.concat_str(value.str.len_bytes().cast(pl.String), pl.lit(":"), value)
    else:
        text = (value.to_physical() if isinstance(kind, pl.Datetime) else value).cast(pl.String)
    return text.fill_null("-")
