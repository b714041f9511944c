"""What commands and the page show of a lake: signals, verdicts and rejects."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from analytics.evidence import histogram
from analytics.lake.table_schemas import REJECTS, SIGNALS
from analytics.signals.cells import MATURE, MINUTE_US, NEVER, ROW, Histogram, known_count
from analytics.signals.definitions import COUNTERS, HISTOGRAMS, MICRO_PER_MS, MICRO_PER_USD, rates_of
from analytics.signals.past_spans import may_settle
from analytics.signals.state import UNKNOWN_RISK, CellState, may_pass, microseconds, moment_of
from analytics.verdicts.document import VerdictDocument
from analytics.verdicts.ledger import latest_verdicts
from analytics.verdicts.list_marks import ListMarks
from producers.wire.contract import RiskClass
from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from analytics.lake.tables import Lake
    from analytics.signals.state import CellRows, Flags, Increment

LATEST_REJECTS: Final = 20
DEFAULT_OUTCOME_DEADLINE_S: Final = 120.0


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class LatencySummary(_Model):
    """Latency of a cell, milliseconds."""

    p50: float | None
    p95: float | None
    p99: float | None
    known: int
    """Executions that reported one."""


class CostSummary(_Model):
    """Cost of a cell, US dollars."""

    mean: float
    p95: float | None
    total: float
    known: int
    """Executions that reported one."""


class CellSignals(_Model):
    """What was counted about one cell, over all of its epochs."""

    environment: str
    workflow: str
    tool: str
    stage: str
    cohort: str
    risk_class: str | None
    """Highest risk class seen; null where unknown."""
    epochs: int
    counts: dict[str, int]
    """Every counter."""
    rates: dict[str, float | None]
    """Every rate; null without trials."""
    latency_ms: LatencySummary | None
    cost_usd: CostSummary | None
    first_decided_at: datetime
    last_decided_at: datetime
    last_event_at: datetime

    @property
    def cell(self) -> Cell:
        """The cell."""
        return Cell(self.environment, self.workflow, self.tool, self.stage, self.cohort)


class RejectedRecord(_Model):
    """One record that was refused."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    size: int
    first_bytes: str
    """The beginning of the value; what is not text is shown as its escape."""
    rejected_at: datetime


class RejectSummary(_Model):
    """Everything that was refused."""

    total: int = 0
    by_reason: dict[str, int] = {}
    """The most frequent first."""
    latest: tuple[RejectedRecord, ...] = ()


class Report(_Model):
    """What the commands show of a lake; docs/gates.md describes its parts."""

    signals: tuple[CellSignals, ...] = ()
    verdicts: tuple[VerdictDocument, ...] = ()
    marks: ListMarks = ListMarks()
    """Which of the verdicts to believe as a list."""
    rejects: RejectSummary = RejectSummary()

    def to_dict(self) -> dict[str, Any]:
        """The report of JSON types alone."""
        return self.model_dump(mode="json")


def build_report(lake: Lake | None, *, outcome_deadline_s: float = DEFAULT_OUTCOME_DEADLINE_S) -> Report:
    """Put everything that is known about every cell into one document; without a lake (None) there is nothing in it.

    An execution that did not come within `outcome_deadline_s` counts as missing.
    """
    if lake is None:
        return Report()
    counted = Counted(outcome_deadline_s)
    for _ in counted.read(lake, lake.version(SIGNALS)):
        pass
    signals = counted.rows(np.arange(len(counted.state.cells)))
    verdicts = tuple(latest_verdicts(lake))
    marks = ListMarks.of_documents(verdicts)
    return Report(signals=tuple(signals), verdicts=verdicts, marks=marks, rejects=read_rejects(lake))


def read_rejects(lake: Lake) -> RejectSummary:
    """How many records were rejected, for what, and the latest of them."""
    rejects = lake.scan(REJECTS)
    by_reason = rejects.group_by("reason").agg(pl.len().alias("n")).sort("n", "reason", descending=[True, False])
    counts = dict(by_reason.collect().iter_rows())
    latest = rejects.sort("rejected_at", "topic", "partition", "offset", descending=True).head(LATEST_REJECTS)
    names = list(RejectedRecord.model_fields)
    return RejectSummary(
        total=sum(counts.values()),
        by_reason=counts,
        latest=tuple(
            RejectedRecord(**{**row, "first_bytes": row["first_bytes"].decode("utf-8", "backslashreplace")})
            for row in latest.select(names).collect().iter_rows(named=True)
        ),
    )


class Counted:
    """Everything counted about every cell."""

    def __init__(self, outcome_deadline_s: float = DEFAULT_OUTCOME_DEADLINE_S) -> None:
        self.state = CellState(past=())  # nobody watches here
        self.version = -1  # of `signals`; before the first
        self._deadline_s = outcome_deadline_s
        self._watermark: datetime | None = None
        self._settled_at: datetime | None = None
        self._changed: Flags = np.empty(0, dtype=np.bool_)

    def read(self, lake: Lake, version: int) -> Iterator[Increment]:
        """Take in what was appended up to a version of `signals`; a part is yielded once it is counted. Take all parts.

        Raises `LakeError`, also where the log no longer reaches back to what is counted: begin anew.
        """
        if self.version < 0:
            parts = lake.batches(SIGNALS, version=version)
        else:
            parts = iter([lake.increments(SIGNALS, after=self.version, through=version)])
        for rows in parts:
            if rows.height:
                yield self._add(rows)
        self.version = version

    def take_changed(self) -> CellRows:
        """The cells whose rows may differ from when this was last asked, by their row in `state.cells`."""
        (cells,) = np.nonzero(self._changed)
        self._changed[:] = False
        return cells

    def rows(self, cells: CellRows) -> list[CellSignals]:
        """What was counted about some cells, in the order of the cells' names."""
        if self._watermark is None or not cells.size:
            return []
        return signal_rows(self.state, cells, watermark=self._watermark, outcome_deadline_s=self._deadline_s)

    def _add(self, rows: pl.DataFrame) -> Increment:
        state, before = self.state, self._watermark
        increment = state.add(rows)
        self._changed = np.append(self._changed, np.ones(len(state.cells) - self._changed.size, dtype=np.bool_))
        self._changed[state.cell_of[increment.epochs]] = True
        self._watermark = state.latest_event_at
        if before is not None and self._watermark is not None and self._watermark > before:
            self._mark_passing(before, self._watermark)
        self._settle()
        return increment

    def _mark_passing(self, before: datetime, now: datetime) -> None:
        """Event time alone changes what counts as missing: mark the cells of which a deadline has passed."""
        deadline_us = round(self._deadline_s * 1_000_000)
        since, until = microseconds(before) - deadline_us, microseconds(now) - deadline_us
        recent = self.state.recent
        passed = pl.any_horizontal(pl.col("expected_at", "executed_at").is_between(since, until, closed="right"))
        if may_pass(since - MINUTE_US, until - MINUTE_US):
            passed |= (pl.col("bucket") > since - MINUTE_US) & (pl.col("bucket") <= until - MINUTE_US)
        epochs = recent.filter(passed)[ROW].unique().to_numpy().astype(np.intp)
        self._changed[self.state.cell_of[epochs]] = True

    def _settle(self) -> None:
        now = self._watermark
        if now is None:
            return
        # The parts of the first reading come in any order: all but the newest minutes can go at once.
        if self.version >= 0 and not may_settle(self._settled_at, now):
            return
        self.state.settle(now, self._deadline_s, whole=np.zeros(self.state.epochs, dtype=np.bool_))
        self._settled_at = now


def signal_rows(
    state: CellState, cells: CellRows, *, watermark: datetime, outcome_deadline_s: float
) -> list[CellSignals]:
    """What was counted about some cells, over all of their epochs, in the order of the cells' names.

    The watermark is the event time up to which everything has been read; an execution that did not come within
    `outcome_deadline_s` counts as missing.
    """
    cells = np.array(sorted(cells.tolist(), key=lambda cell: state.cells[cell]), dtype=np.intp)
    place_of = np.full(len(state.cells), -1, dtype=np.intp)
    place_of[cells] = np.arange(cells.size)
    epochs = np.flatnonzero(place_of[state.cell_of] >= 0)
    places = place_of[state.cell_of[epochs]]
    missing = state.missing_outcomes(microseconds(watermark), round(outcome_deadline_s * 1_000_000))
    counters = {name: state.counter(name) for name in COUNTERS}
    counters |= dict(zip(MATURE, missing.columns, strict=True))
    sums = {name: np.zeros(cells.size, dtype=np.int64) for name in counters}
    for name, values in counters.items():
        np.add.at(sums[name], places, values[epochs])
    risk = np.full(cells.size, UNKNOWN_RISK, dtype=np.int8)
    np.maximum.at(risk, places, state.risk[epochs])
    first, last, newest = (np.full(cells.size, moment_us) for moment_us in (-NEVER, NEVER, NEVER))
    np.minimum.at(first, places, state.first_us[epochs])
    np.maximum.at(last, places, state.last_us[epochs])
    np.maximum.at(newest, places, state.event_us[epochs])
    latency, cost = (_by_place(state.histograms(name, epochs), state, place_of) for name in HISTOGRAMS)
    epoch_counts = np.bincount(places, minlength=cells.size).tolist()
    table = zip(*(values.tolist() for values in sums.values()), strict=True)
    rows = []
    for place, (cell, summed) in enumerate(zip(cells.tolist(), table, strict=True)):
        counts = dict(zip(sums, summed, strict=True))
        rows.append(
            CellSignals(
                **state.cells[cell]._asdict(),
                risk_class=None if risk[place] == UNKNOWN_RISK else list(RiskClass)[risk[place]].value,
                epochs=epoch_counts[place],
                counts={name: counts[name] for name in COUNTERS},
                rates=rates_of(counts),
                latency_ms=_latency(latency.get(place)),
                cost_usd=_cost(cost.get(place), counts["cost_microusd"]),
                first_decided_at=moment_of(first[place]),
                last_decided_at=moment_of(last[place]),
                last_event_at=moment_of(newest[place]),
            )
        )
    return rows


def _by_place(histograms: dict[int, Histogram], state: CellState, place_of: CellRows) -> dict[int, Histogram]:
    """The histograms of epochs, added up by the place of their cell."""
    parts: dict[int, list[Histogram]] = {}
    for epoch, histogram_of_epoch in histograms.items():
        parts.setdefault(int(place_of[state.cell_of[epoch]]), []).append(histogram_of_epoch)
    return {place: _added(several) for place, several in parts.items()}


def _added(several: list[Histogram]) -> Histogram:
    if len(several) == 1:
        return several[0]
    bins, place = np.unique(np.concatenate([bins for bins, _ in several]), return_inverse=True)
    counts = np.zeros(bins.size, dtype=np.int64)
    np.add.at(counts, place, np.concatenate([counts for _, counts in several]))
    return bins, counts


def _latency(measured: Histogram | None) -> LatencySummary | None:
    if measured is None:
        return None
    p50, p95, p99 = (_quantile(measured, q, MICRO_PER_MS) for q in (0.50, 0.95, 0.99))
    return LatencySummary(p50=p50, p95=p95, p99=p99, known=known_count(measured))


def _cost(measured: Histogram | None, total_microusd: int) -> CostSummary | None:
    if measured is None:
        return None
    count, p95 = known_count(measured), _quantile(measured, 0.95, MICRO_PER_USD)
    total_usd = total_microusd / MICRO_PER_USD
    return CostSummary(mean=total_usd / count, p95=p95, total=total_usd, known=count)


def _quantile(measured: Histogram, q: float, micro_per_unit: int) -> float | None:
    micro = histogram.quantile(*measured, q)
    return None if micro is None else micro / micro_per_unit
