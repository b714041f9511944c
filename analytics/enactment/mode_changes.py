"""Changes of the mode of actions that are on record, by whomever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

from analytics.lake.storage import reading
from analytics.lake.table_schemas import EVENTS
from analytics.text import iso
from producers.boundary.policy_flags import MODE
from producers.boundary.stage_store import ActionName
from producers.wire.events import PolicyChanged, type_of
from producers.wire.stage import STAGE_OF_MODE

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.lake.tables import Lake
    from producers.wire.stage import Mode


class ModeChangeData(msgspec.Struct):
    """What a record says of a change of `agent-action-mode`."""

    changed_by: str
    reason: str
    before: str | None = None
    after: str | None = None
    environment: str | None = None
    workflow: str | None = None
    tool: str | None = None
    ruleset_sha256: str | None = None
    verdict_id: str | None = None
    recommendation_id: str | None = None
    signoff_id: str | None = None


class _ModeChangeEvent(msgspec.Struct):
    data: ModeChangeData


@dataclass(frozen=True, slots=True)
class ModeChange:
    """One change of `agent-action-mode` that is on record."""

    at: datetime
    source: str
    data: ModeChangeData

    @property
    def mode(self) -> Mode | None:
        """What it was changed to; None where that is no mode."""
        # A roll-out by share says in brackets how many accounts have the mode.
        name, _, _ = (self.data.after or "").partition(" (")
        return next((mode for mode in STAGE_OF_MODE if mode.value == name), None)

    def is_about(self, action: ActionName) -> bool:
        """Whether it changed an action; one that names less changed every action that has what it names."""
        named = [getattr(self.data, name) for name in ActionName._fields]
        return all(value in {None, wanted} for value, wanted in zip(named, action, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """The change as a JSON object."""
        return {"at": iso(self.at), **msgspec.structs.asdict(self.data)}


def mode_changes(lake: Lake, *, stored_since: datetime | None = None) -> list[ModeChange]:
    """Every change of `agent-action-mode` that is on record (or was put there since a moment), newest first.

    Raises `LakeError`.
    """
    with reading(lake.root):
        changed = (pl.col("type") == type_of(PolicyChanged)) & (pl.col("subject") == MODE.key)
        if stored_since is not None:
            changed &= pl.col("ingested_at") >= stored_since
        rows = (
            lake.scan(EVENTS).filter(changed).sort("time", descending=True).select("time", "source", "value").collect()
        )
    parse = msgspec.json.Decoder(_ModeChangeEvent).decode
    changes = []
    for at, source, value in rows.iter_rows():
        try:
            changes.append(ModeChange(at, source, parse(value).data))
        except (msgspec.MsgspecError, RecursionError):
            continue  # a field that is not counted may hold anything
    return changes
