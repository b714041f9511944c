"""Failures and trials of a rate, as expressions over the counters of minutes."""

from __future__ import annotations

import polars as pl

from analytics.signals.definitions import RAN_BADLY, RATES, UNREPORTED


def counters_of(signal: str) -> list[str]:
    """The counters that the minutes of a rate are counted from."""
    rate = RATES[signal]
    awaited = UNREPORTED.get(rate.awaits, ((), ()))
    ran_badly = RAN_BADLY if rate.awaits == "everything" else ()
    return sorted({*rate.failures, *rate.trials, *awaited[0], *awaited[1], *ran_badly})


def counted(signal: str, *, unreported_failed: bool = False, overdue: pl.Expr | None = None) -> tuple[pl.Expr, pl.Expr]:
    """Failures `x` and trials `n` of a minute; never more failures than trials.

    Args:
        signal: A rate.
        unreported_failed: Whether a trial whose outcome is not known counts as failed; as fine otherwise.
        overdue: How many of these have failed by being overdue, where that is asked and the rate awaits everything.
    """
    rate = RATES[signal]
    failures, trials = pl.sum_horizontal(rate.failures), pl.sum_horizontal(rate.trials)
    if rate.awaits in UNREPORTED:
        due, reported = UNREPORTED[rate.awaits]
        unreported = pl.max_horizontal(pl.sum_horizontal(due) - pl.sum_horizontal(reported), 0)
        trials = trials + unreported
        if unreported_failed:
            failures = failures + unreported
        elif overdue is not None and rate.awaits == "everything":
            # An undo without an execution to be known may be of what is overdue (`Weigher` counts alike).
            failures = pl.max_horizontal(failures, pl.sum_horizontal(RAN_BADLY) + overdue)
    return pl.min_horizontal(failures, trials).alias("x"), trials.alias("n")
