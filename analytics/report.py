"""The one document that commands and the page show: signals, verdicts and rejects, ready for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypedDict

import polars as pl

from analytics.cells import CELL, MATURE, Folded, Histogram, known_count
from analytics.counters import COUNTERS, HISTOGRAMS
from analytics.evidence import histogram
from analytics.evidence.signals import MICRO_PER_MS, MICRO_PER_USD, rates_of
from analytics.verdicts.ledger import latest_verdicts
from producers.wire.contract import RiskClass

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.lake.tables import Lake
    from producers.wire.receipt import Cell

DEFAULT_OUTCOME_DEADLINE_S: Final = 120.0
LATEST_REJECTS: Final = 20

LATENCY_QUANTILES: Final = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
COST_QUANTILES: Final = {"p95": 0.95}


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
    folded = Folded.of(lake.scan("signals").collect())
    return {
        "signals": signal_rows(folded, outcome_deadline_s=outcome_deadline_s),
        "verdicts": latest_verdicts(lake),
        "rejects": _rejects(lake),
    }


def signal_rows(folded: Folded, *, outcome_deadline_s: float) -> list[dict[str, Any]]:
    """One JSON-ready object for each cell, over all of its epochs, in the order of the cells' names."""
    if folded.latest_event_at is None:
        return []
    mature = folded.mature(folded.latest_event_at, outcome_deadline_s, by=CELL)
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


def cell_history(lake: Lake, cell: Cell) -> pl.DataFrame:
    """One row a minute of one cell, oldest first.

    Returns:
        `bucket`, every counter, `latency_known`, `latency_p50_ms`, `latency_p95_ms`, `latency_p99_ms`, `cost_known`,
        `cost_mean_usd`, `cost_p95_usd`; a quantile or mean is null where nothing is known.
    """
    this = pl.all_horizontal(pl.col(name) == value for name, value in zip(CELL, cell, strict=True))
    increments = lake.scan("signals").filter(this).collect()
    minutes = increments.group_by("bucket").agg(pl.col(COUNTERS).sum()).sort("bucket")
    buckets = minutes["bucket"].to_list()
    latency, cost = (_by_bucket(increments, name) for name in HISTOGRAMS)
    return minutes.with_columns(
        pl.Series("latency_known", [known_count(latency.get(at)) for at in buckets], dtype=pl.Int64),
        *(
            pl.Series(f"latency_{name}_ms", [_quantile(latency.get(at), q, MICRO_PER_MS) for at in buckets], pl.Float64)
            for name, q in LATENCY_QUANTILES.items()
        ),
        pl.Series("cost_known", [known_count(cost.get(at)) for at in buckets], dtype=pl.Int64),
        *(
            pl.Series(f"cost_{name}_usd", [_quantile(cost.get(at), q, MICRO_PER_USD) for at in buckets], pl.Float64)
            for name, q in COST_QUANTILES.items()
        ),
    ).with_columns(
        pl.when(pl.col("cost_known") > 0)
        .then(pl.col("cost_microusd") / MICRO_PER_USD / pl.col("cost_known"))
        .alias("cost_mean_usd")
    )


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


def iso(moment: datetime) -> str:
    """A moment as RFC 3339 in UTC."""
    return moment.isoformat().replace("+00:00", "Z")


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


def _by_bucket(increments: pl.DataFrame, name: str) -> dict[datetime, Histogram]:
    bins, counts = f"{name}_bins", f"{name}_counts"
    grouped = (
        increments.filter(pl.col(bins).list.len() > 0)
        .select("bucket", bins, counts)
        .explode(bins, counts)
        .group_by("bucket")
        .agg(bins, counts)
    )
    return {
        bucket: (some_bins.to_numpy(), some_counts.to_numpy())
        for bucket, some_bins, some_counts in zip(
            grouped["bucket"].to_list(), grouped[bins], grouped[counts], strict=True
        )
    }


def _rejects(lake: Lake) -> dict[str, Any]:
    rejects = lake.scan("rejects")
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
