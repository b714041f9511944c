"""What the lake knows of stages: which actions there are, and whether one may move up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from analytics.gates.gate_file import GateFile
from analytics.lake.storage import reading
from analytics.lake.table_schemas import SIGNALS
from analytics.lake.tables import Lake
from analytics.signals.cells import ACTION
from analytics.verdicts.gate_check import gate_check
from analytics.verdicts.ledger import latest_verdicts
from producers.boundary.stage_store import ActionName
from producers.errors import StagekeeperError
from producers.wire.events import VerdictName
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
        verdicts = [] if lake is None else latest_verdicts(lake, actions=[setting.action])
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
