"""The books of a lake: what the storm asks of it in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invariants import broken_invariants
from lakes_of_events import EventLake

from analytics.lake.table_schemas import SIGNALS
from producers.wire.events import ExecutionStatus

if TYPE_CHECKING:
    from pathlib import Path


def test_a_lake_whose_books_do_not_balance_says_where(tmp_path: Path) -> None:
    history = EventLake.at(tmp_path)
    for minute in range(30):
        history.act(minute, f"user-{minute % 3}" if minute % 5 else None, failed=minute % 7 == 0)
    for status in (ExecutionStatus.SUCCEEDED, ExecutionStatus.CANCELLED):
        receipt = history.act(29, "user-1", status=status)
        for minute in range(30, 33):
            history.undo(receipt, minute)
            history.severe_incident(receipt, minute)
    history.store()
    assert broken_invariants(history.lake) == []
    receipt = history.act(30, "user-1")
    history.recorder.executed(
        receipt.model_copy(update={"decision_id": "unknown"}), ExecutionStatus.SUCCEEDED, at=receipt.decided_at
    )
    history.store()
    (found,) = broken_invariants(history.lake)
    assert "1 of the 33 executions are of actions that no decision or approval let run" in found
    rows = history.lake.scan(SIGNALS).collect()
    history.lake.append(SIGNALS, rows.filter(rows["failed"] > 0).head(1))
    assert any("failed is 5 by user, 6 by action" in line for line in broken_invariants(history.lake))
