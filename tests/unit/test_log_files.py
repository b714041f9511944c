"""A lake that is committed to all day: its log and its files stay few, and nothing goes that somebody may ask for."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.fs as pafs
import pytest
from deltalake import DeltaTable
from numbered_rows import NOON, checks, seen
from verdict_cases import a_row, increments

from analytics.audit.replay import replay
from analytics.gates.gate_file import GateFile
from analytics.judging.judge import Judge
from analytics.lake import log_files, storage
from analytics.lake.errors import ForgottenError, LakeError
from analytics.lake.leases import MAINTENANCE, Lease
from analytics.lake.log_files import LogFiles, keep_tombstones_short, trim_log
from analytics.lake.table_schemas import COLUMNS, EVENTS, QUALITY, SIGNALS, TABLES, VERDICTS
from analytics.lake.tables import Advance, Lake, SourcePartition
from analytics.lake.vacuum import vacuum
from analytics.maintenance import Maintenance, RetentionPolicy
from streams.control.maintenance_runner import MaintenanceRunner

pytestmark = pytest.mark.slow  # they judge lakes of their own, which takes some tenths of a second each

PARTITION = SourcePartition("cluster-1", "agent.decisions", 0)
GATES = """\
version: 1
gates:
  - name: errors
    unit: action
    ladder: [draft_write, approval_gated]
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.1, maturity: 30m}
"""


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setitem(storage._CONFIGURATION, "delta.checkpointInterval", "10")  # noqa: SLF001
    return Lake.open(str(tmp_path / "lake"))


def later(minutes: float = 5) -> datetime:
    return datetime.now(UTC) + timedelta(minutes=minutes)


def append(lake: Lake, begin: int, end: int) -> None:
    for n in range(begin, end):
        lake.append(QUALITY, checks(n), advances={PARTITION: Advance(n - 1 if n else None, n)})


def log_of(lake: Lake, table: str) -> LogFiles:
    return LogFiles(pafs.SubTreeFileSystem(f"{lake.root}/{table}", pafs.LocalFileSystem()))


@pytest.mark.slow
def test_a_trimmed_log_says_the_same_and_everybody_goes_on(lake: Lake) -> None:
    asleep, writer = Lake.open(lake.root), Lake.open(lake.root)
    append(lake, 0, 45)
    would = trim_log(lake, QUALITY, unused_since=later(), dry_run=True)
    assert would == trim_log(lake, QUALITY, unused_since=later()) >= 40
    assert len(log_of(lake, QUALITY).files) < 20
    assert not trim_log(lake, QUALITY, unused_since=later())
    assert seen(lake) == seen(Lake.open(lake.root)) == seen(asleep) == list(range(45))
    assert Lake.open(lake.root).stored_offsets(QUALITY, [PARTITION]) == {PARTITION: 44}
    append(writer, 45, 60)
    assert seen(lake) == list(range(60))
    with pytest.raises(ForgottenError):
        lake.increments(QUALITY, after=3, through=lake.version(QUALITY))
    assert lake.increments(QUALITY, after=45, through=lake.version(QUALITY))["checked"].to_list() == list(range(45, 60))


def test_a_writer_that_slept_through_it_is_refused(lake: Lake) -> None:
    append(lake, 0, 5)
    stale = DeltaTable(f"{lake.root}/{QUALITY}")
    append(lake, 5, 30)
    assert trim_log(lake, QUALITY, unused_since=later())
    with pytest.raises(Exception, match="Invalid table version"):
        stale.create_write_transaction([], "append", stale.schema())
    assert seen(lake) == list(range(30))


def test_young_commits_and_needed_versions_stay(lake: Lake) -> None:
    append(lake, 0, 45)
    assert not trim_log(lake, QUALITY, unused_since=later(-5))
    assert trim_log(lake, QUALITY, unused_since=later(), needed=25)
    fresh = Lake.open(lake.root)
    assert [len(seen(fresh, version)) for version in (25, 33, 45)] == [25, 33, 45]
    assert not trim_log(lake, QUALITY, unused_since=later(), needed=25)


def test_with_a_damaged_checkpoint_nothing_is_deleted(lake: Lake) -> None:
    append(lake, 0, 45)
    log = Path(lake.root, QUALITY, "_delta_log")
    newest = max(log.glob("*.checkpoint.parquet"))
    newest.write_bytes(newest.read_bytes()[:100])
    before = sorted(log.iterdir())
    with pytest.raises(LakeError, match="cannot be trimmed"):
        trim_log(lake, QUALITY, unused_since=later())
    assert sorted(log.iterdir()) == before


@pytest.mark.slow
def test_whoever_dies_while_trimming_leaves_a_log_without_a_gap(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    append(lake, 0, 45)
    files_of, deleted = storage.files_of, []

    class Mortal:
        def __init__(self, *arguments: Any) -> None:
            self._store = files_of(*arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        def delete_file(self, path: str) -> None:
            if len(deleted) == 17:
                raise OSError("killed")
            deleted.append(path)
            self._store.delete_file(path)

    monkeypatch.setattr(log_files, "files_of", Mortal)
    with pytest.raises(LakeError, match="killed"):
        trim_log(lake, QUALITY, unused_since=later())
    monkeypatch.undo()
    commits = sorted(log_of(lake, QUALITY).commits)
    assert commits == list(range(commits[0], 46))
    assert seen(Lake.open(lake.root)) == list(range(45))
    assert trim_log(lake, QUALITY, unused_since=later())
    assert seen(Lake.open(lake.root)) == list(range(45))


def data_files(lake: Lake, table: str) -> set[str]:
    return {path.name for path in Path(lake.root, table).glob("*.parquet")}


@pytest.mark.slow
def test_what_was_folded_goes_after_the_grace_though_the_log_was_trimmed(lake: Lake) -> None:
    append(lake, 0, 30)
    assert lake.compact(QUALITY)
    append(lake, 30, 45)
    trim_log(lake, QUALITY, unused_since=later())
    assert vacuum(lake, QUALITY, unused_since=later(-30)).files == 0, "a reader may still be at it"
    assert vacuum(lake, QUALITY, unused_since=later()).files == 30
    assert len(data_files(lake, QUALITY)) == 16
    assert seen(lake) == list(range(45))


def test_what_no_log_knows_stays_for_a_margin(lake: Lake) -> None:
    append(lake, 0, 25)
    path = Path(lake.root, QUALITY, "level-1-half-written.parquet")
    path.write_bytes(b"half a file")
    trim_log(lake, QUALITY, unused_since=later())
    assert vacuum(lake, QUALITY, unused_since=later()).files == 0
    old = (datetime.now(UTC) - timedelta(hours=2)).timestamp()
    os.utime(path, (old, old))
    assert vacuum(lake, QUALITY, unused_since=later()).files == 1
    assert len(data_files(lake, QUALITY)) == 25


def old_tombstones(lake: Lake) -> None:
    table = DeltaTable(f"{lake.root}/{QUALITY}")
    table.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 97 days"})


def test_an_earlier_lake_learns_to_forget_what_was_taken_out_while_others_write(lake: Lake) -> None:
    old_tombstones(lake)
    append(lake, 0, 1)
    handle = lake._tables[QUALITY]  # noqa: SLF001
    refresh, changed = DeltaTable.update_incremental, []

    def change_right_after(table: DeltaTable) -> None:
        refresh(table)
        if table is handle and not changed:
            changed.append(keep_tombstones_short(Lake.open(lake.root), QUALITY))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeltaTable, "update_incremental", change_right_after)
        append(lake, 1, 3)
    assert changed == [True]
    assert not keep_tombstones_short(lake, QUALITY)
    assert seen(lake) == [0, 1, 2]


def a_checkpoint_of(lake: Lake, table: str) -> None:
    """Eleven commits that fold nothing."""
    for _ in range(11):
        lake.append(table, pl.DataFrame(schema=COLUMNS[table]))


def cleaned(lake: Lake, gates: Path) -> set[str]:
    maintenance = Maintenance(lake, RetentionPolicy(), gates)
    return {step.table for step in maintenance.clean(datetime.now(UTC), TABLES) if not step.failed}


def test_only_what_no_verdict_may_name_is_cleaned_often(lake: Lake, tmp_path: Path) -> None:
    gates = tmp_path / "gates.yaml"
    assert cleaned(lake, gates) == set(TABLES), "nobody judges"
    gates.write_text(GATES)
    lake.append(SIGNALS, increments(a_row(executed=9) | {"bucket": NOON, "last_event_at": NOON}))
    Judge(lake, gates, settle_s=0).tick(datetime.now(UTC))
    assert lake.version(VERDICTS)
    assert cleaned(lake, gates) == set(TABLES) - {SIGNALS}
    gates.write_text(GATES.replace("unit: action", "unit: user"))
    assert GateFile.load(gates).counts_users
    assert cleaned(lake, gates) == set(TABLES) - {SIGNALS, EVENTS}, "the next verdict may name any version"
    Judge(lake, gates, settle_s=0).tick(datetime.now(UTC))
    gates.write_text(GATES)
    assert cleaned(lake, gates) == set(TABLES) - {SIGNALS, EVENTS}, "a verdict has named one"
    gates.unlink()
    assert cleaned(lake, gates) == set(TABLES) - {SIGNALS, EVENTS}


@pytest.mark.slow
def test_a_worker_keeps_the_log_short_and_every_verdict_in_reach(lake: Lake, tmp_path: Path) -> None:
    gates = tmp_path / "gates.yaml"
    gates.write_text(GATES)
    lease = Lease(lake.root, MAINTENANCE)
    assert lease.held()
    runner = MaintenanceRunner(
        lake.root, gates, RetentionPolicy(roll_up_after=None), every_s=0.001, now=lambda: later(120)
    )
    judge, begin = Judge(lake, gates, settle_s=0), datetime.now(UTC).replace(second=0, microsecond=0)
    for n in range(130):
        at = begin - timedelta(minutes=130 - n)
        lake.append(SIGNALS, increments(a_row(executed=3, failed=n % 2) | {"bucket": at, "last_event_at": at}))
        append(lake, n, n + 1)
        if n % 26 == 25:
            judge.tick(at + timedelta(minutes=1))
            runner.run_once(lease.fence)
    assert len(log_of(lake, QUALITY).files) < 60, "what came after the last cleaning, and since a checkpoint before it"
    assert len(data_files(lake, QUALITY)) < 60
    assert seen(lake) == list(range(130))
    fresh = Lake.open(lake.root)
    ids = fresh.scan(VERDICTS).collect()["verdict_id"]
    assert len(ids) >= 5
    for verdict_id in ids:
        assert replay(fresh, verdict_id).verdict_id == verdict_id
    lease.release()
