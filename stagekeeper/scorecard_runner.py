"""Scenarios whose truth is known, run through the recommender in this process: no broker, no lake."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.backtest.history import History, run
from analytics.backtest.scorecard import CellOutcome, score
from producers.delivery.kafka_emitter import DeliveryStats
from producers.simulation.simulator import Simulator, TrafficPlan
from producers.wire.events import ActionDecided, Event, EventRecord, VerdictName, event_from_bytes
from producers.wire.receipt import Cell, Receipt
from stagekeeper.local_ingest import LocalIngest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analytics.gates.gate_file import GateFile
    from producers.simulation.ground_truth import GroundTruth
    from producers.simulation.scenarios import Scenario

BEGAN_AT: Final = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)
SPAN: Final = timedelta(hours=3)
EVERY: Final = timedelta(minutes=5)  # event time between two looks at a scenario


class _MemoryEmitter:
    """An emitter that keeps the events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, record: EventRecord) -> None:
        self.events.append(event_from_bytes(record.value))

    def send(self, topic: str, key: bytes | None, value: bytes | None) -> None:
        """Broken records have no part in this."""

    def flush(self, timeout_s: float) -> int:  # noqa: ARG002 - the protocol asks for it
        return 0

    @property
    def stats(self) -> DeliveryStats:
        return DeliveryStats(emitted=len(self.events), delivered=len(self.events))


def outcomes(scenario: Scenario, gates: GateFile, *, seed: int, events: int) -> list[CellOutcome]:
    """Simulate a scenario, `events` within three hours, and score what the recommender says about each of its cells."""
    emitter = _MemoryEmitter()
    plan = TrafficPlan(events=events, history=SPAN, history_events=events)
    truth = Simulator(scenario, emitter, plan=plan, seed=seed, now=lambda: BEGAN_AT, wait=lambda _: False).run()
    turns = list(run(history_of(emitter.events), gates, every=EVERY))
    wrong_at = _wrong_at(scenario, emitter.events, truth)
    return [
        score(
            scenario.name,
            cell,
            VerdictName(counted.expected),
            [turn for turn in turns if turn.verdict.inputs.cell == cell],
            wrong_at=wrong_at[cell],
        )
        for cell, counted in sorted(truth.cells.items())
        if counted.expected is not None
    ]


def history_of(events: Sequence[Event]) -> History:
    """What is known at the end of every minute of event time, folded as the worker folds it."""
    newest = max(event.time for event in events)
    fold = LocalIngest(now=lambda: newest)
    minutes: dict[datetime, list[Event]] = {}
    for event in events:
        minutes.setdefault(event.time.replace(second=0, microsecond=0), []).append(event)
    folded = [fold.fold(minutes[minute]) for minute in sorted(minutes)]
    signals = pl.concat([batch.signals for batch in folded])
    return History.from_rows(signals, pl.concat([pl.DataFrame(batch.events) for batch in folded]).lazy())


def _wrong_at(scenario: Scenario, events: Sequence[Event], ground_truth: GroundTruth) -> dict[Cell, datetime]:
    """From when on each cell deserves the verdict that it deserves in the end."""
    wrong_at = dict.fromkeys(ground_truth.cells, BEGAN_AT - SPAN)
    decided = sorted((event for event in events if isinstance(event, ActionDecided)), key=lambda event: event.time)
    for action in scenario.actions:
        own = [event for event in decided if event.data.contract.tool == action.tool]
        for phase in action.phases:
            if 0 < phase.after < len(own) and phase.expected is not None:
                begins = own[phase.after]
                wrong_at[Receipt.from_token(begins.data.receipt).cell] = begins.time
    return wrong_at
