from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from fakes import NOON, a_decided, a_receipt, an_executed, an_undone

from analytics.evidence.histogram import bin_of
from analytics.signals.definitions import COUNTERS
from producers.wire.decision import Deny
from producers.wire.events import ExecutionStatus, event_to_bytes
from streams.ingest.decode import EventDecoder, micros_of
from streams.ingest.id_store import words_of
from streams.ingest.known_facts import KnownFacts
from streams.ingest.rows import count

if TYPE_CHECKING:
    import polars as pl

    from producers.wire.events import Event


def counted(*events: Event) -> pl.DataFrame:
    decoded = EventDecoder(None).decode([event_to_bytes(event) for event in events], None)
    assert not decoded.faults
    changes = KnownFacts().take(decoded.events, words_of(decoded.events.subjects))
    return count(decoded.events, changes, micros_of(NOON + timedelta(hours=3)))


def test_nothing_in_nothing_out() -> None:
    assert counted().is_empty()


def test_an_action_is_counted_in_the_minute_of_its_decision() -> None:
    receipt = a_receipt(decided_at=NOON + timedelta(seconds=59))
    rows = counted(a_decided(receipt), an_executed(receipt, cost_usd=0.25), an_undone(receipt))
    (row,) = rows.iter_rows(named=True)
    assert row["bucket"] == NOON
    assert row["last_event_at"] == NOON + timedelta(hours=1, seconds=59)
    assert row["last_ingested_at"] == NOON + timedelta(hours=3)
    assert {name: row[name] for name in COUNTERS if row[name]} == {
        "decisions": 1,
        "allowed": 1,
        "expected": 1,
        "executed": 1,
        "undone": 1,
        "cost_microusd": 250_000,
        "bad_outcomes": 1,
    }
    assert row["risk_rank"] == 4
    assert (row["latency_bins"], row["latency_counts"]) == ([int(bin_of(120_000))], [1])
    assert (row["cost_bins"], row["cost_counts"]) == ([int(bin_of(250_000))], [1])


def test_unknown_stays_unknown() -> None:
    (row,) = counted(an_executed(latency_ms=None)).iter_rows(named=True)
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
    rows = counted(*events)
    assert rows["decisions"].to_list() == [2, 1, 1, 1]
    assert rows["denied"].to_list() == [1, 0, 0, 0]
    assert rows["expected"].to_list() == [1, 1, 1, 1]


def test_failures_and_time_outs_are_executions_too() -> None:
    receipt = a_receipt()
    events = [an_executed(receipt, status, event_id=status) for status in ExecutionStatus]
    (row,) = counted(*events).iter_rows(named=True)
    assert (row["executed"], row["failed"], row["timed_out"]) == (3, 1, 1)
