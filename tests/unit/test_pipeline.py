"""Exactly once: whatever dies when, and however the log is cut into batches."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING

import pytest
from fakes import KEY, FakeClock
from source_logs import (
    FIRST,
    REAL,
    KilledError,
    Letters,
    Log,
    MortalLake,
    a_log,
    hold_all_promises,
    places,
    rows,
    totals,
    value_of,
    work,
)

from analytics.lake.errors import FencedError
from analytics.lake.table_schemas import EVENTS, REJECTS, SIGNALS
from analytics.lake.tables import Lake
from streams.ingest.errors import DataPlaneError, LakeOrderError, LogMismatchError
from streams.ingest.pipeline import Assignment, Pipeline
from streams.ingest.records import Batch, PartitionRecords
from streams.ingest.recovery import resume
from streams.ingest.rejects import to_rows
from streams.publisher import PublicationError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_life_without_accidents(tmp_path: Path) -> None:
    lake, letters = Lake.open(str(tmp_path)), Letters()
    log = Log({FIRST: [value_of(1), None, b"x", value_of(1), value_of(2), value_of(3, minutes=30), None]})
    work(log, lake, letters, FakeClock(), cuts=Random(1))
    assert rows(lake, EVENTS).select("offset", "id").rows() == [(0, "e-1"), (4, "e-2")]
    rejected = rows(lake, REJECTS)
    assert rejected.select("offset", "reason", "first_bytes", "size", "key").rows() == [
        (1, "null_value", b"", 0, None),
        (2, "not_json", b"x", 1, b"key"),
        (5, "impossible_time", value_of(3, minutes=30)[:256], len(value_of(3, minutes=30)), b"key"),
        (6, "null_value", b"", 0, None),
    ]
    assert [each.offset for each in letters.sent] == [1, 2, 5, 6]
    assert lake.stored_offsets(SIGNALS, [FIRST]) == {FIRST: 6}
    hold_all_promises(log, lake)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("seed", range(3))
def test_a_kill_at_any_commit_leaves_exact_numbers(tmp_path: Path, seed: int, after: bool) -> None:
    log, letters, clock, random = a_log(seed), Letters(), FakeClock(), Random(seed)
    keys = [KEY, None, KEY, b"another key"]
    deaths = 0
    while True:
        lake = MortalLake.open(str(tmp_path))
        assert isinstance(lake, MortalLake)
        lake.lives, lake.after = random.randint(0, 4), after
        try:
            work(log, lake, letters, clock, cuts=random, key=random.choice(keys))
        except KilledError:
            deaths += 1
        else:
            break
    assert deaths >= 2
    lake = Lake.open(str(tmp_path))
    hold_all_promises(log, lake)
    assert {(each.partition.topic, each.offset) for each in letters.sent} == set(places(rows(lake, REJECTS)))
    versions = [lake.version(table) for table in (REJECTS, EVENTS, SIGNALS)]
    work(log, lake, letters, clock, cuts=random)
    assert [lake.version(table) for table in (REJECTS, EVENTS, SIGNALS)] == versions


def test_what_the_clock_decided_before_a_kill_stays_decided(tmp_path: Path) -> None:
    log = Log({FIRST: [value_of(1), value_of(2, minutes=20)]})
    lake = MortalLake.open(str(tmp_path))
    assert isinstance(lake, MortalLake)
    lake.lives = 1  # the commit of `rejects` is the last
    with pytest.raises(KilledError):
        work(log, lake, Letters(), FakeClock(), cuts=Random(4))
    late = FakeClock()
    late.advance(24 * 3_600)
    letters = Letters()
    log.records[FIRST].append(value_of(3, minutes=20))
    lake.lives = 100
    work(log, lake, letters, late, cuts=Random(4))
    assert rows(lake, REJECTS)["offset"].to_list() == [1]
    assert rows(lake, EVENTS)["id"].to_list() == ["e-1", "e-3"]
    assert [each.offset for each in letters.sent] == [1]  # again: the first worker died before it could


def test_a_key_that_changed_does_not_lose_what_was_settled(tmp_path: Path) -> None:
    log = Log({FIRST: [value_of(1), b"x"]})
    lake = MortalLake.open(str(tmp_path))
    assert isinstance(lake, MortalLake)
    lake.lives = 1
    with pytest.raises(KilledError):
        work(log, lake, Letters(), FakeClock(), cuts=Random(4))
    lake.lives = 100
    work(log, lake, Letters(), FakeClock(), cuts=Random(4), key=b"a new key")
    assert rows(lake, EVENTS)["id"].to_list() == ["e-1"]
    assert rows(lake, REJECTS)["offset"].to_list() == [1]


def test_repeats_are_known_for_ever_and_after_a_restart(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    values = [value_of(1, minutes=-60 * 24 * 30), value_of(2, minutes=-61), value_of(3, minutes=-60), value_of(4)]
    log = Log({FIRST: list(values)})
    work(log, lake, Letters(), FakeClock(), cuts=Random(0))
    log.records[FIRST] += values
    work(log, lake, Letters(), FakeClock(), cuts=Random(0))
    log.records[FIRST] += [value_of(5), *values]
    work(log, lake, Letters(), FakeClock(), cuts=Random(0))
    assert rows(lake, EVENTS)["offset"].to_list() == [0, 1, 2, 3, 8]
    assert not rows(lake, REJECTS).height


@pytest.mark.slow
def test_an_outbox_that_is_delivered_twice_after_hours_counts_once(tmp_path: Path) -> None:
    """Other routers have moved on meanwhile, and the worker has died between the deliveries."""
    outbox = [value_of(number, minutes=-180 + number / 10) for number in range(200)]
    others = [value_of(number, minutes=number / 1_000) for number in range(200, 240)]
    lake, log = Lake.open(str(tmp_path)), Log({FIRST: [*outbox, *others]})
    work(log, lake, Letters(), FakeClock(), cuts=Random(0))
    log.records[FIRST] += outbox
    work(log, lake, Letters(), FakeClock(), cuts=Random(1))
    log.records[FIRST] += [value_of(number, minutes=number / 1_000) for number in range(240, 250)]
    log.records[FIRST] += [
        value_of(number, minutes=-180 + number / 10, event_id=f"again-{number}") for number in range(200)
    ]
    work(log, lake, Letters(), FakeClock(), cuts=Random(2))
    assert rows(lake, SIGNALS).select("decisions", "executed").sum().row(0) == (125, 125)
    assert not rows(lake, REJECTS).height
    hold_all_promises(log, lake)


@pytest.mark.slow
def test_signals_are_rebuilt_from_the_events(tmp_path: Path) -> None:
    log, letters = a_log(11), Letters()
    work(log, Lake.open(str(tmp_path)), letters, FakeClock(), cuts=Random(2))
    before = totals(Lake.open(str(tmp_path)))
    assert before["decisions"] > 0
    (tmp_path / SIGNALS).rename(tmp_path / "away")
    lake, later = Lake.open(str(tmp_path)), FakeClock()
    later.advance(30)
    work(log, lake, letters, later, cuts=Random(2))
    assert totals(lake) == before
    assert set(rows(lake, SIGNALS)["last_ingested_at"]) <= set(rows(lake, EVENTS)["ingested_at"])


def test_two_logs_do_not_know_each_other(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    other = FIRST._replace(log_id="embedded-2")
    work(Log({FIRST: [value_of(1), value_of(2)]}), lake, Letters(), FakeClock(), cuts=Random(0))
    work(Log({other: [value_of(1)]}), lake, Letters(), FakeClock(), cuts=Random(0))
    assert lake.stored_offsets(EVENTS, [FIRST, other]) == {FIRST: 1, other: 0}
    assert rows(lake, EVENTS).group_by("log_id").len().sort("log_id").rows() == [("embedded-1", 2), ("embedded-2", 1)]


def test_a_gap_on_a_real_cluster_is_no_reject(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    pipeline = Pipeline(lake, Letters(), key=KEY, now=FakeClock())
    pipeline.assign(Assignment(1, resume(lake, {REAL: (3, 10)})))
    records = PartitionRecords()
    records.add(5, None, value_of(1), None)
    records.add(9, None, value_of(2), None)
    folded = pipeline.fold(Batch(2, {REAL: records}))
    pipeline.commit(folded)
    assert (folded.tally.skipped, folded.tally.rejected, folded.tally.accepted) == (5, 0, 2)
    assert rows(lake, REJECTS).is_empty()
    assert lake.stored_offsets(EVENTS, [REAL]) == {REAL: 9}


def test_going_backwards_stops_the_worker(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    pipeline = Pipeline(lake, Letters(), key=KEY, now=FakeClock())
    pipeline.assign(Assignment(1, resume(lake, {REAL: (0, 10)})))
    records = PartitionRecords()
    records.add(4, None, value_of(1), None)
    records.add(3, None, value_of(2), None)
    with pytest.raises(LogMismatchError, match="went backwards"):
        pipeline.fold(Batch(2, {REAL: records}))


def test_a_lost_batch_is_noticed(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    log = Log({FIRST: [value_of(number) for number in range(6)]})
    pipeline = Pipeline(lake, Letters(), key=KEY, now=FakeClock())
    pipeline.assign(Assignment(1, resume(lake, log.bounds())))
    begin = {FIRST: 0}
    first, second, third = (log.batch(number, begin, 2) for number in (2, 3, 4))
    with pytest.raises(DataPlaneError, match="one between was lost"):
        pipeline.fold(second)
    pipeline.commit(pipeline.fold(first))
    lost = pipeline.fold(second)
    assert lost.number == 3
    with pytest.raises(DataPlaneError, match="one between was lost"):
        pipeline.commit(pipeline.fold(third))
    with pytest.raises(DataPlaneError, match="before the batches of the last ones were committed"):
        pipeline.assign(Assignment(5, resume(lake, log.bounds())))


def test_a_second_worker_fences_the_first(tmp_path: Path) -> None:
    log = Log({FIRST: [value_of(1), value_of(2)]})
    pipelines = []
    for _ in range(2):
        lake = Lake.open(str(tmp_path))
        pipeline = Pipeline(lake, Letters(), key=KEY, now=FakeClock())
        pipeline.assign(Assignment(1, resume(lake, log.bounds())))
        pipelines.append((pipeline, pipeline.fold(log.batch(2, {FIRST: 0}, 2))))
    (old, old_fold), (new, new_fold) = pipelines
    new.commit(new_fold)
    with pytest.raises(FencedError):
        old.commit(old_fold)
    hold_all_promises(log, Lake.open(str(tmp_path)))


def test_no_event_is_committed_before_the_dead_letters_are_out(tmp_path: Path) -> None:
    lake, log = Lake.open(str(tmp_path)), Log({FIRST: [value_of(1), b"x", None]})
    with pytest.raises(PublicationError):
        work(log, lake, Letters(broken=True), FakeClock(), cuts=Random(4))
    assert rows(lake, REJECTS)["offset"].to_list() == [1, 2]
    assert rows(lake, EVENTS).is_empty()
    letters = Letters()
    work(log, lake, letters, FakeClock(), cuts=Random(4))
    assert rows(lake, REJECTS)["offset"].to_list() == [1, 2]
    assert [(each.offset, each.reason) for each in letters.sent] == [(1, "not_json"), (2, "null_value")]
    assert to_rows(letters.sent).equals(rows(lake, REJECTS))


@pytest.mark.parametrize(
    ("bounds", "said"),
    [((0, 3), "already covers offset 5"), ((9, 20), "begins at offset 9"), ((0, 0), "ends before offset 0")],
)
def test_a_log_that_does_not_fit_is_refused(tmp_path: Path, bounds: tuple[int, int], said: str) -> None:
    lake = Lake.open(str(tmp_path))
    work(Log({FIRST: [value_of(number) for number in range(6)]}), lake, Letters(), FakeClock(), cuts=Random(0))
    with pytest.raises(LogMismatchError, match=said):
        resume(lake, {FIRST: bounds})
    assert resume(lake, {FIRST: (6, 6)})[FIRST].start == 6


def test_tables_of_different_moments_are_refused(tmp_path: Path) -> None:
    log = Log({FIRST: [value_of(1)]})
    work(log, Lake.open(str(tmp_path)), Letters(), FakeClock(), cuts=Random(0))
    (tmp_path / EVENTS).rename(tmp_path / "away")
    with pytest.raises(LakeOrderError, match="events nothing"):
        resume(Lake.open(str(tmp_path)), log.bounds())


def test_values_at_the_edge_can_be_stored(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    records = PartitionRecords()
    for offset, at_ms in enumerate((-1, None, 10**17, 0, 253_402_300_799_999)):
        ancient = json.loads(value_of(2 * offset + 1))
        ancient["time"] = "0001-01-01T00:00:00Z"
        ancient["source"] = "nul \u0000 and \u007f and \U0001f600"
        records.add(offset, b"\xff" * 5_000, json.dumps(ancient).encode(), at_ms)
    records.add(5, b"\xff" * 5_000, b"\xff\x00" * 1_000, 10**17)
    pipeline = Pipeline(lake, Letters(), key=KEY, now=FakeClock())
    pipeline.assign(Assignment(1, resume(lake, {FIRST: (0, 6)})))
    pipeline.commit(pipeline.fold(Batch(2, {FIRST: records})))
    assert rows(lake, EVENTS).height == 5
    assert rows(lake, EVENTS)["broker_at"].null_count() == 3
    (reject,) = rows(lake, REJECTS).iter_rows(named=True)
    assert (len(reject["key"]), len(reject["first_bytes"]), reject["size"]) == (1_024, 256, 2_000)
    assert resume(lake, {FIRST: (0, 6)})[FIRST].start == 6
