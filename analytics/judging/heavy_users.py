"""Heavy users: those who made much of the traffic in one window, and whose actions in the next are taken in blocks.

Who is heavy in a window is known before it begins, so a block of their actions is an observation like any other: the
failed share of twenty due actions in their order. Let s be the share of all due actions that lie in such blocks. If all
actions together keep a limit, those in the blocks keep the limit over s; evidence against that is evidence of harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.judging.user_windows import BLOCK, BLOCK_FAILED, DUE, WINDOW
from analytics.signals.definitions import RATES

if TYPE_CHECKING:
    from datetime import timedelta

LEAST_ACTIONS: Final = 100  # in a window, for its user to be heavy
LEAST_SHARE: Final = 0.1  # of all due actions in that window


def heavy_after(by_user: pl.LazyFrame, every: timedelta) -> pl.LazyFrame:
    """Who is heavy in which window, for what they did in the one before: `WINDOW` and `who`."""
    whole = DUE.sum().over(WINDOW)
    heavy = by_user.filter((DUE >= LEAST_ACTIONS) & (LEAST_SHARE * whole <= DUE) & ~pl.col("unnamed"))
    return heavy.select(*WINDOW, "who").with_columns(pl.col("closed_at") + every)


def blocks_of(decisions: pl.LazyFrame, heavy: pl.LazyFrame) -> pl.LazyFrame:
    """The whole blocks of heavy users: `WINDOW`, the failures of `BLOCK_FAILED`, and how many blocks are alike."""
    user = [*WINDOW, "who"]
    due = decisions.filter(DUE > 0).join(heavy, on=user, how="semi").sort("decided_at", "subject")
    block = due.with_columns((pl.int_range(pl.len()).over(user) // BLOCK).alias("block")).group_by(*user, "block")
    failures = [
        (pl.sum_horizontal(RATES[signal].failures) > 0).cast(pl.Int64).sum().alias(name)
        for signal, name in BLOCK_FAILED.items()
    ]
    whole = block.agg(pl.len(), *failures).filter(pl.col("len") == BLOCK)
    return whole.group_by(*WINDOW, *BLOCK_FAILED.values()).agg(pl.len().cast(pl.Int64).alias("count"))
