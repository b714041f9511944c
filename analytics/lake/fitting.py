"""Whether rows have the columns of the table that they are meant for."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from analytics.lake.errors import LakeError, SchemaMismatchError
from analytics.lake.schemas import COLUMNS, TABLES


def fitting(table: str, rows: pl.DataFrame | pa.Table) -> pa.Table:
    """The rows as an Arrow table with exactly the stored columns.

    Raises:
        SchemaMismatchError: They do not have them; the message says which.
        LakeError: There is no such table.
    """
    if table not in TABLES:
        raise LakeError(f"there is no table {table!r}; the tables are {', '.join(TABLES)}.")
    if isinstance(rows, pa.Table):
        if rows.schema == TABLES[table] and not any(
            rows[field.name].null_count for field in TABLES[table] if not field.nullable
        ):
            return rows
        rows = pl.DataFrame(rows)  # tells what is wrong
    wanted = COLUMNS[table]
    faults = [f"{name} is missing" for name in wanted if name not in rows.columns]
    faults += [f"{name} is not a column of the table" for name in rows.columns if name not in wanted]
    faults += [
        f"{name} is {kind}, expected {wanted[name]}"
        for name, kind in rows.schema.items()
        if name in wanted and kind not in (wanted[name], pl.Null())
    ]
    if not faults:
        faults += [
            f"{field.name} has {rows[field.name].null_count()} null values"
            for field in TABLES[table]
            if not field.nullable and rows[field.name].null_count()
        ]
    if faults:
        raise SchemaMismatchError(f"rows for {table} do not fit: {'; '.join(faults)}.")
    return rows.select(wanted.names()).cast(wanted).to_arrow().cast(TABLES[table])
