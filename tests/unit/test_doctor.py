"""The doctor's results on real lakes, gate files and clocks; brokers and workers are in tests/integration."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest
from storages import how_to_refuse, refusing

from analytics.gates.gate_file import GateFile
from analytics.lake.table_schemas import COLUMNS, EVENTS, REJECTS, VERDICTS
from analytics.lake.tables import Lake
from producers.errors import UsageError
from stagekeeper.doctor.check_result import CheckState
from stagekeeper.doctor.config_checks import check_gate_file, check_lake, check_receipt_key
from stagekeeper.doctor.flow_checks import check_commits, check_freshness, check_lag, check_worker
from stagekeeper.doctor.lake_checks import check_clocks, check_evidence, check_rejects, check_verdicts
from stagekeeper.doctor.probes import Snapshot, SnapshotPair, WorkerReport, parse_metrics, probe_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)
GATES = Path(__file__).parents[2] / "examples" / "gates.yaml"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


@pytest.mark.parametrize(("key", "state"), [(None, CheckState.WARN), (b"a key", CheckState.PASS)])
def test_a_receipt_key_that_is_not_set_is_said(key: bytes | None, state: CheckState) -> None:
    result = check_receipt_key(key)
    assert result.state is state
    assert ("STAGEKEEPER_RECEIPT_KEY" in result.fix) is (key is None)
    assert "a key" not in result.evidence


def ago(**length: float) -> datetime:
    return NOW - timedelta(**length)


def store(
    lake: Lake, count: int, at: datetime, *, stamped: datetime | None = None, ingested: datetime | None = None
) -> None:
    fixed = {
        "log_id": "log",
        "topic": "agent.decisions",
        "partition": 0,
        "type": "stagekeeper.action.decided.v1",
        "source": "/routers/7",
        "subject": "d",
        "time": at,
        "broker_at": stamped or at,
        "ingested_at": ingested or at,
        "kind": 0,
        "value": b"{}",
    }
    rows = [{**fixed, "offset": number, "id": f"e-{at}-{number}"} for number in range(count)]
    lake.append(EVENTS, pl.DataFrame(rows, schema=COLUMNS[EVENTS]))


def refuse(lake: Lake, count: int, reason: str, at: datetime) -> None:
    fixed = {
        "log_id": "log",
        "topic": "agent.outcomes",
        "partition": 3,
        "reason": reason,
        "detail": "data.receipt",
        "first_bytes": b"{",
        "size": 1,
        "rejected_at": at,
    }
    rows = [{**fixed, "offset": number} for number in range(count)]
    lake.append(REJECTS, pl.DataFrame(rows, schema=COLUMNS[REJECTS]))


def judge(lake: Lake, sha256: str, at: datetime) -> None:
    cell = dict.fromkeys(("environment", "workflow", "tool", "stage", "cohort", "epoch"), "x")
    fixed = {"verdict_id": "v", "judged_at": at, "verdict": "HOLD", "gate": "g", "lake_version": 1, "changed": True}
    row = {**cell, **fixed, "gate_sha256": sha256, "watermark": at, "payload": "{}"}
    lake.append(VERDICTS, pl.DataFrame([row], schema=COLUMNS[VERDICTS]))


class TestGateFile:
    def test_a_sound_file_passes_with_its_digest(self) -> None:
        result, gates = check_gate_file(GATES)
        assert result.state is CheckState.PASS, result
        assert gates is not None
        assert gates.sha256[:12] in result.evidence

    def test_none_is_a_failure_that_names_the_place(self, tmp_path: Path) -> None:
        result, gates = check_gate_file(tmp_path / "none.yaml")
        assert (result.state, gates) == (CheckState.FAIL, None)
        assert str(tmp_path / "none.yaml") in result.evidence
        assert "STAGEKEEPER_GATE_FILE" in result.fix

    def test_one_that_cannot_be_read_is_a_failure_that_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "gates.yaml").write_text("version: 1\ngatez: []\n")
        result, gates = check_gate_file(tmp_path / "gates.yaml")
        assert (result.state, gates) == (CheckState.FAIL, None)
        assert "gatez" in result.evidence

    def test_one_that_judges_nothing_is_a_failure(self, tmp_path: Path) -> None:
        (tmp_path / "gates.yaml").write_text("version: 1\ngates: []\n")
        result, _ = check_gate_file(tmp_path / "gates.yaml")
        assert result.state is CheckState.FAIL
        assert "no gate is stated" in result.evidence


class TestLake:
    def test_one_that_can_be_written_passes(self, lake: Lake) -> None:
        before = sorted(Path(lake.root).rglob("*"))
        result, found = check_lake(lake.root)
        assert result.state is CheckState.PASS, result
        assert found is not None
        assert sorted(Path(lake.root).rglob("*")) == before, "it left something behind"

    def test_none_is_a_failure(self, tmp_path: Path) -> None:
        result, found = check_lake(str(tmp_path / "none"))
        assert (result.state, found) == (CheckState.FAIL, None)
        assert not (tmp_path / "none").exists()

    def test_a_file_in_its_place_is_a_failure(self, tmp_path: Path) -> None:
        (tmp_path / "lake").write_text("")
        result, found = check_lake(str(tmp_path / "lake"))
        assert (result.state, found) == (CheckState.FAIL, None)
        assert "a file" in result.evidence

    def test_a_lost_table_is_a_failure(self, lake: Lake) -> None:
        store(lake, 1, NOW)
        (Path(lake.root) / "signals").rename(Path(lake.root) / "elsewhere")
        result, found = check_lake(lake.root)
        assert (result.state, found) == (CheckState.FAIL, None)
        assert "signals" in result.evidence

    def test_one_that_refuses_writes_is_a_failure_that_names_the_folder(self, lake: Lake) -> None:
        change = how_to_refuse(Path(lake.root))
        if change is None:
            pytest.skip("NOT TRIED: nothing on this machine makes a folder refuse root's writes")
        with refusing(Path(lake.root), change):
            result, found = check_lake(lake.root)
        assert result.state is CheckState.FAIL
        assert found is not None
        assert f"nothing can be written to {lake.root}: " in result.evidence
        assert check_lake(lake.root)[0].state is CheckState.PASS


class TestClock:
    def test_events_of_the_past_pass(self, lake: Lake) -> None:
        store(lake, 3, ago(seconds=4))
        result = check_clocks(lake, [WorkerReport("http://w", clock=ago(seconds=1))], NOW)
        assert result.state is CheckState.PASS, result
        assert "the newest event is 4 s old" in result.evidence

    @pytest.mark.parametrize(("ahead_s", "state"), [(1.5, CheckState.PASS), (30.0, CheckState.FAIL)])
    def test_a_record_that_is_stamped_ahead_names_who_wrote_it(
        self, lake: Lake, ahead_s: float, state: CheckState
    ) -> None:
        store(lake, 3, ago(seconds=4))
        store(lake, 1, ago(seconds=2), stamped=NOW + timedelta(seconds=ahead_s))
        result = check_clocks(lake, [], NOW)
        assert result.state is state, result
        if state is CheckState.FAIL:
            assert "a record from /routers/7 on agent.decisions is stamped 30 s ahead" in result.evidence

    def test_an_event_from_the_future_is_a_failure(self, lake: Lake) -> None:
        store(lake, 1, NOW + timedelta(minutes=4), stamped=NOW, ingested=NOW)
        result = check_clocks(lake, [], NOW)
        assert result.state is CheckState.FAIL
        assert "4 min ahead" in result.evidence

    @pytest.mark.parametrize("off_s", [-20, 20])
    def test_a_worker_whose_clock_is_off_is_a_failure(self, off_s: float) -> None:
        clock = NOW + timedelta(seconds=off_s)
        result = check_clocks(None, [WorkerReport("http://w", clock=clock)], NOW)
        assert result.state is CheckState.FAIL
        assert f"20 s {'ahead' if off_s > 0 else 'behind'}" in result.evidence

    def test_rejects_from_the_future_are_a_failure(self, lake: Lake) -> None:
        store(lake, 5, ago(seconds=9))
        refuse(lake, 7, "impossible_time", ago(minutes=1))
        result = check_clocks(lake, [], NOW)
        assert result.state is CheckState.FAIL
        assert "7 rejected lately" in result.evidence

    def test_a_few_of_them_among_many_are_a_warning(self, lake: Lake) -> None:
        store(lake, 500, ago(seconds=9))
        refuse(lake, 1, "impossible_time", ago(minutes=1))
        result = check_clocks(lake, [], NOW)
        assert result.state is CheckState.WARN
        assert "1 rejected lately" in result.evidence

    def test_nothing_to_compare_with_is_unknown(self, lake: Lake) -> None:
        assert check_clocks(lake, [], NOW).state is CheckState.UNKNOWN


class TestEvidence:
    @pytest.mark.parametrize(
        ("age_s", "state"),
        [(5, CheckState.PASS), (400, CheckState.PASS), (500, CheckState.WARN), (901, CheckState.FAIL)],
    )
    def test_its_age_decides(self, lake: Lake, age_s: float, state: CheckState) -> None:
        store(lake, 2, ago(seconds=age_s))
        store(lake, 2, ago(hours=5))
        assert check_evidence(lake, timedelta(seconds=900), NOW).state is state

    def test_none_is_unknown(self, lake: Lake) -> None:
        assert check_evidence(lake, timedelta(seconds=900), NOW).state is CheckState.UNKNOWN
        assert check_evidence(None, timedelta(seconds=900), NOW).state is CheckState.UNKNOWN


class TestRejects:
    def test_none_passes(self, lake: Lake) -> None:
        store(lake, 100, ago(minutes=1))
        assert check_rejects(lake, NOW).state is CheckState.PASS

    def test_more_than_before_is_a_warning_with_what_to_do(self, lake: Lake) -> None:
        store(lake, 2_000, ago(hours=2))
        refuse(lake, 2, "not_json", ago(hours=2))
        store(lake, 500, ago(minutes=1))
        refuse(lake, 20, "forged_receipt", ago(minutes=1))
        result = check_rejects(lake, NOW)
        assert result.state is CheckState.WARN, result
        assert "3.85% of what came (0.10% in the day before)" in result.evidence
        assert "agent.outcomes/3/19" in result.evidence
        assert "STAGEKEEPER_RECEIPT_KEY" in result.fix

    def test_as_many_as_ever_pass(self, lake: Lake) -> None:
        store(lake, 2_000, ago(hours=2))
        refuse(lake, 60, "not_json", ago(hours=2))
        store(lake, 500, ago(minutes=1))
        refuse(lake, 15, "not_json", ago(minutes=1))
        assert check_rejects(lake, NOW).state is CheckState.PASS

    def test_a_large_share_is_a_failure(self, lake: Lake) -> None:
        store(lake, 30, ago(minutes=1))
        refuse(lake, 20, "unknown_type", ago(minutes=1))
        assert check_rejects(lake, NOW).state is CheckState.FAIL


class TestVerdicts:
    def test_under_the_gate_file_that_is_here_they_pass(self, lake: Lake) -> None:
        gates = GateFile.load(GATES)
        judge(lake, gates.sha256, ago(seconds=3))
        assert check_verdicts(lake, gates, [], NOW).state is CheckState.PASS

    def test_under_another_gate_file_is_a_warning(self, lake: Lake) -> None:
        judge(lake, "f" * 64, ago(seconds=3))
        result = check_verdicts(lake, GateFile.load(GATES), [], NOW)
        assert result.state is CheckState.WARN
        assert "another gate file (ffffffffffff)" in result.evidence

    def test_events_without_any_are_a_failure_once_they_are_a_minute_old(self, lake: Lake) -> None:
        gates = GateFile.load(GATES)
        assert check_verdicts(lake, gates, [], NOW).state is CheckState.UNKNOWN
        store(lake, 1, ago(seconds=30))
        assert check_verdicts(lake, gates, [], NOW).state is CheckState.UNKNOWN
        store(lake, 1, ago(seconds=90))
        assert check_verdicts(lake, gates, [], NOW).state is CheckState.FAIL

    def test_what_the_judge_complains_about_is_a_failure(self, lake: Lake) -> None:
        result = check_verdicts(lake, GateFile.load(GATES), [WorkerReport("http://w", judge="it is dark")], NOW)
        assert result.state is CheckState.FAIL
        assert "it is dark" in result.evidence


def a_pair(
    before: int | None,
    after: int | None,
    *,
    lost: int = 0,
    covered: bool = False,
    committed: bool = True,
    readers: int | None = 1,
    workers: tuple[WorkerReport, ...] = (),
) -> SnapshotPair:
    first = Snapshot(0.0, before, lost, covered, (1, 1, 1), ())
    return SnapshotPair(
        first, Snapshot(4.0, after, lost, covered, (1, 2, 2) if committed else (1, 1, 1), workers), readers
    )


class TestFlow:
    @pytest.mark.parametrize(
        ("pair", "state", "said"),
        [
            (a_pair(0, 0), CheckState.PASS, "covers all"),
            (a_pair(50, 30, covered=True), CheckState.PASS, "30 newer ones are under way"),
            (a_pair(100, 900), CheckState.FAIL, "grows by 200 a second"),
            (a_pair(900, 100), CheckState.WARN, "caught up in 1 s"),
            (a_pair(9, 9, committed=False), CheckState.WARN, "does not shrink"),
            (a_pair(9, 9, lost=5), CheckState.FAIL, "deleted 5 offsets"),
            (a_pair(None, None), CheckState.UNKNOWN, "cannot be asked"),
        ],
    )
    def test_lag(self, pair: SnapshotPair, state: CheckState, said: str) -> None:
        result = check_lag(pair)
        assert (result.state, said in result.evidence) == (state, True), result

    @pytest.mark.parametrize(
        ("pair", "age_s", "state"),
        [
            (a_pair(0, 0, committed=False), 900.0, CheckState.PASS),
            (a_pair(5, 9), 1.0, CheckState.PASS),
            (a_pair(5, 9, committed=False), 5.0, CheckState.WARN),
            (a_pair(5, 9, committed=False), 15.0, CheckState.FAIL),
            (a_pair(5, 9, committed=False, readers=0), 15.0, CheckState.UNKNOWN),
            (
                a_pair(
                    0,
                    0,
                    workers=(WorkerReport("w", {"commit_seconds_sum": 9.0, "commit_seconds_count": 3.0}),),
                ),
                1.0,
                CheckState.WARN,
            ),
        ],
    )
    def test_commits(self, pair: SnapshotPair, age_s: float, state: CheckState) -> None:
        assert check_commits(pair, timedelta(seconds=age_s)).state is state

    def test_workers(self) -> None:
        assert check_worker(a_pair(0, 0, committed=False, readers=0)).state is CheckState.FAIL
        assert check_worker(a_pair(0, 0, committed=False, readers=None)).state is CheckState.UNKNOWN
        assert check_worker(a_pair(0, 0, committed=False, readers=2)).state is CheckState.PASS
        silent = check_worker(a_pair(0, 0, workers=(WorkerReport("http://w", error="refused"),)))
        assert silent.state is CheckState.WARN
        assert "http://w does not answer (refused)" in silent.evidence

    def test_freshness(self) -> None:
        def seen(p99_s: float) -> SnapshotPair:
            numbers = {'freshness_seconds{quantile="0.5"}': 0.2, 'freshness_seconds{quantile="0.99"}': p99_s}
            return a_pair(0, 0, workers=(WorkerReport("w", numbers),))

        assert check_freshness(seen(1.9)).state is CheckState.PASS
        assert check_freshness(seen(2.1)).state is CheckState.WARN
        assert check_freshness(a_pair(0, 0)).state is CheckState.UNKNOWN


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        said = b'{"judge": "ok"}' if self.path == "/health" else b"# HELP x\nstagekeeper_lag_records 3\nother_total 5\n"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(said)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return format_datetime(NOW, usegmt=True)

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - the library's name


@pytest.fixture
def served() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Pages)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class TestWords:
    def test_a_worker_is_asked_for_numbers_judge_and_clock(self, served: str) -> None:
        assert probe_worker(served + "/") == WorkerReport(served, {"lag_records": 3.0}, "ok", NOW)

    def test_one_that_is_not_there_is_silent(self) -> None:
        report = probe_worker("http://127.0.0.1:1")
        assert report.error is not None
        assert "refused" in report.error

    def test_something_else_is_usage(self) -> None:
        with pytest.raises(UsageError, match="no address of a worker"):
            probe_worker("file:///etc/passwd")

    def test_foreign_samples_are_left_out(self) -> None:
        assert parse_metrics('stagekeeper_a{q="0.5"} 1.5\nfaust_b 2\n') == {'a{q="0.5"}': 1.5}
