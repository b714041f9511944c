"""The lake on real Delta tables: atomic offsets, fencing, increments, versions, compaction, clear refusals."""

from __future__ import annotations

import shutil
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, Schema
from numbered_rows import NOON, checks, miss_one_refresh, seen

from analytics.lake.errors import FencedError, LakeError, SchemaMismatchError, UnreadableLakeError
from analytics.lake.table_schemas import COLUMNS, EVENTS, QUALITY, REJECTS, SIGNALS, TABLES
from analytics.lake.tables import Advance, Lake, SourcePartition

if TYPE_CHECKING:
    from pathlib import Path

PARTITION = SourcePartition("cluster-1", "agent.decisions", 0)
NEIGHBOUR = SourcePartition("cluster-1", "agent.decisions", 1)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path))


def test_a_new_lake_has_every_table_empty_and_typed(lake: Lake) -> None:
    for table in TABLES:
        rows = lake.scan(table).collect()
        assert rows.is_empty()
        assert rows.schema == COLUMNS[table]
        assert lake.version(table) == 0


def test_rows_come_back_as_they_went_in(lake: Lake) -> None:
    row = {
        **dict.fromkeys(COLUMNS[SIGNALS], 1),
        **dict.fromkeys(("environment", "workflow", "tool", "stage", "cohort", "epoch"), "é"),
        "bucket": NOON,
        "last_event_at": NOON + timedelta(microseconds=1),
        "last_ingested_at": NOON + timedelta(microseconds=2),
        "risk_rank": None,
        "latency_bins": [3, 700],
        "latency_counts": [1, 2**40],
        "cost_bins": [],
        "cost_counts": [],
    }
    rows = pl.DataFrame([row], schema=COLUMNS[SIGNALS])
    lake.append(SIGNALS, rows.select(sorted(rows.columns)))
    assert lake.scan(SIGNALS).collect().equals(rows)
    assert lake.increments(SIGNALS, after=-1, through=1).equals(rows)


def test_bytes_are_kept_exactly(lake: Lake) -> None:
    row = dict.fromkeys(COLUMNS[REJECTS], "x") | {"partition": 0, "offset": 7, "size": 3, "rejected_at": NOON}
    row |= {"key": None, "first_bytes": b"\x00\xff\xfe", "broker_at": None}
    lake.append(REJECTS, pl.DataFrame([row], schema=COLUMNS[REJECTS]))
    assert lake.scan(REJECTS).collect().row(0, named=True) == row


def test_offsets_are_stored_by_the_commit_of_their_rows(lake: Lake) -> None:
    assert lake.stored_offsets(QUALITY, [PARTITION]) == {}
    version = lake.append(QUALITY, checks(1), advances={PARTITION: Advance(None, 9)})
    assert version == 1
    table = DeltaTable(f"{lake.root}/{QUALITY}")
    assert (table.version(), table.transaction_version(PARTITION.app_id)) == (1, 9)
    reopened = Lake.existing(lake.root)
    assert reopened is not None
    assert reopened.stored_offsets(QUALITY, [PARTITION, NEIGHBOUR]) == {PARTITION: 9}
    assert reopened.stored_offsets(EVENTS, [PARTITION]) == {}


def test_offsets_move_without_rows(lake: Lake) -> None:
    version = lake.append(QUALITY, checks(), advances={PARTITION: Advance(None, 4)})
    assert version == 1
    assert lake.stored_offsets(QUALITY, [PARTITION]) == {PARTITION: 4}
    assert seen(lake) == []


@pytest.mark.slow
def test_offsets_survive_checkpoints_and_compaction(lake: Lake) -> None:
    previous = None
    for offset in range(105):
        lake.append(QUALITY, checks(offset), advances={PARTITION: Advance(previous, offset)})
        previous = offset
    assert lake.compact(QUALITY)
    reopened = Lake.open(lake.root)
    assert reopened.stored_offsets(QUALITY, [PARTITION]) == {PARTITION: 104}
    assert seen(reopened) == list(range(105))


def test_a_late_zombie_is_fenced(lake: Lake) -> None:
    zombie = Lake.open(lake.root)
    zombie.append(QUALITY, checks(1), advances={PARTITION: Advance(None, 10)})
    lake.append(QUALITY, checks(2), advances={PARTITION: Advance(10, 20)})
    with pytest.raises(FencedError, match=r"cluster-1/agent\.decisions/0 is stored up to offset 20.*offset 10"):
        zombie.append(QUALITY, checks(2), advances={PARTITION: Advance(10, 20)})
    with pytest.raises(FencedError):
        zombie.append(QUALITY, checks(2), advances={NEIGHBOUR: Advance(None, 1), PARTITION: Advance(10, 20)})
    assert seen(lake) == [1, 2]
    assert lake.stored_offsets(QUALITY, [PARTITION, NEIGHBOUR]) == {PARTITION: 20}


def test_a_writer_overtaken_during_its_commit_is_fenced(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    Lake.open(lake.root).append(QUALITY, checks(1), advances={PARTITION: Advance(None, 10)})
    miss_one_refresh(monkeypatch)
    with pytest.raises(FencedError, match="stored up to offset 10"):
        lake.append(QUALITY, checks(2), advances={PARTITION: Advance(None, 10)})
    assert seen(lake) == [1]
    assert lake.append(QUALITY, checks(3), advances={PARTITION: Advance(10, 11)}) == 2


def test_a_writer_that_resumes_from_the_stored_offset_goes_on(lake: Lake) -> None:
    Lake.open(lake.root).append(QUALITY, checks(1), advances={PARTITION: Advance(None, 10)})
    with pytest.raises(FencedError):
        lake.append(QUALITY, checks(1), advances={PARTITION: Advance(None, 10)})
    stored = lake.stored_offsets(QUALITY, [PARTITION])[PARTITION]
    lake.append(QUALITY, checks(2), advances={PARTITION: Advance(stored, 11)})
    assert seen(lake) == [1, 2]


def test_another_log_with_the_same_topic_starts_afresh(lake: Lake) -> None:
    lake.append(QUALITY, checks(1), advances={PARTITION: Advance(None, 500)})
    restarted = PARTITION._replace(log_id="cluster-2")
    lake.append(QUALITY, checks(2), advances={restarted: Advance(None, 3)})
    assert lake.stored_offsets(QUALITY, [PARTITION, restarted]) == {PARTITION: 500, restarted: 3}


def test_offsets_never_go_back(lake: Lake) -> None:
    lake.append(QUALITY, checks(1), advances={PARTITION: Advance(None, 5)})
    with pytest.raises(LakeError, match="cannot go back from 5 to 4"):
        lake.append(QUALITY, checks(2), advances={PARTITION: Advance(5, 4)})


@pytest.mark.slow
def test_writers_of_different_partitions_do_not_disturb_each_other(lake: Lake) -> None:
    failures: list[Exception] = []

    def write(partition: int) -> None:
        own = Lake.open(lake.root)
        source = PARTITION._replace(partition=partition)
        previous = None
        for offset in range(15):
            try:
                own.append(QUALITY, checks(100 * partition + offset), advances={source: Advance(previous, offset)})
            except LakeError as error:
                failures.append(error)
            previous = offset

    threads = [threading.Thread(target=write, args=(partition,)) for partition in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert seen(lake) == sorted(100 * partition + offset for partition in range(3) for offset in range(15))


def test_increments_are_the_rows_between_two_versions(lake: Lake) -> None:
    versions = [lake.append(QUALITY, checks(n)) for n in range(1, 6)]
    rows = lake.increments(QUALITY, after=versions[1], through=versions[3])
    assert rows["checked"].to_list() == [3, 4]
    assert rows.schema == COLUMNS[QUALITY]
    nothing = lake.increments(QUALITY, after=versions[3], through=versions[3])
    assert nothing.is_empty()
    assert nothing.schema == COLUMNS[QUALITY]


def test_compaction_neither_hides_nor_repeats_an_increment(lake: Lake) -> None:
    first = lake.append(QUALITY, checks(1))
    lake.append(QUALITY, checks(2))
    assert lake.compact(QUALITY)
    folded = lake.version(QUALITY)
    last = lake.append(QUALITY, checks(3))
    assert lake.increments(QUALITY, after=first, through=last)["checked"].to_list() == [2, 3]
    assert lake.increments(QUALITY, after=folded - 1, through=folded).is_empty()
    assert lake.increments(QUALITY, after=-1, through=last)["checked"].to_list() == [1, 2, 3]


def test_a_scan_is_fixed_when_it_is_made(lake: Lake) -> None:
    lake.append(QUALITY, checks(1))
    frame = lake.scan(QUALITY)
    lake.append(QUALITY, checks(2))
    assert frame.collect()["checked"].to_list() == [1]
    assert seen(lake) == [1, 2]


def test_a_version_can_be_read_again_after_compaction(lake: Lake) -> None:
    versions = [lake.append(QUALITY, checks(n)) for n in range(4)]
    lake.compact(QUALITY)
    assert [seen(lake, version) for version in versions] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]


@pytest.mark.parametrize("version", [-1, 2])
def test_a_version_that_does_not_exist_is_named(lake: Lake, version: int) -> None:
    lake.append(QUALITY, checks(1))
    with pytest.raises(LakeError, match=f"no version {version}; versions 0 to 1 exist"):
        lake.scan(QUALITY, version=version)


def test_increments_beyond_the_newest_version_are_refused(lake: Lake) -> None:
    with pytest.raises(LakeError, match="no version 1"):
        lake.increments(QUALITY, after=0, through=1)


def test_a_writer_with_an_older_handle_appends_over_a_compaction(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        lake.append(QUALITY, checks(n), advances={PARTITION: Advance(n - 1 if n else None, n)})
    assert Lake.open(lake.root).compact(QUALITY)
    miss_one_refresh(monkeypatch)
    assert lake.append(QUALITY, checks(3), advances={PARTITION: Advance(2, 3)}) == 5
    assert seen(lake) == [0, 1, 2, 3]
    assert lake.stored_offsets(QUALITY, [PARTITION]) == {PARTITION: 3}


def test_a_reader_reads_on_while_files_are_folded(lake: Lake) -> None:
    for n in range(3):
        lake.append(QUALITY, checks(n))
    frame = lake.scan(QUALITY)
    assert Lake.open(lake.root).compact(QUALITY)
    assert sorted(frame.collect()["checked"].to_list()) == [0, 1, 2]


def test_no_lake_is_not_an_error_and_makes_nothing(tmp_path: Path) -> None:
    assert Lake.existing(str(tmp_path / "missing")) is None
    assert Lake.existing(str(tmp_path)) is None
    assert list(tmp_path.iterdir()) == []


def test_a_lake_that_is_being_created_is_not_there_yet(tmp_path: Path) -> None:
    Lake.open(str(tmp_path))
    shutil.rmtree(tmp_path / QUALITY)
    assert Lake.existing(str(tmp_path)) is None


def test_a_table_missing_among_others_with_data_is_named(lake: Lake, tmp_path: Path) -> None:
    lake.append(QUALITY, checks(1))
    shutil.rmtree(tmp_path / EVENTS)
    with pytest.raises(UnreadableLakeError, match=f"has data but no table {EVENTS}"):
        Lake.existing(lake.root)
    assert seen(Lake.open(lake.root)) == [1]


def test_a_damaged_log_is_named(lake: Lake, tmp_path: Path) -> None:
    lake.append(QUALITY, checks(1))
    (tmp_path / QUALITY / "_delta_log" / f"{1:020}.json").write_text("{not json")
    with pytest.raises(UnreadableLakeError, match=f"the table {QUALITY} at .* cannot be read"):
        Lake.existing(lake.root)


def test_data_without_its_log_is_not_taken_for_an_empty_table(lake: Lake, tmp_path: Path) -> None:
    lake.append(QUALITY, checks(1))
    shutil.rmtree(tmp_path / QUALITY / "_delta_log")
    with pytest.raises(UnreadableLakeError, match="has data files but no log"):
        Lake.open(lake.root)


def test_a_root_that_is_a_file_is_named(tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.write_text("")
    with pytest.raises(UnreadableLakeError, match="cannot be created"):
        Lake.open(str(root))


def test_a_table_of_another_version_is_refused_by_its_columns(tmp_path: Path) -> None:
    kept = [field for field in TABLES[QUALITY] if field.name not in ("checked", "success")]
    other = pa.schema([*kept, pa.field("checked", pa.int32(), nullable=False), pa.field("extra", pa.string())])
    DeltaTable.create(str(tmp_path / QUALITY), schema=Schema.from_arrow(other))
    with pytest.raises(SchemaMismatchError) as refused:
        Lake.open(str(tmp_path))
    message = str(refused.value)
    assert "checked is integer, expected long" in message
    assert "success is missing, expected boolean" in message
    assert "extra is string nullable, expected no such column" in message
    assert "STAGEKEEPER_LAKE_ROOT" in message


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (checks(1).drop("payload"), "payload is missing"),
        (checks(1).with_columns(other=pl.lit(1)), "other is not a column"),
        (checks(1).with_columns(pl.col("checked").cast(pl.Int32)), "checked is Int32, expected Int64"),
        (checks(1).with_columns(pl.lit(None).alias("checked")), "checked has 1 null values"),
        (checks(1).with_columns(pl.col("run_at").dt.replace_time_zone(None)), "run_at is Datetime"),
    ],
)
def test_rows_that_do_not_fit_are_refused_before_the_commit(lake: Lake, rows: pl.DataFrame, fault: str) -> None:
    with pytest.raises(SchemaMismatchError, match=fault):
        lake.append(QUALITY, rows)
    assert lake.version(QUALITY) == 0


def test_an_unknown_table_is_named(lake: Lake) -> None:
    with pytest.raises(LakeError, match=r"no table 'signal'; the tables are events, signals"):
        lake.scan("signal")
    with pytest.raises(LakeError, match=r"no table 'signal'"):
        lake.append("signal", checks(1))


def test_writers_that_create_the_lake_at_once_create_each_table_once(tmp_path: Path) -> None:
    for number in range(4):
        root, start, opened = str(tmp_path / str(number)), threading.Barrier(4), []

        def create(root: str = root, start: threading.Barrier = start, opened: list[Lake] = opened) -> None:
            start.wait()
            opened.append(Lake.open(root))

        threads = [threading.Thread(target=create) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(opened) == 4
        assert {(name, lake.version(name)) for lake in opened for name in TABLES} == {(name, 0) for name in TABLES}
