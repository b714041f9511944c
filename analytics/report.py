"""The one document that commands and the page show: signals, verdicts and rejects, ready for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypedDict

import numpy as np
import polars as pl

from analytics.evidence import histogram
from analytics.lake.table_schemas import REJECTS, SIGNALS
from analytics.signals.cells import CELL, MATURE, Folded, Histogram, known_count
from analytics.signals.definitions import COUNTERS, HISTOGRAMS, MICRO_PER_MS, MICRO_PER_USD, rates_of
from analytics.signals.state import MINUTE_US, PLACE, Columns, may_pass, may_settle, microseconds
from analytics.text import iso
from analytics.verdicts.ledger import latest_verdicts
from producers.wire.contract import RiskClass

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from analytics.lake.tables import Lake
    from analytics.signals.state import Flags, Increment, Places

LATEST_REJECTS: Final = 20
DEFAULT_OUTCOME_DEADLINE_S: Final = 120.0


class Report(TypedDict):
    """The document; the shape of its parts is described in docs/gates.md."""

    signals: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]
    rejects: dict[str, Any]


def build_report(lake: Lake | None, *, outcome_deadline_s: float = DEFAULT_OUTCOME_DEADLINE_S) -> Report:
    """Put everything that is known about every cell into one document.

    Args:
        lake: The lake; None where there is none yet, which gives the same document with nothing in it.
        outcome_deadline_s: Seconds after which an execution that did not come counts as missing.

    Returns:
        `signals`, `verdicts` and `rejects`, of JSON types alone.
    """
    if lake is None:
        return {"signals": [], "verdicts": [], "rejects": {"total": 0, "by_reason": {}, "latest": []}}
    counted = Counted(outcome_deadline_s)
    for _ in counted.read(lake, lake.version(SIGNALS)):
        pass
    return {
        "signals": counted.rows(np.arange(len(counted.columns.cells))),
        "verdicts": [document.to_dict() for document in latest_verdicts(lake)],
        "rejects": rejected(lake),
    }


def rejected(lake: Lake) -> dict[str, Any]:
    """How many records were rejected, for what, and the latest of them, of JSON types alone."""
    rejects = lake.scan(REJECTS)
    by_reason = rejects.group_by("reason").agg(pl.len().alias("n")).sort("n", "reason", descending=[True, False])
    counted = dict(by_reason.collect().iter_rows())
    latest = rejects.sort("rejected_at", "topic", "partition", "offset", descending=True).head(LATEST_REJECTS)
    return {
        "total": sum(counted.values()),
        "by_reason": counted,
        "latest": [
            {
                "topic": row["topic"],
                "partition": row["partition"],
                "offset": row["offset"],
                "reason": row["reason"],
                "detail": row["detail"],
                "size": row["size"],
                # Bytes that were refused can be anything; what is not text is shown as its escape.
                "first_bytes": row["first_bytes"].decode("utf-8", "backslashreplace"),
                "rejected_at": iso(row["rejected_at"]),
            }
            for row in latest.collect().iter_rows(named=True)
        ],
    }


class Counted:
    """Everything counted about every cell.

    Args:
        outcome_deadline_s: Seconds after which an execution that did not come counts as missing.

    Attributes:
        columns: The counters.
        version: Version of `signals` that they are at; -1 before the first.
    """

    def __init__(self, outcome_deadline_s: float = DEFAULT_OUTCOME_DEADLINE_S) -> None:
        self.columns = Columns()
        self.version = -1
        self._deadline_s = outcome_deadline_s
        self._watermark: datetime | None = None
        self._settled_at: datetime | None = None
        self._changed: Flags = np.empty(0, dtype=np.bool_)

    def read(self, lake: Lake, version: int) -> Iterator[Increment]:
        """Take in what was appended up to a version of `signals`; each part is yielded once it is counted.

        Take all parts: what breaks off in between is not to be used any more.

        Raises:
            LakeError: The lake cannot be read, or its log no longer reaches back to what is counted: begin anew.
        """
        if self.version < 0:
            parts = lake.batches(SIGNALS, version=version)
        else:
            parts = iter([lake.increments(SIGNALS, after=self.version, through=version)])
        for rows in parts:
            if rows.height:
                yield self._add(rows)
        self.version = version

    def take_changed(self) -> Places:
        """The cells whose rows may differ from when this was last asked, by their place in `columns.cells`."""
        (places,) = np.nonzero(self._changed)
        self._changed[:] = False
        return places

    def rows(self, cells: Places) -> list[dict[str, Any]]:
        """One JSON-ready object for each of some cells, in the order of the cells' names."""
        if self._watermark is None or not cells.size:
            return []
        wanted = np.zeros(len(self.columns.cells), dtype=np.bool_)
        wanted[cells] = True
        folded = self.columns.folded(np.flatnonzero(wanted[self.columns.cell_of]))
        return signal_rows(folded, watermark=self._watermark, outcome_deadline_s=self._deadline_s)

    def _add(self, rows: pl.DataFrame) -> Increment:
        columns, before = self.columns, self._watermark
        increment = columns.add(rows)
        self._changed = np.append(self._changed, np.ones(len(columns.cells) - self._changed.size, dtype=np.bool_))
        self._changed[columns.cell_of[increment.places]] = True
        self._watermark = columns.latest_event_at
        if before is not None and self._watermark is not None and self._watermark > before:
            self._mark_passing(before, self._watermark)
        self._settle()
        return increment

    def _mark_passing(self, before: datetime, now: datetime) -> None:
        """Event time alone changes what counts as missing: mark the cells of which a deadline has passed."""
        deadline_us = round(self._deadline_s * 1_000_000)
        since, until = microseconds(before) - deadline_us, microseconds(now) - deadline_us
        recent = self.columns.recent
        passed = (pl.col("expected_at") > since) & (pl.col("expected_at") <= until)
        if may_pass(since - MINUTE_US, until - MINUTE_US):
            passed |= (pl.col("bucket") > since - MINUTE_US) & (pl.col("bucket") <= until - MINUTE_US)
        places = recent.filter(passed)[PLACE].unique().to_numpy().astype(np.intp)
        self._changed[self.columns.cell_of[places]] = True

    def _settle(self) -> None:
        now = self._watermark
        if now is None:
            return
        # The parts of the first reading come in any order: all but the newest minutes can go at once.
        if self.version >= 0 and not may_settle(self._settled_at, now):
            return
        self.columns.settle(now, self._deadline_s, whole=np.zeros(self.columns.epochs, dtype=np.bool_))
        self._settled_at = now


LATENCY_QUANTILES: Final = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
COST_QUANTILES: Final = {"p95": 0.95}


def signal_rows(folded: Folded, *, watermark: datetime, outcome_deadline_s: float) -> list[dict[str, Any]]:
    """One JSON-ready object for each cell, over all of its epochs, in the order of the cells' names.

    Args:
        folded: What was counted.
        watermark: Event time up to which everything has been read.
        outcome_deadline_s: Seconds after which an execution that did not come counts as missing.
    """
    mature = folded.mature(watermark, outcome_deadline_s, by=CELL)
    latency, cost = (folded.histogram(name, by=CELL) for name in HISTOGRAMS)
    by_cell = folded.totals.group_by(CELL).agg(
        pl.len().alias("epochs"),
        *(pl.col(name).sum() for name in COUNTERS),
        pl.col("risk_rank").max(),
        pl.col("first_bucket").min(),
        pl.col("last_bucket").max(),
        pl.col("last_event_at").max(),
    )
    rows = by_cell.join(mature, on=CELL, how="left").with_columns(pl.col(MATURE).fill_null(0)).sort(CELL)
    return [_signal_row(row, latency, cost) for row in rows.iter_rows(named=True)]


def _signal_row(
    row: dict[str, Any], latency: dict[tuple[str, ...], Histogram], cost: dict[tuple[str, ...], Histogram]
) -> dict[str, Any]:
    cell = tuple(row[name] for name in CELL)
    return {
        **{name: row[name] for name in CELL},
        "risk_class": risk_name(row["risk_rank"]),
        "epochs": row["epochs"],
        "counts": {name: row[name] for name in COUNTERS},
        "rates": rates_of(row),
        "latency_ms": _latency(latency.get(cell)),
        "cost_usd": _cost(cost.get(cell), row["cost_microusd"]),
        "first_decided_at": iso(row["first_bucket"]),
        "last_decided_at": iso(row["last_bucket"]),
        "last_event_at": iso(row["last_event_at"]),
    }


def risk_name(rank: int | None) -> str | None:
    """The risk class of a rank; None where it is unknown."""
    return None if rank is None else list(RiskClass)[rank].value


def _latency(known: Histogram | None) -> dict[str, Any] | None:
    if known is None:
        return None
    quantiles = {name: _quantile(known, q, MICRO_PER_MS) for name, q in LATENCY_QUANTILES.items()}
    return {**quantiles, "known": known_count(known)}


def _cost(known: Histogram | None, total_microusd: int) -> dict[str, Any] | None:
    if known is None:
        return None
    total_usd = total_microusd / MICRO_PER_USD
    quantiles = {name: _quantile(known, q, MICRO_PER_USD) for name, q in COST_QUANTILES.items()}
    return {"mean": total_usd / known_count(known), **quantiles, "total": total_usd, "known": known_count(known)}


def _quantile(known: Histogram | None, q: float, micro_per_unit: int) -> float | None:
    micro = None if known is None else histogram.quantile(*known, q)
    return None if micro is None else micro / micro_per_unit
