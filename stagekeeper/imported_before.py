"""What was imported before, as the lake knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from producers.importers.importer import IMPORTS

if TYPE_CHECKING:
    from stagekeeper.settings import Settings


def imported_before(settings: Settings) -> frozenset[str]:
    """Ids of the imported events that the configured lake holds; none without a lake, or the extra that reads it."""
    try:
        import polars as pl  # noqa: PLC0415 - an extra: without it there is no lake to look into

        from analytics.lake.tables import Lake  # noqa: PLC0415 - as above
    except ModuleNotFoundError:
        return frozenset()
    lake = Lake.existing(settings.lake)
    if lake is None:
        return frozenset()
    return frozenset(lake.scan("events").filter(pl.col("source").str.starts_with(IMPORTS)).select("id").collect()["id"])
