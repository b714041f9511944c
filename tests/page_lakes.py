"""Lakes for the page's tests: real tables, filled with the counters of actions that behave in known ways."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from analytics.evidence import histogram
from analytics.judging.judge import Judge
from analytics.lake.table_schemas import COLUMNS, REJECTS, SIGNALS
from analytics.lake.tables import Lake
from analytics.signals.definitions import COUNTERS
from producers.wire.contract import RiskClass
from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

GATES = """\
version: 1
gates:
  - name: reads
    match: {environment: production, risk_class: scoped_read}
    minimum_exposure: {actions: 100}
    signals:
      - {signal: denial, role: guardrail, limit: 0.10}
      - {signal: execution_error, role: guardrail, limit: 0.05}
      - {signal: latency_p95, role: promote, limit_ms: 900}
      - {signal: quality_failure, role: watch}
  - name: writes
    match: {environment: production}
    minimum_exposure: {actions: 200}
    signals:
      - {signal: denial, role: guardrail, limit: 0.08}
      - {signal: undo, role: guardrail, limit: 0.02, maturity: 5m, weight: 2}
      - {signal: execution_error, role: guardrail, limit: 0.05}
      - {signal: missing_outcome, role: guardrail, limit: 0.02}
      - {signal: incident, role: guardrail, limit: 0.01, maturity: 5m}
      - {signal: latency_p95, role: promote, limit_ms: 1500}
      - {signal: severe_incident, role: trip}
      - {signal: support, role: watch}
"""


@dataclass(frozen=True)
class Behaviour:
    """How an action behaves, as rates; latency is log-normal around a median in milliseconds."""

    workflow: str
    tool: str
    stage: str
    per_minute: float
    risk: RiskClass = RiskClass.EXTERNAL_EFFECT
    denial: float = 0.02
    error: float = 0.01
    undo: float = 0.004
    incident: float = 0.0
    median_ms: float = 240.0
    late_undo: float = 0.0
    cohort: str = "all"
    environment: str = "production"

    @property
    def cell(self) -> Cell:
        return Cell(self.environment, self.workflow, self.tool, self.stage, self.cohort)


FLEET = (
    Behaviour("refunds", "issue_refund", "narrow_autonomy", 22, undo=0.006, late_undo=0.11, median_ms=410),
    Behaviour("refunds", "issue_refund", "approval_gated", 9, undo=0.003, median_ms=430),
    Behaviour("refunds", "lookup_order", "search_only", 38, risk=RiskClass.SCOPED_READ, median_ms=95),
    Behaviour("support", "send_reply", "draft_write", 26, denial=0.012, undo=0.002, median_ms=620),
    Behaviour("support", "close_ticket", "approval_gated", 11, denial=0.17, median_ms=180),
    Behaviour("billing", "adjust_invoice", "draft_write", 6, undo=0.012, median_ms=540),
    Behaviour("billing", "adjust_invoice", "narrow_autonomy", 3, undo=0.0, median_ms=560, cohort="enterprise"),
    Behaviour("accounts", "reset_password", "progressive_expansion", 31, undo=0.001, median_ms=150),
    Behaviour("accounts", "delete_account", "observe_only", 0.6, risk=RiskClass.IRREVERSIBLE, median_ms=300),
    Behaviour(
        "knowledge", "search_articles", "observe_only", 44, risk=RiskClass.SCOPED_READ, median_ms=70, error=0.004
    ),
    Behaviour("lab", "try_out", "search_only", 4, environment="staging"),
)


def minute_row(
    behaviour: Behaviour, bucket: datetime, rng: np.random.Generator, *, late: bool = False, epoch: str = "e1"
) -> dict[str, object]:
    """One increment: what a cell did in one minute."""
    decisions = int(rng.poisson(behaviour.per_minute))
    denied = int(rng.binomial(decisions, behaviour.denial))
    executed = decisions - denied
    undo = behaviour.late_undo if late and behaviour.late_undo else behaviour.undo
    micros = np.round(rng.lognormal(np.log(behaviour.median_ms), 0.45, executed) * 1_000).astype(np.int64)
    bins, counts = np.unique(histogram.bin_of(micros), return_counts=True)
    counters = dict.fromkeys(COUNTERS, 0) | {
        "decisions": decisions,
        "allowed": executed,
        "denied": denied,
        "expected": executed,
        "executed": executed,
        "failed": int(rng.binomial(executed, behaviour.error)),
        "undone": int(rng.binomial(executed, undo)),
        "incidents": int(rng.binomial(executed, behaviour.incident)),
    }
    return {
        **behaviour.cell._asdict(),
        "epoch": epoch,
        "bucket": bucket,
        "risk_rank": behaviour.risk.rank,
        "last_event_at": bucket + timedelta(seconds=50),
        **counters,
        "latency_bins": bins.astype(np.int16).tolist(),
        "latency_counts": counts.tolist(),
        "cost_bins": [],
        "cost_counts": [],
    }


def fill(lake: Lake, fleet: Iterable[Behaviour], *, until: datetime, minutes: int, seed: int = 7) -> None:
    """Append so many minutes of a fleet's increments, ending at a moment; the last third counts as late."""
    rng = np.random.default_rng(seed)
    first = until.replace(second=0, microsecond=0) - timedelta(minutes=minutes)
    rows = [
        minute_row(behaviour, first + timedelta(minutes=minute), rng, late=minute > minutes * 2 // 3)
        for minute in range(minutes)
        for behaviour in fleet
    ]
    lake.append(SIGNALS, pl.DataFrame(rows, schema=COLUMNS[SIGNALS]))


def reject(lake: Lake, reason: str, detail: str, first_bytes: bytes, *, offset: int, at: datetime) -> None:
    """Append one refused record."""
    row = {
        "log_id": "log",
        "topic": "agent.decisions",
        "partition": 0,
        "offset": offset,
        "reason": reason,
        "detail": detail,
        "key": None,
        "first_bytes": first_bytes,
        "size": len(first_bytes),
        "broker_at": at,
        "rejected_at": at,
    }
    lake.append(REJECTS, pl.DataFrame([row], schema=COLUMNS[REJECTS]))


def populated(
    root: Path, *, now: datetime | None = None, minutes: int = 55, fleet: Iterable[Behaviour] = FLEET
) -> Lake:
    """A lake with a fleet, its verdicts and a few rejects, as of a moment."""
    moment = now or datetime.now(UTC)
    lake = Lake.open(str(root / "lake"))
    fill(lake, fleet, until=moment, minutes=minutes)
    gates = root / "gates.yaml"
    gates.write_text(GATES, encoding="utf-8")
    Judge(lake, gates, settle_s=0).tick(moment)
    reject(lake, "not_json", "expecting value: line 1 column 1", b"not json at all", offset=17, at=moment)
    reject(lake, "missing_receipt", "executed names no decision", b'{"specversion":"1.0"}', offset=44, at=moment)
    return lake
