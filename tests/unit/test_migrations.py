"""A lake of an earlier layout: refused by name, and migrated by the worker with nothing lost, wherever it is killed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import polars as pl
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError
from lakes_of_events import NOON, EventLake
from old_lakes import OLD_NAMES, downgrade
from polars.testing import assert_frame_equal

from analytics.audit.replay import replay
from analytics.gates.gate_file import GateFile
from analytics.judging.judge import Judge
from analytics.lake import migrations
from analytics.lake.chain import verify
from analytics.lake.commits import Advance, Fence, SourcePartition
from analytics.lake.errors import FencedError, LakeError, LakeInUseError, OutdatedLakeError, SchemaMismatchError
from analytics.lake.leases import JUDGE, MAINTENANCE, Lease, holders
from analytics.lake.migrations import migrate
from analytics.lake.rewrite import Rewriter
from analytics.lake.storage import LAYOUT_MARK, stored_layout
from analytics.lake.table_schemas import EVENTS, LAYOUT, LEASES, SIGNALS, TABLES, VERDICTS
from analytics.lake.tables import Lake
from analytics.signals.cells import EPOCH
from analytics.signals.definitions import COUNTERS
from analytics.verdicts.gate_check import gate_check
from analytics.verdicts.ledger import latches, latest_verdicts
from analytics.verdicts.signoffs import SignOffKind, in_force, record
from producers.wire.events import ExecutionStatus, Incident, UndoResult
from producers.wire.topics import TOPICS
from stagekeeper.commands import cli
from stagekeeper.local_ingest import LOG_ID

pytestmark = pytest.mark.slow

GATES = """\
version: 1
user_window: 10m
freshness: 2h
gates:
  - name: g
    owner: risk
    ladder: [draft_write, approval_gated]
    minimum_exposure: {users: 20}
    signals: [{signal: execution_error, role: guardrail, limit: 0.1}]
"""
MOVE: Final = {"environment": "production", "workflow": "refunds", "tool": "issue_refund", "to_stage": "approval_gated"}
JUDGED_AT: Final = NOON + timedelta(minutes=45)
SOURCES: Final = [SourcePartition(LOG_ID, topic.name, 0) for topic in TOPICS]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> EventLake:
    """A lake of today with a ROLL_BACK that a person set aside, judged under a lease."""
    folder = tmp_path_factory.mktemp("today")
    history = EventLake.at(folder)
    for minute in range(40):
        history.act(minute, f"user {minute % 7}", failed=minute % 2 == 0)
        if minute % 10 == 9:
            history.store()
    for table in (EVENTS, SIGNALS):
        nothing = history.lake.scan(table).collect().clear()
        history.lake.append(table, nothing, advances={source: Advance(None, 7) for source in SOURCES})
    gates = folder / "gates.yaml"
    gates.write_text(GATES)
    lease = Lease(history.lake.root, JUDGE)
    for _ in range(3):
        assert lease.held()
        lease.release()
    assert lease.held()  # and never gives it up: it died elsewhere
    Judge(history.lake, gates, settle_s=0, fence=lease.fence).tick(JUDGED_AT)
    # Earlier versions took an override on harm.
    record(
        history.lake,
        SignOffKind.OVERRIDE,
        latest_verdicts(history.lake),
        to_stage=MOVE["to_stage"],
        cohort=None,
        actor="maria",
        reason="fixed in 4.2",
        now=JUDGED_AT,
        expires_at=JUDGED_AT + timedelta(hours=1),
    )
    return history


@pytest.fixture(scope="module")
def pristine(history: EventLake, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same as a lake of layout 1."""
    return downgrade(
        history.lake.root, str(tmp_path_factory.mktemp("old") / "lake"), [source.app_id for source in SOURCES]
    )


@pytest.fixture
def old(pristine: str, tmp_path: Path) -> str:
    """A copy of it."""
    shutil.copytree(pristine, tmp_path / "lake")
    return str(tmp_path / "lake")


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for fifteen seconds."""
    monkeypatch.setattr(migrations, "_PAUSE_S", 0.05)
    monkeypatch.setattr(Lease, "_is_free", lambda _: True)


def old_leases(root: str) -> Lake:
    return Lake(root, {LEASES: DeltaTable(f"{root}/claims")}, {LEASES: "claims"})


def give_up_judge(root: str) -> None:
    """Give up the lease that somebody elsewhere had."""
    with Lease(root, JUDGE, lake=old_leases(root)) as lease:
        assert lease.held()


def assert_survived(root: str, history: EventLake, gates: Path) -> None:
    """Everything of the old lake is in the migrated one, and means the same."""
    assert stored_layout(root) == LAYOUT
    lake = Lake.existing(root)
    assert lake is not None
    for name in TABLES:
        if name != LEASES:
            expected = history.lake.scan(name).collect()
            if name == VERDICTS:
                expected = expected.drop("counts_sha256", "row_sha256")  # the chain of the old rows begins here
            elif name == EVENTS:
                expected = expected.drop("incarnation", "sequence")  # which nobody reads from the old rows' bytes
            found = lake.scan(name).collect().select(expected.columns)
            if name == SIGNALS:
                # What is new is counted in rows of its own.
                found, expected = (
                    rows.group_by(*EPOCH, "bucket").agg(pl.col(COUNTERS).sum()) for rows in (found, expected)
                )
            assert_frame_equal(found, expected, check_row_order=False)
    assert verify(lake, lake.scan(VERDICTS).collect()["verdict_id"])[0].sequence == lake.scan(VERDICTS).collect().height
    assert lake.stored_offsets(EVENTS, SOURCES) == history.lake.stored_offsets(EVENTS, SOURCES) != {}
    assert lake.stored_offsets(SIGNALS, SOURCES) == history.lake.stored_offsets(SIGNALS, SOURCES)
    assert latches(lake) == latches(history.lake) != {}
    gates.write_text(GATES)
    answer = gate_check(lake, GateFile.load(gates), **MOVE, now=JUDGED_AT, freshness_s=1e9)
    assert answer.answer == "ROLL_BACK", "an override of today opens nothing on it either"
    assert [signoff.actor for signoff in in_force(lake, now=JUDGED_AT)] == ["maria"]
    with pytest.raises(FencedError):
        lake.append(VERDICTS, lake.scan(VERDICTS).collect().clear(), fence=Fence(JUDGE, 3))
    # The next tenure is above all that the tables have seen, and the latch stands under it.
    assert {lease: holder.holder for lease, holder in holders(lake).items()} == {JUDGE: None, MAINTENANCE: None}
    with Lease(root, JUDGE) as lease:
        assert lease.held()
        judge = Judge(lake, gates, settle_s=0, fence=lease.fence)
        judge.tick(JUDGED_AT + timedelta(seconds=30))
    assert {verdict.verdict for verdict in latest_verdicts(lake)} == {"ROLL_BACK"}


def test_nothing_is_lost(old: str, history: EventLake, tmp_path: Path) -> None:
    assert migrate(old)
    assert_survived(old, history, tmp_path / "gates.yaml")
    assert not migrate(old), "there is nothing to do"
    assert all(DeltaTable(f"{old}/{name}").version() > 0 for name in OLD_NAMES.values()), "the old tables stay"


def test_everybody_else_refuses_it_by_name_and_leaves_it_alone(old: str) -> None:
    before = sorted(Path(old).rglob("*"))
    for opens in (Lake.open, Lake.existing):
        with pytest.raises(OutdatedLakeError, match=r"has layout 1 .* start a worker of this one \("):
            opens(old)
    answer = CliRunner().invoke(cli, ["verdicts", "--lake", old])
    assert isinstance(answer.exception, OutdatedLakeError)
    assert sorted(Path(old).rglob("*")) == before


def test_where_there_is_no_lake_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert not migrate(str(tmp_path))
    assert not list(tmp_path.iterdir())
    Lake.open(str(tmp_path))
    assert stored_layout(str(tmp_path)) == LAYOUT


def test_a_lake_of_a_later_version_is_refused(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    migrations.commit(DeltaTable(f"{lake.root}/{EVENTS}"), Fence(JUDGE, 1), marks={LAYOUT_MARK: LAYOUT + 1})
    migrate(lake.root)
    with pytest.raises(SchemaMismatchError, match=f"layout {LAYOUT + 1} of a later version"):
        Lake.existing(lake.root)


class _KilledError(BaseException):
    """Ends a migration where it is."""


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Counts commits to the lake, leases aside; raises before or after number `at`."""
    state: dict[str, Any] = {"count": 0, "at": None, "after": False}

    def counted(act: Any) -> Any:
        def acting(*arguments: Any, **more: Any) -> Any:
            state["count"] += 1
            if state["count"] == state["at"] and not state["after"]:
                raise _KilledError
            result = act(*arguments, **more)
            if state["count"] == state["at"]:
                raise _KilledError
            return result

        return acting

    monkeypatch.setattr(migrations, "commit", counted(migrations.commit))
    monkeypatch.setattr(Rewriter, "rewrite", counted(Rewriter.rewrite))
    return state


@pytest.mark.exhaustive
@pytest.mark.slow
def test_stopped_at_any_commit_the_next_attempt_finishes(
    pristine: str, history: EventLake, tmp_path: Path, commits: dict[str, Any]
) -> None:
    shutil.copytree(pristine, tmp_path / "whole")
    migrate(str(tmp_path / "whole"))
    total = commits["count"]
    assert total >= 8
    for at in range(1, total + 1):
        for after in (False, True):
            root = str(tmp_path / f"{at}-{after}")
            shutil.copytree(pristine, root)
            commits |= {"count": 0, "at": at, "after": after}
            with pytest.raises(_KilledError):
                migrate(root)
            if at < total:
                with pytest.raises(OutdatedLakeError):
                    Lake.existing(root)
            commits["at"] = None
            migrate(root)
            assert_survived(root, history, tmp_path / "gates.yaml")
            shutil.rmtree(root)


PROGRAM: Final = """
import os, signal, sys
from analytics.lake import migrations
from analytics.lake.chain import verify
commit, count = migrations.commit, 0
def commit_or_die(*arguments, **more):
    global count
    count += 1
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    commit(*arguments, **more)
migrations.commit = commit_or_die
migrations.migrate(sys.argv[1])
"""


@pytest.mark.slow
def test_a_killed_migration_is_taken_over_at_once(
    old: str, history: EventLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_up_judge(old)
    for at in ("3", "5"):
        killed = subprocess.run([sys.executable, "-c", PROGRAM, old, at], check=False, timeout=120)
        assert killed.returncode == -9
    monkeypatch.undo()  # from here on leases are as they are
    migrate(old, patience_s=5.0)
    assert_survived(old, history, tmp_path / "gates.yaml")


def test_while_the_earlier_version_is_at_work_nothing_is_migrated(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    give_up_judge(old)
    monkeypatch.undo()
    holder = Lease(old, "upkeep", holder="elsewhere:7 another-machine/1/7/1", lake=old_leases(old))
    assert holder.held()
    with pytest.raises(LakeInUseError, match="elsewhere:7 is at work on it"):
        migrate(old, patience_s=0.3)
    assert stored_layout(old) == 1
    assert not (Path(old) / LEASES).exists()


def test_workers_that_start_together_migrate_it_once(
    old: str, history: EventLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_up_judge(old)
    monkeypatch.undo()
    failures: list[BaseException] = []

    def start() -> None:
        try:
            migrate(old)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert_survived(old, history, tmp_path / "gates.yaml")


def test_a_migration_that_lost_its_lease_changes_nothing_more(old: str, history: EventLake, tmp_path: Path) -> None:
    zombie = Fence(JUDGE, 1)
    migrate(old)
    versions = {name: DeltaTable(f"{old}/{name}").version() for name in TABLES}
    for step in dict(migrations.STEPS.values()).values():
        with pytest.raises(FencedError):
            step(old, zombie)
    with pytest.raises(FencedError):
        migrations.commit(DeltaTable(f"{old}/{EVENTS}"), zombie, marks={LAYOUT_MARK: 2})
    assert versions == {name: DeltaTable(f"{old}/{name}").version() for name in TABLES}
    assert_survived(old, history, tmp_path / "gates.yaml")


def test_a_worker_of_the_earlier_version_cannot_append_events_any_more(old: str) -> None:
    handle = DeltaTable(f"{old}/{EVENTS}")
    row = pl.scan_delta(f"{old}/{EVENTS}").head(1).collect()
    migrate(old)
    with pytest.raises(CommitFailedError):
        write_deltalake(handle, row.to_arrow(), mode="append")


def test_verdicts_of_before_can_be_reached_again(old: str, history: EventLake) -> None:
    migrate(old)
    lake = Lake.open(old)
    then = lake.scan(EVENTS, version=2).collect()
    expected = history.lake.scan(EVENTS, version=2).collect().drop("incarnation", "sequence")
    assert 0 < then.height < lake.scan(EVENTS).collect().height
    assert_frame_equal(then.select(expected.columns), expected, check_row_order=False)
    with pytest.raises(LakeError, match="kind"):  # never rows without their kinds
        lake.increments(EVENTS, after=0, through=2)
    (verdict,) = latest_verdicts(history.lake)
    assert verdict.exposure is not None
    assert verdict.exposure.events_version is not None, "users were not counted: the test proves nothing"
    assert replay(lake, verdict.verdict_id)


def test_what_was_counted_again_and_again_is_taken_out_once(tmp_path: Path) -> None:
    history = EventLake.at(tmp_path)
    receipts = [history.act(n, "ada", status=ExecutionStatus.CANCELLED if n == 3 else None) for n in range(4)]
    for minute, result in enumerate((UndoResult.FAILED, UndoResult.UNDONE, UndoResult.UNDONE)):
        history.undo(receipts[0], 60 + minute, result)
    history.impact(receipts[1], Incident(severity=3), 60)
    history.impact(receipts[1], Incident(severity=1), 61)
    history.undo(receipts[3], 60)
    history.store()
    outcomes = next(source for source in SOURCES if source.topic == "agent.outcomes")
    today = history.lake.scan(SIGNALS).collect()
    # What an earlier version had counted beside it.
    row = today.filter(pl.col("decisions") > 0).head(1)
    too_much = {"undone": 3, "incidents": 1, "bad_outcomes": 1}
    excess = row.with_columns(pl.lit(too_much.get(name, 0), dtype=pl.Int64).alias(name) for name in COUNTERS)
    history.lake.append(SIGNALS, excess, advances={outcomes: Advance(None, 1_000)})
    events = DeltaTable(f"{history.lake.root}/{EVENTS}")
    migrations.commit(events, Fence(JUDGE, 1), marks={LAYOUT_MARK: 8})
    for _ in range(2):
        assert migrate(history.lake.root) or stored_layout(history.lake.root) == LAYOUT
        found = Lake.open(history.lake.root).scan(SIGNALS).collect()
        assert found.select(COUNTERS).sum().row(0) == today.select(COUNTERS).sum().row(0)
