"""What is shown of a cell: counts, rates and quantiles over all of its epochs, ready for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analytics.cells import CELL, MATURE, Folded, Histogram, known_count
from analytics.counters import COUNTERS, HISTOGRAMS
from analytics.evidence import histogram
from analytics.evidence.signals import MICRO_PER_MS, MICRO_PER_USD, rates_of
from analytics.verdicts.explain import iso
from producers.wire.contract import RiskClass

if TYPE_CHECKING:
    from datetime import datetime

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
