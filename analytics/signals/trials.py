"""Failures and trials of a rate, as expressions over the counters of minutes."""

from __future__ import annotations

import polars as pl

from analytics.signals.definitions import RATES, UNREPORTED


def counters_of(signal: str) -> list[str]:
    """The counters that the minutes of a rate are counted from."""
    rate = RATES[signal]
    awaited = UNREPORTED.get(rate.awaits, ((), ()))
    return sorted({*rate.failures, *rate.trials, *awaited[0], *awaited[1]})


def counted(signal: str, *, unreported_failed: bool = False) -> tuple[pl.Expr, pl.Expr]:
    """Failures `x` and trials `n` of a minute; an event that comes twice for one trial is one failure.

    Args:
        signal: A rate.
        unreported_failed: Whether a trial whose outcome is not known counts as failed; as fine otherwise.
    """
    rate = RATES[signal]
    failures, trials = pl.sum_horizontal(rate.failures), pl.sum_horizontal(rate.trials)
    if rate.awaits in UNREPORTED:
        due, reported = UNREPORTED[rate.awaits]
        unreported = pl.max_horizontal(pl.sum_horizontal(due) - pl.sum_horizontal(reported), 0)
        failures, trials = failures + unreported if unreported_failed else failures, trials + unreported
    return pl.min_horizontal(failures, trials).alias("x"), trials.alias("n")
