"""Putting files in the place of others on real Delta tables: no row lost or doubled, and nobody without the right."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from numbered_rows import NOON, checks, miss_one_refresh, seen

from analytics.lake import rewrite
from analytics.lake.errors import FencedError
from analytics.lake.table_schemas import QUALITY
from analytics.lake.tables import Fence, Lake

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path))


def test_the_second_of_two_rewrites_of_the_same_files_is_refused(lake: Lake, tmp_path: Path) -> None:
    for n in range(3):
        lake.append(QUALITY, checks(n))
    first, second = lake.rewriter(QUALITY), Lake.open(lake.root).rewriter(QUALITY)
    assert first.rewrite(first.files())
    assert not second.rewrite(second.files())
    assert seen(lake) == [0, 1, 2]
    assert len(list((tmp_path / QUALITY).glob("*.parquet"))) == 4  # what the second wrote is gone


def test_a_rewritten_file_says_what_is_in_it(lake: Lake) -> None:
    moments = [NOON + timedelta(seconds=n, microseconds=n) for n in range(3)]
    for n, moment in enumerate(moments):
        lake.append(QUALITY, checks(n).with_columns(run_at=pl.lit(moment), payload=pl.lit("x" * 100)))
    lake.compact(QUALITY)
    (file,) = lake.rewriter(QUALITY).files()
    assert file.rows == 3
    assert (file.least["checked"], file.most["checked"]) == (0, 2)
    assert (file.least["run_at"], file.most["run_at"]) == (moments[0], moments[2])
    later = lake.scan(QUALITY).filter(pl.col("run_at") > moments[1])
    assert later.collect()["checked"].to_list() == [2]


def test_a_writer_that_lost_its_lease_is_fenced(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    zombie = Lake.open(lake.root)
    zombie.append(QUALITY, checks(1), fence=Fence("judge", 4))
    lake.append(QUALITY, checks(), fence=Fence("judge", 7))
    with pytest.raises(FencedError, match=r"lease judge is with a later holder \(epoch 7, this one's was 4\)"):
        zombie.append(QUALITY, checks(2), fence=Fence("judge", 4))
    miss_one_refresh(monkeypatch)  # it looks, sleeps, and wakes up to commit
    Lake.open(lake.root).append(QUALITY, checks(), fence=Fence("judge", 9))
    miss_one_refresh(monkeypatch)
    with pytest.raises(FencedError, match="epoch 9"):
        lake.append(QUALITY, checks(3), fence=Fence("judge", 7))
    assert lake.append(QUALITY, checks(4)) > 0  # who needs no right is not concerned
    assert lake.append(QUALITY, checks(5), fence=Fence("maintenance", 1)) > 0
    assert seen(lake) == [1, 4, 5]


def test_a_rewrite_without_the_right_any_more_is_fenced(lake: Lake) -> None:
    for n in range(3):
        lake.append(QUALITY, checks(n))
    zombie = lake.rewriter(QUALITY, fence=Fence("maintenance", 1))
    lake.append(QUALITY, checks(), fence=Fence("maintenance", 2))
    with pytest.raises(FencedError, match="epoch 2"):
        zombie.rewrite(zombie.files())
    with pytest.raises(FencedError, match="epoch 2"):
        lake.compact(QUALITY, fence=Fence("maintenance", 1))
    assert lake.compact(QUALITY, fence=Fence("maintenance", 2))
    assert seen(lake) == [0, 1, 2]


def test_rows_appended_during_a_compaction_stay(lake: Lake) -> None:
    for n in range(3):
        lake.append(QUALITY, checks(n))
    rewriter = lake.rewriter(QUALITY)
    Lake.open(lake.root).append(QUALITY, checks(3))
    assert rewriter.rewrite(rewriter.files())
    assert seen(lake) == [0, 1, 2, 3]
    assert len(DeltaTable(f"{lake.root}/{QUALITY}").file_uris()) == 2


def test_many_compactions_at_once_keep_every_row_once(lake: Lake) -> None:
    for n in range(12):
        lake.append(QUALITY, checks(n))
    threads = [threading.Thread(target=Lake.open(lake.root).compact, args=(QUALITY,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen(lake) == list(range(12))


def test_compaction_folds_files(lake: Lake) -> None:
    for n in range(5):
        lake.append(QUALITY, checks(n))
    assert not lake.compact(QUALITY, at_least=6)
    assert lake.compact(QUALITY, at_least=5)
    assert len(DeltaTable(f"{lake.root}/{QUALITY}").file_uris()) == 1
    assert not lake.compact(QUALITY)
    assert seen(lake) == [0, 1, 2, 3, 4]


def test_files_are_folded_into_the_next_level_only_when_there_are_enough_of_theirs(lake: Lake) -> None:
    for n in range(9):
        lake.append(QUALITY, checks(n))
        assert lake.compact(QUALITY, at_least=3) is (n % 3 == 2)
    levels = [file.level for file in lake.rewriter(QUALITY).files()]
    assert levels == [2], "three of three make one of nine"
    before = set(DeltaTable(f"{lake.root}/{QUALITY}").file_uris())
    for n in (9, 10, 11):
        assert not lake.compact(QUALITY, at_least=3)
        lake.append(QUALITY, checks(n))
    assert lake.compact(QUALITY, at_least=3)
    assert before < set(DeltaTable(f"{lake.root}/{QUALITY}").file_uris()), "what is folded is not rewritten with them"
    assert seen(lake) == list(range(12))


def test_full_files_are_left_alone_and_none_becomes_much_larger(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.append(QUALITY, checks(0))
    (one,) = lake.rewriter(QUALITY).files()
    monkeypatch.setattr(rewrite, "LARGEST_BYTES", 2 * one.size + one.size // 2)
    lake.append(QUALITY, checks(1))
    lake.append(QUALITY, checks(2))
    assert lake.compact(QUALITY)
    assert sorted(file.rows for file in lake.rewriter(QUALITY).files()) == [1, 2]
    monkeypatch.setattr(rewrite, "FULL_BYTES", one.size // 2)
    lake.append(QUALITY, checks(3))
    lake.append(QUALITY, checks(4))
    assert not lake.compact(QUALITY)
    assert seen(lake) == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_no_row_is_rewritten_more_often_than_there_are_levels(lake: Lake, tmp_path: Path) -> None:
    commits, at_least = 300, 4  # four levels of four
    for n in range(commits):
        lake.append(QUALITY, checks(*range(n, n + 5)))
        if n % 5 == 4:
            lake.compact(QUALITY, at_least=at_least)
    written = sum(pq.read_metadata(path).num_rows for path in (tmp_path / QUALITY).glob("*.parquet"))
    assert written - 5 * commits <= 4 * 5 * commits
    files = lake.rewriter(QUALITY).files()
    assert len(files) <= 5 * (at_least - 1)
    assert sum(file.rows for file in files) == 5 * commits
