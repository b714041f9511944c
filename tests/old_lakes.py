"""Lakes of layout 1, made of lakes of today: old names, old columns, the same versions, numbers and rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, write_deltalake

from analytics.lake.storage import options_of
from analytics.lake.table_schemas import (
    DROPPED,
    ENACTMENTS,
    EVENTS,
    JUDGE_HEARTBEATS,
    LEASES,
    SEALS,
    SIGNALS,
    SIGNOFFS,
    TABLES,
    VERDICTS,
)
from analytics.lake.tables import Lake

if TYPE_CHECKING:
    from collections.abc import Iterable

OLD_NAMES: Final = {JUDGE_HEARTBEATS: "looks", SIGNOFFS: "rulings", LEASES: "claims"}
_OLD_COLUMNS: Final = {"signoff_id": "ruling_id"}
_NEW_COLUMNS: Final = {
    EVENTS: ("kind", "user", "latency_us", "cost_microusd", "incarnation", "sequence"),
    SIGNALS: ("bad_outcomes", "last_ingested_at"),
    VERDICTS: ("counts_sha256", "sequence", "news", "previous_sha256", "row_sha256"),
}
_NUMBERS: Final = ("claim/judge", "beat/judge", "beat/maintenance")


def downgrade(root: str, old_root: str, offsets: Iterable[str] = ()) -> str:
    """Write a lake of today as one of layout 1.

    Args:
        root: Root of the lake of today, in a folder.
        old_root: Root of the old one.
        offsets: Names of the offsets in the logs.
    """
    lake = Lake.open(root)
    for name, schema in TABLES.items():
        if name in {DROPPED, ENACTMENTS, SEALS}:
            continue
        new_columns = _NEW_COLUMNS.get(name, ())
        old_schema = pa.schema(
            [
                field.with_name(_OLD_COLUMNS.get(field.name, field.name))
                for field in schema
                if field.name not in new_columns
            ]
        )
        table = DeltaTable.create(
            f"{old_root}/{OLD_NAMES.get(name, name)}",
            schema=Schema.from_arrow(old_schema),
            configuration={"delta.enableChangeDataFeed": "true"},
            storage_options=options_of(old_root),
        )
        for version in range(1, lake.version(name) + 1):
            rows = lake.increments(name, after=version - 1, through=version).drop(new_columns)
            if name == LEASES:
                rows = rows.with_columns(pl.col("name").replace("maintenance", "upkeep"))
            data = rows.rename(_OLD_COLUMNS, strict=False).select(old_schema.names).to_arrow().cast(old_schema)
            at_version = DeltaTable(f"{root}/{name}", version=version)
            marks = [
                Transaction(mark.replace("maintenance", "upkeep"), number)
                for mark in (*_NUMBERS, *offsets)
                if (number := at_version.transaction_version(mark)) is not None
            ]
            properties = CommitProperties(app_transactions=marks)
            write_deltalake(table, data, mode="append", commit_properties=properties)
    return old_root
