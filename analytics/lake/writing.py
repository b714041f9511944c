"""How the columns of each table are laid out in a file."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
from deltalake import ColumnProperties, WriterProperties

from analytics.lake.schemas import EVENTS, TABLES

UNIQUE: Final[dict[str, tuple[str, ...]]] = {EVENTS: ("offset", "id", "subject", "value")}
"""Columns of which hardly two rows hold the same: looking for what repeats in them takes time and saves no room."""

WRITING: Final = {
    name: WriterProperties(
        compression="ZSTD",
        compression_level=1,  # in less time than Snappy, and half its size
        column_properties={
            # Nobody looks for files by the smallest and largest of arbitrary bytes.
            field.name: ColumnProperties(
                dictionary_enabled=field.name not in UNIQUE.get(name, ()),
                statistics_enabled="NONE" if pa.types.is_binary(field.type) else "PAGE",
            )
            for field in schema
        },
    )
    for name, schema in TABLES.items()
}
"""What the writer of appended rows is told, for each table."""

ROWS_AT_A_TIME: Final = {EVENTS: 16_384}
"""Rows that are held at a time while files are rewritten, where they are long."""
