"""Look up what was accepted longer ago than is held in memory: in the table `events`, by partition and hour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.lake.storage import FollowedTable
from analytics.lake.table_schemas import EVENTS
from analytics.signals.aftermath import FACTS_OF_KIND, TELLING
from analytics.signals.cells import EPOCH
from streams.ingest.decode import EARLIEST_US, LATEST_US
from streams.ingest.event_columns import UNDATED, Longs
from streams.ingest.id_store import words_of
from streams.ingest.identities import OWN, SEPARATOR, Identities, cell_words

if TYPE_CHECKING:
    from analytics.lake.commits import SourcePartition

NOT_FOUND: Final = -1
READ: Final = ("subject", "id", "kind", "time", "decided_at", *EPOCH)  # the columns of `events` that tell identities

_HOUR_US: Final = 3_600_000_000


class EarlierEvents:
    """The table `events` as a look-up of accepted events; it has a handle of its own, so any one thread may ask."""

    def __init__(self, root: str) -> None:
        self._events = FollowedTable(root, EVENTS)

    def marks_of(self, partition: SourcePartition, wanted: Identities) -> Longs:
        """The mark under which each identity was accepted in a partition, or `NOT_FOUND`.

        Only files that may hold its hour are read. Raises `LakeError` where the table cannot be read.
        """
        marks = np.full(len(wanted), NOT_FOUND, dtype=np.int64)
        is_own = wanted.once == OWN
        for places, dated, named in (
            (np.flatnonzero(is_own), "time", "id"),
            (np.flatnonzero(~is_own), "decided_at", "subject"),
        ):
            if places.size:
                some = wanted.take(places)
                names = pl.Series(some.ids if named == "id" else some.subjects).unique().implode()
                stored = identities_of_rows(self._read(partition, dated, some.dates_us, pl.col(named).is_in(names)))
                marks[places] = _matched(some, stored)
        return marks

    def facts_of(self, partition: SourcePartition, wanted: Identities) -> Longs:
        """The set of facts that the table tells of each decision, or `NOT_FOUND`; as `marks_of`."""
        subjects = pl.Series(wanted.subjects)
        told = pl.col("subject").is_in(subjects.unique().implode()) & pl.col("kind").is_in(TELLING)
        rows = self._read(partition, "decided_at", wanted.dates_us, told)
        known: dict[str, int] = {}
        for subject, facts in zip(rows["subject"], FACTS_OF_KIND[rows["kind"].to_numpy()].tolist(), strict=True):
            known[subject] = known.get(subject, 0) | facts
        return np.array([known.get(subject, NOT_FOUND) for subject in subjects], dtype=np.int64)

    def _read(self, partition: SourcePartition, dated: str, dates_us: Longs, named: pl.Expr) -> pl.DataFrame:
        hours = np.unique(dates_us // _HOUR_US)
        # Hours that follow each other are one range; a reader skips the files and row groups outside all of them.
        begins = hours[np.append([True], np.diff(hours) > 1)]
        ends = hours[np.append(np.diff(hours) > 1, [True])] + 1
        within = pl.any_horizontal(
            pl.col(dated).is_between(_moment(begin), _moment(end), closed="left")
            for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)
        )
        here = [pl.col(name) == value for name, value in partition._asdict().items()]
        return self._events.collect(lambda events: events.filter(*here, within, named).sort("offset").select(READ))


def identities_of_rows(rows: pl.DataFrame) -> Identities:
    """The identities of rows of the table `events`; they have the columns `READ`."""
    names = rows.select(pl.concat_str(EPOCH, separator=SEPARATOR)).to_series()
    different = names.drop_nulls().unique()
    words = pl.Series(cell_words(different.to_arrow()), dtype=pl.UInt64)
    subjects = rows["subject"].to_arrow()
    return Identities.from_columns(
        (subjects, rows["id"].to_arrow()),
        words_of(subjects),
        kinds=rows["kind"].to_numpy(),
        moments_us=(
            rows["time"].cast(pl.Int64).to_numpy(),
            rows["decided_at"].cast(pl.Int64).fill_null(UNDATED).to_numpy(),
        ),
        cells=names.replace_strict(different, words, default=0, return_dtype=pl.UInt64).to_numpy(),
    )


def _matched(wanted: Identities, stored: Identities) -> Longs:
    """The mark of the first stored event of each wanted identity, or `NOT_FOUND`."""
    first: dict[tuple[int, ...], int] = {}
    for pair, mark in zip(map(tuple, stored.words.tolist()), stored.marks.tolist(), strict=True):
        first.setdefault(pair, mark)
    return np.array([first.get(pair, NOT_FOUND) for pair in map(tuple, wanted.words.tolist())], dtype=np.int64)


def _moment(hour: int) -> pl.Expr:
    return pl.lit(min(max(hour * _HOUR_US, EARLIEST_US), LATEST_US)).cast(pl.Datetime("us", "UTC"))
