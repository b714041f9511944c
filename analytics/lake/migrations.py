"""Migrate a lake that an earlier version wrote to the layout that this version reads and writes.

A lake carries the number of its layout (`table_schemas.LAYOUT`) in the log of `events`. Everybody but the worker
refuses a lower number; the worker migrates first. Each step of `STEPS` goes from one number to the next:

- It holds both leases, where the earlier version had them, so that no worker of that version is at work.
- Its commits carry the fence: a migration that lost its lease can change nothing any more.
- It can be repeated after a kill; the number changes in the last commit.
- It deletes nothing.

A new layout is one more number, one more step here, and one more old lake in `tests/unit/test_migrations.py`.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import polars as pl
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from analytics.lake.chain import end_of_rows, link
from analytics.lake.errors import LakeError, LakeInUseError
from analytics.lake.leases import JUDGE, LEASE_S, MAINTENANCE, Heartbeat, Lease, holder_row, holders
from analytics.lake.rewrite import Rewriter, chunks
from analytics.lake.storage import (
    LAYOUT_MARK,
    create_table,
    options_of,
    reading,
    scan_table,
    stored_layout,
    uri_of,
)
from analytics.lake.table_schemas import (
    COLUMNS,
    DROPPED,
    ENACTMENTS,
    EVENTS,
    JUDGE_HEARTBEATS,
    LAYOUT,
    LEASES,
    SEALS,
    SIGNALS,
    SIGNOFFS,
    TABLES,
    VERDICTS,
)
from analytics.lake.tables import Lake, SourcePartition, added_to_signals, with_amounts, with_meanings
from analytics.signals.aftermath import FACTS, TELLING, counted_once
from analytics.signals.cells import EPOCH
from analytics.signals.definitions import BAD, COUNTED_ONCE, COUNTERS, HISTOGRAMS
from analytics.signals.event_kinds import kinds_moving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from analytics.lake.commits import Fence

LOG: Final = logging.getLogger(__name__)

_OLD_LEASES: Final = "claims"
_OLD_MAINTENANCE: Final = "upkeep"
_BAD_COUNTED: Final = "migration/bad_outcomes"
_ONCE_COUNTED: Final = "migration/counted_once"
_PARTITION: Final = SourcePartition._fields
_MINUTE: Final = pl.col("decided_at").dt.truncate("1m").alias("bucket")
_PAUSE_S: Final = 0.5
_HEARTBEAT_S: Final = 2.0
_FILL_BYTES: Final = 64 * 1024 * 1024  # size of the files (bytes) that are rewritten in one commit, about


def migrate(root: str, *, patience_s: float = 2 * LEASE_S) -> bool:
    """Bring the lake to this version's layout, and tell whether it was done here; a lake that is missing is left alone.

    Raises `LakeInUseError` where another process holds a lease for longer than `patience_s`; after a `FencedError` or
    another `LakeError` the next attempt goes on.
    """
    migrated = False
    while (layout := stored_layout(root)) is not None and layout < LAYOUT:
        purpose, step = STEPS[layout]
        with reading(root), _exclusive(root, layout, patience_s) as fence:
            if fence is None or stored_layout(root) != layout:
                continue  # another worker was faster
            LOG.info("migrating the lake at %s from layout %d to %d: %s", root, layout, layout + 1, purpose)
            commit(_open(root, EVENTS), fence)  # from here on no earlier attempt can change the number
            step(root, fence)
            commit(_open(root, EVENTS), fence, marks={LAYOUT_MARK: layout + 1})
            migrated = True
    return migrated


def _rename_tables(root: str, fence: Fence) -> None:
    """Copy the rows of `looks` and `rulings`, and how far the leases of `claims` are, to tables of today's names."""
    for old_name, name in (("looks", JUDGE_HEARTBEATS), ("rulings", SIGNOFFS)):
        try:
            rows = scan_table(root, old_name).collect()
        except TableNotFoundError:
            rows = pl.DataFrame(schema=COLUMNS[name])  # the lake is older than this table
        rows = rows.rename({"ruling_id": "signoff_id"}, strict=False)
        commit(create_table(root, name), fence, rows=rows.select(COLUMNS[name].names()).cast(COLUMNS[name]), name=name)
    if _has(root, _OLD_LEASES):
        # No tenure may begin at an epoch that a table has seen; all leases are free once the migration is done.
        free = pl.concat([holder_row(lease, fence.epoch, None) for lease in (JUDGE, MAINTENANCE)])
        counts = {Heartbeat(lease).app_id: fence.epoch for lease in (JUDGE, MAINTENANCE)}
        commit(create_table(root, LEASES), fence, rows=free, name=LEASES, marks=counts)


def _add_columns(root: str, fence: Fence, name: str = EVENTS) -> None:
    table = _open(root, name)
    stored = {field.name for field in table.schema().fields}
    new = [field for field in Schema.from_arrow(TABLES[name]).fields if field.name not in stored]
    if new:
        table.alter.add_columns(new, commit_properties=_properties(fence))


def _fill_event_meanings(root: str, fence: Fence) -> None:
    """Add the columns `kind` and `user` to `events`, and fill them for the rows that are there, from their bytes."""
    _add_columns(root, fence)
    rewriter = Rewriter(root, EVENTS, _open(root, EVENTS), options_of(root), fence)
    while unfilled := [file for file in rewriter.files() if file.least.get("kind") is None]:
        files = next(chunks(unfilled, _FILL_BYTES, lambda file: file.size))
        rewriter.rewrite(files, with_meanings)
        rewriter = rewriter.refreshed()


def _chain_ledger(root: str, fence: Fence) -> None:
    """Begin the chain: number the rows of `verdicts` in the order in which they lie there, and link them."""
    _add_columns(root, fence, VERDICTS)
    rewriter = Rewriter(root, VERDICTS, _open(root, VERDICTS), options_of(root), fence)
    while unchained := [file for file in rewriter.files() if file.least.get("sequence") is None]:
        end = end_of_rows(scan_table(root, VERDICTS))

        def chained(rows: pl.DataFrame) -> pl.DataFrame:
            nonlocal end
            columns = COLUMNS[VERDICTS]
            dicts = [dict.fromkeys(columns.names()) | row for row in rows.iter_rows(named=True)]
            end = link(dicts, end)
            return pl.DataFrame(dicts, schema=columns, orient="row")

        rewriter.rewrite(next(chunks(unchained, _FILL_BYTES, lambda file: file.size)), chained)
        rewriter = rewriter.refreshed()


def _fill_event_amounts(root: str, fence: Fence) -> None:
    """Add the columns `latency_us` and `cost_microusd` to `events`, and fill them from the rows' bytes.

    Where it begins again after a kill it fills all files again: a file without executions looks as if it never was.
    """
    _add_columns(root, fence)
    rewriter = Rewriter(root, EVENTS, _open(root, EVENTS), options_of(root), fence)
    for files in list(chunks(rewriter.files(), _FILL_BYTES, lambda file: file.size)):
        rewriter.rewrite(files, with_amounts)
        rewriter = rewriter.refreshed()


def _count_bad_outcomes(root: str, fence: Fence) -> None:
    """Add the counter `bad_outcomes` to `signals`: 0 in the rows that are there, and rows for what `events` tells."""
    _complete_signals(root, fence)
    table = _open(root, SIGNALS)
    if table.transaction_version(_BAD_COUNTED) is not None:
        return  # an earlier attempt was killed after it
    _append_counts(root, _bad_outcomes(root), fence, _BAD_COUNTED)


def _append_counts(root: str, rows: pl.DataFrame, fence: Fence, mark: str) -> None:
    table = _open(root, SIGNALS)
    try:
        fence.check(SIGNALS, table.transaction_version(fence.app_id))
        properties = _properties(fence, {mark: 1})
        write_deltalake(table, rows.to_arrow().cast(TABLES[SIGNALS]), mode="append", commit_properties=properties)
    except (DeltaError, OSError) as error:
        raise LakeError(f"{SIGNALS}: the lake cannot be migrated: {error}. Start the worker again.") from error


def _complete_signals(root: str, fence: Fence) -> None:
    """Add the columns that `signals` lacks, also to its files: what folds files reads them as they are."""
    _add_columns(root, fence, SIGNALS)
    table = _open(root, SIGNALS)
    fence.check(SIGNALS, table.transaction_version(fence.app_id))
    rewriter = Rewriter(root, SIGNALS, table, options_of(root), fence)
    # What an earlier attempt has filled is filled again: the log keeps no bounds of a column so far to the right.
    for files in chunks(rewriter.files(), _FILL_BYTES, lambda file: file.size):
        if not rewriter.rewrite(files, _completed):
            raise LakeError(f"{SIGNALS}: somebody else rewrote files meanwhile. Start the worker again.")
        rewriter = rewriter.refreshed()


def _completed(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(added_to_signals(rows.columns)).select(COLUMNS[SIGNALS].names())


def _bad_outcomes(root: str) -> pl.DataFrame:
    """Rows of `signals` that count nothing but the bad outcomes of `events`, each decision once."""
    first = (
        scan_table(root, EVENTS)
        .filter(pl.col("kind").is_in([kind for name in BAD for kind in kinds_moving(name)]))
        .filter(pl.col("decided_at").is_not_null())
        .select(*_PARTITION, "offset", "subject", *EPOCH, "decided_at", "time")
        .sort(*_PARTITION, "offset")
        .unique([*_PARTITION, "subject"], keep="first", maintain_order=True)
    )
    return _counting(
        first.group_by(*EPOCH, _MINUTE).agg(
            pl.col("time").max().alias("last_event_at"), pl.len().cast(pl.Int64).alias("bad_outcomes")
        )
    )


def _counting(counted: pl.LazyFrame) -> pl.DataFrame:
    """Rows of `signals` that count nothing but what is given, by `EPOCH` and `bucket`."""
    stated = counted.collect_schema().names()
    zeros = [pl.lit(0, dtype=pl.Int64).alias(name) for name in COUNTERS if name not in stated]
    lists = [
        pl.lit([], dtype=COLUMNS[SIGNALS][f"{name}_{part}"]).alias(f"{name}_{part}")
        for name in HISTOGRAMS
        for part in ("bins", "counts")
    ]
    rows = counted.with_columns(
        pl.lit(None, dtype=pl.Int8).alias("risk_rank"), *zeros, *lists, *added_to_signals(COUNTERS)
    )
    return rows.select(COLUMNS[SIGNALS].names()).collect()


def _count_once(root: str, fence: Fence) -> None:
    """Take out of `signals` what a decision added to a counter more than once, or after it was called off."""
    table = _open(root, SIGNALS)
    fence.check(SIGNALS, table.transaction_version(fence.app_id))
    if table.transaction_version(_ONCE_COUNTED) is None:  # else an earlier attempt was killed after it
        _append_counts(root, _too_much(root, table), fence, _ONCE_COUNTED)


def _too_much(root: str, signals: DeltaTable) -> pl.DataFrame:
    """Rows of `signals` that bring what was counted, of the events of which it was, to what they count as."""
    told = (
        scan_table(root, EVENTS)
        .filter(pl.col("kind").is_in(TELLING), pl.col("decided_at").is_not_null())
        .select(*_PARTITION, "offset", "subject", *EPOCH, _MINUTE, "time", "kind")
    )
    partitions = told.select(_PARTITION).unique().collect()
    # What `events` holds beyond that is counted as today, once the worker reads on.
    covered = [signals.transaction_version(SourcePartition(*row).app_id) for row in partitions.iter_rows()]
    reached = partitions.with_columns(pl.Series("reached", covered, dtype=pl.Int64)).lazy()
    tells = {name: pl.col("kind").is_in(kinds) for name, kinds in FACTS.items()}
    by_decision = (
        told.join(reached, on=_PARTITION)
        .filter(pl.col("offset") <= pl.col("reached"))
        .group_by(*_PARTITION, "subject", *EPOCH, "bucket")
        .agg(
            pl.col("time").max(),
            *(tell.any().alias(f"tells_{name}") for name, tell in tells.items()),
            *(tells[name].sum().cast(pl.Int64).alias(name) for name in COUNTED_ONCE if name in tells),
        )
        .with_columns(bad_outcomes=pl.any_horizontal(f"tells_{name}" for name in BAD).cast(pl.Int64))
    )
    once = counted_once({name: pl.col(f"tells_{name}") for name in FACTS})
    less = by_decision.with_columns((once[name].cast(pl.Int64) - pl.col(name)).alias(name) for name in COUNTED_ONCE)
    changed = less.filter(pl.any_horizontal(pl.col(COUNTED_ONCE) != 0))
    return _counting(
        changed.group_by(*EPOCH, "bucket").agg(pl.col("time").max().alias("last_event_at"), pl.col(COUNTED_ONCE).sum())
    )


def _add_table(root: str, fence: Fence, name: str) -> None:
    """Create a table of which earlier versions knew nothing."""
    commit(create_table(root, name), fence, name=name)


def _number_events(root: str, fence: Fence) -> None:
    """Add the columns `incarnation` and `sequence` to `events`, null in the rows there are, and create `dropped`."""
    _add_columns(root, fence)
    commit(create_table(root, DROPPED), fence, name=DROPPED)


STEPS: Final[dict[int, tuple[str, Callable[[str, Fence], None]]]] = {
    1: ("looks, rulings and claims become judge_heartbeats, signoffs and leases", _rename_tables),
    2: ("events say what they count as", _fill_event_meanings),
    3: ("the rows of the ledger are chained", _chain_ledger),
    4: ("events say how long an execution took and what it cost", _fill_event_amounts),
    5: ("signals count bad outcomes", _count_bad_outcomes),
    6: ("what is done about recommendations is kept", partial(_add_table, name=ENACTMENTS)),
    7: ("signals say when what they count was read", _complete_signals),
    8: ("signals count what comes of a decision once", _count_once),
    9: ("transparency logs are sealed", partial(_add_table, name=SEALS)),
    10: ("events bear their sources' numbers, and what is dropped is kept", _number_events),
}
"""By the number of the layout that each begins with: what it does, and how."""


@contextmanager
def _exclusive(root: str, layout: int, patience_s: float) -> Iterator[Fence | None]:
    """Hold both leases of the lake; gives None where the layout changed while waiting for them."""
    old = layout == 1 and _has(root, _OLD_LEASES)
    folder, maintenance = (_OLD_LEASES, _OLD_MAINTENANCE) if old else (LEASES, MAINTENANCE)

    def handle() -> Lake:
        return Lake(root, {LEASES: _open(root, folder) if old else create_table(root, folder)}, {LEASES: folder})

    deadline_s = time.monotonic() + patience_s
    with ExitStack() as stack:
        leases = [stack.enter_context(Lease(root, name, lake=handle())) for name in (JUDGE, maintenance)]
        while not all(lease.held() for lease in leases):
            if stored_layout(root) != layout:
                yield None
                return
            if time.monotonic() > deadline_s:
                missing = next(lease.name for lease in leases if lease.fence is None)
                last = holders(handle()).get(missing)
                raise LakeInUseError(
                    f"the lake at {root} has to be migrated, and {(last and last.holder) or 'another process'} is at "
                    "work on it. Stop all processes of the earlier version, or wait until another worker has migrated "
                    "it, and start this one again."
                )
            time.sleep(_PAUSE_S)
        stack.enter_context(_kept(leases))
        yield leases[0].fence


@contextmanager
def _kept(leases: list[Lease]) -> Iterator[None]:
    """Keep leases meanwhile, in a thread of its own; one that is lost refuses the commits that carry its fence."""
    done = threading.Event()

    def keep() -> None:
        while not done.wait(_HEARTBEAT_S):
            try:
                if not all(lease.held() for lease in leases):
                    return
            except LakeError as error:
                LOG.warning("the leases for the migration cannot be kept: %s", error)

    thread = threading.Thread(target=keep, name="stagekeeper-migration", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def commit(
    table: DeltaTable,
    fence: Fence,
    *,
    name: str = EVENTS,
    rows: pl.DataFrame | None = None,
    marks: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Commit numbers to a table's log under a fence, and replace its rows where some are given.

    Raises `FencedError` where another process took the lease over, else `LakeError`.
    """
    mode: Literal["append", "overwrite"] = "append" if rows is None else "overwrite"
    nothing = pa.schema(table.schema().to_arrow()).empty_table()
    data = nothing if rows is None else rows.to_arrow().cast(TABLES[name])
    try:
        fence.check(name, table.transaction_version(fence.app_id))
        write_deltalake(table, data, mode=mode, commit_properties=_properties(fence, marks))
    except (DeltaError, OSError) as error:
        raise LakeError(f"{name}: the lake cannot be migrated: {error}. Start the worker again.") from error


def _properties(fence: Fence, marks: Mapping[str, int] = MappingProxyType({})) -> CommitProperties:
    numbers = {fence.app_id: fence.epoch, **marks}
    return CommitProperties(app_transactions=[Transaction(*number) for number in numbers.items()])


def _open(root: str, folder: str) -> DeltaTable:
    return DeltaTable(uri_of(root, folder), storage_options=options_of(root))


def _has(root: str, folder: str) -> bool:
    return DeltaTable.is_deltatable(uri_of(root, folder), options_of(root))
