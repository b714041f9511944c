"""A lake that was cut off, put back, exchanged or written into by somebody else opens no gate."""

from __future__ import annotations

import copy
import json
import shutil
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from click.testing import CliRunner
from lakes_of_events import NOON, EventLake

from analytics.audit.replay import replay
from analytics.gates.gate_file import GateFile
from analytics.judging.judge import Judge
from analytics.lake.chain import AlteredHistoryError, ChainEnd, end_of, link
from analytics.lake.errors import LakeError
from analytics.lake.table_schemas import COLUMNS, EVENTS, SIGNALS, VERDICTS
from analytics.lake.tables import Lake
from analytics.verdicts.gate_check import GateAnswer, gate_check
from analytics.verdicts.ledger import latest_verdicts
from analytics.verdicts.ledger_head import LedgerHead
from stagekeeper.commands import cli

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

GATES = """\
version: 1
freshness: 2h
gates:
  - name: g
    owner: risk
    ladder: [draft_write, approval_gated]
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.1, unit: action}
      - {signal: severe_incident, role: trip}
"""
MOVE = {"environment": "production", "workflow": "refunds", "tool": "issue_refund", "to_stage": "approval_gated"}


class FrozenClock(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> FrozenClock:
        return cls(2026, 3, 14, 12, 31, tzinfo=tz)


class History:
    """A lake with three portions of events, judged after each."""

    def __init__(self, folder: Path) -> None:
        self.events = EventLake.at(folder)
        self.root = Path(self.events.lake.root)
        (folder / "gates.yaml").write_text(GATES)
        self.gates = folder / "gates.yaml"
        self.judge = Judge(Lake.open(str(self.root)), self.gates, settle_s=0)
        self.minute = 0
        for _ in range(3):
            self.goes_on()

    def goes_on(self) -> None:
        for _ in range(10):
            self.minute += 1
            for user in range(12):
                receipt = self.events.act(self.minute, f"user {user}")
        self.last = receipt
        self.store()

    def store(self) -> None:
        self.events.store()
        self.judge.tick(NOON + timedelta(minutes=self.minute, seconds=30))

    def incident(self) -> None:
        self.minute += 1
        self.events.severe_incident(self.last, self.minute)
        self.store()

    def asked(self) -> GateAnswer:
        now = NOON + timedelta(minutes=self.minute + 1)
        lake = Lake.existing(str(self.root))
        return gate_check(lake, GateFile.load(self.gates), **MOVE, now=now, freshness_s=1e9)

    def newest(self, table: str, suffix: str = "*.parquet") -> Path:
        return max((self.root / table).glob(suffix), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture
def history(tmp_path: Path) -> History:
    history = History(tmp_path)
    assert history.asked().answer == "PROMOTE"
    return history


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> History:
    return History(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def copied(pristine: History, tmp_path: Path) -> History:
    """The same lake elsewhere, with its head; nobody judges it further."""
    shutil.copytree(pristine.root.parent, tmp_path / "copy")
    history = copy.copy(pristine)
    history.root, history.gates = tmp_path / "copy" / "lake", tmp_path / "copy" / "gates.yaml"
    return history


def removed(history: History, table: str) -> None:
    shutil.rmtree(history.root / table)


def emptied(history: History, table: str) -> None:
    for path in (history.root / table).glob("*.parquet"):
        path.unlink()


def one_file_gone(history: History, table: str) -> None:
    history.newest(table).unlink()


def last_commit_gone(history: History, table: str) -> None:
    commits = sorted((history.root / table / "_delta_log").glob("*.json"))
    commits[-1].unlink()


def last_commits_and_their_files_gone(history: History, table: str) -> None:
    for commit in sorted((history.root / table / "_delta_log").glob("*.json"))[-2:]:
        added = [json.loads(line).get("add") for line in commit.read_text().splitlines()]
        for action in filter(None, added):
            (history.root / table / action["path"]).unlink()
        commit.unlink()


def middle_commit_gone(history: History, table: str) -> None:
    commits = sorted((history.root / table / "_delta_log").glob("*.json"))
    commits[len(commits) // 2].unlink()


def made_anew(history: History, table: str) -> None:
    shutil.rmtree(history.root / table)
    Lake.open(str(history.root))


def overwritten(history: History, table: str) -> None:
    path = history.newest(table)
    path.write_bytes(bytes(path.stat().st_size))


def file_exchanged(history: History, table: str) -> None:
    first = min((history.root / table).glob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    history.newest(table).write_bytes(first.read_bytes())


DAMAGES = [
    removed,
    emptied,
    one_file_gone,
    last_commit_gone,
    last_commits_and_their_files_gone,
    middle_commit_gone,
    made_anew,
    overwritten,
    file_exchanged,
]


@pytest.mark.parametrize("table", [SIGNALS, EVENTS])
@pytest.mark.parametrize("harm", DAMAGES, ids=lambda harm: harm.__name__)
def test_nothing_opens_on_what_is_left(
    copied: History, harm: Callable[[History, str], None], table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = copied
    monkeypatch.setattr("stagekeeper.gate_question.datetime", FrozenClock)
    if (harm, table) == (overwritten, EVENTS):
        pytest.skip("nothing of the events is read for a gate that counts by action; replay reads them")
    harm(history, table)
    words = ["gate", "check", "--lake", str(history.root), "--gates", str(history.gates), "--json"]
    action = [f"--{name}={MOVE[name]}" for name in ("environment", "workflow", "tool")]
    result = CliRunner().invoke(cli, [*words, *action, "--to", MOVE["to_stage"]])
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["answer"]) == (30, "INVALID")
    assert "restore" in answer["reasons"][0]["message"].lower(), answer


def exchanged(history: History, table: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Change the newest file of a table, and mend its size in the log."""
    path = history.newest(table)
    change(pl.read_parquet(path)).write_parquet(path)
    for log in (history.root / table / "_delta_log").glob("*.json"):
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        for action in actions:
            if action.get("add", {}).get("path") == path.name:
                action["add"]["size"] = path.stat().st_size
        log.write_text("\n".join(map(json.dumps, actions)))


def test_counts_that_were_changed_open_nothing(copied: History) -> None:
    history = copied
    exchanged(history, SIGNALS, lambda rows: rows.with_columns(pl.col("executed") + 1))
    answer = history.asked()
    assert (answer.exit_code, answer.reasons[0].code) == (30, "altered_history")
    assert "not those that verdict" in answer.reasons[0].message


@pytest.mark.parametrize("whole", [True, False])
def test_a_lake_that_was_put_back_to_before_an_incident_opens_nothing(
    history: History, whole: bool, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    shutil.copytree(history.root, saved)
    history.incident()
    assert history.asked().answer == "ROLL_BACK"
    if whole:
        shutil.rmtree(history.root)
        shutil.copytree(saved, history.root)
    else:
        shutil.rmtree(history.root / VERDICTS)
        shutil.copytree(saved / VERDICTS, history.root / VERDICTS)
    answer = history.asked()
    assert (answer.exit_code, answer.reasons[0].code) == (30, "altered_history")
    assert "before row" in answer.reasons[0].message
    assert "move that file away" in answer.reasons[0].message
    # A worker that starts on it does not make it right, and its judge recommends no promotion.
    judge = Judge(Lake.open(str(history.root)), history.gates, settle_s=0)
    news = judge.tick(NOON + timedelta(minutes=history.minute + 1))
    assert not any(one.data.verdict == "PROMOTE" for one in news)
    assert judge.history_fault is not None
    if not whole:
        assert history.asked().answer == "ROLL_BACK", "harm that the counts show is said all the same"
        return
    assert history.asked().exit_code == 30
    # A person has settled it.
    (head := LedgerHead.of_lake(str(history.root))) is not None and head.path.unlink()
    assert history.asked().exit_code == 30
    Judge(Lake.open(str(history.root)), history.gates, settle_s=0).tick(NOON + timedelta(minutes=history.minute + 1))
    assert history.asked().answer == "PROMOTE"


def forged(history: History, **changes: Any) -> None:
    """Append a row that says PROMOTE, as whoever may write there can."""
    lake = Lake.open(str(history.root))
    row = lake.scan(VERDICTS).filter(pl.col("verdict") == "PROMOTE").tail(1).collect().row(0, named=True)
    at = NOON + timedelta(minutes=history.minute, seconds=50)
    payload = json.loads(row["payload"]) | {"judged_at": at.isoformat().replace("+00:00", "Z"), "verdict_id": "0" * 16}
    row |= {"judged_at": at, "verdict_id": "0" * 16, "payload": json.dumps(payload), **changes}
    if changes.get("sequence") is None:
        link([row], end_of(lake))
    lake.append(VERDICTS, pl.DataFrame([row], schema=COLUMNS[VERDICTS], orient="row"))


@pytest.mark.parametrize("sequence", [None, 1, 10_000])
def test_a_row_that_the_judge_did_not_write_opens_nothing(history: History, sequence: int | None) -> None:
    history.incident()
    forged(history, sequence=sequence)
    assert [document.verdict for document in latest_verdicts(history.events.lake)] == ["PROMOTE"]
    answer = history.asked()
    assert (answer.exit_code, answer.reasons[0].code) == (30, "altered_history")


def test_a_row_that_is_gone_is_missed(history: History) -> None:
    history.incident()
    exchanged(history, VERDICTS, lambda rows: rows.filter(pl.col("verdict") != "ROLL_BACK"))
    assert history.asked().exit_code == 30


def test_a_row_that_was_changed_is_told(copied: History) -> None:
    history = copied
    exchanged(history, VERDICTS, lambda rows: rows.with_columns(pl.col("payload").str.replace("0 of 3", "0 of 9")))
    answer = history.asked()
    assert (answer.exit_code, answer.reasons[0].code) == (30, "altered_history")
    assert "is not what was written" in answer.reasons[0].message


def test_replay_verifies_the_chain_too(copied: History) -> None:
    history = copied
    verdict_id = latest_verdicts(Lake.open(str(history.root)))[0].verdict_id
    assert replay(Lake.open(str(history.root)), verdict_id).verdict_id == verdict_id
    exchanged(history, VERDICTS, lambda rows: rows.with_columns(counts_sha256=pl.lit("0" * 64)))
    with pytest.raises(AlteredHistoryError, match="is not what was written"):
        replay(Lake.open(str(history.root)), verdict_id)


def test_a_judge_that_died_between_the_rows_and_the_head_is_no_forger(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = LedgerHead.write, []

    def dying(self: LedgerHead, end: ChainEnd, **more: Any) -> None:
        if calls and more.get("pending") is None:
            raise LakeError("killed")
        calls.append(more.get("pending"))
        write(self, end, **more)

    monkeypatch.setattr(LedgerHead, "write", dying)
    with pytest.raises(LakeError, match="killed"):
        history.incident()
    monkeypatch.undo()
    later = NOON + timedelta(minutes=history.minute + 1)
    heir = Judge(Lake.open(str(history.root)), history.gates, settle_s=0)
    heir.tick(later)
    assert heir.history_fault is None


def test_maintenance_leaves_history_whole(copied: History) -> None:
    history = copied
    lake = Lake.open(str(history.root))
    for table in (VERDICTS, SIGNALS, EVENTS):
        lake.compact(table)
    assert history.asked().answer == "PROMOTE"


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b'{"sequence": -1}'])
def test_a_head_that_is_gone_or_unreadable_shuts_the_gate(copied: History, content: bytes | None) -> None:
    history = copied
    head = LedgerHead.of_lake(str(history.root))
    assert head is not None
    head.path.unlink() if content is None else head.path.write_bytes(content)
    answer = history.asked()
    assert (answer.exit_code, answer.reasons[0].code) == (30, "altered_history")
    assert str(head.path) in answer.reasons[0].message


def test_a_setting_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEKEEPER_LAKE_HEAD", str(tmp_path / "elsewhere.json"))
    history = History(tmp_path / "place")
    assert history.asked().answer == "PROMOTE"
    assert json.loads((tmp_path / "elsewhere.json").read_text())["sequence"] == end_of(history.events.lake).sequence
    assert not list((tmp_path / "place").glob("*.head.json"))
