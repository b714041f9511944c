"""Factories for the tests of verdicts: rows of counters, gate files and cases in a few words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from jsonschema import Draft202012Validator

from analytics.evidence import histogram
from analytics.gates.gate_file import GateFile
from analytics.judging.engine import judge
from analytics.judging.judge import Judge
from analytics.lake.table_schemas import COLUMNS, SIGNALS
from analytics.published_schemas import verdict_schema
from analytics.signals.definitions import COUNTERS
from analytics.signals.state import CellState
from analytics.verdicts.document import VerdictDocument
from analytics.verdicts.ledger import latest_verdicts
from producers.strict_yaml import ConfigurationFileError
from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from analytics.lake.tables import Lake
    from analytics.verdicts.verdict import Verdict

NOON = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)
CELL = Cell("production", "refunds", "issue_refund", "draft_write", "all")
SCHEMA = Draft202012Validator(verdict_schema())
COHORTS = "{by: cohort, shares: {new: 0.9, held-back: 0.1}, unit: action}"
"""A split that a gate declares, as YAML."""


def a_row(
    cell: Cell = CELL,
    *,
    epoch: str = "e1",
    minute: int = 0,
    last_event_at: datetime | None = None,
    last_ingested_at: datetime | None = None,
    risk_rank: int | None = 4,
    latencies_ms: Iterable[float] = (),
    **counts: int,
) -> dict[str, Any]:
    """One increment: the given counters, everything else zero; `minute` counts from noon."""
    bucket = NOON + timedelta(minutes=minute)
    bins, seen = np.unique(
        histogram.bin_of(np.array([round(1_000 * ms) for ms in latencies_ms], dtype=np.int64)), return_counts=True
    )
    return {
        **cell._asdict(),
        "epoch": epoch,
        "bucket": bucket,
        "risk_rank": risk_rank,
        "last_event_at": last_event_at or bucket + timedelta(seconds=59),
        "last_ingested_at": last_ingested_at,
        **dict.fromkeys(COUNTERS, 0),
        **counts,
        "latency_bins": bins.tolist(),
        "latency_counts": seen.tolist(),
        "cost_bins": [],
        "cost_counts": [],
    }


def executions(executed: int, failed: int = 0, **counts: int) -> dict[str, int]:
    """Counters of as many allowed and executed actions, of which some failed."""
    base = {"decisions": executed, "allowed": executed, "expected": executed, "executed": executed, "failed": failed}
    return {**base, **counts}


def increments(*rows: dict[str, Any]) -> pl.DataFrame:
    """Rows of the table `signals`."""
    return pl.DataFrame(list(rows), schema=COLUMNS[SIGNALS], orient="row")


def gate_file(*signals: str, **gate: str) -> GateFile:
    """A gate file with one gate for everything; signals and further keys as YAML."""
    more = "".join(f"\n    {key}: {value}" for key, value in gate.items())
    listed = "".join(f"\n      - {{{signal}}}" for signal in signals)
    text = f"version: 1\ngates:\n  - name: everything{more}\n    signals:{listed or ' []'}\n"
    return GateFile.parse(text.encode())


def split_gates(split: str = COHORTS, **more: str) -> GateFile:
    """A gate file with one gate that declares how traffic is split."""
    keys = "".join(f"\n    {key}: {value}" for key, value in more.items())
    return GateFile.parse(
        f"""\
version: 1
freshness: 30d
gates:
  - name: g
    ladder: [draft_write, approval_gated, narrow_autonomy]
    split: {split}{keys}
    signals: [{{signal: execution_error, role: guardrail, limit: 0.1, unit: action}}]
""".encode()
    )


def verdicts_on(
    gates: GateFile, *rows: dict[str, Any], watermark: datetime | None = None, **more: Any
) -> list[Verdict]:
    """Judge increments without a lake."""
    state = CellState.from_increments(increments(*rows))
    mark = watermark or state.latest_event_at or NOON
    return judge(state, gates, watermark=mark, lake_version=1, judged_at=mark, **more)


def verdict_on(gates: GateFile, *rows: dict[str, Any], **more: Any) -> Verdict:
    """Judge increments of one cell without a lake."""
    (verdict,) = verdicts_on(gates, *rows, **more)
    return verdict


def document_of(verdict: Verdict) -> dict[str, Any]:
    """A verdict as it is published, of JSON types alone; what is written is as the schema says, and reads back."""
    document = VerdictDocument.from_verdict(verdict)
    assert VerdictDocument.model_validate_json(document.model_dump_json(), strict=True) == document
    published = document.to_dict()
    SCHEMA.validate(published)
    return published


def latest_documents(lake: Lake, **chosen: Any) -> list[dict[str, Any]]:
    """The latest verdicts of a lake, likewise."""
    return [document.to_dict() for document in latest_verdicts(lake, **chosen)]


def codes(verdict: Verdict) -> list[str]:
    return [reason.code for reason in verdict.result.reasons]


def refused(*signals: str, **gate: str) -> str:
    with pytest.raises(ConfigurationFileError) as caught:
        gate_file(*signals, **gate)
    return str(caught.value)


def judge_lately(lake: Lake, gates: Path, *rows: dict[str, Any], ago_s: float = 0.0) -> None:
    """Judge rows whose events lie just before `ago_s` seconds ago."""
    now = datetime.now(UTC) - timedelta(seconds=ago_s)
    shift = now - timedelta(seconds=10) - NOON
    moved = [{**row, "bucket": (row["bucket"] + shift).replace(second=0, microsecond=0)} for row in rows]
    lake.append("signals", increments(*({**row, "last_event_at": now - timedelta(seconds=10)} for row in moved)))
    Judge(lake, gates, settle_s=0).tick(now)
