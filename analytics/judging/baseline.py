"""A cell beside its baseline: the minutes of both, matched as the comparison asks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.evidence.rate_ratio import Batches, Comparison, match_history
from analytics.lake.rollup import is_rolled
from analytics.signals.cells import ACTION, CELL, EPOCH, ONE_MINUTE
from analytics.signals.definitions import RATES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from analytics.gates.gate_file import Gate
    from analytics.gates.gate_signal import GateSignal
    from analytics.signals.cells import Folded

_COMPARISONS: Final[Mapping[str, Comparison]] = {"concurrent": "hold_back", "historic": "history"}


@dataclass(frozen=True, slots=True)
class Compared:
    """The counts of a cell and of its baseline in one signal.

    Attributes:
        comparison: What the baseline is.
        batches: Every closed batch.
        mature: Those that a promotion may count.
        value: The cell's rate as a multiple of the baseline's; None where the baseline has no failure.
    """

    comparison: Comparison
    batches: Batches
    mature: Batches
    value: float | None


def compare(
    folded: Folded, current: pl.DataFrame, row: Mapping[str, object], gate: Gate, *, watermark: datetime
) -> dict[GateSignal, Compared]:
    """Match a cell's minutes with those of its baseline, for every signal of its gate that states a ratio.

    Args:
        folded: Every counter; the minutes of the action must all be in it.
        current: The current epoch of every cell.
        row: The cell's current epoch.
        gate: Its gate.
        watermark: Minutes that are not over by it are left out.
    """
    parts = [part for part in gate.signals if part.ratio is not None and row["stage"] in part.stages]
    if not parts:
        return {}
    over = pl.col("bucket") + ONE_MINUTE <= watermark
    below, cohort = gate.below(str(row["stage"])), gate.baseline.cohort
    beside = pl.all_horizontal(pl.col(name) == row[name] for name in ACTION)
    if cohort is None:
        beside &= (pl.col("stage") == (below or "")) & (pl.col("cohort") == row["cohort"])
    else:
        beside &= pl.col("cohort") == cohort
    others = current.filter(beside & ~pl.all_horizontal(pl.col(name) == row[name] for name in CELL))
    own = pl.DataFrame([{name: row[name] for name in EPOCH}])
    mine, theirs = (
        folded.minutes(epochs).filter(over).group_by("bucket").agg(pl.col(_needed(parts)).sum()).sort("bucket")
        for epochs in (own, others.select(EPOCH))
    )
    mine = _minute_by_minute(mine)
    comparison = _COMPARISONS[gate.baseline.kind]
    found = {}
    for part in parts:
        old = watermark - timedelta(seconds=part.maturity or 0.0) - ONE_MINUTE
        batches = _matched(part, mine, theirs, comparison)
        mature = _matched(
            part, mine.filter(pl.col("bucket") <= old), theirs.filter(pl.col("bucket") <= old), comparison
        )
        found[part] = Compared(comparison, batches, mature, _value(batches))
    return found


def _minute_by_minute(mine: pl.DataFrame) -> pl.DataFrame:
    """The cell's minutes from where on each is known by itself.

    Actions with a baseline are not rolled up. Where the baseline came into the gate file later, failures that came late
    would lie apart from their rolled hour, and be lost to the comparison.
    """
    rolled = mine.filter(is_rolled())["bucket"].max()
    return mine if rolled is None else mine.filter(pl.col("bucket") > rolled)


def _needed(parts: list[GateSignal]) -> list[str]:
    return sorted({name for part in parts for name in (*RATES[part.signal].failures, *RATES[part.signal].trials)})


def _matched(part: GateSignal, mine: pl.DataFrame, theirs: pl.DataFrame, comparison: Comparison) -> Batches:
    rate = RATES[part.signal]
    counted = [
        pl.min_horizontal(pl.sum_horizontal(rate.failures), pl.sum_horizontal(rate.trials)).alias("x"),
        pl.sum_horizontal(rate.trials).alias("n"),
    ]
    new, base = mine.select("bucket", *counted), theirs.select("bucket", *counted)
    if comparison == "history":
        # What was decided before this epoch began; a minute may be the cell's or its history's, never both.
        began = new["bucket"].min()
        earlier = base.filter(pl.col("bucket") < began) if began is not None else base.clear()
        return match_history(*(frame[name].to_numpy() for frame in (new, earlier) for name in ("x", "n")), share=1.0)
    both = new.join(base, on="bucket", how="inner", suffix="0").sort("bucket")
    columns = [both[name].to_numpy()[:, np.newaxis] for name in ("x", "n", "x0", "n0")]
    return Batches.of(*columns)


def _value(batches: Batches) -> float | None:
    x1, n1, x0, n0 = (
        int(each.sum()) for each in (batches.failures, batches.trials, batches.base_failures, batches.base_trials)
    )
    return (x1 / n1) / (x0 / n0) if n1 and x0 else None
