"""The routers that decide now, and by which ruleset each does."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from analytics.enactment.effect import WINDOW
from analytics.lake.table_schemas import EVENTS
from producers.wire.events import ActionDecided, type_of

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.lake.tables import Lake


@dataclass(frozen=True, slots=True)
class RouterState:
    """One router."""

    source: str
    ruleset: str  # SHA-256 of the ruleset that its newest decision names; empty where it names none
    last_decided_at: datetime


def routers(lake: Lake, now: datetime) -> list[RouterState]:
    """Every source that has decided in the last quarter of an hour, by name. Raises `LakeError`."""
    decided = (pl.col("type") == type_of(ActionDecided)) & (pl.col("decided_at") >= now - WINDOW)
    newest = (
        lake.scan(EVENTS)
        .filter(decided)
        .select("source", "decided_at", "value")
        .group_by("source")
        .agg(pl.all().sort_by("decided_at").last())
        .with_columns(ruleset=pl.col("value").cast(pl.String).str.json_path_match("$.data.decision.ruleset_sha256"))
        .sort("source")
        .collect()
    )
    return [
        RouterState(source, ruleset or "", at)
        for source, at, ruleset in newest.select("source", "decided_at", "ruleset").iter_rows()
    ]


def by_ruleset(states: list[RouterState]) -> list[tuple[str, int]]:
    """How many routers decide by each ruleset, the most first."""
    return Counter(state.ruleset for state in states).most_common()
