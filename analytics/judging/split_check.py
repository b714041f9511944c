"""Whether traffic was split as a gate declares it, ever since the cell's epoch and all its other arms had begun.

What is counted must be what was assigned. By action every decision is an assignment of its own. By user every user is
one, in the arm of the first action since; so a user who comes back, or even changes arms, is not counted twice. A
decision that names no user stands for itself, and where the epoch names none at all, decisions are counted.

All traffic of an arm counts, in whatever epoch: a new prompt in one arm changes nothing about who is sent there. It
counts from when the epoch that is judged had begun, and every other arm that there is: a stage that ran alone for a
year, before a tenth of its traffic was sent one stage up, was not split then.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from analytics.evidence.sample_ratio import ALPHA, log_mismatch
from analytics.evidence.sequential import crosses
from analytics.signals.cells import ACTION, EPOCH, ONE_MINUTE
from analytics.verdicts.document import SplitArm, SplitEvidence

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import numpy.typing as npt

    from analytics.gates.gate_file import Gate, GateFile, Split
    from analytics.gates.gate_signal import CountBy
    from analytics.judging.user_windows import Users
    from analytics.signals.cells import Folded
    from analytics.verdicts.document import SplitState


def counted_by_user(folded: Folded, gates: GateFile) -> pl.DataFrame:
    """The actions, as a frame with the columns of `ACTION`, of which a gate declares a split of users."""
    wanted = [gate.match for gate in gates.gates if gate.split_unit == "user"]
    actions = folded.totals.select(ACTION).unique() if wanted else folded.totals.select(ACTION).clear()
    rows = [action for action in actions.iter_rows() if any(match.may_cover(*action) for match in wanted)]
    return pl.DataFrame(rows, schema=dict.fromkeys(ACTION, pl.String), orient="row")


def followed(folded: Folded, current: pl.DataFrame, split: pl.DataFrame) -> pl.DataFrame:
    """The epochs whose user-windows matter: the current ones, and all that ran beside them where users are split.

    Args:
        folded: Every counter.
        current: The current epoch of every cell.
        split: The actions of which users are split; see `counted_by_user`.
    """
    if split.is_empty():
        return current.select(EPOCH)
    began = current.join(split, on=ACTION, how="semi").group_by(ACTION).agg(pl.col("first_bucket").min().alias("began"))
    beside = folded.totals.join(began, on=ACTION, how="inner").filter(pl.col("last_bucket") >= pl.col("began"))
    return pl.concat([current.select(EPOCH), beside.select(EPOCH)]).unique()


def check_split(
    folded: Folded,
    current: pl.DataFrame,
    row: Mapping[str, Any],
    gate: Gate,
    *,
    watermark: datetime,
    users: Users | None,
) -> SplitEvidence | None:
    """Hold the traffic of an action against the split that its gate declares.

    Args:
        folded: Every counter; the minutes of the action must all be in it.
        current: The current epoch of every cell of the action.
        row: The current epoch of the cell that is judged.
        gate: Its gate.
        watermark: Minutes that are not over by it are left out.
        users: Closed user-windows; None where they are not counted.

    Returns:
        None where the gate declares no split, or one between stages that the cell is at none of.
    """
    split = gate.split
    if split is None or (split.by == "stage" and row["stage"] not in split.shares):
        return None
    arm_began = current.filter(_among(row, split)).group_by(split.by).agg(pl.col("first_bucket").min())
    began = max([row["first_bucket"], *arm_began.filter(pl.col(split.by).is_in(list(split.shares)))["first_bucket"]])
    # The minute, or window, in which the last of them began is not whole: the others were there before.
    since = max(began + ONE_MINUTE, split.since or began)
    named = users is not None and tuple(row[name] for name in EPOCH) in users.named
    if users is not None and named and gate.split_unit == "user":
        unit: CountBy = "user"
        assigned, crossed = _users(users, row, split, since)
        until = users.as_of
    else:
        unit = "action"
        assigned, crossed, until = _actions(folded, row, split, since, watermark), None, watermark
    names = list(split.shares)
    shares = np.array(list(split.shares.values()), dtype=np.float64)
    # Shares are written in decimals; their sum is one within 1e-9 and is made so.
    shares = shares / shares.sum()
    moments, so_far = _cumulated(assigned, names)
    levels = log_mismatch(so_far, shares)
    found = np.flatnonzero(crosses(levels, ALPHA))
    totals = so_far.max(axis=0, initial=0)
    everybody = int(totals.sum())
    arm = str(row[split.by])
    state: SplitState = "undeclared" if arm not in names else "mismatch" if found.size else "as_declared"
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
        mismatch_at=moments[int(found[0])] if found.size else None,
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


def _among(row: Mapping[str, Any], split: Split) -> pl.Expr:
    """The traffic that is split: the action's, and that of the same cohort where stages are the arms."""
    fixed = (*ACTION, "cohort") if split.by == "stage" else ACTION
    return pl.all_horizontal(pl.col(name) == row[name] for name in fixed)


def _actions(
    folded: Folded, row: Mapping[str, Any], split: Split, since: datetime, watermark: datetime
) -> pl.DataFrame:
    """Decisions by the end of their minute (`at`) and by arm."""
    over = (pl.col("bucket") >= since) & (pl.col("bucket") + ONE_MINUTE <= watermark)
    return (
        folded.recent.filter(_among(row, split) & over)
        .group_by((pl.col("bucket") + ONE_MINUTE).alias("at"), pl.col(split.by).alias("arm"))
        .agg(pl.col("decisions").sum().alias("count"))
        .filter(pl.col("count") > 0)
        .sort("at", "arm")
    )


def _users(users: Users, row: Mapping[str, Any], split: Split, since: datetime) -> tuple[pl.DataFrame, int]:
    """Users by the end of the window (`at`) and the arm of their first action; and how many were in more than one."""
    whole = pl.col("closed_at") - timedelta(seconds=users.window_s) >= since
    seen = users.assigned.filter(_among(row, split) & whole).select(
        "who", "first_at", pl.col("closed_at").alias("at"), pl.col(split.by).alias("arm")
    )
    # Two arms at the same microsecond are told apart by name, so that everybody who counts counts alike.
    first = seen.sort("first_at", "arm").unique(subset="who", keep="first", maintain_order=True)
    crossed = seen.group_by("who").agg(pl.col("arm").n_unique()).filter(pl.col("arm") > 1).height
    counted = first.group_by("at", "arm").agg(pl.len().cast(pl.Int64).alias("count")).sort("at", "arm")
    return counted, crossed
