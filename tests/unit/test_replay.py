from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from verdict_cases import CELL, NOON, a_row, executions, increments, latest_documents

from analytics.audit.replay import AlteredLedgerError, ReplayMismatchError, UnknownVerdictError, replay
from analytics.gates import gate_store
from analytics.gates.gate_store import AlteredGateFileError, GateFileNotKeptError
from analytics.judging.judge import Judge
from analytics.lake.errors import LakeError
from analytics.lake.table_schemas import COLUMNS, GATES, VERDICTS
from analytics.lake.tables import Lake
from stagekeeper.commands import cli, main

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

GATES_TEXT = """\
version: 1
gates:
  - name: errors
    ladder: [draft_write, approval_gated]
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.1, weight: 2}
      - {signal: missing_outcome, role: guardrail, limit: 0.2}
      - {signal: latency_p95, role: promote, limit_ms: 900}
      - {signal: denial, role: watch, limit: 0.3}
"""
HEALTHY = executions(200, 3)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


@pytest.fixture
def judge(lake: Lake, tmp_path: Path) -> Judge:
    (tmp_path / "gates.yaml").write_text(GATES_TEXT)
    return Judge(lake, tmp_path / "gates.yaml", settle_s=0)


def ids(lake: Lake) -> list[str]:
    return lake.scan(VERDICTS).sort("judged_at", "tool").collect()["verdict_id"].to_list()


def judged(lake: Lake, judge: Judge, *rows: dict[str, Any], second: float = 0.0) -> str:
    lake.append("signals", increments(*rows))
    judge.tick(NOON + timedelta(minutes=30, seconds=second))
    return ids(lake)[-1]


@pytest.mark.slow
def test_every_verdict_of_a_history_is_reached_again(lake: Lake, judge: Judge) -> None:
    other = CELL._replace(tool="other")
    for minute in range(12):
        judged(
            lake,
            judge,
            a_row(minute=minute, latencies_ms=[100.0 + 7 * minute] * 20, **executions(20, minute % 3)),
            a_row(other, minute=minute, epoch=f"e{minute // 5}", **executions(9, minute)),
            # Far enough apart that the ledger gets a row for numbers that merely moved.
            second=15 * minute,
        )
    lake.compact("signals")
    recorded = ids(lake)
    assert len(recorded) > 20
    for verdict_id in recorded:
        assert replay(Lake.open(lake.root), verdict_id).verdict_id == verdict_id


def test_a_latched_verdict_is_reached_again_with_what_latched_it(lake: Lake, judge: Judge) -> None:
    crossed = judged(lake, judge, a_row(**executions(104, 42)))
    stands = judged(lake, judge, a_row(minute=1, **executions(9_000)), second=1)
    (latest,) = latest_documents(lake)
    assert latest["reasons"][-1]["code"] == "latched"
    found = replay(lake, stands)
    assert found.earlier == (crossed,)
    assert found.document.to_dict()["latched_by"] == crossed
    assert replay(lake, crossed).earlier == (), "what came later has no part in it"


def test_the_gate_file_of_a_verdict_is_found_after_it_has_changed(lake: Lake, judge: Judge, tmp_path: Path) -> None:
    first = judged(lake, judge, a_row(**HEALTHY))
    (tmp_path / "gates.yaml").write_text(GATES_TEXT.replace("0.1,", "0.3,"))
    second = judged(lake, judge, a_row(minute=1, **executions(1)), second=1)
    assert lake.scan(GATES).collect().height == 2
    limits = [replay(lake, each).document.to_dict()["signals"][0]["limit"] for each in (first, second)]
    assert limits == [0.1, 0.3]


def test_a_gate_file_is_kept_once(lake: Lake, judge: Judge, tmp_path: Path) -> None:
    judged(lake, judge, a_row(**HEALTHY))
    judged(lake, Judge(lake, tmp_path / "gates.yaml"), a_row(minute=1, **executions(1)), second=1)
    assert lake.scan(GATES).collect().height == 1
    assert gate_store.load(lake, judge.gates.sha256 if judge.gates else "").text == GATES_TEXT.encode()


def rewritten(lake: Lake, table: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Lake:
    """The lake with the only data file of a table changed, by somebody who also mends its size in the log."""
    (file,) = Path(lake.root, table).glob("*.parquet")
    before, size = pl.DataFrame(pq.read_table(file)), file.stat().st_size
    change(before).write_parquet(file)
    for log in Path(lake.root, table, "_delta_log").glob("*.json"):
        log.write_text(log.read_text().replace(f'"size":{size},', f'"size":{file.stat().st_size},'))
    return Lake.open(lake.root)


def test_a_changed_count_fails_by_name(lake: Lake, judge: Judge) -> None:
    found = judged(lake, judge, a_row(**HEALTHY))
    changed = rewritten(lake, "signals", lambda rows: rows.with_columns(pl.col("failed") + 1))
    with pytest.raises(ReplayMismatchError, match=f"verdict {found} is not reached again") as caught:
        replay(changed, found)
    assert "signals" in caught.value.differing


def test_a_changed_count_that_no_signal_reads_fails_too(lake: Lake, judge: Judge) -> None:
    found = judged(lake, judge, a_row(**HEALTHY))
    changed = rewritten(lake, "signals", lambda rows: rows.with_columns(pl.col("cost_microusd") + 1))
    with pytest.raises(ReplayMismatchError) as caught:
        replay(changed, found)
    assert caught.value.differing == ("evidence_sha256",)


@pytest.mark.parametrize("end", [bytes(9), b""], ids=["overwritten", "cut off"])
def test_a_damaged_file_fails_by_name(lake: Lake, judge: Judge, end: bytes) -> None:
    found = judged(lake, judge, a_row(**HEALTHY))
    (file,) = Path(lake.root, "signals").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-9] + end)
    with pytest.raises(LakeError, match=f"verdict {found} cannot be reached again"):
        replay(Lake.open(lake.root), found)


def test_a_changed_byte_of_the_gate_file_fails_by_name(lake: Lake, judge: Judge) -> None:
    found = judged(lake, judge, a_row(**HEALTHY))
    text = GATES_TEXT.replace("0.1,", "0.2,").encode()
    changed = rewritten(lake, "gates", lambda rows: rows.with_columns(pl.lit(text).alias("text")))
    with pytest.raises(AlteredGateFileError, match="its bytes were changed"):
        replay(changed, found)


def test_a_gate_file_that_is_gone_is_named(lake: Lake, judge: Judge) -> None:
    found = judged(lake, judge, a_row(**HEALTHY))
    gone = rewritten(lake, "gates", lambda rows: rows.with_columns(pl.lit("0" * 64).alias("sha256")))
    with pytest.raises(GateFileNotKeptError, match="keeps no gate file"):
        replay(gone, found)


def test_a_changed_word_in_the_ledger_fails_by_name(lake: Lake, judge: Judge) -> None:
    found = judged(lake, judge, a_row(**executions(104, 42)))
    change = pl.col("payload").str.replace("ROLL_BACK", "PROMOTE", literal=True)
    with pytest.raises(AlteredLedgerError, match="contradicts its payload in verdict"):
        replay(rewritten(lake, VERDICTS, lambda rows: rows.with_columns(change)), found)


def test_a_forged_crossing_is_found_out(lake: Lake, judge: Judge, tmp_path: Path) -> None:
    first = judged(lake, judge, a_row(**executions(20, 1)))
    row = lake.scan(VERDICTS).collect().row(0, named=True)
    document = json.loads(row["payload"])
    forged_at = NOON + timedelta(minutes=29)
    forged = {
        "verdict_id": "0123456789abcdef",
        "verdict": "PROMOTE",
        "to_stage": "approval_gated",
        "judged_at": forged_at.isoformat().replace("+00:00", "Z"),
    }
    rows = [{**row, **forged, "judged_at": forged_at, "payload": json.dumps({**document, **forged})}]
    lake.append(VERDICTS, pl.DataFrame(rows, schema=COLUMNS[VERDICTS], orient="row"))
    stands = judged(lake, Judge(lake, tmp_path / "gates.yaml", settle_s=0), a_row(minute=1, **executions(5)), second=1)
    assert stands != first
    assert latest_documents(lake)[0]["verdict"] == "PROMOTE", "the judge trusts its ledger"
    with pytest.raises(ReplayMismatchError, match="verdict 0123456789abcdef"):
        replay(lake, stands)


def test_an_unknown_verdict_is_misuse(lake: Lake) -> None:
    with pytest.raises(UnknownVerdictError, match="no verdict nobody"):
        replay(lake, "nobody")


def test_the_command_says_what_was_reached(lake: Lake, judge: Judge) -> None:
    found = judged(lake, judge, a_row(**executions(104, 42)))
    result = CliRunner().invoke(cli, ["verdicts", "replay", "--id", found, "--lake", lake.root])
    assert result.exit_code == 0, result.output
    assert "ROLL_BACK: Roll back to search_only" in result.output
    assert "identical to what was recorded at 2026-03-14T12:30:00Z" in result.output
    as_json = CliRunner().invoke(cli, ["verdicts", "--lake", lake.root, "replay", "--id", found, "--json"])
    document = json.loads(as_json.stdout)
    assert document["matches"]
    assert document["recorded_only"] == ["judged_at"]
    assert document["document"]["verdict"] == "ROLL_BACK"


def test_the_command_fails_by_name(
    lake: Lake, judge: Judge, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = judged(lake, judge, a_row(**HEALTHY))
    rewritten(lake, "signals", lambda rows: rows.with_columns(pl.col("failed") + 1))
    monkeypatch.setattr("sys.argv", ["stagekeeper", "verdicts", "replay", "--id", found, "--lake", lake.root])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert f"Error: verdict {found} is not reached again" in capsys.readouterr().err
