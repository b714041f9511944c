"""Which events are repeats of others: by the decision, by the event's own id, and however long ago."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from fakes import NOON, a_decided, a_receipt, an_executed, an_undone
from identified_events import Table, identities

from analytics.lake.tables import SourcePartition
from analytics.signals.event_kinds import EventKind
from producers.wire.decision import Deny
from producers.wire.events import ActionImpact, ExecutionStatus, Quality, UndoResult, event_to_bytes
from producers.wire.topics import OUTCOMES
from streams.ingest.decode import EventDecoder
from streams.ingest.dedupe import SeenIds
from streams.ingest.earlier_events import NOT_FOUND
from streams.ingest.fold import FoldedBatch, Folder, PartitionState
from streams.ingest.id_store import Sizes, words_of
from streams.ingest.identities import KIND_MASK, identities_of
from streams.ingest.records import Batch, PartitionRecords

if TYPE_CHECKING:
    from producers.wire.events import Event

HOUR_US = 3_600_000_000


def accepts(seen: SeenIds, name: str, time_us: int) -> bool:
    return bool(seen.accept_all(identities([name], [time_us]))[0] == NOT_FOUND)


def test_the_same_id_is_accepted_once() -> None:
    seen = SeenIds()
    assert accepts(seen, "a", 0)
    assert not accepts(seen, "a", 0)
    assert accepts(seen, "b", 0)


def test_beyond_the_horizon_the_table_is_asked_and_only_there() -> None:
    table = Table()
    seen = SeenIds(timedelta(hours=1), earlier=table.find)
    for name, time_us in (("a", 0), ("b", HOUR_US), ("c", HOUR_US + 60_000_000)):
        assert accepts(seen, name, time_us)
        table.store([name], [time_us])
    assert not table.asked
    assert not accepts(seen, "a", 0)
    assert not accepts(seen, "b", HOUR_US)
    assert accepts(seen, "older", 0)
    assert table.asked == ["a", "older"], "what is held in memory answers by itself"


def test_what_is_late_is_held_until_the_table_has_it() -> None:
    """A batch is folded while the one before it is committed: the table cannot know that one yet."""
    table = Table()
    seen = SeenIds(timedelta(hours=1), earlier=table.find)
    assert accepts(seen, "new", 100 * HOUR_US)
    assert accepts(seen, "late", 0)
    assert not accepts(seen, "late", 0)
    assert accepts(seen, "newer", 101 * HOUR_US)
    assert not accepts(seen, "late", 0)


def test_within_a_batch_the_first_counts() -> None:
    before = SeenIds().accept_all(identities(["a", "b", "a", "a", "c"], [0, 2 * HOUR_US, 0, 0, 0]))
    assert (before == NOT_FOUND).tolist() == [True, True, False, False, True]


@pytest.mark.parametrize("sizes", [Sizes(), Sizes(least=16, on_disk=64, most=1_024)])
@pytest.mark.slow
def test_pruning_and_rebuilding_change_no_answer(sizes: Sizes) -> None:
    random, table = Random(7), Table()
    first_at = {f"id-{number}": number * 200_000 + random.randrange(HOUR_US // 4) for number in range(60_000)}
    order = [f"id-{min(at // 2 + random.randrange(200), 59_999)}" for at in range(120_000)]
    pruned, accepted = SeenIds(timedelta(minutes=30), earlier=table.find, sizes=sizes), set[str]()
    at = 0
    while at < len(order):
        batch = order[at : at + random.choice([1, 30, 3_000])]
        at += len(batch)
        expected, within = [], set[str]()
        for name in batch:
            expected.append(name not in accepted and name not in within)
            within.add(name)
        times = [first_at[name] for name in batch]
        before = pruned.accept_all(identities(batch, times))
        assert (before == NOT_FOUND).tolist() == expected
        accepted |= within
        table.store(batch, times)
        if random.random() < 0.02:
            latest = max(table.times.values())
            pruned = SeenIds(timedelta(minutes=30), earlier=table.find, latest_us=latest, sizes=sizes)
            held = [name for name, time_us in table.times.items() if time_us >= pruned.held_since_us]
            pruned.remember(identities(held, [table.times[name] for name in held]))
    assert len(pruned.ids) < len(accepted)


def test_a_kind_fits_its_bits() -> None:
    assert max(EventKind) <= KIND_MASK


def folded(*events: Event) -> FoldedBatch:
    """The events as records of one partition, folded in two batches."""
    partition = SourcePartition("log", OUTCOMES, 0)
    folder = Folder({partition: PartitionState(-1, -1, {}, SeenIds())}, None)
    records = PartitionRecords()
    for offset, event in enumerate(events):
        records.add(offset, event.subject.encode(), event_to_bytes(event), None)
    return folder.fold(Batch(1, {partition: records}), NOON + timedelta(days=1))


def an_impact(event_id: str, *, passed: bool = True, decision_id: str = "decision-1") -> ActionImpact:
    receipt = a_receipt(decision_id=decision_id)
    data = {"receipt": receipt.token(), "impact": Quality(passed=passed)}
    envelope = {"id": event_id, "source": "/tests", "time": NOON + timedelta(hours=2), "subject": decision_id}
    return ActionImpact.model_validate({**envelope, "data": data})


def test_a_receipt_that_is_replayed_counts_once() -> None:
    """Whatever ids the repeats have: a decision and its execution happen once."""
    receipts = [a_receipt(), a_receipt(decision_id="decision-2")]
    receipts.append(a_receipt(decision_id="decision-2", decided_at=NOON + timedelta(minutes=3)))  # imported again
    events = [
        make(receipt, event_id=f"{name}-{turn}")
        for turn in range(300)
        for receipt in receipts
        for name, make in (("decided", a_decided), ("executed", an_executed))
    ]
    batch = folded(*events)
    assert batch.signals.select("decisions", "expected", "executed").sum().row(0) == (2, 2, 2)
    assert (batch.tally.repeats, batch.tally.rejected) == (900 * 2 - 4, 0)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (an_executed(status=ExecutionStatus.FAILED, event_id="x"), ["execution", "succeeded", "failed"]),
        (an_executed(status=ExecutionStatus.TIMED_OUT), ["execution", "succeeded", "timed_out"]),
        (an_executed(a_receipt(epoch="another"), event_id="x"), ["execution", "another cell or epoch"]),
        (an_executed(status=ExecutionStatus.CANCELLED, latency_ms=None, event_id="x"), ["succeeded", "cancelled"]),
        (a_decided(result=Deny(reason="no"), event_id="x"), ["decision", "allowed", "denied"]),
        (an_undone(result=UndoResult.FAILED), ["e-3", "undone", "undo_failed"]),
        (an_impact("q-1", passed=False), ["q-1", "quality_passed", "quality_failed"]),
    ],
)
def test_another_outcome_of_the_same_is_rejected_by_name(second: Event, words: list[str]) -> None:
    first = [a_decided(), an_executed(), an_undone(), an_impact("q-1")]
    batch = folded(*first, second)
    (reject,) = batch.rejects
    assert (reject.reason, reject.offset) == ("conflicting_event", 4)
    assert all(word in reject.detail for word in ["decision-1", *words]), reject.detail
    assert batch.signals.equals(folded(*first).signals), "it moves no number"
    assert reject.first_bytes
    assert reject.key == b"decision-1"


def test_a_cancellation_takes_back_one_expectation_however_often_it_comes() -> None:
    cancelled = [an_executed(status=ExecutionStatus.CANCELLED, event_id=f"c-{turn}") for turn in range(9)]
    assert folded(a_decided(), *cancelled).signals.select("expected", "executed").sum().row(0) == (0, 0)


def test_undos_and_impacts_are_kept_by_their_own_id_and_count_once_for_their_decision() -> None:
    events = [an_impact("q-1"), an_impact("q-2"), an_impact("q-1"), an_impact("q-1", decision_id="decision-2")]
    undos = [an_undone(event_id="u-1"), an_undone(event_id="u-1"), an_undone(event_id="u-2")]
    batch = folded(*events, *undos)
    assert batch.tally.accepted == 5
    assert batch.signals.select("quality_checks", "undone").sum().row(0) == (2, 1)
    assert not batch.rejects


def test_an_id_is_no_identity_of_two_decisions() -> None:
    batch = folded(*(a_decided(a_receipt(decision_id=f"decision-{number}"), event_id="same") for number in range(3)))
    assert batch.signals["decisions"].sum() == 3


def test_an_old_decision_is_rejected_by_name_where_nobody_could_tell_a_repeat() -> None:
    partition = SourcePartition("log", OUTCOMES, 0)
    folder = Folder({partition: PartitionState(-1, -1, {}, SeenIds())}, None, timedelta(days=400))
    records = PartitionRecords()
    for offset, days in enumerate((401, 399)):
        receipt = a_receipt(decision_id=f"decision-{offset}", decided_at=NOON - timedelta(days=days))
        records.add(offset, None, event_to_bytes(an_executed(receipt)), None)
    batch = folder.fold(Batch(1, {partition: records}), NOON)
    (reject,) = batch.rejects
    assert (reject.reason, reject.offset) == ("beyond_retention", 0)
    assert "data.receipt decided_at" in reject.detail
    assert "keep_events_days" in reject.detail
    assert batch.signals["executed"].sum() == 1


def test_identities_have_one_date_whatever_the_event_says() -> None:
    """The look-up beyond the horizon goes by it."""
    late = an_executed().model_copy(update={"time": NOON + timedelta(days=3), "id": "late"})
    events = [event_to_bytes(event) for event in (an_executed(), late)]
    columns = EventDecoder(None).decode(events, None).events
    found = identities_of(columns, words_of(columns.subjects))
    assert np.unique(found.dates_us).size == 1
    assert found.words[0].tolist() == found.words[1].tolist()
