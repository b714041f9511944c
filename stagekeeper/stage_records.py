"""What the lake knows of stages: who changed them, and whether an action may move up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

from analytics.gates.gate_file import GateFile
from analytics.lake.storage import reading
from analytics.lake.table_schemas import EVENTS, SIGNALS
from analytics.lake.tables import Lake
from analytics.signals.cells import ACTION
from analytics.text import iso
from analytics.verdicts.gate_check import gate_check
from analytics.verdicts.ledger import latest_verdicts
from producers.boundary.policy_flags import MODE
from producers.boundary.stage_store import ActionName
from producers.errors import StagekeeperError
from producers.wire.events import PolicyChanged, VerdictName, type_of
from producers.wire.stage import STAGE_OF_MODE, Stage
from stagekeeper.stage_moves import Grounds, in_words

if TYPE_CHECKING:
    from pathlib import Path

    from producers.boundary.stage_store import StageSetting
    from stagekeeper.settings import Settings


class MoveRefusedError(StagekeeperError):
    """Nothing allows an action to move up; exits as `gate check` answers."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


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
    data: ModeChangeData

    def is_about(self, action: ActionName) -> bool:
        """Whether it changed an action; one that names less changed every action that has what it names."""
        named = [getattr(self.data, name) for name in ActionName._fields]
        return all(value in {None, wanted} for value, wanted in zip(named, action, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """The change as a JSON object."""
        return {"at": iso(self.at), **msgspec.structs.asdict(self.data)}


def mode_changes(lake: Lake) -> list[ModeChange]:
    """Every change of `agent-action-mode` that is on record, newest first. Raises `LakeError`."""
    with reading(lake.root):
        changed = (pl.col("type") == type_of(PolicyChanged)) & (pl.col("subject") == MODE.key)
        rows = lake.scan(EVENTS).filter(changed).sort("time", descending=True).select("time", "value").collect()
    parse = msgspec.json.Decoder(_ModeChangeEvent).decode
    changes = []
    for at, value in rows.iter_rows():
        try:
            changes.append(ModeChange(at, parse(value).data))
        except (msgspec.MsgspecError, RecursionError):
            continue  # a field that is not counted may hold anything
    return changes


def actions_seen(lake: Lake) -> list[ActionName]:
    """Every action that was ever counted. Raises `LakeError`."""
    with reading(lake.root):
        rows = lake.scan(SIGNALS).select(ACTION).unique().sort(ACTION).collect().rows()
    return [ActionName(*row) for row in rows]


def grounds_for(
    setting: StageSetting,
    to: Stage,
    *,
    settings: Settings,
    root: str,
    gate_path: Path | None,
    now: datetime | None = None,
) -> Grounds:
    """What allows an action to move up to a stage: a verdict that promotes it there, or an override in force.

    Raises `MoveRefusedError` where nothing does, and `LakeError` and `ConfigurationFileError` where nobody can tell.
    """
    gates = GateFile.load(gate_path if gate_path is not None else settings.gates)
    fresh_s = settings.freshness_limit(gates.freshness_s).total_seconds()
    lake, moment = Lake.existing(root), now or datetime.now(UTC)
    with reading(root):
        answer = gate_check(lake, gates, to_stage=to.value, now=moment, freshness_s=fresh_s, **setting.action._asdict())
        verdicts = [] if lake is None else latest_verdicts(lake, action=setting.action)
    why = "; ".join(reason.message for reason in answer.reasons)
    if answer.answer is not VerdictName.PROMOTE:
        raise MoveRefusedError(
            f"{setting.action} may not move up to {to.value}: {answer.answer.value}, {why}", answer.exit_code
        )
    if answer.from_stage not in {STAGE_OF_MODE[mode].value for mode in setting.modes}:
        raise MoveRefusedError(
            f"{setting.action} has the mode {in_words(setting)}, and what promotes to {to.value} is evidence from "
            f"{answer.from_stage}: it moves up one stage at a time",
            30,
        )
    promoted = [one for one in verdicts if one.verdict_id == answer.verdict_id and one.verdict == VerdictName.PROMOTE]
    crossing = next((one.latched_by or one.verdict_id for one in promoted), None)
    signoff = answer.signoffs[0].signoff_id if answer.signoffs else None
    return Grounds(answer.verdict_id, crossing, signoff)
