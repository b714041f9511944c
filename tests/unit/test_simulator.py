from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from fakes import KEY, NOON, FakeClock, FakeEmitter, an_executed

from analytics.signals.definitions import COUNTERS
from producers.delivery.kafka_emitter import DeliveryStats
from producers.simulation.ground_truth import COUNTED, write_ground_truth
from producers.simulation.malformed import REASONS, malformed
from producers.simulation.scenarios import SCENARIOS, UnknownScenarioError, scenario
from producers.simulation.simulator import Faults, Simulator, TrafficPlan
from producers.wire import events
from producers.wire.events import EventError, event_from_bytes, event_to_bytes
from producers.wire.receipt import Receipt, ReceiptError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from producers.simulation.ground_truth import GroundTruth
    from producers.wire.events import Event, EventRecord

pytestmark = pytest.mark.slow


@dataclass
class WatchedEmitter(FakeEmitter):
    """Notes the moment at which each event left."""

    clock: FakeClock = field(default_factory=FakeClock)
    left_at: list[datetime] = field(default_factory=list)

    def emit(self, record: EventRecord) -> None:
        super().emit(record)
        self.left_at.append(self.clock())


def _past(events_: int, *, hours: float = 2.0) -> TrafficPlan:
    return TrafficPlan(events=events_, history=timedelta(hours=hours), history_events=events_)


def _run(
    name: str = "demo",
    plan: TrafficPlan | None = None,
    *,
    seed: int = 1,
    key: bytes | None = None,
    faults: Faults | None = None,
    wait: Callable[[float], bool] | None = None,
) -> tuple[GroundTruth, WatchedEmitter]:
    clock = FakeClock()
    emitter = WatchedEmitter(clock=clock)
    simulator = Simulator(
        scenario(name),
        emitter,
        plan=plan or _past(600),
        seed=seed,
        now=clock,
        wait=wait or clock.wait,
        key=key,
        faults=faults,
    )
    return simulator.run(), emitter


def _recount(emitted: list[Event]) -> dict[tuple[str, ...], Counter[str]]:
    """Count again, from the JSON that would be on the wire, by nothing but the published words."""
    cells: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for event in emitted:
        document: dict[str, Any] = json.loads(event_to_bytes(event))
        data, kind = document["data"], document["type"].split(".", 1)[1]
        if "receipt" not in data:
            continue
        counts = cells[Receipt.from_token(data["receipt"]).cell]
        match kind:
            case "action.decided.v1":
                outcome, enforced = data["decision"]["result"]["outcome"], data["decision"]["enforced"]
                counts["decisions"] += 1
                counts[outcome] += 1
                counts["expected"] += enforced and outcome in {"allow", "constrain"}
            case "review.resolved.v1":
                counts[data["resolution"]] += 1
                counts["expected"] += data["resolution"] == "approved"
            case "action.executed.v1":
                counts["executed"] += 1
                counts[data["status"]] += 1
                counts["latency_known"] += "latency_ms" in data
                counts["cost_known"] += "cost_usd" in data
            case "action.undone.v1":
                counts[f"undo {data['result']}"] += 1
            case _:
                counts[data["impact"]["kind"]] += 1
                counts["severe"] += data["impact"].get("severity") == 1
                counts["quality failed"] += data["impact"].get("passed") is False
    return cells


def test_the_truth_has_exactly_the_counters_of_the_streams() -> None:
    assert set(COUNTED) == set(COUNTERS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_truth_is_what_was_emitted(name: str) -> None:
    truth, emitter = _run(name, _past(900))
    again = _recount(emitter.events)
    assert truth.emitted == len(emitter.events) == 900
    assert truth.cells.keys() == again.keys()
    for cell, cell_truth in truth.cells.items():
        counts, found = cell_truth.counts, again[cell]
        assert counts["decisions"] == found["decisions"]
        assert counts["expected"] == found["expected"]
        assert [counts[name] for name in ("allowed", "constrained", "queued", "denied", "fell_back")] == [
            found[name] for name in ("allow", "constrain", "queue_for_review", "deny", "fallback")
        ]
        assert [counts[name] for name in ("executed", "failed", "timed_out")] == [
            found[name] for name in ("executed", "failed", "timed_out")
        ]
        assert (cell_truth.latency_known, cell_truth.cost_known) == (found["latency_known"], found["cost_known"])
        assert [counts[name] for name in ("undone", "undo_failed", "not_undoable")] == [
            found[f"undo {name}"] for name in ("undone", "failed", "not_undoable")
        ]
        assert [counts[name] for name in ("incidents", "severe_incidents", "support")] == [
            found[name] for name in ("incident", "severe", "support")
        ]
        assert counts["quality_checks"] == found["quality"]
        assert counts["quality_failures"] == found["quality failed"]
        assert counts["reviews_approved"] == found["approved"]
        assert counts["reviews_rejected"] == found["rejected"]


def test_equal_seeds_give_equal_bytes_and_others_do_not() -> None:
    first, again, other = (_run(seed=seed)[1].events for seed in (7, 7, 8))
    assert [event_to_bytes(event) for event in first] == [event_to_bytes(event) for event in again]
    assert [event.id for event in first] != [event.id for event in other]


def test_ids_are_unique_and_no_event_lies_in_the_future() -> None:
    _, emitter = _run(plan=_past(3_000))
    assert len({event.id for event in emitter.events}) == 3_000
    times = [event.time for event in emitter.events]
    assert times == sorted(times)
    assert NOON - timedelta(hours=2) <= times[0]
    assert times[-1] <= NOON
    assert times[-1] > NOON - timedelta(minutes=5)  # the past is filled to its end


def test_repeats_and_broken_records_come_on_top_and_change_no_count() -> None:
    calm, _ = _run(plan=_past(1_500))
    truth, emitter = _run(plan=_past(1_500), faults=Faults(repeats=0.1, malformed=0.05))
    assert truth.repeats > 50
    assert len(emitter.events) == 1_500 + truth.repeats
    assert len({event.id for event in emitter.events}) == 1_500
    assert truth.malformed.total() == len(emitter.raw) > 20
    assert {cell: cell_truth.counts for cell, cell_truth in truth.cells.items()} == {
        cell: cell_truth.counts for cell, cell_truth in calm.cells.items()
    }


def test_shuffling_changes_the_order_only() -> None:
    plan = TrafficPlan(history=timedelta(hours=2), history_events=1_000)
    _, calm = _run(plan=plan)
    truth, stormy = _run(plan=plan, faults=Faults(shuffle=timedelta(minutes=10)))
    assert {event_to_bytes(event) for event in calm.events} == {event_to_bytes(event) for event in stormy.events}
    times = [event.time for event in stormy.events]
    assert times != sorted(times)
    assert max(before - after for before, after in itertools.pairwise(times)) < timedelta(minutes=10)
    assert truth.emitted == len(stormy.events)


def test_live_events_leave_at_their_moment_never_before() -> None:
    truth, emitter = _run(plan=TrafficPlan(rate=20.0, events=1_000))
    assert truth.emitted == 1_000
    assert all(left - event.time >= timedelta(0) for event, left in zip(emitter.events, emitter.left_at, strict=True))
    assert max(left - event.time for event, left in zip(emitter.events, emitter.left_at, strict=True)) < timedelta(
        seconds=1
    )
    assert 10 < 1_000 / (emitter.left_at[-1] - NOON).total_seconds() < 40


def test_a_backfill_goes_on_live_and_late_undos_come_when_their_time_has_come() -> None:
    plan = TrafficPlan(rate=1.0, events=3_000, history=timedelta(hours=1), history_events=2_000)
    truth, emitter = _run("rolls-back-late", plan)
    past = [event for event in emitter.events if event.time <= NOON]
    assert 2_000 <= len(past) < 2_010
    late = [event for event in emitter.events if isinstance(event, events.ActionUndone) and event.time > NOON]
    assert any(Receipt.from_token(event.data.receipt).decided_at < NOON for event in late)
    assert all(left >= event.time for event, left in zip(emitter.events, emitter.left_at, strict=True))
    assert truth.emitted == 3_000


def test_a_pace_holds_the_past_back() -> None:
    plan = TrafficPlan(events=500, history=timedelta(hours=2), history_events=500, pace=50.0)
    _, emitter = _run(plan=plan)
    assert (emitter.left_at[-1] - NOON).total_seconds() == pytest.approx(10, rel=0.05)


def test_a_stop_ends_it_and_the_truth_counts_what_left() -> None:
    waits = iter([False] * 40)
    truth, emitter = _run(plan=TrafficPlan(rate=5.0), wait=lambda _: next(waits, True))
    assert truth.emitted == len(emitter.events)
    assert truth.emitted < 45


def test_a_slow_broker_is_waited_for() -> None:
    flushed: list[float] = []

    class Slow(WatchedEmitter):
        @property
        def stats(self) -> DeliveryStats:
            return DeliveryStats(emitted=60_000, delivered=60_000 if flushed else 0)

        def flush(self, timeout_s: float) -> int:
            flushed.append(timeout_s)
            return 0

    clock = FakeClock()
    Simulator(scenario("slow"), Slow(), plan=_past(500), seed=1, now=clock, wait=clock.wait).run()
    assert flushed == [0.5]


def test_a_promotion_is_told_and_starts_a_new_epoch() -> None:
    truth, emitter = _run("drifting-after-promotion", _past(5_000))
    (change,) = [event for event in emitter.events if isinstance(event, events.PolicyChanged)]
    assert (change.data.before, change.data.after) == ("approved_external", "autonomous")
    before, after = (truth.cells[cell] for cell in sorted(truth.cells))
    assert before.counts["decisions"] == 1_000
    assert not set(before.epochs) & set(after.epochs)
    assert (before.expected, after.expected) == ("PROMOTE", "ROLL_BACK")
    assert after.counts["failed"] > 0.1 * after.counts["executed"]


def test_observed_actions_run_nowhere() -> None:
    truth, _ = _run("demo", _past(4_000))
    (observed,) = [cell_truth for cell, cell_truth in truth.cells.items() if cell.stage == "observe_only"]
    assert observed.counts["decisions"] > 50
    assert observed.counts["expected"] == observed.counts["executed"] == 0


def test_the_demo_has_every_stage_every_verdict_and_enough_actions() -> None:
    truth, _ = _run("demo", _past(4_000))
    assert len({cell.tool for cell in truth.cells}) >= 8
    assert len({cell.workflow for cell in truth.cells}) >= 3
    assert len({cell.stage for cell in truth.cells}) == 6
    assert {"PROMOTE", "HOLD", "ROLL_BACK"} <= {cell_truth.expected for cell_truth in truth.cells.values()}


def test_some_latencies_and_costs_stay_unknown() -> None:
    truth, _ = _run("healthy", _past(3_000))
    executed = sum(cell_truth.counts["executed"] for cell_truth in truth.cells.values())
    assert 0 < sum(cell_truth.latency_known for cell_truth in truth.cells.values()) < executed
    assert 0 < sum(cell_truth.cost_known for cell_truth in truth.cells.values()) < executed


def test_an_unknown_scenario_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownScenarioError, match="did you mean `sparse`"):
        scenario("spars")


@pytest.mark.parametrize("reason", sorted(set(REASONS) - {"null_value", "too_large"}))
def test_a_broken_record_is_refused_by_the_strict_reader_or_by_its_receipt(reason: str) -> None:
    value = malformed(reason, an_executed(key=KEY))
    assert value is not None
    if reason in {"unsigned_receipt", "forged_receipt"}:
        event = event_from_bytes(value)
        assert isinstance(event, events.ActionExecuted)
        with pytest.raises(ReceiptError) as refused:
            Receipt.from_token(event.data.receipt, KEY)
        assert refused.value.fault == reason
    elif reason == "receipt_mismatch":
        event = event_from_bytes(value)
        assert isinstance(event, events.ActionExecuted)
        assert Receipt.from_token(event.data.receipt, KEY).decision_id != event.subject
    elif reason == "impossible_time":
        assert event_from_bytes(value).time > NOON + timedelta(days=300)
    else:
        with pytest.raises(EventError):
            event_from_bytes(value)


def test_signed_traffic_breaks_signatures_too_and_unsigned_does_not() -> None:
    faults = Faults(malformed=0.3)
    assert set(_run(plan=_past(300), key=KEY, faults=faults)[0].malformed) == set(REASONS)
    unsigned = set(_run(plan=_past(300), faults=faults)[0].malformed)
    assert set(REASONS) - unsigned == {"unsigned_receipt", "forged_receipt"}


def test_the_truth_file_is_whole_at_every_moment(tmp_path: Path) -> None:
    truth, emitter = _run("slow", _past(300))
    path = tmp_path / "deep" / "truth.json"
    for finished in (False, True):
        write_ground_truth(path, truth.to_dict(emitter.stats, at=NOON, finished=finished))
    summary = json.loads(path.read_text())
    assert (summary["emitted"], summary["delivered"], summary["finished"]) == (300, 300, True)
    assert sum(summary["by_type"].values()) == 300
    (cell,) = summary["cells"]
    assert cell["tool"] == "crm_lookup"
    assert list(cell["counts"]) == list(COUNTED)
    assert [entry.name for entry in path.parent.iterdir()] == ["truth.json"]
