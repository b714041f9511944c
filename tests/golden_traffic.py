"""Events of the golden lakes: simulated days, an imported recording, and people of two cohorts, drawn from seeds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Final

from fakes import FakeEmitter
from golden_product import (
    ActionContract,
    Actor,
    Allow,
    Catalog,
    Decision,
    ExecutionStatus,
    Incident,
    Plan,
    Recorder,
    Reversibility,
    RiskClass,
    Simulator,
    Stage,
    Target,
    TranscriptImport,
    UndoResult,
    read_transcript,
    scenario,
)
from shared_recordings import EXAMPLES, FILE

if TYPE_CHECKING:
    from golden_product import Event

NOON: Final = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)


def simulated(name: str, *, seed: int, events: int, span: timedelta) -> list[Event]:
    """The events of a scenario within so long before noon."""
    kept = FakeEmitter()
    Simulator(
        scenario(name),
        kept,
        plan=Plan(events=events, history=span, history_events=events),
        seed=seed,
        now=lambda: NOON,
        wait=lambda _: False,
    ).run()
    return kept.events


def recorded(at: datetime) -> list[Event]:
    """The recorded airline agents, a second between conversations, as if they were imported then."""
    kept, moment = FakeEmitter(), [at]
    transcript = read_transcript(FILE)
    importing = TranscriptImport(
        transcript,
        Catalog.load(EXAMPLES / "catalog-airline.yaml"),
        kept,
        reward_field="reward",
        key=None,
        now=lambda: moment[0],
    )
    for place, conversation in enumerate(transcript.conversations):
        moment[0] = at + timedelta(seconds=place)
        importing.add(conversation)
    return kept.events


@dataclass(frozen=True)
class Habit:
    """How one tool behaves, as rates; `new_model_at` is the hour in which another model begins."""

    tool: str
    share_held_back: float
    failed: float
    failed_held_back: float
    undone: float = 0.01
    late_undone: float = 0.0
    new_model_at: float = 99.0
    failed_later: float | None = None
    anonymous: float = 0.05


BESIDE_A_HOLD_BACK: Final = (
    Habit("steady", 0.1, 0.02, 0.06),
    Habit("worse", 0.1, 0.24, 0.03),
    Habit("lopsided", 0.35, 0.03, 0.03),
    Habit("renewed", 0.1, 0.02, 0.05, new_model_at=5.0, failed_later=0.2),
)
WITH_LATE_OUTCOMES: Final = (
    Habit("turned", 0.0, 0.01, 0.0, late_undone=0.5, new_model_at=4.0),
    Habit("kept", 0.0, 0.01, 0.0, new_model_at=4.0),
    Habit("nameless", 0.0, 0.01, 0.0, anonymous=1.0),
    Habit("crowded", 0.0, 0.02, 0.0, failed_later=0.35, new_model_at=4.0),
)


def people(habits: tuple[Habit, ...], *, seed: int, hours: float, per_minute: float) -> list[Event]:
    """What some hundred people let the tools do from noon on, in the order in which it became known."""
    random, kept, serial = Random(seed), FakeEmitter(), count(1)
    recorder = Recorder(
        kept, source="/golden", key=None, now=lambda: NOON, new_id=lambda: f"{seed:x}-{next(serial):08x}"
    )
    known: list[tuple[datetime, int, Event]] = []
    at, end = NOON, NOON + timedelta(hours=hours)
    while at < end:
        for habit in habits:
            _act(habit, recorder, random, at)
        # What takes longer than the lake is filled for is not told.
        known += [(max(event.time, at), len(known) + place, event) for place, event in enumerate(kept.events)]
        kept.events.clear()
        at += timedelta(minutes=random.uniform(0.2, 1.8) / per_minute)
    return [event for moment, _, event in sorted(known, key=lambda row: row[:2]) if moment <= end]


def _act(habit: Habit, recorder: Recorder, random: Random, at: datetime) -> None:
    """One allowed action, and what came of it."""
    person = random.randrange(160)
    held_back = (
        random.random() < 0.001 if not habit.share_held_back else (person * 37) % 100 < habit.share_held_back * 100
    )
    renewed = at >= NOON + timedelta(hours=habit.new_model_at)
    contract = ActionContract(
        actor=Actor(
            agent="refunds-agent",
            user=None if random.random() < habit.anonymous else f"user-{person}",
            account=f"account-{person % 40}",
            model="m-2" if renewed else "m-1",
            prompt_version="1",
        ),
        intent="the customer was charged twice",
        target=Target(environment="production", system="billing", record=f"record-{person}"),
        tool=habit.tool,
        workflow="refunds",
        risk_class=RiskClass.EXTERNAL_EFFECT,
        reversibility=Reversibility.MANUAL,
    )
    receipt = recorder.decided(
        contract,
        Decision(result=Allow()),
        stage=Stage.DRAFT_WRITE if held_back else Stage.APPROVAL_GATED,
        cohort="held-back" if held_back else "all",
        decided_at=at,
    )
    failed = habit.failed_held_back if held_back else habit.failed
    if renewed and habit.failed_later is not None:
        failed = habit.failed_later
    status = ExecutionStatus.FAILED if random.random() < failed else ExecutionStatus.SUCCEEDED
    recorder.executed(
        receipt, status, latency_ms=round(random.lognormvariate(5.5, 0.5), 3), at=at + timedelta(seconds=1)
    )
    if random.random() < habit.undone:
        recorder.undone(receipt, UndoResult.UNDONE, at=at + timedelta(minutes=random.uniform(1, 90)))
    elif not renewed and random.random() < habit.late_undone:
        recorder.undone(receipt, UndoResult.UNDONE, at=at + timedelta(hours=random.uniform(4.5, 6)))
    if random.random() < 0.002:
        recorder.impact(receipt, Incident(severity=3), at=at + timedelta(minutes=2))
