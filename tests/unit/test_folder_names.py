"""A lake lives in a folder of any name that the operating system allows; one that Delta cannot open is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from fakes import FakeClock, a_contract, a_decision, a_recorder
from lakes_of_events import EventLake

from analytics.audit.replay import replay
from analytics.judging.judge import Judge
from analytics.lake import vacuum as vacuuming
from analytics.lake.leases import JUDGE, Lease
from analytics.lake.retention import Rule, retain
from analytics.lake.rollup import RollUp
from analytics.lake.storage import damaged_files
from analytics.lake.table_schemas import EVENTS, SIGNALS, VERDICTS
from analytics.lake.tables import Lake
from analytics.verdicts.ledger import latest_verdicts
from dashboard.data.reader import LakeReader
from producers.errors import SettingsError
from producers.wire.events import ExecutionStatus
from producers.wire.stage import Stage
from stagekeeper.commands import cli
from stagekeeper.doctor.config_checks import check_lake
from stagekeeper.local_ingest import LocalIngest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

GATES = "version: 1\ngates: [{name: errors, signals: [{signal: execution_error, role: guardrail, limit: 0.1}]}]"
NAMES = (
    *("plain", "with space", " begins and ends ", "ü", "日本", "a#b", "a?b", "a%b", "a{b}", "a\u0301"),
    *("a*b", "a:b", "a=b", "-a", "~", "$HOME", "'\"", "a&b;c", "<a>", "%zz", "😀"),
)
REFUSED = ("a\\b", "a[b]", "a|b", "a^b", "a%20b", "a%2Fb", "%2e%2e", "new\nline", "tab\t", "a\x7fb", "bytes\udce4")


# Every odd character in one of four names; each by itself is tried with all else that takes long.
TOGETHER = (" begins and ends ", "-a", "~", "ü日本 a#?%{}*:='\"&;<>%zz$HOME a\u0301😀")


@pytest.fixture(params=[*TOGETHER, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in NAMES)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of an odd name, beside one that a pattern of that name would find too."""
    decoy = EventLake.at(tmp_path / "aXb")
    decoy.act(0, "ada")
    decoy.store()
    folder: Path = tmp_path / request.param
    folder.mkdir()
    return folder


def test_a_whole_life_in_a_folder_of_any_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    gates = folder / "gates.yaml"
    gates.write_text(GATES)
    history = EventLake(Lake.open(str(folder / "lake")), LocalIngest(now=lambda: now))
    history.recorder = a_recorder(history.emitter, clock=FakeClock(now))
    lake = history.lake
    for part in range(3):
        for action in range(60):
            at = now - timedelta(minutes=30 - part, seconds=action)
            receipt = history.recorder.decided(
                a_contract(), a_decision(), stage=Stage.APPROVAL_GATED, cohort="all", decided_at=at
            )
            history.recorder.executed(receipt, ExecutionStatus.SUCCEEDED, at=at + timedelta(seconds=1))
        before = lake.version(SIGNALS)
        history.store()
        assert lake.increments(SIGNALS, after=before, through=lake.version(SIGNALS)).height > 0
    assert lake.scan(EVENTS).collect().height == 360

    Judge(lake, gates, settle_s=0).tick(now)
    (document,) = latest_verdicts(lake)
    assert replay(Lake.open(lake.root), document.verdict_id).verdict_id == document.verdict_id
    monkeypatch.chdir(folder)
    for root in ("lake", str(folder / "lake")):
        asked = ["--environment", "production", "--workflow", "refunds", "--tool", "issue_refund"]
        result = CliRunner().invoke(
            cli, ["gate", "check", *asked, "--to", "narrow_autonomy", "--lake", root, "--gates", str(gates), "--json"]
        )
        assert json.loads(result.stdout)["verdict_id"] == document.verdict_id, result.stdout

    assert lake.compact(SIGNALS)
    assert lake.compact(EVENTS)
    RollUp(lake, before=now).run()
    retain(lake, Rule(EVENTS, "time", now - timedelta(days=2)))
    assert replay(Lake.open(lake.root), document.verdict_id).verdict_id == document.verdict_id
    removed = vacuuming.vacuum(
        lake, EVENTS, unused_since=datetime.now(UTC) + timedelta(days=1), margin=timedelta(days=-1)
    )
    assert removed.files == 3
    assert lake.scan(EVENTS).collect().height == 360
    assert lake.reaches(VERDICTS, 1)
    assert damaged_files(lake.root) == []
    with Lease(lake.root, JUDGE) as lease:
        assert lease.held()
    assert check_lake(lake.root)[1] is not None
    assert LakeReader(lake.root).snapshot() is not None
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted({"aXb", folder.name})


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_delta_cannot_open_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    root = tmp_path / name
    for opens in (Lake.open, Lake.existing):
        with pytest.raises(SettingsError, match="STAGEKEEPER_LAKE_ROOT"):
            opens(str(root))
    assert check_lake(str(root))[1] is None
    assert list(tmp_path.iterdir()) == []


def test_a_link_of_a_plain_name_does_not_hide_such_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a|b").mkdir()
    (tmp_path / "plain").symlink_to(tmp_path / "a|b")
    with pytest.raises(SettingsError, match="cannot hold a lake"):
        Lake.open(str(tmp_path / "plain"))
