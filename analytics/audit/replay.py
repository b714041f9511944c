"""Reaching a past verdict again: from the lake at its version, the gate file it names, and what had crossed before."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
from pydantic import ValidationError

from analytics.gates import gate_store
from analytics.judging.engine import judge
from analytics.judging.event_source import LakeEvents
from analytics.judging.latches import Latches
from analytics.judging.user_evidence import UserEvidence, compared_actions, split_actions
from analytics.judging.user_window_fold import UserWindowFold
from analytics.judging.user_windows import amounts_of, kept_s
from analytics.lake import chain
from analytics.lake.errors import READ_FAILURES, LakeError
from analytics.lake.storage import unreadable
from analytics.lake.table_schemas import SIGNALS, VERDICTS
from analytics.signals.alive_epochs import AliveEpochs
from analytics.signals.cells import ACTION, CELL
from analytics.signals.state import CellState
from analytics.verdicts import ledger, signoffs
from analytics.verdicts.document import VerdictDocument
from analytics.verdicts.verdict import REASSESSED
from producers.errors import StagekeeperError, UsageError
from producers.wire.receipt import Cell

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.gates.gate_file import GateFile
    from analytics.lake.tables import Lake

RECORDED: Final[tuple[str, ...]] = ("judged_at",)
"""Fields of a verdict that are only recorded; everything else follows from its inputs."""

_REPEATED: Final = ("verdict", "to_stage", "gate_sha256", "lake_version", "verdict_id", "watermark", "judged_at")
_COLUMNS: Final = (*CELL, "epoch", *_REPEATED)  # of the ledger, that say again what the payload says


class UnknownVerdictError(UsageError):
    """The ledger holds no verdict of that id."""


class AlteredLedgerError(StagekeeperError):
    """A row of the ledger cannot be read, or contradicts itself: it was changed after it was written."""


class ReplayMismatchError(StagekeeperError):
    """What is reached differs from the recorded verdict: evidence, gate file or ledger were changed since."""

    def __init__(self, message: str, differing: tuple[str, ...]) -> None:
        super().__init__(message)
        self.differing = differing  # fields


@dataclass(frozen=True, slots=True)
class Replayed:
    """A verdict that was reached again, bit for bit."""

    verdict_id: str  # the verdict
    document: VerdictDocument  # what was reached
    recorded_at: datetime  # when the ledger says that it was judged, which is only recorded
    earlier: tuple[str, ...]  # verdicts that had crossed before on the epochs concerned; they were reached again too
    believed: tuple[str, ...] = ()  # those of which the lake no longer holds the evidence: taken as the ledger has them


def replay(lake: Lake, verdict_id: str) -> Replayed:
    """Reach a past verdict again, with those that had crossed before it, and hold it against the ledger.

    Raises:
        UnknownVerdictError: There is no such verdict.
        ReplayMismatchError: What is reached is not what was recorded.
        AlteredLedgerError: The recorded row contradicts itself.
        GateFileNotKeptError: The gate file is gone.
        AlteredGateFileError: The gate file's bytes were changed.
        AlteredHistoryError: The row is not what was written, or does not belong to the chain.
        LakeError: The lake cannot be read, or no longer at that version.
    """
    try:
        replayed = _replay(lake, verdict_id)
        chain.verify(lake, {verdict_id})
    except READ_FAILURES as error:
        raise LakeError(f"verdict {verdict_id} cannot be reached again: {unreadable(lake.root, error)}") from error
    return replayed


def _replay(lake: Lake, verdict_id: str) -> Replayed:
    rows = lake.scan(VERDICTS).filter(pl.col("verdict_id") == verdict_id).sort("judged_at").head(1).collect()
    if rows.is_empty():
        raise UnknownVerdictError(
            f"the ledger holds no verdict {verdict_id}; `stagekeeper verdicts --json` shows the ids of the latest"
        )
    row = rows.row(0, named=True)
    recorded = _payload(row)
    gates, cell = gate_store.load(lake, row["gate_sha256"]), Cell(*(row[name] for name in CELL))
    # The whole action, since a gate may compare one of its cells with another.
    here = pl.all_horizontal(pl.col(name) == row[name] for name in ACTION)
    state = CellState.from_increments(lake.scan(SIGNALS, version=row["lake_version"]).filter(here).collect())
    regrades = ledger.regrades(lake, before=row)
    concerned = _concerned(state, gates, cell, row) + [made.shown.epoch for made in regrades.get(cell, ())]
    latches = ledger.latches(lake, before=row, epochs=concerned)
    # A latch decides, so whoever forges one moves a verdict: what had crossed must follow from its own evidence.
    under = {None, gates.contents.get(row["gate"])}
    standing = [latch for key, kinds in latches.items() if key[2] in under for latch in kinds.values()]
    crossed = sorted(name for latch in standing for name in (latch.verdict_id, latch.refuted_by) if name is not None)
    believed = tuple(crossed_id for crossed_id in crossed if _is_beyond(lake, crossed_id))
    earlier = tuple(crossed_id for crossed_id in crossed if crossed_id not in believed)
    for crossed_id in earlier:
        _replay(lake, crossed_id)
    over = [(*cell, row["epoch"])] if verdict_id.startswith(REASSESSED) else []
    verdicts = judge(
        state,
        gates,
        watermark=row["watermark"],
        lake_version=row["lake_version"],
        judged_at=row["judged_at"],
        cells={cell},
        latches=Latches(latches, regrades, signoffs.overrides(lake, now=row["judged_at"])),
        users=_users(lake, state, gates, recorded),
        over=over,
    )
    reached = _compare(recorded, next(map(VerdictDocument.from_verdict, verdicts), None))
    return Replayed(verdict_id, reached, recorded.judged_at, earlier, believed)


def _concerned(state: CellState, gates: GateFile, cell: Cell, row: dict[str, Any]) -> list[str]:
    """The epochs that a recorded verdict follows from: its own, and those of its cell that were alive."""
    at = state.cell_row(cell)
    if at is None or row["verdict_id"].startswith(REASSESSED):
        return [row["epoch"]]
    here = np.arange(len(state.cells)) == at
    alive = AliveEpochs.from_state(state, here, row["watermark"], gates.horizon_s)
    return [row["epoch"], *state.names(alive.epochs, ["epoch"])["epoch"]]


def _is_beyond(lake: Lake, verdict_id: str) -> bool:
    """Whether a verdict is too old for its evidence: an epoch may last longer than verdicts can be reached again."""
    version = lake.scan(VERDICTS).filter(pl.col("verdict_id") == verdict_id).sort("judged_at").select("lake_version")
    return not lake.reaches(SIGNALS, int(version.collect().row(0)[0]))


def _users(lake: Lake, state: CellState, gates: GateFile, recorded: VerdictDocument) -> dict[float, UserEvidence]:
    """The user-windows as they were: at the version of the events that the verdict names."""
    exposure, cell = recorded.exposure, recorded.cell
    if exposure is None or exposure.users_as_of is None:
        return {}
    window_s = next((gates.window_of(gate) for gate in gates.gates if gate.name == recorded.gate), gates.user_window)
    split, single = split_actions(state, gates), compared_actions(state, gates)
    epochs = state.names(np.arange(state.epochs))
    if split.is_empty() and single.is_empty():
        # Where users are split or arms compared, those of the other arms count too.
        epochs = epochs.filter(pl.all_horizontal(pl.col(name) == getattr(cell, name) for name in CELL))
    fold = UserWindowFold(LakeEvents(lake))
    windows = fold.fold(
        as_of=exposure.users_as_of,
        window_s=window_s,
        kept_s=kept_s(gates, window_s),
        epochs=epochs,
        split=split,
        amounts=amounts_of(gates),
        deadline_s=gates.outcome_deadline_s,
        single=single,
        version=exposure.events_version,
    )
    users = UserEvidence(windows, state)
    if exposure.open_version is not None:
        users.take_open(fold.open_windows(windows, epochs, version=exposure.open_version))
    return {window_s: users}


def _payload(row: dict[str, Any]) -> VerdictDocument:
    """The recorded verdict, which the row's columns must agree with."""
    try:
        recorded = VerdictDocument.model_validate_json(row["payload"], strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        raise AlteredLedgerError(
            f"the payload of verdict {row['verdict_id']} is none that this release writes, at "
            f"{'.'.join(map(str, fault['loc'])) or 'the beginning'}: {fault['msg']}"
        ) from error
    differing = [name for name in _COLUMNS if getattr(recorded, name) != row[name]]
    if differing:
        raise AlteredLedgerError(
            f"the row of verdict {row['verdict_id']} contradicts its payload in {', '.join(differing)}: "
            "one of them was changed after it was written"
        )
    return recorded


def _compare(recorded: VerdictDocument, reached: VerdictDocument | None) -> VerdictDocument:
    # Earlier releases did not record the gate's content; the gate file's bytes, which hold it, are compared.
    unknown = {"gate_content_sha256"} if recorded.gate_content_sha256 is None else set()
    decided = [name for name in VerdictDocument.model_fields if name not in {*RECORDED, *unknown}]
    differing = tuple(name for name in decided if reached is None or getattr(recorded, name) != getattr(reached, name))
    if reached is not None and not differing:
        return reached
    was, now = recorded.to_dict(), {} if reached is None else reached.to_dict()
    parts = [f"{name}: recorded {_short(was.get(name))}, now {_short(now.get(name))}" for name in differing[:3]]
    raise ReplayMismatchError(
        f"verdict {recorded.verdict_id} is not reached again: {', '.join(differing)} differ ({'; '.join(parts)}). "
        "The evidence, the gate file or the ledger was changed since, or another version of Stagekeeper reached it.",
        differing,
    )


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
