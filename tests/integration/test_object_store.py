"""The lake in a bucket: commits that race, files folded and deleted, what is read, and what is never printed."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
import pyarrow.fs as pafs
import pytest
from click.testing import CliRunner
from enactor_cases import Place
from lakes_of_events import EventLake
from object_store import KEY, READER, SECRET
from old_lakes import downgrade
from polars.testing import assert_frame_equal
from stage_stores import KilledError, kill, nothing
from verdict_cases import NOON, a_row, executions, increments

from analytics.audit.replay import replay
from analytics.enactment.enactments import EnactmentPhase
from analytics.judging.judge import Judge
from analytics.lake import storage
from analytics.lake.errors import FencedError, OutdatedLakeError, UnreadableLakeError
from analytics.lake.leases import ENACTOR, JUDGE, Lease
from analytics.lake.migrations import migrate
from analytics.lake.storage import StorageSettings, files_of
from analytics.lake.table_schemas import EVENTS, SIGNALS, VERDICTS
from analytics.lake.tables import Advance, Fence, Lake, SourcePartition
from analytics.maintenance import Maintenance, RetentionPolicy
from analytics.signals.cells import EPOCH
from analytics.signals.definitions import COUNTERS
from dashboard.data.reader import LakeReader
from producers.wire.stage import Mode, Stage
from stagekeeper.commands import cli
from stagekeeper.doctor.check_result import CheckState
from stagekeeper.doctor.config_checks import check_lake

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.slow]

GATES_TEXT = """\
version: 1
gates:
  - name: g
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.1}
"""


def minute(number: int, count: int = 1) -> dict[str, object]:
    return a_row(minute=number, **executions(count))


def test_there_is_no_lake_before_there_is_one(bucket_root: str) -> None:
    assert Lake.existing(bucket_root) is None
    Lake.open(bucket_root)
    assert Lake.existing(bucket_root) is not None


def test_of_writers_that_race_for_a_partition_one_wins_each_offset(bucket_root: str) -> None:
    Lake.open(bucket_root)
    source, fenced = SourcePartition("c", "t", 0), []
    start = threading.Barrier(4)

    def write() -> None:
        own = Lake.open(bucket_root)
        start.wait()
        for _ in range(12):
            stored = own.stored_offsets(SIGNALS, [source]).get(source)
            reached = 0 if stored is None else stored + 1
            try:
                own.append(SIGNALS, increments(minute(reached)), advances={source: Advance(stored, reached)})
            except FencedError:
                fenced.append(reached)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lake = Lake.open(bucket_root)
    rows = lake.scan(SIGNALS).collect()
    assert rows.height == 48 - len(fenced) == rows["bucket"].n_unique()
    assert lake.stored_offsets(SIGNALS, [source]) == {source: rows.height - 1}
    assert fenced, "nobody raced: the test proves nothing"


def test_compactions_that_race_with_each_other_and_with_appends_keep_every_row_once(bucket_root: str) -> None:
    lake = Lake.open(bucket_root)
    for number in range(12):
        lake.append(SIGNALS, increments(minute(number)))
    threads = [threading.Thread(target=Lake.open(bucket_root).compact, args=(SIGNALS,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(12, 20):
        lake.append(SIGNALS, increments(minute(number)))
    for thread in threads:
        thread.join()
    assert sorted(lake.scan(SIGNALS).collect()["bucket"]) == [NOON + timedelta(minutes=n) for n in range(20)]


def test_verdicts_are_reached_again_after_roll_up_and_vacuum(bucket_root: str, tmp_path: Path) -> None:
    gates = tmp_path / "gates.yaml"
    gates.write_text(GATES_TEXT)
    lake = Lake.open(bucket_root)
    judge = Judge(lake, gates, settle_s=0)
    began = (datetime.now(UTC) - timedelta(days=6)).replace(minute=0, second=0, microsecond=0)

    def lately(minutes: int) -> dict[str, object]:
        at = began + timedelta(minutes=minutes)
        return minute(0, 9) | {"bucket": at, "last_event_at": at + timedelta(seconds=30)}

    for number in range(6):
        lake.append(SIGNALS, increments(*(lately(60 * number + n) for n in range(0, 60, 5))))
        judge.tick(began + timedelta(hours=number + 1))
        lake.compact(SIGNALS)
    for late in range(3):
        lake.append(SIGNALS, increments(lately(5 * 24 * 60 + late)))
    judge.tick(began + timedelta(days=5, hours=1))
    policy = RetentionPolicy(grace=timedelta(), margin=timedelta(), roll_up_after=timedelta(days=2))
    steps = Maintenance(lake, policy, gates).run(datetime.now(UTC) + timedelta(seconds=1))
    assert not [step for step in steps if step.failed]
    assert max(step.rows for step in steps if step.what == "roll_up") > 50
    ids = lake.scan(VERDICTS).collect()["verdict_id"].to_list()
    assert len(ids) >= 6
    for verdict_id in ids:
        assert replay(Lake.open(bucket_root), verdict_id).verdict_id == verdict_id


@pytest.mark.exhaustive  # in a folder every day (tests/unit/test_migrations.py)
def test_a_lake_of_an_earlier_layout_is_migrated(bucket_root: str, tmp_path: Path) -> None:
    history = EventLake.at(tmp_path)
    for number in range(20):
        history.act(number, f"user {number % 3}", failed=number % 4 == 0)
    history.store()
    with Lease(history.lake.root, JUDGE) as lease:
        assert lease.held()
    downgrade(history.lake.root, bucket_root)
    with pytest.raises(OutdatedLakeError):
        Lake.existing(bucket_root)
    migrate(bucket_root)
    lake = Lake.existing(bucket_root)
    assert lake is not None
    for table in (EVENTS, SIGNALS):
        found, expected = (read.scan(table).collect() for read in (lake, history.lake))
        if table == SIGNALS:  # what an earlier layout did not count has rows of its own
            found, expected = (
                rows.group_by(*EPOCH, "bucket").agg(pl.col(COUNTERS).sum()) for rows in (found, expected)
            )
        assert_frame_equal(found.select(expected.columns), expected, check_row_order=False)
    with Lease(bucket_root, JUDGE) as lease:
        assert lease.held()
        assert lease.fence is not None
        assert lease.fence.epoch > 2


def test_the_page_and_the_commands_read_a_bucket(bucket_root: str, tmp_path: Path) -> None:
    reader = LakeReader(bucket_root)
    assert reader.snapshot() is None
    gates = tmp_path / "gates.yaml"
    gates.write_text(GATES_TEXT)
    lake = Lake.open(bucket_root)
    lake.append(SIGNALS, increments(minute(0, 50)))
    Judge(lake, gates, settle_s=0).tick(NOON + timedelta(hours=1))
    snapshot = reader.snapshot()
    assert snapshot is not None
    assert len(snapshot.signals) == len(snapshot.verdicts) == 1
    # What the scorecard simulates has nothing to do with the bucket: only the history is asked for.
    for asked in ("signals --json", "verdicts --json", "scorecard --runs 0 --json", "quality run"):
        history = CliRunner().invoke(cli, [*asked.split(), "--lake", bucket_root])
        assert history.exit_code == 0, (asked, history.output)
        assert SECRET not in history.output
        assert asked.split()[0] != "scorecard" or json.loads(history.output)["history"]["promotions"], history.output
    question = ["gate", "check", "--environment", "production", "--workflow", "refunds", "--tool", "issue_refund"]
    question += ["--to", "approval_gated", "--lake", bucket_root, "--gates", str(gates), "--json"]
    history = CliRunner().invoke(cli, question)
    assert json.loads(history.output)["verdict_id"], history.output


def test_keys_are_never_shown(bucket_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = StorageSettings.load()
    assert settings.access_key_id == KEY
    assert SECRET not in f"{settings!r} {settings}"
    monkeypatch.setenv("STAGEKEEPER_LAKE_SECRET_ACCESS_KEY", "another-secret")
    with pytest.raises(UnreadableLakeError) as refused:
        Lake.open(bucket_root)
    assert "another-secret" not in str(refused.value)
    assert "STAGEKEEPER_LAKE_ENDPOINT" in str(refused.value) or "cannot be read" in str(refused.value)


def test_the_doctor_tries_whether_a_bucket_can_be_written(bucket_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_lake(bucket_root)[0].state is CheckState.FAIL
    lake = Lake.open(bucket_root)

    def objects() -> list[str]:
        store = files_of(bucket_root, "", lake.options)
        infos = store.get_file_info(pafs.FileSelector("", recursive=True))
        return sorted(info.path for info in infos if info.extension)  # the store of the tests lists empty folders too

    before = objects()
    result, _ = check_lake(bucket_root)
    assert result.state is CheckState.PASS, result
    assert objects() == before, "it left something behind"
    monkeypatch.setenv("STAGEKEEPER_LAKE_ACCESS_KEY_ID", READER)
    result, found = check_lake(bucket_root)
    assert result.state is CheckState.FAIL
    assert found is not None, "whoever may read it can look at the rest"
    assert "nothing can be committed" in result.evidence
    assert SECRET not in f"{result}"
    assert objects() == before


def test_a_rollback_is_carried_out_once_and_proven_whoever_is_killed_or_overtaken(
    bucket_root: str, tmp_path: Path
) -> None:
    place = Place(tmp_path, store="flagd", root=bucket_root)
    place.judged()
    earlier, place.store.after = place.enactor, kill
    with pytest.raises(KilledError):
        place.look()
    place.store.after = nothing
    place.restarted()
    report = place.look()
    assert (report.fault, place.mode) == (None, Mode.SEARCH_ONLY)
    assert place.phases == [EnactmentPhase.INTENDED, EnactmentPhase.APPLIED]
    with pytest.raises(FencedError):
        earlier.look(Fence(ENACTOR, 1))
    place.decided("/tests", Stage.SEARCH_ONLY, 1)
    assert place.look().lives["in force"] == 1
    assert (len(place.store.changes), len({event.id for event in place.told})) == (1, 1)


def test_a_store_that_takes_the_same_commit_twice_is_refused(bucket_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = storage.write_deltalake, []

    def overwrite_silently(*arguments: object, **more: object) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            write(*arguments, **more)

    monkeypatch.setattr(storage, "write_deltalake", overwrite_silently)
    with pytest.raises(UnreadableLakeError, match="does not refuse to write an object that is there already"):
        Lake.open(bucket_root)
    monkeypatch.undo()
