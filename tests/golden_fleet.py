"""The golden fleet: 10,000 cells of counters drawn from a seed, under a gate file that asks for everything there is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import polars as pl
from golden_product import COLUMNS, COUNTERS, LADDER, SIGNALS, bin_of

if TYPE_CHECKING:
    import numpy.typing as npt

    Integers: TypeAlias = npt.NDArray[np.int64]
    Words: TypeAlias = npt.NDArray[np.str_]

BEGAN_AT: Final = datetime(2026, 3, 14, 0, 0, tzinfo=UTC)
BETWEEN_LOOKS: Final = timedelta(hours=3)
"""More seconds than there are cells, so that every row that may be renewed is."""
LOOKS: Final = 3
CELLS: Final = 10_000

GATES: Final = """\
version: 1
outcome_deadline: 5m
freshness: 3d
user_window: 30m
after_promotion: {within: 7d}
gates:
  - name: plain
    match: {environment: production, workflow: plain}
    unit: action
    minimum_exposure: {actions: 60}
    signals:
      - {signal: denial, role: promote, limit: 0.20}
      - {signal: execution_error, role: guardrail, limit: 0.08, weight: 2}
      - {signal: undo, role: guardrail, limit: 0.06, maturity: 1h}
      - {signal: missing_outcome, role: guardrail, limit: 0.08}
      - {signal: latency_p95, role: guardrail, limit_ms: 1500, must_have_data: false}
      - {signal: severe_incident, role: trip, max_count: 1}
      - {signal: support, role: watch, limit: 0.05}
  - name: trips only
    match: {workflow: trips}
    unit: action
    signals:
      - {signal: severe_incident, role: trip}
      - {signal: cost_p95, role: watch}
  - name: long exposure
    owner: risk
    match: {workflow: exposure}
    unit: action
    minimum_exposure: {actions: 150, days: 0.3}
    hold_expires: 10h
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.08}
      - {signal: review_rejection, role: promote, limit: 0.30, must_have_data: false}
  - name: by approval
    match: {workflow: approval}
    unit: action
    on_promote: ask
    alpha: 0.01
    beta: 0.1
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.08}
      - {signal: timeout, role: guardrail, limit: 0.08, weight: 3}
      - {signal: quality_failure, role: guardrail, limit: 0.25, maturity: 2h}
  - name: dry
    match: {workflow: dry}
    unit: action
    dry_run: true
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.06}
      - {signal: incident, role: guardrail, limit: 0.04, maturity: 10m}
  - name: partly dry
    match: {workflow: partly-dry}
    unit: action
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.08}
      - {signal: undo, role: guardrail, limit: 0.02, dry_run: true}
      - {signal: denial, role: guardrail, limit: 0.20, stages: [draft_write, approval_gated], dry_run: true}
  - name: concurrent
    match: {workflow: concurrent}
    unit: action
    baseline: {kind: concurrent, cohort: held-back}
    split: {by: cohort, shares: {all: 0.5, held-back: 0.5}}
    signals:
      - {signal: execution_error, role: guardrail, ratio: 2.0}
      - {signal: undo, role: promote, ratio: 3.0, maturity: 1h}
      - {signal: denial, role: guardrail, limit: 0.30}
  - name: historic
    match: {workflow: historic}
    unit: action
    baseline: {kind: historic}
    signals:
      - {signal: execution_error, role: guardrail, ratio: 2.5}
      - {signal: timeout, role: guardrail, limit: 0.08}
  - name: percentage
    match: {workflow: percentage}
    unit: action
    split: {by: stage, shares: {draft_write: 0.5, approval_gated: 0.5}, since: 2026-03-14T01:00:00Z}
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.10}
  - name: quantiles
    match: {workflow: quantiles}
    unit: action
    signals:
      - {signal: latency_p50, role: promote, limit_ms: 400, stages: [search_only, draft_write, approval_gated]}
      - {signal: latency_p95, role: promote, limit_ms: 1200, stages: [draft_write, approval_gated, narrow_autonomy]}
      - {signal: cost_p95, role: promote, limit_usd: 0.05, stages: [draft_write, approval_gated]}
  - name: risky
    match: {workflow: quantiles, risk_class: irreversible}
    unit: action
    signals: [{signal: execution_error, role: guardrail, limit: 0.02}]
  - name: tie one
    match: {workflow: tie}
    signals: [{signal: execution_error, role: guardrail, limit: 0.10}]
  - name: tie two
    match: {tool: tie-tool}
    signals: [{signal: execution_error, role: guardrail, limit: 0.10}]
  - name: short ladder
    match: {workflow: short-ladder}
    unit: action
    ladder: [search_only, draft_write, approval_gated]
    signals: [{signal: execution_error, role: guardrail, limit: 0.10}]
  - name: by user
    match: {workflow: by-user}
    minimum_exposure: {users: 5}
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.10}
      - {signal: undo, role: guardrail, limit: 0.10, unit: action}
  - name: together
    match: {workflow: together}
    unit: action
    alpha: 0.1
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.08}
      - {signal: timeout, role: guardrail, limit: 0.08}
      - {signal: undo, role: guardrail, limit: 0.08, maturity: 10m}
      - {signal: incident, role: guardrail, limit: 0.08, maturity: 10m}
"""

WORKFLOWS: Final = (
    "plain", "trips", "exposure", "approval", "dry", "partly-dry", "concurrent", "historic", "percentage", "quantiles",
    "tie", "short-ladder", "by-user", "together", "ungated",
)  # fmt: skip
_COMPARED_UP_TO: Final = 75
"""Actions, of four cells each, among which some are compared with a baseline; that takes its time."""

_CHARACTERS: Final = np.array(
    # denied, failed, timed out, undone, incidents, median latency in milliseconds
    [
        (0.02, 0.004, 0.002, 0.003, 0.001, 220.0),
        (0.05, 0.020, 0.010, 0.010, 0.004, 350.0),
        (0.02, 0.060, 0.060, 0.060, 0.050, 390.0),
        (0.30, 0.010, 0.004, 0.005, 0.002, 240.0),
        (0.05, 0.200, 0.020, 0.010, 0.010, 260.0),
        (0.03, 0.010, 0.100, 0.150, 0.030, 1_300.0),
        (0.04, 0.105, 0.100, 0.105, 0.100, 500.0),
    ]
)

_Bins: TypeAlias = tuple[list[list[int]], list[list[int]]]
"""Bins and counts of sparse histograms, one row each."""


def increments(look: int) -> pl.DataFrame:
    """What the fleet did before one look: rows of the table of signals."""
    rng = np.random.default_rng([2026, look])
    cells = np.arange(CELLS)
    minutes = rng.integers(0, 160, (CELLS, 3 if look == 0 else 2))
    quiet = (cells % 5 == 3) & (look > 0)
    busy = rng.random((CELLS, minutes.shape[1])) < (0.95 if look == 0 else 0.06)
    if look == 0:
        # Most cells were busy long before, so that no minute of theirs ripens later; a few so long that it is stale.
        minutes -= np.where((cells % 10 > 0) & (cells >= 4 * _COMPARED_UP_TO), 480, 0)[:, None]
        minutes -= np.where(cells % 37 == 9, 3_900, 0)[:, None]
    # Cells that are compared, and so need minutes in common.
    minutes[_workflow(cells // 4) == "concurrent"] = 30 * np.arange(minutes.shape[1]) + 20
    here = busy & ~quiet[:, None]
    cell = np.broadcast_to(cells[:, None], here.shape)[here]
    minute = minutes[here] + look * int(BETWEEN_LOOKS.total_seconds() // 60)
    late = np.flatnonzero((cells % 9 == 4) & (look == LOOKS - 1))
    frame = _rows(cell, minute, rng, look=look)
    return pl.concat([frame, _late_undos(late, rng)]) if late.size else frame


def _rows(cell: Integers, minute: Integers, rng: np.random.Generator, *, look: int) -> pl.DataFrame:
    rows = cell.size
    denied, failed, timed_out, undone, incidents, median_ms = _CHARACTERS[(cell * 7 + cell // 11) % 7].T
    # One cell in eight gets worse after the first look.
    worse = (cell % 8 == 1) & (look > 0)
    failed, undone = np.where(worse, 0.3, failed), np.where(worse, 0.25, undone)
    decisions = rng.poisson(np.array([3, 30, 90, 200])[cell // 3 % 4])
    counts = dict.fromkeys(COUNTERS, np.zeros(rows, dtype=np.int64))
    counts["decisions"] = decisions
    counts["denied"] = rng.binomial(decisions, denied)
    counts["queued"] = rng.binomial(decisions - counts["denied"], 0.2)
    counts["constrained"] = rng.binomial(decisions - counts["denied"] - counts["queued"], 0.05)
    counts["allowed"] = decisions - counts["denied"] - counts["queued"] - counts["constrained"]
    counts["reviews_approved"] = rng.binomial(counts["queued"], 0.7)
    counts["reviews_rejected"] = rng.binomial(counts["queued"] - counts["reviews_approved"], 0.5)
    counts["expected"] = counts["allowed"] + counts["constrained"] + counts["reviews_approved"]
    lost = np.where(cell % 13 == 5, 0.2, 0.005)
    executed = counts["executed"] = counts["expected"] - rng.binomial(counts["expected"], lost)
    counts["failed"] = rng.binomial(executed, failed)
    counts["timed_out"] = rng.binomial(executed - counts["failed"], timed_out)
    counts["undone"] = rng.binomial(executed, undone)
    counts["undo_failed"] = rng.binomial(executed - counts["undone"], undone / 5)
    counts["incidents"] = rng.binomial(executed, incidents)
    counts["severe_incidents"] = rng.binomial(counts["incidents"], 0.05)
    counts["support"] = rng.binomial(executed, 0.02)
    counts["quality_checks"] = rng.binomial(executed, 0.5)
    counts["quality_failures"] = rng.binomial(counts["quality_checks"], failed)
    counts["cost_microusd"] = executed * 4_000
    # Some counters contradict each other.
    counts["failed"] = np.where(cell % 101 == 17, executed + 5, counts["failed"])
    known = np.where(cell % 17 == 2, 0, executed)
    slow = rng.binomial(known, np.where(median_ms > 1_000, 0.2, 0.02))
    latency = _bins(np.round(median_ms * 1_000).astype(np.int64), known - slow, slow)
    cost = _bins(np.full(rows, 4_000), known - slow // 4, slow // 4)
    return _frame(cell, minute, counts, (latency, cost), _epochs(cell, look))


def _late_undos(cell: Integers, rng: np.random.Generator) -> pl.DataFrame:
    """Undos of the first epoch that become known at the last look."""
    counts = dict.fromkeys(COUNTERS, np.zeros(cell.size, dtype=np.int64))
    counts["undone"] = rng.integers(5, 60, cell.size)
    none: list[list[int]] = [[] for _ in range(cell.size)]
    frame = _frame(cell, np.full(cell.size, 10), counts, ((none, none), (none, none)), np.full(cell.size, "e1"))
    return frame.with_columns(
        pl.lit(BEGAN_AT + (LOOKS - 1) * BETWEEN_LOOKS).cast(pl.Datetime("us", "UTC")).alias("last_event_at")
    )


def _workflow(action: Integers) -> Words:
    workflow = np.array(WORKFLOWS)[action % len(WORKFLOWS)]
    compared = np.isin(workflow, ["concurrent", "historic", "percentage"])
    return np.where(compared & (action >= _COMPARED_UP_TO), "plain", workflow)


def _epochs(cell: Integers, look: int) -> Words:
    """The epoch of each row: some cells begin another one before the second look."""
    return np.where((cell % 3 == 1) & (look >= 1), "e2", "e1")


def _bins(typical: Integers, near: Integers, far: Integers) -> _Bins:
    """Sparse histograms of two bins: typical values, and values five times as large."""
    one, two = bin_of(typical), bin_of(typical * 5)
    listed = zip(one.tolist(), two.tolist(), near.tolist(), far.tolist(), strict=True)
    pairs = [[(at, n) for at, n in ((a, x), (b, y)) if n] for a, b, x, y in listed]
    return [[at for at, _ in row] for row in pairs], [[n for _, n in row] for row in pairs]


def _frame(
    cell: Integers,
    minute: Integers,
    counts: dict[str, Integers],
    histograms: tuple[_Bins, _Bins],
    epoch: Words,
) -> pl.DataFrame:
    latency, cost = histograms
    action, part = cell // 4, cell % 4
    workflow = _workflow(action)
    by_cohort = np.isin(workflow, ["concurrent"])
    by_stage = np.isin(workflow, ["percentage", "historic"])
    ladder = np.array([stage.value for stage in LADDER])
    stage = ladder[(action // len(WORKFLOWS) + part) % len(ladder)]
    stage = np.where(by_cohort, np.where(part == 1, "draft_write", "approval_gated"), stage)
    stage = np.where(by_stage, np.where(part % 2 == 0, "draft_write", "approval_gated"), stage)
    cohort = np.where(by_cohort, np.array(["all", "held-back", "stray", "late"])[part], "all")
    cohort = np.where(by_stage & (part >= 2), "second", cohort)
    tool = np.where(workflow == "tie", "tie-tool", np.char.add("tool-", action.astype(str)))
    tool = np.where((workflow == "tie") & (action % 2 == 0), np.char.add("tool-", action.astype(str)), tool)
    cohort = np.where(tool == "tie-tool", np.char.add("cohort-", cell.astype(str)), cohort)
    risk = np.where(cell % 23 == 0, 6, np.where(cell % 29 == 0, -1, 4))
    frame = pl.DataFrame(
        {
            "environment": np.full(cell.size, "production"),
            "workflow": workflow,
            "tool": tool,
            "stage": stage,
            "cohort": cohort,
            "epoch": epoch,
            "bucket": pl.Series(minute.astype(np.int64) * 60_000_000 + int(BEGAN_AT.timestamp()) * 1_000_000),
            "risk_rank": risk,
            **counts,
            "latency_bins": pl.Series(latency[0], dtype=pl.List(pl.Int16)),
            "latency_counts": pl.Series(latency[1], dtype=pl.List(pl.Int64)),
            "cost_bins": pl.Series(cost[0], dtype=pl.List(pl.Int16)),
            "cost_counts": pl.Series(cost[1], dtype=pl.List(pl.Int64)),
        }
    ).with_columns(
        pl.col("bucket").cast(pl.Datetime("us", "UTC")),
        pl.when(pl.col("risk_rank") >= 0).then("risk_rank").alias("risk_rank"),
    )
    known_at = pl.col("bucket") + timedelta(seconds=59)
    frame = frame.with_columns(last_event_at=known_at, last_ingested_at=pl.lit(None))
    return frame.select(pl.col(name).cast(kind) for name, kind in COLUMNS[SIGNALS].items())
