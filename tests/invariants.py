"""What must hold of every lake once all that was emitted has been read: the books balance.

Asserted by the storm (`storm.differences`, so by `integration/test_storm.py` and `make test-all`). Whatever ends with a
lake that has read everything should ask it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from analytics.judging.soundness import Soundness
from analytics.lake.table_schemas import EVENTS, SIGNALS
from analytics.signals.aftermath import FACTS, counted_once
from analytics.signals.cells import EPOCH, MATURE
from analytics.signals.definitions import COUNTED_ONCE, COUNTERS, contradictions
from analytics.signals.event_kinds import INCREMENTS
from analytics.signals.state import CellState, microseconds

if TYPE_CHECKING:
    from analytics.lake.tables import Lake

_LONG = timedelta(days=2)
_OF_KINDS = [name for name in COUNTERS if name not in {"cost_microusd", *COUNTED_ONCE}]
"""Counters to which each event adds by its kind alone."""


def broken_invariants(lake: Lake) -> list[str]:
    """Where decisions, executions and undos of an epoch contradict each other, or users and actions do."""
    signals = lake.scan(SIGNALS).collect()
    state = CellState.from_increments(signals)
    if state.latest_event_at is None:
        return []
    # Long after the last event nothing is on its way any more.
    missing = state.missing_outcomes(
        microseconds(state.latest_event_at + _LONG), microseconds_of(timedelta(minutes=10))
    )
    counts = {name: state.counter(name) for name in COUNTERS} | dict(zip(MATURE, missing.columns, strict=True))
    found = []
    for epoch in Soundness(counts).contradictory.nonzero()[0].tolist():
        words = "; ".join(contradictions({name: int(values[epoch]) for name, values in counts.items()}))
        found.append(f"{'/'.join(state.names([epoch]).row(0))}: {words}")
    return found + [
        f"{'/'.join(row[name] for name in EPOCH)}: {name} is {row[f'{name}_by_user']} by user, {row[name]} by action"
        for row in _both_sums(lake, signals).iter_rows(named=True)
        for name in (*_OF_KINDS, *COUNTED_ONCE)
        if row[name] != row[f"{name}_by_user"]
    ]


def _both_sums(lake: Lake, signals: pl.DataFrame) -> pl.DataFrame:
    """Each counter of every epoch as the judge adds it up by action, and from the events of single users."""
    by_action = signals.group_by(EPOCH).agg(pl.col(*_OF_KINDS, *COUNTED_ONCE).sum())
    kinds = pl.DataFrame(INCREMENTS, schema=dict.fromkeys(COUNTERS, pl.Int64)).with_row_index("kind")
    counted = lake.scan(EVENTS).filter(pl.col("decided_at").is_not_null()).select(*EPOCH, "user", "subject", "kind")
    events = counted.with_columns(pl.col("user").drop_nulls().first().over("subject")).collect()
    facts = [pl.col("kind").is_in(kinds).any().alias(name) for name, kinds in FACTS.items()]
    decisions = events.group_by(*EPOCH, "user", "subject").agg(facts)
    once = counted_once({name: pl.col(name) for name in FACTS})
    came = decisions.select(*EPOCH, *(once[name].cast(pl.Int64).alias(f"{name}_by_user") for name in COUNTED_ONCE))
    came = came.group_by(EPOCH).sum()
    by_person = events.join(kinds.cast({"kind": pl.Int8}), on="kind").group_by(*EPOCH, "user")
    by_user = (
        by_person.agg(pl.col(_OF_KINDS).sum()).group_by(EPOCH).agg(pl.col(_OF_KINDS).sum().name.suffix("_by_user"))
    )
    by_user = by_user.join(came, on=EPOCH, how="full", coalesce=True)
    return by_action.join(by_user, on=EPOCH, how="full", coalesce=True).fill_null(0)


def microseconds_of(length: timedelta) -> int:
    """A length of time in whole microseconds."""
    return length // timedelta(microseconds=1)
