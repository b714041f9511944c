"""Keeping a lake small on real Delta tables: nothing lost, nothing twice, every promised verdict reached again."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from click.testing import CliRunner
from lakes_of_events import NOON, EventLake
from verdict_cases import CELL, a_row, executions, increments

from analytics.audit.replay import replay
from analytics.judging import judge as judging
from analytics.judging.judge import Judge
from analytics.judging.judge_state import JudgeState, PastVerdicts
from analytics.lake.errors import FencedError, LakeError
from analytics.lake.leases import MAINTENANCE, Lease
from analytics.lake.rollup import RollUp, is_rolled
from analytics.lake.table_schemas import COLUMNS, EVENTS, QUALITY, REJECTS, SIGNALS, VERDICTS
from analytics.lake.tables import Fence, Lake
from analytics.maintenance import Maintenance, RetentionPolicy
from analytics.signals.cells import EPOCH
from dashboard.data import reader
from dashboard.data.reader import LakeFollower, LakeReader
from stagekeeper.commands import cli

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from analytics.judging.event_source import EventSource
    from analytics.maintenance import Step

pytestmark = pytest.mark.slow

GATES_TEXT = """\
version: 1
gates:
  - name: errors
    ladder: [draft_write, approval_gated]
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.1, maturity: 30m}
      - {signal: missing_outcome, role: guardrail, limit: 0.2}
"""
BASELINE = """
    baseline: {kind: concurrent}"""
NOW = datetime.now(UTC).replace(second=0, microsecond=0)
NOTHING = timedelta()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    path = tmp_path / "gates.yaml"
    path.write_text(GATES_TEXT)
    return path


def a_minute(at: datetime, **more: Any) -> dict[str, Any]:
    row = a_row(**(executions(4, 1) | more.pop("counts", {})), **more)
    return row | {"bucket": at.replace(second=0, microsecond=0), "last_event_at": at + timedelta(seconds=30)}


def days_of(lake: Lake, days: float, *, cells: int = 2, every_min: int = 7) -> None:
    """Increments of the last days up to now, in a commit for each half day; one of seven misses an execution."""
    at, rows = NOW - timedelta(days=days), []
    while at < NOW:
        for cell in range(cells):
            missing = {"executed": 3} if len(rows) % 7 == 0 else {}
            rows.append(a_minute(at, cell=CELL._replace(tool=f"tool-{cell}"), counts=missing, latencies_ms=[5.0, 9.0]))
        at += timedelta(minutes=every_min)
        if len(rows) > 12 * 60 / every_min * cells:
            lake.append(SIGNALS, increments(*rows))
            rows.clear()
    lake.append(SIGNALS, increments(*rows))


def sums(lake: Lake, version: int | None = None) -> pl.DataFrame:
    from analytics.signals.definitions import COUNTERS  # noqa: PLC0415 - beside its only use

    hour = pl.col("bucket").dt.truncate("1h").alias("hour")
    read = lake.scan(SIGNALS, version=version).group_by(*EPOCH, hour)
    return (
        read.agg(pl.col(COUNTERS).sum(), pl.col("latency_counts").list.sum().sum(), pl.col("last_event_at").max())
        .collect()
        .sort(*EPOCH, "hour")
    )


def maintenance_of(lake: Lake, gates: Path, policy: RetentionPolicy | None = None, **more: Any) -> Maintenance:
    return Maintenance(lake, policy or RetentionPolicy(), gates, **more)


def step_of(steps: Sequence[Step], table: str, what: str) -> Step:
    (step,) = [step for step in steps if (step.table, step.what) == (table, what)]
    return step


def test_minutes_of_old_hours_become_one_row_an_hour(lake: Lake, gates: Path) -> None:
    days_of(lake, 4)
    before, history = sums(lake), lake.scan(SIGNALS).collect()
    steps = maintenance_of(lake, gates).run(NOW)
    after = lake.scan(SIGNALS).collect()
    assert step_of(steps, SIGNALS, "roll_up").rows == history.height - after.height > 400
    assert sums(lake).equals(before)
    edge = (NOW - timedelta(days=2)).replace(minute=0)
    young = pl.col("bucket") >= edge
    assert after.filter(young).sort(*EPOCH, "bucket").equals(history.filter(young).sort(*EPOCH, "bucket"))
    assert after.filter(is_rolled())["bucket"].max() < edge
    assert not [step for step in maintenance_of(lake, gates).run(NOW) if step.rows], (
        "the second round finds nothing to do"
    )


def test_a_version_from_before_says_what_it_said(lake: Lake, gates: Path) -> None:
    days_of(lake, 4)
    version = lake.version(SIGNALS)
    rows = lake.scan(SIGNALS).collect()
    maintenance_of(lake, gates).run(NOW)
    assert lake.scan(SIGNALS, version=version).collect().equals(rows)


def test_the_feed_of_increments_does_not_show_a_roll_up(lake: Lake, gates: Path) -> None:
    days_of(lake, 4)
    version = lake.version(SIGNALS)
    maintenance_of(lake, gates).run(NOW)
    last = lake.append(SIGNALS, increments(a_minute(NOW - timedelta(days=3))))
    assert last > version + 1
    assert lake.increments(SIGNALS, after=version, through=last).height == 1


def test_a_late_append_that_races_with_a_roll_up_is_neither_lost_nor_doubled(
    lake: Lake, gates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days_of(lake, 4)
    late = increments(*(a_minute(NOW - timedelta(days=3, minutes=n)) for n in range(30)))
    expected = sums(lake)
    read = RollUp.read

    def read_and_be_overtaken(self: RollUp, *arguments: Any, **more: Any) -> pl.DataFrame:
        found = read(self, *arguments, **more)
        Lake.open(lake.root).append(SIGNALS, late)
        return found

    monkeypatch.setattr(RollUp, "read", read_and_be_overtaken)
    RollUp(lake, before=NOW - timedelta(days=2)).run()
    monkeypatch.undo()
    appended = lake.scan(SIGNALS).collect().height - expected.height
    assert appended > 0
    total = sums(lake)
    assert total["decisions"].sum() == expected["decisions"].sum() + 2 * late["decisions"].sum()
    rolled = lake.scan(SIGNALS).filter(is_rolled()).collect()
    assert rolled.height > 0


def test_of_two_roll_ups_at_once_one_is_refused(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    days_of(lake, 4)
    before = sums(lake)
    read, overtaken = RollUp.read, []

    def read_and_be_overtaken(self: RollUp, *arguments: Any, **more: Any) -> pl.DataFrame:
        found = read(self, *arguments, **more)
        if not overtaken:
            overtaken.append(True)
            overtaken.append(RollUp(Lake.open(lake.root), before=NOW - timedelta(days=2)).run())
        return found

    monkeypatch.setattr(RollUp, "read", read_and_be_overtaken)
    had, left = RollUp(lake, before=NOW - timedelta(days=2)).run()
    assert overtaken[1][0] > overtaken[1][1]
    assert (had, left) == (0, 0)
    assert sums(lake).equals(before)


def test_whoever_lost_the_lease_changes_nothing(lake: Lake, gates: Path) -> None:
    days_of(lake, 4)
    version = lake.append(SIGNALS, increments(), fence=Fence(MAINTENANCE, 5))
    with pytest.raises(FencedError, match="epoch 5"):
        maintenance_of(lake, gates, fence=Fence(MAINTENANCE, 4)).run(NOW)
    assert lake.version(SIGNALS) == version


def test_what_a_gate_needs_minutes_of_is_not_rolled(lake: Lake, gates: Path) -> None:
    days_of(lake, 7)
    gates.write_text(GATES_TEXT.replace("maturity: 30m", "maturity: 4d"))
    assert step_of(maintenance_of(lake, gates).run(NOW), SIGNALS, "roll_up").rows > 0
    rolled = lake.scan(SIGNALS).filter(is_rolled()).collect()
    assert rolled["bucket"].max() < NOW - timedelta(days=4)


def test_an_action_with_a_baseline_keeps_its_minutes(lake: Lake, gates: Path) -> None:
    days_of(lake, 4)
    compared = GATES_TEXT.replace("  - name: errors", "  - name: compared\n    match: {tool: tool-0}" + BASELINE)
    gates.write_text(compared + GATES_TEXT.partition("gates:\n")[2])
    step = step_of(maintenance_of(lake, gates).run(NOW), SIGNALS, "roll_up")
    assert step.rows > 0
    assert "1 action whose minutes are compared" in step.note
    rolled = lake.scan(SIGNALS).filter(is_rolled()).collect()
    assert set(rolled["tool"]) == {"tool-1"}


def test_without_a_gate_file_nothing_is_rolled(lake: Lake, tmp_path: Path) -> None:
    days_of(lake, 4)
    version = lake.version(SIGNALS)
    step = step_of(maintenance_of(lake, tmp_path / "none.yaml").run(NOW), SIGNALS, "roll_up")
    assert step.failed
    assert "none.yaml" in step.note
    assert lake.version(SIGNALS) == version


def test_a_dry_run_says_what_would_be_done_and_does_nothing(lake: Lake, gates: Path) -> None:
    days_of(lake, 4)
    version = lake.version(SIGNALS)
    would = maintenance_of(lake, gates, dry_run=True).run(NOW)
    assert lake.version(SIGNALS) == version
    assert would == [step for step in maintenance_of(lake, gates).run(NOW) if step.what != "vacuum"] + [
        step for step in would if step.what == "vacuum"
    ]


def quality_of(days: float) -> pl.DataFrame:
    at = NOW - timedelta(days=days)
    row = {"run_id": "r", "run_at": at, "event_type": "t", "checked": round(days), "success": True, "payload": "{}"}
    return pl.DataFrame([row], schema=COLUMNS[QUALITY])


def judged_days(lake: Lake, gates: Path, days: int) -> list[str]:
    """A judge that looks twice a day over days of increments, with compactions in between; the ids of its verdicts."""
    judge = Judge(lake, gates, settle_s=0)
    for half in range(2 * days):
        at = NOW - timedelta(days=days) + timedelta(hours=12 * half)
        minutes = [a_minute(at + timedelta(minutes=n), counts={"failed": half % 2}) for n in range(0, 600, 5)]
        for part in range(4):
            lake.append(SIGNALS, increments(*minutes[part::4]))
        judge.tick(at + timedelta(hours=11))
        lake.compact(SIGNALS)
        lake.compact(VERDICTS)
    return lake.scan(VERDICTS).sort("judged_at").collect()["verdict_id"].to_list()


def files(lake: Lake, table: str, tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "lake" / table).glob("*.parquet")}


@pytest.mark.slow
def test_every_verdict_within_its_promise_is_reached_again_after_everything(
    lake: Lake, gates: Path, tmp_path: Path
) -> None:
    ids = judged_days(lake, gates, 12)
    assert len(ids) >= 20
    policy = RetentionPolicy(replay=timedelta(days=6), grace=NOTHING, margin=NOTHING, keep={SIGNALS: timedelta(days=3)})
    had = files(lake, SIGNALS, tmp_path)
    steps = maintenance_of(lake, gates, policy).run(datetime.now(UTC) + timedelta(seconds=1))
    assert not [step for step in steps if step.failed]
    assert step_of(steps, SIGNALS, "roll_up").rows > 0
    gone = step_of(steps, SIGNALS, "vacuum")
    assert 0 < gone.files < len(had)
    judged = dict(lake.scan(VERDICTS).select("verdict_id", "judged_at").collect().iter_rows())
    fresh = Lake.open(lake.root)
    promised = [each for each in ids if judged[each] >= NOW - timedelta(days=6)]
    assert len(promised) >= 10
    for verdict_id in promised:
        assert replay(fresh, verdict_id).verdict_id == verdict_id
    assert any(replay(fresh, verdict_id).believed for verdict_id in promised), "what had crossed is older"
    older = [each for each in ids if judged[each] < NOW - timedelta(days=8)]
    with pytest.raises(LakeError):
        replay(fresh, older[0])  # vacuum did free something: this test can tell


def test_rows_younger_than_two_days_are_never_taken_out(lake: Lake, gates: Path) -> None:
    days_of(lake, 0.2)
    lake.append(QUALITY, quality_of(1))
    policy = RetentionPolicy(keep=dict.fromkeys((QUALITY, SIGNALS, EVENTS, REJECTS, VERDICTS), timedelta(seconds=1)))
    steps = maintenance_of(lake, gates, policy).run(NOW)
    assert not [step for step in steps if step.failed or step.rows]


def test_of_the_counts_only_epochs_that_are_over_go(lake: Lake, gates: Path) -> None:
    month = NOW - timedelta(days=30)
    lake.append(SIGNALS, increments(*(a_minute(month + timedelta(minutes=n), epoch="old") for n in range(5))))
    lake.append(SIGNALS, increments(*(a_minute(month + timedelta(days=1, minutes=n), epoch="last") for n in range(5))))
    policy = RetentionPolicy(roll_up_after=None, keep={SIGNALS: timedelta(days=10)})
    assert step_of(maintenance_of(lake, gates, policy).run(NOW), SIGNALS, "retain").rows == 5
    assert set(lake.scan(SIGNALS).collect()["epoch"]) == {"last"}


def test_who_keeps_the_counts_up_lets_go_of_what_was_taken_out_and_of_nothing_else(
    lake: Lake, gates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    month = NOW - timedelta(days=30)
    for day, epoch in enumerate(("old", "older", "last")):
        at = month + timedelta(days=day)
        lake.append(SIGNALS, increments(*(a_minute(at + timedelta(minutes=n), epoch=epoch) for n in range(5))))
    begun: list[JudgeState] = []

    class Noted(JudgeState):
        def __init__(self, past: PastVerdicts, events: EventSource, watched: Collection[str]) -> None:
            super().__init__(past, events, watched)
            begun.append(self)

    kept: list[LakeFollower] = []

    class NotedPage(LakeFollower):
        def __init__(self) -> None:
            super().__init__()
            kept.append(self)

    monkeypatch.setattr(judging, "JudgeState", Noted)
    monkeypatch.setattr(reader, "LakeFollower", NotedPage)
    judge, page = Judge(Lake.open(lake.root), gates, settle_s=0), LakeReader(lake.root)
    judge.tick(NOW)
    page.snapshot()
    had = len(begun), len(kept)
    lake.append(SIGNALS, increments(a_minute(month + timedelta(days=3), epoch="last")))
    lake.compact(SIGNALS)
    judge.tick(NOW)
    page.snapshot()
    assert (len(begun), len(kept)) == had, "folding takes nothing out"
    assert begun[-1].counts.epochs == 3
    policy = RetentionPolicy(roll_up_after=None, keep={SIGNALS: timedelta(days=10)})
    assert step_of(maintenance_of(lake, gates, policy).run(NOW), SIGNALS, "retain").rows == 10
    judge.tick(NOW)
    assert begun[-1].counts.epochs == 1
    assert page.snapshot() == LakeReader(lake.root).snapshot()
    begun_by_now = len(begun)
    assert len(kept) == had[1] + 3  # the open page's, and two of the new one
    judge.tick(NOW)
    assert len(begun) == begun_by_now == had[0] + 1


@pytest.mark.exhaustive
@pytest.mark.slow
def test_of_the_ledger_only_repetitions_go(lake: Lake, gates: Path) -> None:
    ids = judged_days(lake, gates, 12)
    last_words = [each.id for each in Judge(lake, gates, settle_s=0).tick(NOW)]
    had = lake.scan(VERDICTS).collect()
    changed = had.filter("changed")["verdict_id"].to_list()
    assert len(changed) < len(ids)
    policy = RetentionPolicy(roll_up_after=None, keep={VERDICTS: timedelta(days=3)}, replay=timedelta(days=5))
    taken = step_of(maintenance_of(lake, gates, policy).run(NOW), VERDICTS, "retain")
    left = lake.scan(VERDICTS).collect()
    assert taken.rows == had.height - left.height > 0
    assert set(changed) <= set(left["verdict_id"])
    promised = had.filter(pl.col("judged_at") >= NOW - timedelta(days=5))
    assert set(promised["verdict_id"]) <= set(left["verdict_id"])
    assert ids[-1] in set(left["verdict_id"])
    assert [each.id for each in Judge(lake, gates, settle_s=0).tick(NOW)] == last_words


@pytest.mark.slow
def test_versions_of_events_that_verdicts_by_user_name_are_kept(tmp_path: Path, gates: Path) -> None:
    history = EventLake.at(tmp_path)
    gates.write_text(GATES_TEXT.replace("  - name: errors", "  - name: errors\n    unit: user"))
    judge = Judge(history.lake, gates, settle_s=0)
    for hour in range(4):
        for minute in range(0, 60, 10):
            history.act(60 * hour + minute, f"user-{minute}")
        history.store()
        history.lake.compact(EVENTS)
        judge.tick(NOON + timedelta(hours=hour + 1))
    ids = history.lake.scan(VERDICTS).sort("judged_at").collect()["verdict_id"].to_list()
    policy = RetentionPolicy(grace=NOTHING, margin=NOTHING, keep={})
    steps = maintenance_of(history.lake, gates, policy).run(NOON + timedelta(days=9))
    assert not [step for step in steps if step.failed]
    for verdict_id in ids:
        assert replay(Lake.open(history.lake.root), verdict_id).verdict_id == verdict_id


def test_the_command_keeps_a_lake_and_says_so(
    lake: Lake, gates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGEKEEPER_KEEP_QUALITY_DAYS", "10")
    days_of(lake, 4)
    lake.append(QUALITY, quality_of(20))
    arguments = ["maintenance", "--lake", lake.root, "--gates", str(gates)]
    history = CliRunner().invoke(cli, [*arguments, "--dry-run", "--json"])
    assert history.exit_code == 0, history.output
    would = json.loads(history.output)
    assert would["dry_run"]
    history = CliRunner().invoke(cli, [*arguments, "--json"])
    assert history.exit_code == 0, history.output
    done = json.loads(history.output)
    rows = {(step["table"], step["step"]): step["rows"] for step in done["steps"]}
    assert rows[QUALITY, "retain"] == 1
    assert rows[SIGNALS, "roll_up"] > 400
    assert [step for step in would["steps"] if step["rows"]] == [step for step in done["steps"] if step["rows"]]
    history = CliRunner().invoke(cli, arguments)
    assert "signals: roll up: 0 rows fewer" in history.output


def test_the_command_refuses_while_another_process_keeps_the_lake(lake: Lake, gates: Path) -> None:
    with Lease(lake.root, MAINTENANCE, holder="host-7:42") as claim:
        assert claim.held()
        history = CliRunner().invoke(cli, ["maintenance", "--lake", lake.root, "--gates", str(gates)])
        assert history.exit_code != 0
        assert "host-7:42 keeps the lake" in str(history.exception or history.output)
        dry = CliRunner().invoke(cli, ["maintenance", "--lake", lake.root, "--gates", str(gates), "--dry-run"])
        assert dry.exit_code == 0, dry.output
    assert CliRunner().invoke(cli, ["maintenance", "--lake", lake.root, "--gates", str(gates)]).exit_code == 0


def test_a_step_that_cannot_be_done_is_named_and_the_command_says_so(lake: Lake, tmp_path: Path) -> None:
    days_of(lake, 3)
    history = CliRunner().invoke(cli, ["maintenance", "--lake", lake.root, "--gates", str(tmp_path / "none.yaml")])
    assert history.exit_code == 1
    assert "signals: roll-up FAILED" in history.output
