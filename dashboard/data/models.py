"""What was counted and what was refused, as typed records."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from producers.wire.receipt import Cell


class _Record(BaseModel):
    # Fields that a newer release adds must not blank an older page.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=True)


class _OfCell(_Record):
    environment: str
    workflow: str
    tool: str
    stage: str
    cohort: str

    @property
    def cell(self) -> Cell:
        return Cell(self.environment, self.workflow, self.tool, self.stage, self.cohort)


class Quantiles(_Record):
    """Latency of a cell in milliseconds; `known` executions reported one."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    known: int = 0


class Cost(_Record):
    """Cost of a cell in dollars; `known` executions reported one."""

    mean: float | None = None
    p95: float | None = None
    total: float | None = None
    known: int = 0


class CellSignals(_OfCell):
    """What was counted about one cell."""

    risk_class: str | None = None
    epochs: int = 1
    counts: dict[str, int]
    rates: dict[str, float | None]
    latency_ms: Quantiles | None = None
    cost_usd: Cost | None = None
    first_decided_at: datetime | None = None
    last_decided_at: datetime | None = None
    last_event_at: datetime | None = None


class Reject(_Record):
    """One event that was refused."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str = ""
    size: int | None = None
    first_bytes: str | None = None
    rejected_at: datetime | None = None


class Rejects(_Record):
    """Everything that was refused."""

    total: int = 0
    by_reason: dict[str, int] = Field(default_factory=dict)
    latest: tuple[Reject, ...] = ()
