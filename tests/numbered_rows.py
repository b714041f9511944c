"""Rows of the smallest table, told apart by a number, and a handle that misses a commit: for tests of the lake."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl
from deltalake import DeltaTable

from analytics.lake.table_schemas import COLUMNS, QUALITY

if TYPE_CHECKING:
    import pytest

    from analytics.lake.tables import Lake

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def checks(*numbers: int) -> pl.DataFrame:
    """Rows of the smallest table, told apart by `checked`."""
    return pl.DataFrame(
        [
            {"run_id": "r", "run_at": NOON, "event_type": "t", "checked": n, "success": True, "payload": "{}"}
            for n in numbers
        ],
        schema=COLUMNS[QUALITY],
    )


def miss_one_refresh(patch: pytest.MonkeyPatch) -> None:
    """Let the next operation work on the version that its handle has: somebody commits right after its refresh."""
    refresh = DeltaTable.update_incremental
    misses = iter([lambda _table: None])

    def refresh_or_miss(table: DeltaTable) -> None:
        next(misses, refresh)(table)

    patch.setattr(DeltaTable, "update_incremental", refresh_or_miss)


def seen(lake: Lake, version: int | None = None) -> list[int]:
    return sorted(lake.scan(QUALITY, version=version).collect()["checked"].to_list())
