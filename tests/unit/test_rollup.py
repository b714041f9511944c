from __future__ import annotations

from datetime import timedelta

from fakes import NOON, a_decided, a_receipt, an_executed, an_undone

from analytics.evidence.histogram import bin_of
from analytics.signals.definitions import COUNTERS
from producers.wire.decision import Deny
from producers.wire.events import ExecutionStatus, to_bytes
from streams.ingest.decode import Decoded, EventDecoder
from streams.ingest.rows import roll_up


def decoded(*events: object) -> list[Decoded]:
    decoder = EventDecoder(None)
    read = [decoder.decode(to_bytes(event), None) for event in events]  # type: ignore[arg-type]
    usable = [event for event in read if isinstance(event, Decoded)]
    assert len(usable) == len(read)
    return usable


def test_nothing_in_nothing_out() -> None:
    assert roll_up([]).is_empty()


def test_an_action_is_counted_in_the_minute_of_its_decision() -> None:
    receipt = a_receipt(decided_at=NOON + timedelta(seconds=59))
    rows = roll_up(decoded(a_decided(receipt), an_executed(receipt, cost_usd=0.25), an_undone(receipt)))
    (row,) = rows.iter_rows(named=True)
    assert row["bucket"] == NOON
    assert row["last_event_at"] == NOON + timedelta(hours=1, seconds=59)
    assert {name: row[name] for name in COUNTERS if row[name]} == {
        "decisions": 1,
        "allowed": 1,
        "expected": 1,
        "executed": 1,
        "undone": 1,
        "cost_microusd": 250_000,
    }
    assert row["risk_rank"] == 4
    assert (row["latency_bins"], row["latency_counts"]) == ([int(bin_of(120_000))], [1])
    assert (row["cost_bins"], row["cost_counts"]) == ([int(bin_of(250_000))], [1])


def test_unknown_stays_unknown() -> None:
    (row,) = roll_up(decoded(an_executed(latency_ms=None))).iter_rows(named=True)
    assert (row["latency_bins"], row["cost_bins"], row["cost_microusd"]) == ([], [], 0)
    assert row["risk_rank"] is None


def test_cells_epochs_and_minutes_are_kept_apart() -> None:
    events = [
        a_decided(a_receipt(decision_id="1"), event_id="1"),
        a_decided(a_receipt(decision_id="2", epoch="other"), event_id="2"),
        a_decided(a_receipt(decision_id="3", cohort="eu"), event_id="3"),
        a_decided(a_receipt(decision_id="4", decided_at=NOON + timedelta(minutes=1)), event_id="4"),
        a_decided(a_receipt(decision_id="5"), Deny(reason="no"), event_id="5"),
    ]
    rows = roll_up(decoded(*events))
    assert rows["decisions"].to_list() == [2, 1, 1, 1]
    assert rows["denied"].to_list() == [1, 0, 0, 0]
    assert rows["expected"].to_list() == [1, 1, 1, 1]


def test_failures_and_time_outs_are_executions_too() -> None:
    receipt = a_receipt()
    events = [an_executed(receipt, status, event_id=status) for status in ExecutionStatus]
    (row,) = roll_up(decoded(*events)).iter_rows(named=True)
    assert (row["executed"], row["failed"], row["timed_out"]) == (3, 1, 1)
