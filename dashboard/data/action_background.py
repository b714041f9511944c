"""What the lake holds of one action beside its counts: deployments, attempts, users, and decisions that went wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import polars as pl

from analytics.lake.table_schemas import EVENTS, VERDICTS
from analytics.signals.cells import ACTION, CELL
from analytics.signals.event_kinds import kinds_moving
from analytics.verdicts.verdict import REASSESSED
from producers.wire.events import ActionDecided, type_of

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.lake.tables import Lake
    from producers.boundary.stage_store import ActionName
    from producers.wire.receipt import Cell

_DECIDED: Final = pl.col("type") == type_of(ActionDecided)
_VERSIONS: Final = {
    "model": "$.data.contract.actor.model",
    "prompt": "$.data.contract.actor.prompt_version",
    "tool version": "$.data.contract.tool_version",
}
_WRONG: Final = {"undone": "undone", "failed": "failed", "incidents": "incident", "denied": "denied"}
MOST_EXAMPLES: Final = 8


@dataclass(frozen=True, slots=True)
class Deployment:
    """The first decision by another model, prompt or tool version."""

    at: datetime
    what: str


@dataclass(frozen=True, slots=True)
class CellAttempt:
    """One attempt of a cell, by its newest verdict."""

    number: int | None
    epoch: str
    verdict: str
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class WrongDecision:
    """A decision that something bad came of."""

    decision_id: str
    what: str
    at: datetime


def deployments(lake: Lake, action: ActionName) -> list[Deployment]:
    """When another model, prompt or tool version began to decide, oldest first. Raises `LakeError`."""
    named = [pl.col(name) == value for name, value in zip(ACTION, action, strict=True)]
    text = pl.col("value").cast(pl.String)
    firsts = (
        lake.scan(EVENTS)
        .filter(_DECIDED, *named)
        .select("epoch", "decided_at", "value")
        .group_by("epoch")
        .agg(pl.col("decided_at").min(), pl.col("value").first())
        .with_columns(**{name: text.str.json_path_match(path) for name, path in _VERSIONS.items()})
        .sort("decided_at")
        .collect()
    )
    found: list[Deployment] = []
    known: dict[str, str | None] = {}
    for row in firsts.iter_rows(named=True):
        changed = [f"{name} {row[name]}" for name in _VERSIONS if name in known and row[name] != known[name]]
        if changed:
            found.append(Deployment(row["decided_at"], ", ".join(changed)))
        known = {name: row[name] for name in _VERSIONS}
    return found


def attempts(lake: Lake, cell: Cell) -> list[CellAttempt]:
    """The epochs of a cell that were judged, the newest first. Raises `LakeError`."""
    of_cell = [pl.col(name) == value for name, value in zip(CELL, cell, strict=True)]
    rows = (
        lake.scan(VERDICTS)
        .filter(*of_cell, ~pl.col("verdict_id").str.starts_with(REASSESSED))
        .sort("judged_at")
        .group_by("epoch", maintain_order=True)
        .agg(
            pl.col("verdict").last(),
            pl.col("judged_at").min().alias("since"),
            pl.col("judged_at").max().alias("until"),
            pl.col("payload").last().str.json_path_match("$.attempt").cast(pl.Int64, strict=False).alias("number"),
        )
        .sort("since", descending=True)
        .collect()
    )
    return [CellAttempt(**row) for row in rows.iter_rows(named=True)]


def shares_of_users(lake: Lake, cell: Cell, epoch: str | None) -> list[int]:
    """How many decisions each user of an epoch had, the heaviest first. Raises `LakeError`."""
    of_cell = [pl.col(name) == value for name, value in zip(CELL, cell, strict=True)]
    of_epoch = [] if epoch is None else [pl.col("epoch") == epoch]
    counted = lake.scan(EVENTS).filter(_DECIDED, *of_cell, *of_epoch, pl.col("user").is_not_null())
    numbers: list[int] = counted.group_by("user").len().sort("len", descending=True).collect()["len"].to_list()
    return numbers


def wrong_decisions(lake: Lake, cell: Cell) -> list[WrongDecision]:
    """The newest decisions of a cell that were denied, failed, were undone, or led to an incident."""
    of_cell = [pl.col(name) == value for name, value in zip(CELL, cell, strict=True)]
    words = {kind: word for counter, word in _WRONG.items() for kind in kinds_moving(counter)}
    rows = (
        lake.scan(EVENTS)
        .filter(*of_cell, pl.col("kind").is_in(list(words)))
        .select("subject", "kind", "time")
        .sort("time", descending=True)
        .head(MOST_EXAMPLES)
        .collect()
    )
    return [WrongDecision(subject, words[kind], at) for subject, kind, at in rows.iter_rows()]
