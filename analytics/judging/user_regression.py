"""Regressions after a promotion where users are counted: the change detector over their windows.

Three detectors watch a guardrail, as three kinds of evidence show harm at a stage: closed user-windows, users' first
actions, and the blocks of heavy users; the last two of signals that are known as soon as an action ran. A batch is what
closed together. The open windows are the last batch of first actions and of blocks: what is known of them so far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.evidence.change_detector import NO_ALARM, Watch
from analytics.evidence.clustered_rate import ASSUMPTIONS, UserWindows
from analytics.evidence.sequential import BETS
from analytics.judging.user_windows import BLOCK, BLOCK_FAILED, DUE, FIRST_FAILED, WINDOW
from analytics.signals.cells import EPOCH
from analytics.verdicts.evidence_models import Regression

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from analytics.judging.user_windows import ClosedWindows
    from analytics.verdicts.evidence_models import RegressionPart

_LARGEST_BET: Final = max(BETS["above"])
_SHARE_WINDOWS: Final = 24  # closed windows by which the share of heavy users is known
_EpochNames = tuple[str, ...]


@dataclass(frozen=True)
class WatchedUsers:
    """A guardrail rate as the detectors by user watch it."""

    signal: str
    limit: float  # a ratio
    run_length: float  # the level that alarms for closed windows, in batches
    early_run_length: float  # the same for first actions, and for heavy users
    age_s: float = 0.0  # seconds for which a window must have been closed


@dataclass(frozen=True)
class _Batches:
    """What one detector steps through, of one epoch."""

    closes: list[datetime]  # when each batch closes
    rows: pl.DataFrame  # `batch` (its place), `m` trials, `y` failures and how many (`count`) are alike
    thresholds: list[float]  # in each batch


@dataclass(frozen=True)
class OpenCounts:
    """What is known of open windows."""

    first: pl.DataFrame  # `EPOCH` and `FIRST_ACTIONS`
    blocks: pl.DataFrame  # `EPOCH`, the failures of `BLOCK_FAILED` in a heavy user's block, and how many are alike


class _Table:
    """What one detector steps through: its rows, parted by epoch in the order of batches."""

    def __init__(self, rows: pl.DataFrame, limit: float, since: datetime) -> None:
        self.rows = rows if "share" in rows.columns else rows.with_columns(share=pl.lit(1.0))
        self._limit = limit
        m, y, count = (rows[name].to_numpy() for name in ("m", "y", "count"))
        of = rows.select(pl.struct(EPOCH).rle_id().alias("of"))["of"].to_numpy().astype(np.intp)
        # Row by row in their order, so that the sums come out the same at every replay.
        won = np.log1p((_LARGEST_BET - 1) * (y / m)) * count
        new = count * (rows["closed_at"] > since).to_numpy()  # those that are shown
        self.failures, self.trials, self.count, self.shares, self._won = (
            np.bincount(of, weights=weights) for weights in (y * new, m * new, new, (y / m) * new, won)
        )
        self._starts = np.append(np.flatnonzero(np.diff(of, prepend=-1)), of.size)
        self._place = {names: at for at, names in enumerate(rows.select(EPOCH)[self._starts[:-1]].iter_rows())}

    def place(self, epoch: _EpochNames) -> int | None:
        """The number of an epoch; None where it has no rows."""
        return self._place.get(epoch)

    def may_reach(self, at: int, bar: float) -> bool:
        """Whether the detector could stand at a level: no bet wins more than the largest."""
        return bool(self._won[at] + math.log(self._starts[at + 1] - self._starts[at] + 1) >= bar)

    def batches(self, at: int) -> _Batches:
        """The batches of an epoch."""
        rows = self.rows[self._starts[at] : self._starts[at + 1]]
        rows = rows.with_columns(pl.col("closed_at").rle_id().cast(pl.Int64).alias("batch"))
        first = rows.unique("batch", keep="first", maintain_order=True)
        return _Batches(first["closed_at"].to_list(), rows, (self._limit / first["share"]).to_list())


def regressions(
    users: ClosedWindows, epochs: Sequence[_EpochNames], watched: WatchedUsers, opened: OpenCounts
) -> list[Regression]:
    """What the detectors say of some epochs: of the first that raised an alarm, or of closed windows."""
    if not epochs:
        return []
    asked = pl.DataFrame(epochs, schema=list(EPOCH), orient="row")
    parts: list[tuple[RegressionPart, pl.DataFrame]] = [("windows", _closed(users, watched))]
    if watched.signal in FIRST_FAILED:
        first, heavy = _first(users, watched, opened.first), _heavy(users, watched, opened)
        parts += [("first_actions", first), ("heavy_users", heavy)]
    answers: list[Regression] = []
    for part, rows in parts:
        rows_asked = rows.join(asked, on=EPOCH, how="semi", maintain_order="left")
        table = _Table(rows_asked, watched.limit, users.as_of - timedelta(seconds=users.lookback_s))
        places = [table.place(epoch) for epoch in epochs]
        length = watched.run_length if part == "windows" else watched.early_run_length
        answers = answers or [_answer(users, part, length, table, place) for place in places]
        near = [
            (at, place)
            for at, place in enumerate(places)
            if place is not None and answers[at].since is None and table.may_reach(place, math.log(length))
        ]
        levels = _step([table.batches(place) for _, place in near], watched.limit, length)
        for (at, place), (level, closes) in zip(near, levels, strict=True):
            began = None if closes is None else closes - timedelta(seconds=users.window_s)
            if part == "windows" or began is not None:
                answer = _answer(users, part, length, table, place)
                answers[at] = answer.model_copy(update={"log_level": level, "since": began})
    return answers


def _answer(
    users: ClosedWindows, part: RegressionPart, run_length: float, table: _Table, place: int | None
) -> Regression:
    counts = (0, 0, 0) if place is None else (table.failures[place], table.trials[place], table.count[place])
    failures, trials, count = map(int, counts)
    return Regression(
        threshold=math.log(run_length),
        failures=failures,
        trials=trials,
        window_s=users.lookback_s,
        by="user",
        part=part,
        windows=count if part == "windows" else None,
        value=float(table.shares[place] / count) if place is not None and count else None,
        assumes=ASSUMPTIONS["user"],
    )


def _closed(users: ClosedWindows, watched: WatchedUsers) -> pl.DataFrame:
    until = users.as_of - timedelta(seconds=watched.age_s)
    return users.batches(watched.signal).filter(pl.col("closed_at") <= until)


def _first(users: ClosedWindows, watched: WatchedUsers, opened: pl.DataFrame) -> pl.DataFrame:
    failed = FIRST_FAILED[watched.signal]
    closed = users.in_batches(users.rows).group_by(WINDOW)
    counts = closed.agg((pl.col("first_due", failed) * pl.col("count")).sum())
    rows = _with_open(counts, opened.select(*EPOCH, "first_due", failed), users)
    alike = [
        rows.select(*WINDOW, m=pl.lit(1), y=pl.lit(bad), count=number).filter(pl.col("count") > 0)
        for bad, number in ((0, pl.col("first_due") - pl.col(failed)), (1, pl.col(failed)))
    ]
    return pl.concat(alike).sort(*WINDOW, "y")


def _heavy(users: ClosedWindows, watched: WatchedUsers, opened: OpenCounts) -> pl.DataFrame:
    """The blocks of heavy users, at the limit over their share of the actions of the windows before."""
    y = pl.col(BLOCK_FAILED[watched.signal]).alias("y")
    closed = users.in_batches(users.blocks)
    blocks = _with_open(closed.select(*WINDOW, y, "count"), opened.blocks.select(*EPOCH, y, "count"), users)
    blocks = blocks.group_by(*WINDOW, "y").agg(pl.col("count").sum()).with_columns(m=pl.lit(BLOCK))
    due = users.in_batches(users.rows).group_by(WINDOW).agg((DUE * pl.col("count")).sum().alias("due"))
    made = blocks.group_by(WINDOW).agg((pl.col("count").sum() * BLOCK).alias("in_blocks"))
    both = due.join(made, on=WINDOW, how="full", coalesce=True).fill_null(0).sort(WINDOW)

    def before(name: str) -> pl.Expr:
        summed = pl.col(name).rolling_sum(_SHARE_WINDOWS, min_samples=1).shift(1)
        return summed.over(EPOCH)

    shares = both.with_columns(share=before("in_blocks") / before("due")).select(*WINDOW, "share")
    within = blocks.join(shares, on=WINDOW, how="left").filter(pl.col("share") > watched.limit)
    return within.with_columns(pl.col("share").clip(upper_bound=1.0)).sort(*WINDOW, "y")


def _with_open(closed: pl.DataFrame, opened: pl.DataFrame, users: ClosedWindows) -> pl.DataFrame:
    """Counts of closed windows, and those of open ones as the batch that closes last."""
    closes = pl.lit(users.as_of + timedelta(seconds=users.window_s)).cast(closed.schema["closed_at"])
    more = opened.with_columns(closed_at=closes)
    return pl.concat([closed, more.select(closed.columns).cast(dict(closed.schema))])  # type: ignore[arg-type]


def _step(parts: list[_Batches], limit: float, run_length: float) -> Iterator[tuple[float, datetime | None]]:
    """Step through the batches of many epochs at once: the level of each, and when the alarming batch closes."""
    if not parts:
        return
    pairs, longest = len(parts), max(len(part.closes) for part in parts)
    cell = np.concatenate([part.rows["batch"].to_numpy() * pairs + column for column, part in enumerate(parts)])
    m, y, count = (np.concatenate([part.rows[name].to_numpy() for part in parts]) for name in ("m", "y", "count"))
    windows = UserWindows.of(longest * pairs, cell=cell, actions=m, failures=y, count=count)
    thresholds = np.full((longest, pairs), limit)
    for column, part in enumerate(parts):
        thresholds[: len(part.thresholds), column] = part.thresholds
    watch = Watch.start(pairs, threshold=limit, run_length=run_length).after_windows(windows, thresholds=thresholds)
    for column, part in enumerate(parts):
        step = int(watch.alarmed_at[column])
        yield float(watch.log_level[column]), None if step == NO_ALARM else part.closes[step - 1]
