from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl
import pytest
from fakes import a_contract, a_decision
from lakes_of_events import NOON, EventLake

from analytics.audit.completeness import CompletenessReport, Gap, GapCode, completeness
from analytics.lake.table_schemas import COLUMNS, REJECTS
from producers.wire.decision import Deny, QueueForReview
from producers.wire.events import ExecutionStatus, PolicyChangedData, Resolution
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from pathlib import Path

    from producers.wire.decision import Outcome
    from producers.wire.receipt import Receipt

DEADLINE = timedelta(minutes=2)
CELL = ("production", "refunds", "issue_refund", "draft_write", "all")
RULES, OTHER_RULES, THIRD_RULES = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture
def lake(tmp_path: Path) -> EventLake:
    return EventLake.at(tmp_path)


def report(lake: EventLake, later: float = 60) -> CompletenessReport:
    """What is found once the record goes on for so many minutes."""
    lake.act(later, "u-later")
    lake.store()
    return completeness(lake.lake, deadline=DEADLINE)


def gaps(found: CompletenessReport) -> dict[GapCode, Gap]:
    return {gap.code: gap for gap in found.gaps}


def decided(lake: EventLake, minute: float, result: Outcome, *, ruleset: str | None = None) -> Receipt:
    decision = a_decision(result).model_copy(update={"ruleset_sha256": ruleset})
    at = NOON + timedelta(minutes=minute)
    return lake.recorder.decided(a_contract(), decision, stage=Stage.DRAFT_WRITE, decided_at=at)


def executed(lake: EventLake, receipt: Receipt, status: ExecutionStatus = ExecutionStatus.SUCCEEDED) -> None:
    lake.recorder.executed(receipt, status, at=receipt.decided_at + timedelta(seconds=1))


def test_a_whole_record_has_no_gap(lake: EventLake) -> None:
    lake.act(0, "u-1")
    executed(lake, decided(lake, 1, a_decision().result), ExecutionStatus.CANCELLED)
    decided(lake, 2, Deny(reason="on_denylist"))
    approved = decided(lake, 3, QueueForReview(reason="r"))
    lake.recorder.review_resolved(approved, Resolution.APPROVED, reviewer="kim", rationale="-", at=approved.decided_at)
    executed(lake, approved)
    found = report(lake)
    assert (found.gaps, found.state, found.decisions) == ((), "COMPLETE", 5)


def test_an_outcome_is_missing_after_its_deadline(lake: EventLake) -> None:
    receipt = lake.act(0, "u-1", reported=False)
    lake.act(50, "u-1", reported=False)
    found = report(lake, later=51)
    gap = gaps(found)["missing_outcome"]
    assert (gap.count, gap.cells, gap.examples[0].what) == (1, (CELL,), receipt.decision_id)
    assert (found.state, gap.invalidates) == ("INCOMPLETE", False)


def test_an_approved_action_that_never_ran_is_missing_its_outcome(lake: EventLake) -> None:
    queued = decided(lake, 0, QueueForReview(reason="r"))
    lake.recorder.review_resolved(queued, Resolution.APPROVED, reviewer="kim", rationale="-", at=NOON)
    assert gaps(report(lake))["missing_outcome"].count == 1


def test_outcomes_without_a_decision_are_named(lake: EventLake) -> None:
    receipt = lake.act(0, "u-1")
    lake.emitter.events[:] = lake.emitter.events[1:]
    found = report(lake)
    gap = gaps(found)["missing_decision"]
    assert (gap.count, gap.cells, gap.examples[0].what) == (1, (CELL,), receipt.decision_id)
    assert found.state == "INVALID"


@pytest.mark.parametrize("result", [Deny(reason="on_denylist"), QueueForReview(reason="r")])
def test_what_ran_although_it_was_refused_is_named(lake: EventLake, result: Outcome) -> None:
    receipt = decided(lake, 0, result)
    executed(lake, receipt)
    found = report(lake)
    assert [example.what for example in gaps(found)["ran_though_refused"].examples] == [receipt.decision_id]
    assert found.state == "INVALID"


def test_what_may_still_be_completed_is_no_gap(lake: EventLake) -> None:
    executed(lake, decided(lake, 0, QueueForReview(reason="r")))
    assert report(lake, later=1).gaps == ()


def test_a_review_that_nobody_asked_for_is_named(lake: EventLake) -> None:
    receipt = lake.act(0, "u-1")
    lake.recorder.review_resolved(receipt, Resolution.APPROVED, reviewer="kim", rationale="-", at=NOON)
    assert gaps(report(lake))["review_without_request"].examples[0].what == receipt.decision_id


def test_offsets_that_nothing_is_known_of_are_named_unless_they_were_rejected(lake: EventLake) -> None:
    for minute in range(4):
        lake.act(minute, "u-1")
    folded = lake.ingest.fold(lake.emitter.events)
    lake.emitter.events.clear()
    events = pl.from_arrow(folded.events)
    assert isinstance(events, pl.DataFrame)
    lost = (pl.col("topic") == "agent.decisions") & pl.col("offset").is_in([1, 2])
    lake.lake.append("events", events.filter(~lost))
    found = report(lake)
    gap = gaps(found)["offset_gap"]
    assert (gap.count, found.state) == (2, "INVALID")
    assert gap.examples[0].detail == "2 of 0 to 4; the first is 1"
    rows = [
        {name: row[name] for name in ("log_id", "topic", "partition", "offset", "ingested_at")}
        for row in events.filter(lost).iter_rows(named=True)
    ]
    rejects = [
        {**row, "reason": "not_json", "detail": "", "key": None, "first_bytes": b"", "size": 0, "broker_at": None}
        | {"rejected_at": row.pop("ingested_at")}
        for row in rows
    ]
    lake.lake.append(REJECTS, pl.DataFrame(rejects, schema=COLUMNS[REJECTS]))
    assert "offset_gap" not in gaps(completeness(lake.lake, deadline=DEADLINE))


def test_a_policy_that_moved_without_a_record_is_named(lake: EventLake) -> None:
    executed(lake, decided(lake, 0, a_decision().result, ruleset=RULES))
    change = PolicyChangedData(flag_key="agent-action-mode", changed_by="dana", reason="-", ruleset_sha256=OTHER_RULES)
    lake.recorder.policy_changed(change, at=NOON + timedelta(minutes=1))
    executed(lake, decided(lake, 2, a_decision().result, ruleset=OTHER_RULES))
    assert report(lake, later=10).gaps == ()
    executed(lake, decided(lake, 20, a_decision().result, ruleset=THIRD_RULES))
    gap = gaps(report(lake))["unannounced_policy"]
    assert (gap.count, gap.cells, gap.examples[0].what) == (1, (CELL,), THIRD_RULES)
    assert gap.examples[0].at == NOON + timedelta(minutes=20)


def test_only_what_was_decided_since_is_looked_at(lake: EventLake) -> None:
    lake.act(0, "u-1", reported=False)
    assert report(lake).state == "INCOMPLETE"
    assert completeness(lake.lake, deadline=DEADLINE, since=NOON + timedelta(minutes=1)).state == "COMPLETE"


def test_an_empty_lake_claims_nothing(lake: EventLake) -> None:
    found = completeness(lake.lake, deadline=DEADLINE)
    assert (found.events, found.watermark, found.gaps) == (0, None, ())
    assert CompletenessReport.model_validate_json(found.model_dump_json()) == found


def test_numbers_that_never_came_name_their_router(lake: EventLake) -> None:
    for minute in range(4):
        lake.act(minute, "u-1")
    del lake.emitter.events[2:4]  # numbers 3 and 4: a decision and its execution
    assert report(lake).gaps == ()  # read a moment ago: they may still come
    lake.ingest._now = lambda: NOON + timedelta(days=10)  # noqa: SLF001 - what it folds next is read a day later
    later = report(lake, later=61)
    gap = gaps(later)["sequence_gap"]
    assert (gap.count, gap.cells, gap.examples[0].what, later.state) == (2, (CELL,), "/tests", "INVALID")
    assert "3 to 4" in gap.examples[0].detail


def test_what_was_dropped_as_a_repeat_or_rejected_did_come(lake: EventLake) -> None:
    receipt = lake.act(0, "u-1")
    executed(lake, receipt)  # once more, by another event
    lake.act(1, "u-1")
    folded = lake.ingest.fold(lake.emitter.events)
    lake.emitter.events.clear()
    assert folded.dropped.select("reason", "source", "sequence").rows() == [("repeat", "/tests", 3)]
    for table, rows in (("dropped", folded.dropped), ("events", folded.events), ("signals", folded.signals)):
        lake.lake.append(table, rows)
    lake.ingest._now = lambda: NOON + timedelta(days=10)  # noqa: SLF001 - what it folds next is read a day later
    assert report(lake).gaps == ()


def test_a_router_that_numbers_nothing_is_named(lake: EventLake) -> None:
    lake.act(0, "u-1")
    lake.emitter.events[:] = [
        event.model_copy(update={"recordnumber": None, "source": "/other"}) for event in lake.emitter.events
    ]
    assert report(lake).unsequenced_sources == ("/other",)
