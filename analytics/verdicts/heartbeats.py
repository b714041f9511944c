"""Heartbeats of the judge: up to when what the ledger says of every cell was found to hold still.

The ledger has a row where something is new. So that an unchanged verdict is told from one that nobody stands by any
more, every few seconds one row names the gate file, and the version of the lake and the watermark up to which all cells
were judged.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import polars as pl

from analytics.lake.table_schemas import COLUMNS, JUDGE_HEARTBEATS

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.lake.tables import Fence, Lake
    from analytics.verdicts.document import VerdictDocument


@dataclass(frozen=True, slots=True)
class JudgeHeartbeat:
    """That every cell was judged."""

    judged_at: datetime  # when
    watermark: datetime  # event time up to which everything had been read
    lake_version: int  # version of the table `signals`
    gate_sha256: str  # digest of the gate file
    cells: int  # how many cells there were
    events_version: int | None = None  # version of the table `events` that users were counted at; None if not counted
    users_as_of: datetime | None = None  # end of the newest closed user-window; None likewise


def append(lake: Lake, heartbeat: JudgeHeartbeat, *, fence: Fence | None = None) -> None:
    """Record a heartbeat, after every verdict that was new at it. Raises `FencedError` or `LakeError`."""
    rows = pl.DataFrame([asdict(heartbeat)], schema=COLUMNS[JUDGE_HEARTBEATS], orient="row")
    lake.append(JUDGE_HEARTBEATS, rows, fence=fence)


def newest(lake: Lake, *, version: int | None = None) -> JudgeHeartbeat | None:
    """The newest heartbeat, or the newest at a version of the table; None while there was none. Raises `LakeError`.

    Read it before the verdicts that it is to confirm: one that is replaced meanwhile is then not taken for confirmed.
    """
    rows = lake.scan(JUDGE_HEARTBEATS, version=version)
    last = rows.filter(pl.col("judged_at") == pl.col("judged_at").max()).tail(1).collect()
    return JudgeHeartbeat(**last.row(0, named=True)) if last.height else None


def evidence_age_s(judged_at: datetime, through: datetime, now: datetime) -> float:
    """How old a verdict is, in seconds: the older of its last look, and of what was known then."""
    return max((now - min(judged_at, through)).total_seconds(), 0.0)


def confirmed(document: VerdictDocument, heartbeat: JudgeHeartbeat | None) -> VerdictDocument:
    """The last verdict on a cell, with the moment and the watermark up to which it was found again.

    A heartbeat finds it again that came no earlier, under the same gate file.
    """
    found_again = (
        heartbeat is not None
        and heartbeat.gate_sha256 == document.gate_sha256
        and heartbeat.judged_at >= document.judged_at
    )
    basis = heartbeat if heartbeat is not None and found_again else document
    return document.model_copy(update={"confirmed_at": basis.judged_at, "confirmed_through": basis.watermark})
