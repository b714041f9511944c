"""Whether traffic was split as a gate declares it, since the cell's epoch and all its other arms had begun.

What is counted must be what was assigned. By action every decision is an assignment of its own. By user every user is
one, in the arm of the first action since. A decision that names no user stands for itself, and where the epoch names
none at all, decisions are counted.

All traffic of an arm counts, in whatever epoch: a new prompt in one arm changes nothing about who is sent there. It
counts from when the epoch that is judged, and every other arm, had begun: a stage that ran alone for a year was not
split then.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from analytics.evidence.sample_ratio import ALPHA, log_mismatch
from analytics.evidence.sequential import crosses
from analytics.signals.cells import ACTION, MINUTE_US, ONE_MINUTE
from analytics.signals.state import microseconds, moment_of
from analytics.verdicts.evidence_models import SplitArm, SplitEvidence, SplitState

if TYPE_CHECKING:
    import numpy.typing as npt

    from analytics.gates.gate_arms import Split
    from analytics.gates.gate_file import Gate
    from analytics.gates.gate_signal import CountBy
    from analytics.judging.baseline import Arms
    from analytics.judging.user_evidence import UserEvidence
    from analytics.judging.user_windows import ClosedWindows
    from producers.wire.receipt import Cell


def check_split(arms: Arms, epoch: int, gate: Gate, users: UserEvidence | None) -> SplitEvidence | None:
    """Hold the traffic of an action against the split that its gate declares, for the current epoch of a cell.

    None where the gate declares no split, or one between stages that the cell is at none of. `users` is None where
    user-windows are not counted.
    """
    split, counted = gate.split, arms.state
    own = int(counted.cell_of[epoch])
    cell = counted.cells[own]
    if split is None or (split.by == "stage" and cell.stage not in split.shares):
        return None
    beside = [
        other for other in arms.cells_beside(own) if split.by == "cohort" or counted.cells[other].cohort == cell.cohort
    ]
    arm_began: dict[str, int] = {}
    for other in beside:
        arm = getattr(counted.cells[other], split.by)
        first_us = int(counted.first_us[arms.current[other]])
        arm_began[arm] = min(first_us, arm_began.get(arm, first_us))
    own_us = int(counted.first_us[epoch])
    began = moment_of(max([own_us, *(first_us for arm, first_us in arm_began.items() if arm in split.shares)]))
    # The minute, or window, in which the last of them began is not whole: the others were there before.
    since = max(began + ONE_MINUTE, split.since or began)
    watermark = moment_of(arms.watermark_us)
    if users is not None and gate.split_unit == "user" and users.named(np.array([epoch]))[0]:
        unit: CountBy = "user"
        assigned, crossed = _users(users.windows, cell, split, since)
        until = users.windows.as_of
    else:
        unit = "action"
        assigned, crossed, until = _actions(arms, beside, split, since), None, watermark
    names = list(split.shares)
    shares = np.array(list(split.shares.values()), dtype=np.float64)
    # Shares are written in decimals; their sum is one within 1e-9 and is made so.
    shares = shares / shares.sum()
    moments, so_far = _cumulated(assigned, names)
    levels = log_mismatch(so_far, shares)
    crossings = np.flatnonzero(crosses(levels, ALPHA))
    totals = so_far.max(axis=0, initial=0)
    everybody = int(totals.sum())
    arm = str(getattr(cell, split.by))
    state: SplitState = "undeclared" if arm not in names else "mismatch" if crossings.size else "as_declared"
    return SplitEvidence(
        state=state,
        by=split.by,
        unit=unit,
        arm=arm,
        since=since,
        until=until,
        arms=tuple(
            SplitArm(
                arm=name, declared=declared, assigned=int(total), share=int(total) / everybody if everybody else None
            )
            for (name, declared), total in zip(split.shares.items(), totals, strict=True)
        ),
        outside=int(assigned["count"].sum()) - everybody,
        crossed=crossed,
        log_e=float(levels[-1]) if levels.size else 0.0,
        log_e_highest=float(levels.max(initial=0.0)),
        mismatch_at=moments[int(crossings[0])] if crossings.size else None,
    )


def _cumulated(assigned: pl.DataFrame, names: list[str]) -> tuple[pl.Series, npt.NDArray[np.int64]]:
    """Assignments to the declared arms up to each moment: the moments, and the counts of shape (moments, arms)."""
    inside = assigned.filter(pl.col("arm").is_in(names))
    moments = inside["at"].unique().sort()
    counts = np.zeros((moments.len(), len(names)), dtype=np.int64)
    for column, name in enumerate(names):
        arm = inside.filter(pl.col("arm") == name)
        counts[moments.search_sorted(arm["at"]), column] = arm["count"]
    return moments, counts.cumsum(axis=0)


def _actions(arms: Arms, cells: list[int], split: Split, since: datetime) -> pl.DataFrame:
    """Decisions by the end of their minute (`at`) and by arm."""
    by_minute = [
        arms.minutes(arms.epochs_of(cell)).select(
            (pl.col("bucket") + MINUTE_US).cast(pl.Datetime("us", "UTC")).alias("at"),
            pl.lit(getattr(arms.state.cells[cell], split.by)).alias("arm"),
            pl.col("decisions").alias("count"),
            "bucket",
        )
        for cell in cells
    ]
    return (
        pl.concat(by_minute)
        .filter(pl.col("bucket") >= microseconds(since))
        .group_by("at", "arm")
        .agg(pl.col("count").sum())
        .filter(pl.col("count") > 0)
        .sort("at", "arm")
    )


def _users(users: ClosedWindows, cell: Cell, split: Split, since: datetime) -> tuple[pl.DataFrame, int]:
    """Users by the end of the window (`at`) and the arm of their first action; and how many were in more than one."""
    fixed = (*ACTION, "cohort") if split.by == "stage" else ACTION
    among = pl.all_horizontal(pl.col(name) == getattr(cell, name) for name in fixed)
    whole = pl.col("closed_at") - timedelta(seconds=users.window_s) >= since
    seen = users.assigned.filter(among & whole).select(
        "who", "first_at", pl.col("closed_at").alias("at"), pl.col(split.by).alias("arm")
    )
    # Two arms at the same microsecond are told apart by name, so that everybody who counts counts alike.
    first = seen.sort("first_at", "arm").unique(subset="who", keep="first", maintain_order=True)
    crossed = seen.group_by("who").agg(pl.col("arm").n_unique()).filter(pl.col("arm") > 1).height
    counted = first.group_by("at", "arm").agg(pl.len().cast(pl.Int64).alias("count")).sort("at", "arm")
    return counted, crossed
