"""Single decisions and what single users did in a window, from the events about them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.judging.user_windows import COUNTED_BY_USER, FIRST_FAILED, UNDECIDED, WINDOW, known_of
from analytics.signals.aftermath import FACTS, counted_once
from analytics.signals.cells import EPOCH
from analytics.signals.definitions import COUNTED_ONCE, RATES, UNREPORTED
from analytics.signals.event_kinds import EventKind, kinds_moving
from analytics.signals.missing_outcomes import known_at

if TYPE_CHECKING:
    from collections.abc import Iterator

_COUNTERS: Final = tuple(
    name
    for name in dict.fromkeys(
        (*COUNTED_BY_USER, *(name for pair in UNREPORTED.values() for part in pair for name in part))
    )
    if name not in COUNTED_ONCE
)
_TELLS: Final = {name: f"tells_{name}" for name in FACTS}  # a column each

_IS_KNOWN: Final = pl.col("decisions") > 0
_AMOUNT: Final = {"latency": pl.col("latency_us"), "cost": pl.col("cost_microusd")}


def decisions_of(
    events: pl.LazyFrame, window_s: float, amounts: tuple[str, ...] = (), deadline_s: float = 0.0
) -> pl.LazyFrame:
    """One row a decision in their order: `WINDOW`, `subject`, `who`, `user`, `decided_at`, counters, `UNDECIDED`."""
    every_us = round(window_s * 1_000_000)
    counted = events.filter(pl.col("decided_at").is_not_null() & (pl.col("kind") != EventKind.UNCOUNTED)).select(
        *EPOCH,
        closes_at(window_s).alias("closed_at"),
        "subject",
        "decided_at",
        "user",
        *(_moved(name).alias(name) for name in _COUNTERS),
        *(pl.col("kind").is_in(FACTS[name]).alias(tells) for name, tells in _TELLS.items()),
        pl.when(pl.col("kind").is_in(kinds_moving("expected"))).then(known_at("time", "ingested_at")).alias("due_at"),
        *({name: _AMOUNT[name.removeprefix("known_")].alias(name) for name in map(known_of, amounts)}.values()),
    )
    known = list(dict.fromkeys(map(known_of, amounts)))
    # Window by window, so that some can be folded without the others. All events of a decision carry its moment.
    by_decision = counted.group_by(*WINDOW, "subject").agg(
        pl.col("user").drop_nulls().first(),
        pl.col("decided_at").min(),
        pl.col(_COUNTERS).sum(),
        pl.col(*_TELLS.values()).any(),
        pl.col("due_at", *known).max(),
    )
    unreported = (
        pl.max_horizontal(pl.sum_horizontal(due) - pl.sum_horizontal(reported), 0).alias(f"unreported_{awaited}")
        for awaited, (due, reported) in UNREPORTED.items()
    )
    # A decision without a user must not share a window with another: its own id stands for the user. Before a decision
    # is read, nobody knows whose its outcomes are: all those are one user's, or else a bot would be many users.
    nobody = pl.when(_IS_KNOWN).then(pl.concat_str(pl.lit("\0"), "subject")).otherwise(pl.lit("\0"))
    who = pl.when(pl.col("user").is_null()).then(nobody).otherwise("user")
    later = (pl.col("due_at").dt.epoch("us") // every_us + 1) * every_us - pl.col("closed_at").dt.epoch("us")
    above = [
        (pl.col(known_of(name)) > int(name.partition(">")[2])).fill_null(value=False).cast(pl.Int64).alias(name)
        for name in amounts
    ]
    once = counted_once({name: pl.col(tells) for name, tells in _TELLS.items()})
    # Of an action whose execution nobody reported, what was undone would be counted beside its being overdue.
    once["bad_outcomes"] &= pl.col("executed") > 0
    came = (once[name].cast(pl.Int64).alias(name) for name in COUNTED_ONCE)
    by_decision = by_decision.with_columns(who.alias("who"), *came, *unreported, *above).with_columns(
        *(pl.col(name).is_not_null().cast(pl.Int64) for name in known),
        pl.when(pl.col("unreported_execution") > 0)
        .then(later // every_us)
        .otherwise(0)
        .fill_null(0)
        .alias("due_later"),
        pl.when(pl.col("due_at") + timedelta(seconds=deadline_s) <= pl.col("closed_at"))
        .then("unreported_execution")
        .otherwise(0)
        .alias("overdue"),
    )
    return by_decision.sort("decided_at", "subject")


def users_of(decisions: pl.LazyFrame, amounts: tuple[str, ...]) -> pl.LazyFrame:
    """One row an epoch, window (`closed_at`) and user (`who`): `IN_WINDOWS`, `unnamed`, and the first decision."""
    return decisions.group_by(*WINDOW, "who").agg(
        pl.col(*COUNTED_BY_USER, *UNDECIDED, "overdue", *amounts, *dict.fromkeys(map(known_of, amounts))).sum(),
        pl.col("due_later").max().clip(lower_bound=0),
        *_first_actions(),
        pl.col("user").is_null().any().alias("unnamed"),
        pl.col("decided_at").filter(pl.col("decisions") > 0).min().alias("first_at"),
    )


def closes_at(window_s: float) -> pl.Expr:
    """When the window of a decision closes."""
    every_us = round(window_s * 1_000_000)
    return ((pl.col("decided_at").dt.epoch("us") // every_us + 1) * every_us).cast(pl.Datetime("us", "UTC"))


def _moved(counter: str) -> pl.Expr:
    """What an event adds to a counter."""
    up, down = kinds_moving(counter), kinds_moving(counter, by=-1)
    moved = pl.col("kind").is_in(up).cast(pl.Int64)
    return moved - pl.col("kind").is_in(down).cast(pl.Int64) if down else moved


def _first_actions() -> Iterator[pl.Expr]:
    """Of the decisions of a user's window, in their order: whether any was due, and how the first of them ended.

    Those that were not read yet are left out: which of them is a user's first is not known.
    """
    due = _IS_KNOWN & (pl.max_horizontal("expected", "executed") > 0)
    yield due.any().cast(pl.Int64).alias("first_due")
    for signal, name in FIRST_FAILED.items():
        failed = pl.sum_horizontal(RATES[signal].failures) > 0
        yield failed.filter(due).first().fill_null(value=False).cast(pl.Int64).alias(name)
