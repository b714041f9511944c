"""A file that was cut short or is gone has a name, and so has what mends it, whoever meets it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from verdict_cases import a_row, executions, increments

from analytics.judging.judge import Judge
from analytics.lake import storage, tables
from analytics.lake.errors import UnreadableLakeError
from analytics.lake.storage import damaged_files, reading
from analytics.lake.table_schemas import SIGNALS, VERDICTS
from analytics.lake.tables import Lake
from dashboard.data.reader import LakeReader
from stagekeeper.commands import cli
from stagekeeper.doctor.check_result import CheckState
from stagekeeper.doctor.config_checks import check_lake

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

GATES_TEXT = """\
version: 1
gates:
  - name: g
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.1}
"""
ASKED = ["gate", "check", "--environment", "production", "--workflow", "refunds", "--tool", "issue_refund"]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.open(str(tmp_path / "lake"))
    for minute in range(3):
        lake.append(SIGNALS, increments(a_row(minute=minute, **executions(3))))
    (tmp_path / "gates.yaml").write_text(GATES_TEXT)
    Judge(lake, tmp_path / "gates.yaml", settle_s=0).tick(datetime.now(UTC))
    return lake


def cut_short(lake: Lake, table: str) -> Path:
    file = next(Path(lake.root, table).glob("*.parquet"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    return file


def taken_away(lake: Lake, table: str) -> Path:
    file = next(Path(lake.root, table).glob("*.parquet"))
    file.unlink()
    return file


def test_a_whole_lake_has_no_damage(lake: Lake) -> None:
    assert damaged_files(lake.root) == []
    with reading(lake.root):
        assert lake.scan(SIGNALS).collect().height == 3
    said = r"cannot be read: a file is locked\..*every file is there"
    with pytest.raises(UnreadableLakeError, match=said), reading(lake.root):
        raise PermissionError("a file is locked")


@pytest.mark.parametrize(("harm", "said"), [(cut_short, r"has [\d,]+ of [\d,]+ bytes"), (taken_away, "is gone")])
def test_what_a_read_raises_is_named(lake: Lake, harm: Callable[[Lake, str], Path], said: str) -> None:
    file = harm(lake, SIGNALS)
    wanted = rf"signals/{file.name} {said}.*backup of one moment"
    with pytest.raises(UnreadableLakeError, match=wanted), reading(lake.root):
        lake.scan(SIGNALS).collect()


@pytest.mark.parametrize("harm", [cut_short, taken_away])
def test_a_read_in_parts_does_not_end_early_without_a_word(lake: Lake, harm: Callable[[Lake, str], Path]) -> None:
    version = lake.version(SIGNALS)
    assert sum(rows.height for rows in lake.batches(SIGNALS, version=version)) == 3
    file = harm(lake, SIGNALS)
    with pytest.raises(UnreadableLakeError, match=file.name):
        list(lake.batches(SIGNALS, version=version))


@pytest.mark.parametrize("harm", [cut_short, taken_away])
def test_an_open_page_notices_damage_where_nothing_moved_and_opens_no_table_for_it(
    lake: Lake, harm: Callable[[Lake, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = LakeReader(lake.root)
    page.snapshot()

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a table was opened anew")

    with monkeypatch.context() as counted:
        for module in (tables, storage):
            counted.setattr(module, "DeltaTable", opened)
        lake.append(SIGNALS, increments(a_row(minute=9, **executions(1))))
        assert page.snapshot() is not None
    file = harm(lake, VERDICTS)
    lake.append(SIGNALS, increments(a_row(minute=9, **executions(1))))
    with pytest.raises(UnreadableLakeError, match=rf"verdicts/{file.name}"):
        page.snapshot()


def test_a_log_that_is_gone_is_damage(lake: Lake) -> None:
    reader = Lake.existing(lake.root)
    assert reader is not None
    assert reader.damaged(VERDICTS) == []
    (end,) = Path(lake.root, VERDICTS, "_delta_log").glob(f"{reader.version(VERDICTS):020}.json")
    end.unlink()
    assert reader.damaged(VERDICTS) == [f"verdicts/_delta_log/{end.name} is gone"]


@pytest.mark.parametrize("harm", [cut_short, taken_away])
def test_a_judge_says_nothing_about_half_a_lake(lake: Lake, harm: Callable[[Lake, str], Path], tmp_path: Path) -> None:
    harm(lake, SIGNALS)
    judge, before = Judge(lake, tmp_path / "gates.yaml", settle_s=0), lake.version(VERDICTS)
    for _ in range(2):
        with pytest.raises(UnreadableLakeError, match="damaged"):
            judge.tick(datetime.now(UTC))
    assert lake.version(VERDICTS) == before


@pytest.mark.parametrize("table", [SIGNALS, VERDICTS])
@pytest.mark.parametrize("harm", [cut_short, taken_away])
def test_commands_name_the_file(lake: Lake, table: str, harm: Callable[[Lake, str], Path]) -> None:
    file = harm(lake, table)
    for command in ("signals", "verdicts"):
        result = CliRunner().invoke(cli, [command, "--lake", lake.root])
        assert isinstance(result.exception, UnreadableLakeError), result.exception
        assert f"{table}/{file.name}" in str(result.exception)


def test_the_gate_stays_shut_and_names_the_file(lake: Lake, tmp_path: Path) -> None:
    file = cut_short(lake, VERDICTS)
    result = CliRunner().invoke(
        cli, [*ASKED, "--to", "approval_gated", "--lake", lake.root, "--gates", str(tmp_path / "gates.yaml")]
    )
    assert result.exit_code == 30
    assert f"verdicts/{file.name}" in result.output
    assert "backup" in result.output


def test_the_doctor_finds_it(lake: Lake) -> None:
    assert check_lake(lake.root)[0].state is CheckState.PASS
    file = cut_short(lake, VERDICTS)
    result, _ = check_lake(lake.root)
    assert result.state is CheckState.FAIL
    assert f"verdicts/{file.name} has" in result.evidence
    assert "backup" in result.fix
