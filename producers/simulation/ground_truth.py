"""Ground truth of a simulation: what was emitted, counted where it was drawn."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from producers.wire import events
from producers.wire.events import Event, ExecutionStatus, Resolution, UndoResult

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from producers.delivery.kafka_emitter import DeliveryStats
    from producers.simulation.behaviour import Phase
    from producers.wire.receipt import Cell, Receipt

COUNTED: tuple[str, ...] = (
    "decisions",
    "allowed",
    "constrained",
    "queued",
    "denied",
    "fell_back",
    "expected",
    "executed",
    "failed",
    "timed_out",
    "undone",
    "undo_failed",
    "not_undoable",
    "incidents",
    "severe_incidents",
    "support",
    "quality_checks",
    "quality_failures",
    "reviews_approved",
    "reviews_rejected",
    "cost_microusd",
    "bad_outcomes",
)
"""Every counter of the ground truth. The streams' own list lives elsewhere on purpose; a test holds the two equal."""

_DECIDED_AS = {
    "allow": "allowed",
    "constrain": "constrained",
    "queue_for_review": "queued",
    "deny": "denied",
    "fallback": "fell_back",
}
_UNDONE_AS = {UndoResult.UNDONE: "undone", UndoResult.FAILED: "undo_failed", UndoResult.NOT_UNDOABLE: "not_undoable"}


@dataclass
class CellGroundTruth:
    """What was emitted about one cell."""

    counts: Counter[str] = field(default_factory=Counter)  # counters by name
    latency_known: int = 0  # executions with a latency
    cost_known: int = 0  # executions with a cost
    epochs: dict[str, None] = field(default_factory=dict)  # names of the epochs, in order of appearance
    expected: str | None = None  # the verdict that the author expects; None where it depends on the amount seen
    why: str = ""  # what is right or wrong with the cell


@dataclass
class GroundTruth:
    """The running count of one simulation."""

    scenario: str  # name of the scenario
    seed: int  # seed of everything that was drawn
    began_at: datetime  # when the simulation began
    cells: dict[Cell, CellGroundTruth] = field(default_factory=dict)
    by_type: Counter[str] = field(default_factory=Counter)
    malformed: Counter[str] = field(default_factory=Counter)
    repeats: int = 0
    first_event_at: datetime | None = None
    last_event_at: datetime | None = None
    _once: set[tuple[str, str]] = field(default_factory=set)
    """Decisions with what they have counted and several events may tell; each counts once."""

    @property
    def emitted(self) -> int:
        """Distinct well-formed events."""
        return self.by_type.total()

    def count(self, event: Event, receipt: Receipt | None, phase: Phase | None) -> None:
        """Count one event, as it is handed to the emitter for the first time."""
        self.by_type[event.type] += 1
        if self.first_event_at is None or event.time < self.first_event_at:
            self.first_event_at = event.time
        if self.last_event_at is None or event.time > self.last_event_at:
            self.last_event_at = event.time
        if receipt is None:
            return
        cell = self.cells.setdefault(receipt.cell, CellGroundTruth())
        cell.epochs[receipt.epoch] = None
        if phase is not None:
            cell.expected, cell.why = phase.expected and phase.expected.value, phase.why
        _count(event, cell)
        for name in _told_again(event):
            if (receipt.decision_id, name) not in self._once:
                self._once.add((receipt.decision_id, name))
                cell.counts[name] += 1

    def to_dict(self, stats: DeliveryStats, *, at: datetime, finished: bool) -> dict[str, object]:
        """As plain JSON values; the command's help describes the fields."""
        return {
            "scenario": self.scenario,
            "seed": self.seed,
            "began_at": self.began_at.isoformat(),
            "updated_at": at.isoformat(),
            "finished": finished,
            "emitted": self.emitted,
            "by_type": dict(sorted(self.by_type.items())),
            "repeats": self.repeats,
            "malformed": dict(sorted(self.malformed.items())),
            "records": stats.emitted,
            "delivered": stats.delivered,
            "undelivered": dict(sorted(stats.by_error.items())),
            "first_event_at": self.first_event_at and self.first_event_at.isoformat(),
            "last_event_at": self.last_event_at and self.last_event_at.isoformat(),
            "cells": [
                {
                    **cell._asdict(),
                    "epochs": list(cell_truth.epochs),
                    "counts": {name: cell_truth.counts[name] for name in COUNTED},
                    "latency_known": cell_truth.latency_known,
                    "cost_known": cell_truth.cost_known,
                    "expected": cell_truth.expected,
                    "why": cell_truth.why,
                }
                for cell, cell_truth in sorted(self.cells.items())
            ],
        }


def write_ground_truth(path: Path, document: dict[str, object]) -> None:
    """Write the document so that a reader sees either the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.replace(path)


def _count(event: Event, cell: CellGroundTruth) -> None:
    counts = cell.counts
    match event:
        case events.ActionDecided():
            counts["decisions"] += 1
            counts[_DECIDED_AS[event.data.decision.result.outcome]] += 1
            counts["expected"] += event.data.decision.expects_execution
        case events.ReviewResolved():
            approved = event.data.resolution is Resolution.APPROVED
            counts["reviews_approved" if approved else "reviews_rejected"] += 1
            counts["expected"] += approved
        case events.ActionExecuted():
            _count_execution(event.data, cell)
        case events.ActionUndone():
            counts[_UNDONE_AS[event.data.result]] += 1
        case events.ActionImpact():
            _count_impact(event.data.impact, counts)
        case _:
            pass  # policy changes and recommendations belong to no counter


def _told_again(event: Event) -> tuple[str, ...]:
    """What an event counts unless another event about its decision did: several of them may tell it."""
    match event:
        case events.ActionExecuted(data=data) if data.status in {ExecutionStatus.FAILED, ExecutionStatus.TIMED_OUT}:
            return ("bad_outcomes",)
        case events.ActionUndone():
            return ("bad_outcomes",)
        case events.ActionImpact(data=events.ActionImpactData(impact=events.Incident())):
            return ("bad_outcomes", "incidents")
        case _:
            return ()


def _count_execution(execution: events.ActionExecutedData, cell: CellGroundTruth) -> None:
    cell.counts["executed"] += 1
    cell.counts["failed"] += execution.status is ExecutionStatus.FAILED
    cell.counts["timed_out"] += execution.status is ExecutionStatus.TIMED_OUT
    cell.latency_known += execution.latency_ms is not None
    if execution.cost_usd is not None:
        cell.cost_known += 1
        cell.counts["cost_microusd"] += round(execution.cost_usd * 1_000_000)


def _count_impact(impact: events.Impact, counts: Counter[str]) -> None:
    match impact:
        case events.Incident():
            counts["severe_incidents"] += impact.severity == 1
        case events.Support():
            counts["support"] += 1
        case events.Quality():
            counts["quality_checks"] += 1
            counts["quality_failures"] += not impact.passed
