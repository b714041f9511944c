"""What goes out of a table and off the disk, and what stays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from deltalake import DeltaTable
from verdict_cases import a_row, executions, increments

from analytics.lake.errors import ForgottenError, UnreadableLakeError
from analytics.lake.retention import Rule, retain
from analytics.lake.table_schemas import COLUMNS, QUALITY, SIGNALS
from analytics.lake.tables import Lake
from analytics.lake.vacuum import vacuum

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.now(UTC).replace(second=0, microsecond=0)
NOTHING = timedelta()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def a_minute(at: datetime, **more: Any) -> dict[str, Any]:
    row = a_row(**(executions(4, 1) | more.pop("counts", {})), **more)
    return row | {"bucket": at.replace(second=0, microsecond=0), "last_event_at": at + timedelta(seconds=30)}


def files(lake: Lake, table: str, tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "lake" / table).glob("*.parquet")}


def test_vacuum_leaves_what_a_reader_may_still_hold(lake: Lake, tmp_path: Path) -> None:
    for n in range(4):
        lake.append(SIGNALS, increments(a_minute(NOW - timedelta(minutes=n))))
    frame = lake.scan(SIGNALS)
    lake.compact(SIGNALS)
    now = datetime.now(UTC)
    assert vacuum(lake, SIGNALS, unused_since=now - timedelta(hours=1), margin=NOTHING).files == 0
    assert frame.collect().height == 4
    later = datetime.now(UTC) + timedelta(seconds=1)
    dry = vacuum(lake, SIGNALS, unused_since=later, margin=NOTHING, dry_run=True)
    assert dry.files == 4
    assert frame.collect().height == 4
    assert vacuum(lake, SIGNALS, unused_since=later, margin=NOTHING) == dry
    assert len(files(lake, SIGNALS, tmp_path)) == 1
    assert lake.scan(SIGNALS).collect().height == 4


def test_increments_say_whether_they_are_gone_or_damaged(lake: Lake, tmp_path: Path) -> None:
    for n in range(4):
        lake.append(SIGNALS, increments(a_minute(NOW - timedelta(minutes=n))))
    newest = lake.version(SIGNALS)
    one = next((tmp_path / "lake" / SIGNALS).glob("*.parquet"))
    whole = one.read_bytes()
    one.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableLakeError, match=r"since version 0 cannot be read.*[Rr]estore") as refused:
        lake.increments(SIGNALS, after=0, through=newest)
    assert one.name in str(refused.value)
    one.unlink()
    with pytest.raises(ForgottenError, match="since version 0 is no longer kept"):
        lake.increments(SIGNALS, after=0, through=newest)
    one.write_bytes(whole)
    assert lake.increments(SIGNALS, after=0, through=newest).height == 4
    log = tmp_path / "lake" / SIGNALS / "_delta_log"
    DeltaTable(str(tmp_path / "lake" / SIGNALS)).create_checkpoint()
    (log / f"{1:020}.json").unlink()
    again = Lake.open(lake.root)
    with pytest.raises(ForgottenError, match="since version 0 is no longer kept"):
        again.increments(SIGNALS, after=0, through=newest)
    assert again.increments(SIGNALS, after=1, through=newest).height == 3


def test_vacuum_takes_what_a_dead_rewriter_left_but_not_what_is_being_written(lake: Lake, tmp_path: Path) -> None:
    lake.append(SIGNALS, increments(a_minute(NOW)))
    stray = tmp_path / "lake" / SIGNALS / "part-stray.parquet"
    stray.write_bytes(b"half a file")
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert vacuum(lake, SIGNALS, unused_since=later).files == 0  # it may be about to be committed
    lake.append(SIGNALS, increments(a_minute(NOW)))
    assert vacuum(lake, SIGNALS, unused_since=later, margin=NOTHING).files == 1
    assert not stray.exists()
    assert lake.scan(SIGNALS).collect().height == 2


def test_vacuum_keeps_the_version_that_is_needed(lake: Lake) -> None:
    versions = [lake.append(SIGNALS, increments(a_minute(NOW - timedelta(minutes=n)))) for n in range(3)]
    lake.compact(SIGNALS)
    lake.append(SIGNALS, increments(a_minute(NOW)))
    lake.append(SIGNALS, increments(a_minute(NOW)))
    lake.compact(SIGNALS)
    later = datetime.now(UTC) + timedelta(seconds=1)
    gone = vacuum(lake, SIGNALS, unused_since=later, needed=versions[1], margin=NOTHING)
    assert gone.oldest_version == versions[1]
    assert [lake.scan(SIGNALS, version=v).collect().height for v in versions[1:]] == [2, 3]


def quality_of(days: float) -> pl.DataFrame:
    at = NOW - timedelta(days=days)
    row = {"run_id": "r", "run_at": at, "event_type": "t", "checked": round(days), "success": True, "payload": "{}"}
    return pl.DataFrame([row], schema=COLUMNS[QUALITY])


def test_old_files_go_as_a_whole_and_old_rows_when_they_are_worth_it(lake: Lake) -> None:
    for days in (50, 40, 30, 20, 1):
        lake.append(QUALITY, quality_of(days))
    taken = retain(lake, Rule(QUALITY, "run_at", NOW - timedelta(days=35)))
    assert (taken.rows, taken.files, taken.rewritten) == (2, 2, 0)
    lake.compact(QUALITY)
    nearly = retain(lake, Rule(QUALITY, "run_at", NOW - timedelta(days=29, hours=12)))
    assert nearly.rows == 0, "half a day is not worth a rewrite"
    taken = retain(lake, Rule(QUALITY, "run_at", NOW - timedelta(days=10)))
    assert (taken.rows, taken.files, taken.rewritten) == (2, 0, 1)
    assert lake.scan(QUALITY).collect()["checked"].to_list() == [1]


def test_an_append_that_races_with_retention_stays(lake: Lake) -> None:
    lake.append(QUALITY, quality_of(50))
    rewriter = lake.rewriter(QUALITY)
    lake.append(QUALITY, quality_of(45))
    assert rewriter.remove(rewriter.files())
    assert lake.scan(QUALITY).collect()["checked"].to_list() == [45]
